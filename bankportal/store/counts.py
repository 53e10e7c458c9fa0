"""How many decisions there are, by what the first page shows; kept in the transactions that record them."""

from collections import Counter
from collections.abc import Iterable

from sqlalchemy import Connection, select

from bankportal.domain.receipt import Record
from bankportal.store.prepared import insert_rows
from bankportal.store.tables import decision_counts

# Product, number of the context, band, and whether no limit was granted.
Group = tuple[str, int, str, bool]
# The rest of an insert: what is there already is added to.
_ADDED = (
    " ON CONFLICT (product, context_number, band, without_limit)"
    " DO UPDATE SET decisions = decision_counts.decisions + excluded.decisions"
)


def group_of(record: Record, context_number: int) -> Group:
    """Return the group in which a decision is counted."""
    limit = record["limit"]
    return record["product"], context_number, record["band"], limit is not None and limit["amount"] == 0


def add_counts(connection: Connection, groups: Iterable[Group]) -> None:
    """Count decisions in the transaction that records them."""
    counts = Counter(groups)
    insert_rows(connection, decision_counts, [(*group, count) for group, count in counts.items()], _ADDED)


def counted(connection: Connection) -> dict[Group, int]:
    """Return how many decisions each group has."""
    rows = connection.execute(select(decision_counts))
    return {tuple(group): count for *group, count in rows}
