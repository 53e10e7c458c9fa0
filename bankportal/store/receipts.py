"""The end of the chain of receipts, extended in the transaction that records the decision or batch."""

from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from bankportal.domain.batch import Job, State
from bankportal.domain.receipt import ChainEntry, Receipt, RecordedDecision, receipt
from bankportal.store.sessions import Database
from bankportal.store.tables import receipts

_NEW = insert(receipts)
_NEWEST = select(receipts.c.number, receipts.c.digest, receipts.c.previous).order_by(receipts.c.number.desc()).limit(1)


def head(connection: Connection) -> Receipt | None:
    """Return the newest receipt of the chain; `None` where there is none."""
    row = connection.execute(_NEWEST).first()
    return Receipt(*row) if row else None


def add_batch(connection: Connection, database: Database, job: Job) -> Receipt:
    """Add a finished batch to the end of the chain, in the write transaction that marks it as done.

    `job` is the job as that transaction leaves it; `ValueError` where it is not done. Call this late: nothing else can
    be recorded from here until the commit.
    """
    if job.state is not State.DONE:
        raise ValueError("only a batch that is done has a place in the chain")
    database.lock_chain(connection)
    return _add(connection, [job], "job_number", [job.number])


def add_decisions(connection: Connection, recorded: Sequence[RecordedDecision], numbers: Sequence[int]) -> None:
    """Add decisions, stored under these numbers, to the end of the chain, which the caller must have locked."""
    _add(connection, recorded, "decision_number", numbers)


def _add(connection: Connection, entries: Sequence[ChainEntry], column: str, numbers: Sequence[int]) -> Receipt:
    last, rows = head(connection), []
    for entry, number in zip(entries, numbers, strict=True):
        last = receipt(entry, last)
        rows.append(vars(last) | {column: number})
    connection.execute(_NEW, rows)
    assert last is not None
    return last
