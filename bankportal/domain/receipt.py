"""The receipt of a decision: what is stored of it, written in one canonical way and chained to the receipt before.

`docs/verify_receipts.py` checks an exported chain by these rules without the portal.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from bankportal.domain.outcome import Decision
from bankportal.domain.schema import Values

FORMAT = 1
START = "0" * 64


@dataclass(frozen=True)
class Receipt:
    """A decision's place in the chain.

    `number` counts from 1 without gaps; `digest` is the SHA-256 of the canonical content, which holds `previous`, the
    digest before.
    """

    number: int
    digest: str
    previous: str


def canonical(content: Any) -> str:
    """Write plain data as JSON in one way: keys sorted, no spaces, shortest floats, no NaN."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def protected_digest(salt: str, apart: Values) -> str:
    """Return what fixes the protected values without telling them; the salt keeps them from being guessed."""
    return sha256(salt + canonical(apart))


def content(decision: Decision, submission: str, salt: str, number: int, previous: str) -> str:
    """Return a decision's canonical content: what its receipt is the digest of. `submission` is that of its form."""
    customer, outcome = decision.customer, decision.outcome
    return canonical(
        outcome.to_record()
        | {
            "format": FORMAT,
            "number": number,
            "previous": previous,
            "id": decision.id,
            "submission": submission,
            "at": decision.at.isoformat(timespec="microseconds"),
            "product": customer.product.key,
            "input": {"carried": customer.carried, "scored": customer.scored, "policy": customer.policy},
            "protected": protected_digest(salt, customer.apart),
            "model": {"version": outcome.model_version, "digest": outcome.model_digest},
        }
    )


def receipt(decision: Decision, submission: str, salt: str, before: Receipt | None) -> Receipt:
    """Return the receipt that follows the one before; `None` starts the chain."""
    number, previous = (before.number + 1, before.digest) if before else (1, START)
    return Receipt(number, sha256(content(decision, submission, salt, number, previous)), previous)
