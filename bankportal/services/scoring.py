"""Scoring one customer: the same for form, API and file."""

import math

from bankportal.domain.errors import ExplanationRefused
from bankportal.domain.outcome import Decision, Outcome
from bankportal.domain.policy import Limit, LimitPolicy
from bankportal.domain.products import Band
from bankportal.domain.reasons import Catalogue, Explained, reasons
from bankportal.domain.schema import Customer
from bankportal.ml.registry import Model
from bankportal.services.models import Models
from bankportal.store.decisions import Decisions, submission_digest


class Scoring:
    """Answers for validated customers, and records the answers that count."""

    def __init__(self, models: Models, decisions: Decisions):
        self.models = models
        self.decisions = decisions

    def score(self, customer: Customer) -> Outcome:
        """Return the outcome and record nothing; `NoActiveModel` where the product has no model that can score."""
        product = customer.product
        return answer(customer, self.models.serving(product), self.models.catalogue, product.policy)

    def decide(self, customer: Customer, submission: str) -> Decision:
        """Score, record and return the decision; the same submission token and values again give the same decision."""
        digest = submission_digest(submission, customer)
        return self.decisions.find(digest) or self.decisions.record(customer, self.score(customer), digest)


def answer(customer: Customer, model: Model, catalogue: Catalogue, policy: LimitPolicy | None) -> Outcome:
    """Return what one model version and limit policy answer: score, band, limit, and its exact grounds.

    Raises `ExplanationRefused` where base and contributions do not add up to the score.
    """
    product, row = customer.product, model.encoding.row(customer.scored)
    score = float(model.forest.score(row[None, :])[0])
    band = product.band(score)
    allowed = limit(customer, band, policy)
    contributions = dict(zip(model.encoding.factors, model.explainer.explain_row(row).tolist(), strict=True))
    effects = dict(zip(model.encoding.factors, model.effects.of(row).tolist(), strict=True))
    base = model.explainer.base
    if abs(base + math.fsum(contributions.values()) - score) > model.explainer.exact_to:
        raise ExplanationRefused(f"{product.title} {model.version}: the contributions do not add up to the score.")
    return Outcome(
        product=product,
        score=score,
        band=band,
        limit=allowed,
        flags=model.seen.flags(customer.scored),
        base=base,
        contributions=contributions,
        reasons=reasons(catalogue, product, band, customer.scored, Explained(contributions, effects), allowed),
        model_version=model.version,
        model_digest=model.manifest_digest,
        policy_version=policy.version if policy else None,
    )


def limit(customer: Customer, band: Band, policy: LimitPolicy | None) -> Limit | None:
    """Ask a limit policy; `None` where there is none."""
    if policy is None:
        return None
    requested = customer.policy.get("RequestedLimit")
    assert requested is None or isinstance(requested, float)
    return policy.suggest(band.name, customer.scored, requested)
