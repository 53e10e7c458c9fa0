"""The chain of receipts in the database, read in its order with the decision or batch of each receipt."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, null, select
from sqlalchemy.exc import SQLAlchemyError

from bankportal.domain.batch import State
from bankportal.domain.errors import NotFound
from bankportal.domain.receipt import ChainEntry, Receipt, RecordedDecision
from bankportal.store.decisions import decision_from
from bankportal.store.jobs import read_job
from bankportal.store.receipts import head
from bankportal.store.sessions import Database
from bankportal.store.tables import decisions, jobs, protected_values, receipts

# What reading raises where an edit has made stored values unreadable, not only wrong.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError, SQLAlchemyError)
BLOCK = 500  # links read in one transaction: no writer waits for longer than that


@dataclass(frozen=True)
class Link:
    """A decision or batch and its receipt as they are stored; `None` for what is not there."""

    entry: ChainEntry | None
    receipt: Receipt | None


class Chain:
    """All receipts in their order. Reads the protected values, which only their digests need."""

    def __init__(self, database: Database):
        self.database = database

    def head(self) -> Receipt | None:
        """Return the newest receipt; `None` where nothing was recorded."""
        with self.database.read() as connection:
            return head(connection)

    def links(self) -> Iterator[Link]:
        """Yield the chain in its order, with `None` for what is missing; then one decision and one batch outside it.

        Where an edit has made a link unreadable, one of `UNREADABLE` is raised at its place.
        """
        following: Select[Any] | None = _INSIDE
        while following is not None:
            block, following = following, None
            for link in self._read(block.limit(BLOCK)):
                yield link
                assert link.receipt is not None
                following = _INSIDE.where(receipts.c.number > link.receipt.number)
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
            link = _link(connection, row)
            before = select(receipts.c.number, receipts.c.digest, receipts.c.previous)
            place = link.receipt.number - 1 if link.receipt else 0
            row_before = connection.execute(before.where(receipts.c.number == place)).first()
        return link, Receipt(*row_before) if row_before else None

    def _read(self, query: Select[Any]) -> Iterator[Link]:
        """Yield some links, all read before the first is yielded, so that a slow caller holds no transaction open."""
        links: list[Link] = []
        unreadable: Exception | None = None
        try:
            with self.database.read() as connection:
                # One at a time, so that what cannot be read is named, not the block around it.
                rows = connection.execution_options(yield_per=1).execute(query)
                links.extend(_link(connection, row) for row in rows)
        except UNREADABLE as error:
            unreadable = error
        yield from links
        if unreadable:
            raise unreadable


def _link(connection: Connection, row: Row[Any]) -> Link:
    place = Receipt(row.place, row.digest, row.previous) if row.place is not None else None
    if row.batch is not None:
        job = connection.execute(select(jobs).where(jobs.c.number == row.batch)).first()
        return Link(read_job(job) if job else None, place)
    if row.number is None:
        return Link(None, place)
    return Link(RecordedDecision(decision_from(row, row.apart), row.submission, row.salt or ""), place)


_SUBJECTS = (
    *decisions.c,
    *(receipts.c.number.label("place"), receipts.c.digest, receipts.c.previous),
    *(protected_values.c["values"].label("apart"), protected_values.c.salt),
)
_PROTECTED = protected_values.c.decision_number == decisions.c.number
_INSIDE = (
    select(*_SUBJECTS, receipts.c.job_number.label("batch"))
    .select_from(receipts)
    .join(decisions, isouter=True)
    .join(protected_values, _PROTECTED, isouter=True)
    .order_by(receipts.c.number)
)
_DECISIONS: Select[Any] = (
    select(*_SUBJECTS, null().label("batch"))
    .select_from(decisions)
    .join(receipts, isouter=True)
    .join(protected_values, _PROTECTED, isouter=True)
)
_DECISIONS_OUTSIDE = _DECISIONS.where(receipts.c.number.is_(None))
_BATCHES_OUTSIDE = (
    select(receipts.c.number.label("place"), jobs.c.number.label("batch"))
    .select_from(jobs)
    .join(receipts, isouter=True)
    .where(jobs.c.state == State.DONE.value, receipts.c.number.is_(None))
)
