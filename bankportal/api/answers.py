"""What the services answer, as plain data for JSON. `models.py` describes the same shapes."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from bankportal.domain.outcome import Decision, Outcome
from bankportal.domain.policy import Limit
from bankportal.domain.products import Product
from bankportal.explanation.recourse import Recourse, Suggestion
from bankportal.services.explaining import Explaining
from bankportal.services.models import ModelVersion

BASE = "/api/v1"

Plain = dict[str, Any]


def outcome(
    found: Outcome, *, contributions: bool, recourse: Plain | None = None, decision: Decision | None = None
) -> Plain:
    """Return an outcome; with what explains it further where asked, and the decision where it was recorded."""
    return {
        "product": found.product.key,
        "score": found.score,
        "band": found.band.name,
        "limit": _limit(found.limit),
        "reasons": [vars(reason) for reason in found.reasons],
        "flags": [vars(flag) for flag in found.flags],
        "base": found.base,
        "contributions": dict(found.contributions) if contributions else None,
        "recourse": recourse,
        "model": {"version": found.model_version, "digest": found.model_digest},
        "policy_version": found.policy_version,
        "decision": _recorded(decision) if decision else None,
    }


def _limit(limit: Limit | None) -> Plain | None:
    return asdict(limit) if limit else None


def _recorded(decision: Decision) -> Plain:
    return {"id": decision.id, "at": _moment(decision), "url": f"{BASE}/decisions/{decision.id}"}


def _moment(decision: Decision) -> str:
    return decision.at.isoformat(timespec="microseconds")


def decision(found: Decision, *, contributions: bool) -> Plain:
    """Return a recorded decision with the values it stands on, the protected ones left out."""
    customer = found.customer
    return {
        "id": found.id,
        "at": _moment(found),
        "customer": {"carried": customer.carried, "scored": customer.scored, "policy": customer.policy},
        "outcome": outcome(found.outcome, contributions=contributions, decision=found),
    }


def recourse(explaining: Explaining, about: Decision) -> Plain:
    """Return what would change a decision, each suggestion with the limit it leads to."""
    found: Recourse = explaining.recourse(about)

    def told(suggestion: Suggestion) -> Plain:
        return {
            "changes": [{"factor": each.factor.name, "old": each.old, "new": each.new} for each in suggestion.changes],
            "score": suggestion.score,
            "band": suggestion.band.name,
            "limit": _limit(explaining.limit_after(about, suggestion)),
            "effort": suggestion.effort,
        }

    return {
        "best": found.best,
        "nothing": found.nothing,
        "suggestions": [told(suggestion) for suggestion in found.found],
        "lifts": [told(suggestion) for suggestion in explaining.lifts(about)],
    }


def product(found: Product, model_version: str | None) -> Plain:
    """Return a product as it is declared, and which model version serves it."""
    return {
        "key": found.key,
        "title": found.title,
        "question": found.question,
        "quantity": found.quantity,
        "bands": [
            {"name": band.name, "start": band.start, "end": found.end(band), "meaning": band.meaning}
            for band in found.bands
        ],
        "policy_version": found.policy.version if found.policy else None,
        "model_version": model_version,
        "schema_url": f"{BASE}/products/{found.key}/schema",
    }


def model_version(found: ModelVersion) -> Plain:
    """Return a registered model version."""
    return {
        "product": found.product.key,
        "version": found.version,
        "active": found.active,
        "digest": found.manifest_digest,
        "forest_digest": found.forest_digest,
        "trained_at": found.trained_at.isoformat(),
        "seed": found.seed,
        "data": _plain(found.data),
        "evaluation": _plain(found.evaluation),
        "parameters": _plain(found.parameters),
        "libraries": dict(found.libraries),
    }


def _plain(content: Mapping[str, Any]) -> Plain:
    return dict(content)
