"""The receipt of a decision or a batch: the SHA-256 of its canonical content, which names the receipt before it.

`docs/verify_receipts.py` checks an exported chain by these rules, without the portal.
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
START = "0" * 64  # stands in the first receipt for the digest before
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True)
class RecordedDecision:
    """A decision with what its receipt fixes as well: its submission's digest and the salt of its protected values."""

    decision: Decision
    submission: str
    salt: str


ChainEntry = RecordedDecision | Job  # what a receipt is written for


@dataclass(frozen=True)
class Receipt:
    """A decision's or batch's place in the chain.

    `number` counts from 1 without gaps. `digest` is the SHA-256 of the canonical content, which contains `previous`,
    the digest of the receipt before. Digests are written in hexadecimal.
    """

    number: int
    digest: str
    previous: str


def canonical(content: Any) -> str:
    """Return plain data as JSON in its one canonical form: keys sorted, no spaces, shortest floats, no NaN."""
    return _ENCODER.encode(content)


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def protected_digest(salt: str, protected: Values) -> str:
    """Return a digest that fixes the protected values without revealing them; the salt prevents guessing."""
    return sha256(salt + canonical(protected))


def content(entry: ChainEntry, number: int, previous: str) -> str:
    """Return the canonical content of a decision or a batch, whose SHA-256 is the receipt's digest."""
    fixed = batch_content(entry) if isinstance(entry, Job) else decision_content(entry)
    return canonical(fixed | {"format": FORMAT, "number": number, "previous": previous})


def decision_content(recorded: RecordedDecision) -> dict[str, Any]:
    """Return what a receipt fixes of a decision: the answer, its input, the model version, the time."""
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
    """Return what a receipt fixes of a batch: the file, how it was read, the versions, and the result files' digests.

    The result of the check quotes cells of the file, so the receipt holds its digest alone.
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
    """Return the receipt that follows another in the chain; `None` before the first."""
    number, previous = (before.number + 1, before.digest) if before else (1, START)
    return Receipt(number, sha256(content(entry, number, previous)), previous)


def _instant(at: datetime | None) -> str | None:
    return at.isoformat(timespec="microseconds") if at else None
