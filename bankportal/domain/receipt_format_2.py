"""What a receipt of format 2 fixes, listed key by key. Frozen: whoever needs another key writes another format.

A decision or batch has what it has in format 1, which is frozen too, and says who caused it, by which door it came in,
and on which declarations it stands. An event is what was done. A record is what is stored, by column; that of a
decision or batch has the digests of its `declarations` beside its columns. Raises as `receipt_format_1` does.
"""

from collections.abc import Mapping
from typing import Any

from bankportal.domain import receipt_format_1
from bankportal.domain.canonical import instant

Record = Mapping[str, Any]


def decision(record: Record) -> dict[str, Any]:
    """Return what is fixed of a decision: the answer, its input, who answered and by which declarations, who asked."""
    return receipt_format_1.decision(record) | _provenance(record)


def batch(record: Record) -> dict[str, Any]:
    """Return what is fixed of a batch: as of format 1, and on what it stands and where it came from."""
    return receipt_format_1.batch(record) | _provenance(record)


def event(record: Record) -> dict[str, Any]:
    """Return what is fixed of an event: what was done to what, by whom, when."""
    return {
        "kind": "event",
        "event": record["kind"],
        "subject": record["subject"],
        "actor": record["actor"],
        "at": instant(record["at"]),
        "content": record["content"],
    }


def _provenance(record: Record) -> dict[str, Any]:
    declarations = record["declarations"]
    return {
        "actor": record["actor"],
        "door": record["door"],
        "declarations": {"product": declarations["product"], "policy": declarations["policy"]},
    }
