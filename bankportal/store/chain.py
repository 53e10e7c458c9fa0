"""The chain of receipts in the database, read in its order with what each receipt is of."""

from collections.abc import Iterator, Sequence
from json import JSONDecoder
from typing import Any, NamedTuple

from sqlalchemy import JSON, Row, Select, Text, cast, null, select
from sqlalchemy.exc import SQLAlchemyError

from bankportal.domain.batch import State
from bankportal.domain.errors import NotFound
from bankportal.domain.receipt import Kind, Receipt, Record
from bankportal.store.receipts import PLACE, head, numbered
from bankportal.store.sessions import Database
from bankportal.store.tables import decisions, jobs, protected_values, receipts

# What an edit can make of stored values, beyond making them wrong.
UNREADABLE = (
    *(ValueError, KeyError, TypeError, AttributeError, AssertionError, OverflowError, RecursionError),
    SQLAlchemyError,
)
BLOCK = 500  # links read in one transaction: no writer waits for longer than that


class Link(NamedTuple):
    """A decision or batch as it is stored, by column, and its receipt; `None` for what is not there.

    A decision's record has its `protected` values and their `salt` beside its columns.
    """

    kind: Kind
    record: Record | None
    receipt: Receipt | None


class Chain:
    """All receipts in their order. Reads the protected values, which only their digests need."""

    def __init__(self, database: Database):
        self.database = database

    def head(self) -> Receipt | None:
        """Return the newest receipt; `None` where nothing was recorded."""
        with self.database.read() as connection:
            return head(connection)

    def receipt(self, number: int) -> Receipt | None:
        """Return one receipt; `None` where it is not there."""
        with self.database.read() as connection:
            return numbered(connection, number)

    def links(self, after: int = 0) -> Iterator[Link]:
        """Yield the chain in its order after a receipt's number; then one decision and one batch outside it.

        What is missing is `None`. Where an edit has made a link unreadable, one of `UNREADABLE` is raised at its place.
        """
        yield from self._read(_INSIDE.where(receipts.c.number < 1).limit(1))  # never written: numbers begin at 1
        following: int | None = after
        while following is not None:
            query, following = _INSIDE.where(receipts.c.number > following).limit(BLOCK), None
            for link in self._read(query):
                yield link
                assert link.receipt is not None
                following = link.receipt.number
        yield from self._read(_DECISIONS_OUTSIDE.limit(1))
        yield from self._read(_BATCHES_OUTSIDE.limit(1))

    def of_decision(self, id: str) -> tuple[Link, Receipt | None]:  # noqa: A002  # the field's name
        """Return a decision's link and the receipt before its own; `NotFound` where there is no such decision.

        Raises one of `UNREADABLE` where an edit has made it unreadable.
        """
        with self.database.read() as connection:
            row = connection.execute(_DECISIONS.where(decisions.c.id == id)).first()
            if row is None:
                raise NotFound("There is no such decision.")
            link = self._link(row)
            return link, numbered(connection, link.receipt.number - 1) if link.receipt else None

    def _read(self, query: Select[Any]) -> Iterator[Link]:
        """Yield some links, all read before they are yielded, so that a slow caller holds no transaction open."""
        unreadable: Exception | None = None
        try:
            with self.database.read() as connection:
                rows = list(connection.execute(query))
        except UNREADABLE:
            rows, unreadable = self._read_as_far_as_possible(query)
        yield from map(self._link, rows)
        if unreadable:
            raise unreadable

    def _read_as_far_as_possible(self, query: Select[Any]) -> tuple[list[Row[Any]], Exception | None]:
        """Return the rows before the first that cannot be read, and the error, so that its place is named."""
        rows: list[Row[Any]] = []
        try:
            with self.database.read() as connection:
                rows.extend(connection.execution_options(yield_per=1).execute(query))
        except UNREADABLE as error:
            return rows, error
        return rows, None

    def _link(self, row: Sequence[Any]) -> Link:
        """Return the link of a row: its receipt, the number of its batch, then the columns of a decision's record."""
        number, digest, previous, format_, batch, *columns = row
        receipt = Receipt(number, digest, previous, format_) if number is not None else None
        if batch is not None:
            return Link(Kind.BATCH, self._batch(batch), receipt)
        record = dict(zip(_COLUMNS, columns, strict=True))
        if record["number"] is None:
            return Link(Kind.DECISION, None, receipt)
        for name in _JSON:
            record[name] = _parsed(record[name])
        return Link(Kind.DECISION, record, receipt)

    def _batch(self, number: int) -> Record | None:
        with self.database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.number == number)).first()
        return row._asdict() if row else None


def _parsed(text: str | None) -> Any:
    """Return what a JSON column holds; `ValueError` where it is not JSON alone."""
    if text is None:
        return None
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError("there is more than JSON in a column of JSON")
    return value


_DECODER = JSONDecoder()
# What a decision's record holds, and the columns that it comes from.
_COLUMNS = {
    **{column.name: column for column in decisions.c},
    "protected": protected_values.c["values"],
    "salt": protected_values.c.salt,
}
_JSON = tuple(name for name, column in _COLUMNS.items() if isinstance(column.type, JSON))
# JSON is read as text: parsed here it takes half as long.
_SELECTED = [cast(column, Text) if name in _JSON else column for name, column in _COLUMNS.items()]
_PROTECTED = protected_values.c.decision_number == decisions.c.number
_INSIDE = (
    select(*PLACE, receipts.c.job_number, *_SELECTED)
    .select_from(receipts)
    .join(decisions, isouter=True)
    .join(protected_values, _PROTECTED, isouter=True)
    .order_by(receipts.c.number)
)
_DECISIONS: Select[Any] = (
    select(*PLACE, null(), *_SELECTED)
    .select_from(decisions)
    .join(receipts, isouter=True)
    .join(protected_values, _PROTECTED, isouter=True)
)
_DECISIONS_OUTSIDE = _DECISIONS.where(receipts.c.number.is_(None))
_BATCHES_OUTSIDE = (
    select(*PLACE, jobs.c.number)
    .select_from(jobs)
    .join(receipts, isouter=True)
    .where(jobs.c.state == State.DONE.value, receipts.c.number.is_(None))
)
