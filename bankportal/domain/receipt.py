"""The receipt of a decision or a batch: its content, written in one canonical way and chained to the one before.

`docs/verify_receipts.py` checks an exported chain by these rules without the portal.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from bankportal.domain.batch import Job
from bankportal.domain.outcome import Decision
from bankportal.domain.schema import Values

FORMAT = 1
START = "0" * 64
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class RecordedDecision:
    """A decision with what its receipt fixes beside it: its submission's digest and its protected values' salt."""

    decision: Decision
    submission: str
    salt: str


ChainEntry = RecordedDecision | Job  # what has a place in the chain


@dataclass(frozen=True)
class Receipt:
    """A decision's or batch's place in the chain.

    `number` counts from 1 without gaps; `digest` is the SHA-256 of the canonical content, which holds `previous`, the
    digest before.
    """

    number: int
    digest: str
    previous: str


def canonical(content: Any) -> str:
    """Write plain data as JSON in one way: keys sorted, no spaces, shortest floats, no NaN."""
    return _ENCODER.encode(content)


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def protected_digest(salt: str, apart: Values) -> str:
    """Return what fixes the protected values without telling them; the salt keeps them from being guessed."""
    return sha256(salt + canonical(apart))


def content(entry: ChainEntry, number: int, previous: str) -> str:
    """Return the canonical content of a decision or a batch: what its receipt is the digest of."""
    of_entry = batch_content(entry) if isinstance(entry, Job) else decision_content(entry)
    return canonical(of_entry | {"format": FORMAT, "number": number, "previous": previous})


def decision_content(recorded: RecordedDecision) -> dict[str, Any]:
    """Return what a receipt fixes of a decision: the answer, its input, who answered, when."""
    decision, customer, outcome = recorded.decision, recorded.decision.customer, recorded.decision.outcome
    return outcome.to_record() | {
        "id": decision.id,
        "submission": recorded.submission,
        "at": _instant(decision.at),
        "product": customer.product.key,
        "input": {"carried": customer.identifiers, "scored": customer.scored, "policy": customer.policy},
        "protected": protected_digest(recorded.salt, customer.protected),
        "model": {"version": outcome.model_version, "digest": outcome.model_digest},
    }


def batch_content(job: Job) -> dict[str, Any]:
    """Return what a receipt fixes of a batch: the file, how it was read, who answered, and the digests of the answers.

    Of what the check found only the digest: it quotes cells of the file.
    """
    return {
        "kind": "batch",
        "id": job.id,
        "state": job.state.value,
        "at": _instant(job.at),
        "started_at": _instant(job.started_at),
        "finished_at": _instant(job.finished_at),
        "product": job.product.key,
        "input": {
            "name": job.file_name,
            "digest": job.input_digest,
            "bytes": job.input_bytes,
            "header": job.header_digest,
            "layout": job.layout,
            "mapping": job.mapping,
        },
        "checked": sha256(canonical(asdict(job.checked))) if job.checked else None,
        "model": {"version": job.model_version, "digest": job.model_digest},
        "policy_version": job.policy_version,
        "rows": job.checked.rows if job.checked else None,
        "summary": asdict(job.summary) if job.summary else None,
        "files": job.files,
    }


def receipt(entry: ChainEntry, before: Receipt | None) -> Receipt:
    """Return the receipt that follows the one before; `None` starts the chain."""
    number, previous = (before.number + 1, before.digest) if before else (1, START)
    return Receipt(number, sha256(content(entry, number, previous)), previous)


def _instant(at: datetime | None) -> str | None:
    return at.isoformat(timespec="microseconds") if at else None
