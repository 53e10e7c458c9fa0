"""The end of the chain of receipts, extended in the transaction that records the decision, batch or event."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from bankportal.domain.batch import Job, State
from bankportal.domain.receipt import Kind, Receipt, Record, receipt
from bankportal.store.prepared import insert_rows
from bankportal.store.sessions import Database
from bankportal.store.tables import declarations, jobs, receipts

# A receipt's columns in the order of `Receipt`'s fields.
PLACE = (receipts.c.number, receipts.c.digest, receipts.c.previous, receipts.c.format)
# A receipt of a decision: it names neither batch nor event, and has the decision's number.
OF_DECISION = receipts.c.job_number.is_(None) & receipts.c.event_number.is_(None)
# Which columns of decisions and jobs name the declarations that they stand on.
DECLARATIONS = {"product": "product_declaration", "policy": "policy_declaration"}
_DIGESTS = select(declarations.c.number, declarations.c.digest)
# As text, since it is run for every decision: SQLAlchemy takes longer to build a statement than SQLite to run it.
_NEWEST = "SELECT number, digest, previous, format FROM receipts ORDER BY number DESC LIMIT 1"


def head(connection: Connection) -> Receipt | None:
    """Return the newest receipt of the chain; `None` where there is none."""
    row = connection.exec_driver_sql(_NEWEST).first()
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
    (own,) = _add(connection, Kind.BATCH, [record], job_number=job.number)
    return own


def add_decisions(connection: Connection, records: Sequence[Record]) -> list[int]:
    """Add decisions to the end of the chain, which the caller must have locked; return their numbers.

    A record has its `protected` values, their `salt` and the digests of its `declarations`. Raises `ValueError` where a
    number of it is not finite.
    """
    return [own.number for own in _add(connection, Kind.DECISION, records)]


def add_event_receipt(connection: Connection, record: Record, number: int) -> None:
    """Add an event, stored under this number, to the end of the chain, which the caller must have locked."""
    _add(connection, Kind.EVENT, [record], event_number=number)


def declared_digests(connection: Connection) -> dict[int, str]:
    """Return the digest of every recorded declaration, by its number."""
    return {row.number: row.digest for row in connection.execute(_DIGESTS)}


def digests_of(record: Record, digests: Mapping[int, str]) -> dict[str, str | None]:
    """Return the digests of the declarations that a decision or batch stands on; `KeyError` for one that is unknown."""
    numbers = {name: record[column] for name, column in DECLARATIONS.items()}
    return {name: None if number is None else digests[number] for name, number in numbers.items()}


def _add(
    connection: Connection,
    kind: Kind,
    records: Sequence[Record],
    job_number: int | None = None,
    event_number: int | None = None,
) -> list[Receipt]:
    last, added = head(connection), []
    for record in records:
        last = receipt(kind, record, last)
        added.append(last)
    rows = [(each.number, job_number, event_number, each.digest, each.previous, each.format) for each in added]
    insert_rows(connection, receipts, rows)
    return added
