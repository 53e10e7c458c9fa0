"""The end of the chain of receipts, extended in the transaction that records the decision, batch or event."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, insert, select

from bankportal.domain.batch import Job, State
from bankportal.domain.receipt import Kind, Receipt, Record, receipt
from bankportal.store.sessions import Database
from bankportal.store.tables import declarations, jobs, receipts

# A receipt's columns in the order of `Receipt`'s fields.
PLACE = (receipts.c.number, receipts.c.digest, receipts.c.previous, receipts.c.format)
# Which column names what a receipt is of.
SUBJECTS = {
    Kind.DECISION: receipts.c.decision_number,
    Kind.BATCH: receipts.c.job_number,
    Kind.EVENT: receipts.c.event_number,
}
# Which columns of decisions and jobs name the declarations that they stand on.
DECLARATIONS = {"product": "product_declaration", "policy": "policy_declaration"}
_NEW = insert(receipts)
_DIGESTS = select(declarations.c.number, declarations.c.digest)
_NEWEST = select(*PLACE).order_by(receipts.c.number.desc()).limit(1)


def head(connection: Connection) -> Receipt | None:
    """Return the newest receipt of the chain; `None` where there is none."""
    row = connection.execute(_NEWEST).first()
    return Receipt(*row) if row else None


def numbered(connection: Connection, number: int) -> Receipt | None:
    """Return one receipt of the chain; `None` where it is not there."""
    row = connection.execute(select(*PLACE).where(receipts.c.number == number)).first()
    return Receipt(*row) if row else None


def add_batch(connection: Connection, database: Database, job: Job) -> Receipt:
    """Add a finished batch to the end of the chain, in the write transaction that marks it as done.

    `job` is the job as that transaction leaves it; `ValueError` where it is not done. Call this late: nothing else can
    be recorded from here until the commit.
    """
    if job.state is not State.DONE:
        raise ValueError("only a batch that is done has a place in the chain")
    database.lock_chain(connection)
    stored = connection.execute(select(jobs).where(jobs.c.number == job.number)).one()
    record = stored._asdict()
    record["declarations"] = digests_of(record, declared_digests(connection))
    return _add(connection, Kind.BATCH, [record], [job.number])


def add_decisions(connection: Connection, records: Sequence[Record], numbers: Sequence[int]) -> None:
    """Add decisions, stored under these numbers, to the end of the chain, which the caller must have locked."""
    digests = declared_digests(connection)
    proved = [{**record, "declarations": digests_of(record, digests)} for record in records]
    _add(connection, Kind.DECISION, proved, numbers)


def add_event_receipt(connection: Connection, record: Record, number: int) -> None:
    """Add an event, stored under this number, to the end of the chain, which the caller must have locked."""
    _add(connection, Kind.EVENT, [record], [number])


def declared_digests(connection: Connection) -> dict[int, str]:
    """Return the digest of every recorded declaration, by its number."""
    return {row.number: row.digest for row in connection.execute(_DIGESTS)}


def digests_of(record: Record, digests: Mapping[int, str]) -> dict[str, str | None]:
    """Return the digests of the declarations that a decision or batch stands on; `KeyError` for one that is unknown."""
    numbers = {name: record[column] for name, column in DECLARATIONS.items()}
    return {name: None if number is None else digests[number] for name, number in numbers.items()}


def _add(connection: Connection, kind: Kind, records: Sequence[Record], numbers: Sequence[int]) -> Receipt:
    last, rows = head(connection), []
    for record, number in zip(records, numbers, strict=True):
        last = receipt(kind, record, last)
        rows.append(vars(last) | {SUBJECTS[kind].name: number})
    connection.execute(_NEW, rows)
    assert last is not None
    return last
