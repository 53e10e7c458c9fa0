"""The chain of receipts in the database, read in its order with what each receipt is of."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, Table, Text, null, or_, select, type_coerce
from sqlalchemy.exc import SQLAlchemyError

from bankportal.domain.batch import State
from bankportal.domain.errors import NotFound
from bankportal.domain.receipt import Kind, Receipt, Record
from bankportal.store.adopting import differences
from bankportal.store.counts import Group, counted
from bankportal.store.decision_rows import COLUMNS, Context, read_context, record_of
from bankportal.store.receipts import OF_DECISION, PLACE, declared_digests, digests_of, head, numbered
from bankportal.store.sessions import Database
from bankportal.store.tables import CompactJSON, decisions, events, jobs, parsed, protected_values, receipts

# What an edit can make of stored values, beyond making them wrong.
UNREADABLE = (
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, OverflowError, RecursionError),
    SQLAlchemyError,
)
BLOCK = 500  # links read in one transaction: no writer waits for longer than that


class Link(NamedTuple):
    """A decision, batch or event as it is stored, by column, and its receipt; `None` for what is not there.

    A decision's record has its `protected` values and their `salt` beside its columns; that of a decision or batch has
    the digests of its `declarations`.
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
        """Yield the chain in its order after a receipt's number; then one decision, batch and event outside it.

        What is missing is `None`. Where an edit has made a link unreadable, one of `UNREADABLE` is raised at its place.
        """
        walk = _Walk(self.database)
        # Never written: numbers begin at 1.
        yield from self._read(_INSIDE.where(receipts.c.number < 1).limit(1), walk)
        following: int | None = after
        while following is not None:
            query, following = _INSIDE.where(receipts.c.number > following).limit(BLOCK), None
            for link in self._read(query, walk):
                yield link
                assert link.receipt is not None
                following = link.receipt.number
        for outside in (_DECISIONS_OUTSIDE, _BATCHES_OUTSIDE, _EVENTS_OUTSIDE):
            yield from self._read(outside.limit(1), walk)

    def counted(self) -> tuple[Counter[Group], Receipt | None]:
        """Return how many decisions are counted in each group, and the newest receipt at that moment."""
        with self.database.read() as connection:
            self.database.lock_chain(connection)  # so that nobody adds a decision between two queries
            return counted(connection), head(connection)

    def differences(self) -> list[str]:
        """Return, in sentences, where model versions, activations and declarations are not what their events say."""
        with self.database.read() as connection:
            self.database.lock_chain(connection)  # so that nobody adds a row with its event between two queries
            return list(differences(connection))

    def of_decision(self, id: str) -> tuple[Link, Receipt | None]:  # noqa: A002  # the field's name
        """Return a decision's link and the receipt before its own; `NotFound` where there is no such decision.

        Raises one of `UNREADABLE` where an edit has made it unreadable.
        """
        with self.database.read() as connection:
            row = connection.execute(_DECISIONS.where(decisions.c.id == id)).first()
            if row is None:
                raise NotFound("There is no such decision.")
            link = self._link(row, _Walk(self.database))
            return link, numbered(connection, link.receipt.number - 1) if link.receipt else None

    def _read(self, query: Select[Any], walk: "_Walk") -> Iterator[Link]:
        """Yield some links, all read before they are yielded, so that a slow caller holds no transaction open."""
        unreadable: Exception | None = None
        try:
            with self.database.read() as connection:
                rows = list(connection.execute(query))
        except UNREADABLE:
            rows, unreadable = self._read_as_far_as_possible(query)
        for row in rows:
            yield self._link(row, walk)
        if unreadable:
            raise unreadable

    def _read_as_far_as_possible(self, query: Select[Any]) -> tuple[list[Row[Any]], Exception | None]:
        """Return the rows before the first that cannot be read, and the error, so that its place is named."""
        rows: list[Row[Any]] = []
        try:
            with self.database.read() as connection:
                for place in range(BLOCK):  # one at a time: a driver may read the next row before it gives this one
                    rows.extend(connection.execute(query.limit(1).offset(place)))
        except UNREADABLE as error:
            return rows, error
        return rows, None

    def _link(self, row: Sequence[Any], walk: "_Walk") -> Link:
        """Return the link of a row: receipt, the numbers of its batch and event, and what is stored of a decision."""
        number, digest, previous, format_, batch, event, *of_decision = row
        receipt = Receipt(number, digest, previous, format_) if number is not None else None
        if event is not None:
            return Link(Kind.EVENT, self._stored(events, event), receipt)
        if batch is not None:
            stored = self._stored(jobs, batch)
            return Link(Kind.BATCH, walk.add_digests(stored) if stored else None, receipt)
        values, salt, *columns = of_decision
        if columns[0] is None:
            return Link(Kind.DECISION, None, receipt)
        return Link(Kind.DECISION, walk.record(columns, values, salt), receipt)

    def _stored(self, table: Table, number: int) -> dict[str, Any] | None:
        with self.database.read() as connection:
            row = connection.execute(select(table).where(table.c.number == number)).first()
        return row._asdict() if row else None


class _Walk:
    """What decisions stand on, as it is during one walk through the chain."""

    def __init__(self, database: Database):
        self.database = database
        self._contexts: dict[int, Context] = {}
        self._digests: dict[tuple[Any, ...], Mapping[str, str | None]] = {}

    def record(self, columns: list[Any], protected: str | None, salt: str | None) -> Record:
        """Return the record of a decision's columns and protected values, whose JSON is not parsed yet."""
        for place in _JSON:
            columns[place] = parsed(columns[place])
        record = record_of(columns, self._context(columns[_CONTEXT]))
        record["protected"], record["salt"] = parsed(protected), salt
        return self.add_digests(record)

    def _context(self, number: int) -> Context:
        if number not in self._contexts:
            with self.database.read() as connection:
                self._contexts[number] = read_context(connection, number)
        return self._contexts[number]

    def add_digests(self, record: dict[str, Any]) -> Record:
        """Add the digests of its `declarations` to a record, none where an edit names declarations that are not there.

        A declaration is recorded before what stands on it, so each pair of them is looked up once.
        """
        numbers = record["product_declaration"], record["policy_declaration"]
        if numbers not in self._digests:
            self._digests[numbers] = self._read(record)
        record["declarations"] = self._digests[numbers]
        return record

    def _read(self, record: Record) -> Mapping[str, str | None]:
        with self.database.read() as connection:
            digests = declared_digests(connection)
        try:
            return digests_of(record, digests)
        except KeyError:
            return {}


# The places of a decision's columns that hold JSON. It is read as text and parsed here, where its place is known.
_JSON = tuple(place for place, column in enumerate(COLUMNS) if isinstance(column.type, CompactJSON))
_CONTEXT = COLUMNS.index(decisions.c.context_number)
_SELECTED = (
    type_coerce(protected_values.c["values"], Text),
    protected_values.c.salt,
    *(type_coerce(column, Text) if place in _JSON else column for place, column in enumerate(COLUMNS)),
)
_PROTECTED = protected_values.c.decision_number == decisions.c.number
_OWN = (receipts.c.number == decisions.c.number) & OF_DECISION
_INSIDE = (
    select(*PLACE, receipts.c.job_number, receipts.c.event_number, *_SELECTED)
    .select_from(receipts)
    .join(decisions, _OWN, isouter=True)
    .join(protected_values, _PROTECTED, isouter=True)
    .order_by(receipts.c.number)
)
_DECISIONS: Select[Any] = (
    select(*PLACE, null(), null(), *_SELECTED)
    .select_from(decisions)
    .join(receipts, _OWN, isouter=True)
    .join(protected_values, _PROTECTED, isouter=True)
)
# The numbers alone are compared first, which an index has without the rest of millions of rows. What the receipt is of
# is asked after the join: PostgreSQL without statistics takes hardly any receipt for one of a decision, and would
# search for each decision among all receipts.
_OUTSIDE = (
    select(decisions.c.number)
    .join(receipts, receipts.c.number == decisions.c.number, isouter=True)
    .where(or_(receipts.c.number.is_(None), receipts.c.job_number.is_not(None), receipts.c.event_number.is_not(None)))
    .limit(1)
)
_DECISIONS_OUTSIDE = _DECISIONS.where(decisions.c.number.in_(_OUTSIDE.scalar_subquery()))
_BATCHES_OUTSIDE = (
    select(*PLACE, jobs.c.number, null())
    .select_from(jobs)
    .join(receipts, isouter=True)
    .where(jobs.c.state == State.DONE.value, receipts.c.number.is_(None))
)
_EVENTS_OUTSIDE = (
    select(*PLACE, null(), events.c.number)
    .select_from(events)
    .join(receipts, isouter=True)
    .where(receipts.c.number.is_(None))
)
