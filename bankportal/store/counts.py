"""How many decisions there are, by what the first page shows: nobody counts millions of rows for a page.

The transaction that records a decision adds to the counts whenever the numbers pass a multiple of `EVERY`; those after
that are counted where they are needed. So a decision alone does not write a page more.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Text, func, select, type_coerce, update

from bankportal.domain.receipt import Record
from bankportal.store.prepared import insert_rows
from bankportal.store.tables import decision_contexts, decision_counts, decisions, parsed

# Product, number of the context, band, and whether no limit was granted.
Group = tuple[str, int, str, bool]
EVERY = 256  # numbers
# The rest of an insert: what is there already is added to.
_ADDED = (
    " ON CONFLICT (product, context_number, band, without_limit)"
    " DO UPDATE SET decisions = decision_counts.decisions + excluded.decisions"
)


def group_of(record: Record) -> Group:
    """Return the group in which a decision is counted."""
    limit = record["limit"]
    return record["product"], record["context_number"], record["band"], limit is not None and limit["amount"] == 0


def count_in(connection: Connection, numbers: Sequence[int]) -> None:
    """Add to the counts what was recorded since, where it is time; in the transaction that recorded these numbers."""
    if numbers[-1] // EVERY == (numbers[0] - 1) // EVERY:
        return
    groups = _uncounted(connection, connection.scalar(_UP_TO) or 0)
    insert_rows(connection, decision_counts, [(*group, count, 0) for group, count in groups.items()], _ADDED)
    connection.execute(update(decision_counts).values(up_to=numbers[-1]))


def counted(connection: Connection) -> Counter[Group]:
    """Return how many decisions each group has; `ValueError` where the counts are not as they are kept."""
    rows = connection.execute(select(decision_counts)).all()
    if len({row.up_to for row in rows}) > 1:
        raise ValueError("decisions are counted up to more than one number")
    # After the number that these rows say: others may have been counted in since they were read.
    uncounted = _uncounted(connection, rows[0].up_to if rows else 0)
    return Counter({tuple(row[:4]): row.decisions for row in rows}) + uncounted


def _uncounted(connection: Connection, up_to: int) -> Counter[Group]:
    """Return how many decisions each group has after a number."""
    newest = connection.scalar(_NEWEST) or 0
    # With both ends: of an open range PostgreSQL without statistics expects a third of all rows, and reads them all.
    query = _UNCOUNTED.where(decisions.c.number > up_to, decisions.c.number <= newest)
    return Counter(map(_group, connection.execute(query)))


_UP_TO = select(func.max(decision_counts.c.up_to))
_NEWEST = select(func.max(decisions.c.number))
# What an edit has made of a decision is for `flask audit verify` to say: it must not stop the recording of others.
_UNCOUNTED = select(
    decisions.c.product, decisions.c.context_number, decisions.c.band, type_coerce(decisions.c.limit, Text)
).join(decision_contexts)


def _group(row: Any) -> Group:
    product, context_number, band, limit = row
    return product, context_number, band, _is_zero(limit)


def _is_zero(text: str | None) -> bool:
    """Say whether no limit was granted, by the list of a limit as it is stored."""
    try:
        limit = parsed(text)
    except (ValueError, TypeError, AttributeError):
        return False
    return isinstance(limit, list) and limit[:1] == [0]
