"""The receipt of a decision, batch or event: the SHA-256 of its canonical content, which names the receipt before it.

A receipt names the format of its content. Each format has a module of its own (`receipt_format_2`) that is never
changed, because it checks all that was recorded in that format. `docs/verify_receipts.py` checks an exported chain
without the portal.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from bankportal.domain import receipt_format_1, receipt_format_2
from bankportal.domain.canonical import canonical, sha256

START = "0" * 64  # stands in the first receipt for the digest before
Record = Mapping[str, Any]  # what is stored of a decision, batch or event, by column


class Kind(Enum):
    """What a receipt can be written for."""

    DECISION = "decision"
    BATCH = "batch"
    EVENT = "event"


# The writers of each format: from a record to what its receipt fixes. A new format is added here, and FORMAT names it.
FORMATS: Mapping[int, Mapping[Kind, Callable[[Record], dict[str, Any]]]] = {
    1: {Kind.DECISION: receipt_format_1.decision, Kind.BATCH: receipt_format_1.batch},
    2: {
        Kind.DECISION: receipt_format_2.decision,
        Kind.BATCH: receipt_format_2.batch,
        Kind.EVENT: receipt_format_2.event,
    },
}
# Columns that are younger than a format: they are empty in what it fixes, so that nothing stands beside what is proved.
YOUNGER: Mapping[int, tuple[str, ...]] = {1: ("product_declaration", "policy_declaration", "actor", "door")}
FORMAT = 2  # the format that receipts are written in now


@dataclass(frozen=True)
class Receipt:
    """A decision's, batch's or event's place in the chain.

    `number` counts from 1 without gaps. `digest` is the SHA-256 of the canonical content, which is written in `format`
    and contains `previous`, the digest of the receipt before. Digests are written in hexadecimal.
    """

    number: int
    digest: str
    previous: str
    format: int


def content(kind: Kind, record: Record, number: int, previous: str, format: int) -> str:  # noqa: A002  # the field's name
    """Return the canonical content of a decision, batch or event, whose SHA-256 is the receipt's digest.

    Raises `ValueError`, `KeyError`, `TypeError` or `AttributeError` where the record cannot be of that format.
    """
    if any(record.get(name) is not None for name in YOUNGER.get(format, ())):
        raise ValueError(f"format {format} knows neither declarations nor provenance")
    return canonical(FORMATS[format][kind](record) | {"format": format, "number": number, "previous": previous})


def receipt(kind: Kind, record: Record, before: Receipt | None) -> Receipt:
    """Return the receipt that follows another in the chain; `None` before the first."""
    number, previous = (before.number + 1, before.digest) if before else (1, START)
    return Receipt(number, sha256(content(kind, record, number, previous, FORMAT)), previous, FORMAT)
