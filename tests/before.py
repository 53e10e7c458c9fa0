"""The tables of an earlier release, as tests need them: those of before decisions became compact (revision 0006)."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alembic import command
from sqlalchemy import JSON, Column, Connection, Float, Integer, MetaData, String, Table, insert, select

from bankportal.domain.batch import State
from bankportal.domain.canonical import sha256
from bankportal.domain.outcome import Outcome
from bankportal.domain.receipt import START, Kind, Receipt, Record, content
from bankportal.domain.schema import Customer
from bankportal.store import migrate
from bankportal.store.adopting import adopt
from bankportal.store.chain import UNREADABLE
from bankportal.store.receipts import declared_digests, digests_of
from bankportal.store.sessions import Database
from bankportal.store.tables import Instant, events, jobs
from tests.test_receipts import AT, job_values

BEFORE = "0006"

_metadata = MetaData()
decisions = Table(
    "decisions",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("id", String),
    Column("submission", String),
    Column("at", Instant),
    Column("product", String),
    Column("carried", JSON),
    Column("scored", JSON),
    Column("policy", JSON),
    Column("score", Float),
    Column("band", String),
    Column("limit", JSON(none_as_null=True)),
    Column("flags", JSON),
    Column("base", Float),
    Column("contributions", JSON),
    Column("reasons", JSON),
    Column("model_version", String),
    Column("model_digest", String),
    Column("policy_version", String),
    Column("product_declaration", Integer),
    Column("policy_declaration", Integer),
    Column("actor", String),
    Column("door", String),
)
protected_values = Table(
    "protected_values",
    _metadata,
    Column("decision_number", Integer, primary_key=True),
    Column("values", JSON),
    Column("salt", String),
)
receipts = Table(
    "receipts",
    _metadata,
    Column("number", Integer, primary_key=True),
    Column("decision_number", Integer),
    Column("digest", String),
    Column("previous", String),
    Column("job_number", Integer),
    Column("format", Integer),
    Column("event_number", Integer),
)


def upgrade_to(database: Database, revision: str) -> None:
    """Run the migrations up to a revision, as an earlier release left its database."""
    database.prepare_folder()
    with database.write() as connection:
        run(connection, command.upgrade, revision)


def run(connection: Connection, migrating: Callable[..., None], revision: str) -> None:
    """Upgrade or downgrade to a revision in a transaction."""
    config = migrate._config()
    config.attributes["connection"] = connection
    migrating(config, revision)


def recorded_before(number: int, customer: Customer, outcome: Outcome, declared: Mapping[str, int | None]) -> Record:
    """Return the record of a decision as the release before had it, with its protected values and their salt."""
    return outcome.to_record() | {
        "id": f"{number:026}",
        "submission": f"{number:064}",
        "at": AT,
        "product": customer.product.key,
        "carried": customer.identifiers | {"CustomerId": str(number)},
        "scored": customer.scored,
        "policy": customer.policy,
        "model_version": outcome.model_version,
        "model_digest": outcome.model_digest,
        "protected": customer.protected,
        "salt": f"{number:032}",
        **declared,
    }


class ChainBefore:
    """Records in the tables of before: decisions of format 1, then of format 2 with batches and events among them."""

    def __init__(self, connection: Connection, without: Sequence[str] = ()):
        """`without` are the columns that an even earlier release did not have."""
        self.connection = connection
        self.without = without
        self.last = Receipt(0, START, START, 1)
        self.lines: list[str] = []  # as they are exported
        self._rows: dict[Table, list[Record]] = {table: [] for table in (decisions, protected_values, jobs, events)}
        self._rows[receipts] = []

    def add(self, kind: Kind, record: Record, format_: int, **subject: int) -> None:
        """Add an entry to the end of the chain."""
        number, previous = self.last.number + 1, self.last.digest
        text = content(kind, record, number, previous, format_)
        self.last = Receipt(number, sha256(text), previous, format_)
        self._rows[receipts].append(dict.fromkeys(receipts.c.keys()) | vars(self.last) | subject)
        self.lines.append(line(text))

    def write(self) -> None:
        """Write what was added."""
        for table, rows in self._rows.items():
            if rows:
                known = [{name: row[name] for name in row if name not in self.without} for row in rows]
                self.connection.execute(insert(table), known)
                rows.clear()

    def add_decision(self, number: int, record: Record, format_: int) -> None:
        """Add a decision under a number of its own."""
        row = {name: record.get(name) for name in decisions.c.keys() if name != "number"}  # noqa: SIM118  # a column's
        self._rows[decisions].append(row | {"number": number})
        protected = {"decision_number": number, "values": record["protected"], "salt": record["salt"]}
        self._rows[protected_values].append(protected)
        self.add(Kind.DECISION, record, format_, decision_number=number)

    def add_batch(self, number: int, declarations: Mapping[int, str]) -> None:
        """Add a batch of churn that is done."""
        record = job_values(f"{number:026}", State.DONE) | {"number": number, "product_declaration": 1}
        self._rows[jobs].append(record)
        record |= {"policy_declaration": None}
        self.add(Kind.BATCH, record | {"declarations": digests_of(record, declarations)}, 2, job_number=number)

    def add_event(self, number: int) -> None:
        """Add an event that no table's row is proved by."""
        record = {"kind": "declaration-withdrawn", "subject": "product other", "actor": "somebody", "at": AT}
        record |= {"content": {"number": number}}
        self._rows[events].append(record | {"number": number})
        self.add(Kind.EVENT, record, 2, event_number=number)

    def adopt(self, database: Database) -> None:
        """Fix the rows of the other tables by an event, as the first start of a release with events does."""
        self.write()
        adopt(self.connection, database)
        row = self.connection.execute(select(receipts).order_by(receipts.c.number.desc()).limit(1)).one()
        self.last = Receipt(row.number, row.digest, row.previous, row.format)
        record = self.connection.execute(select(events)).one()._asdict()
        self.lines.append(line(content(Kind.EVENT, record, row.number, row.previous, row.format)))


def line(text: str) -> str:
    """Return a line of an export."""
    return json.dumps({"digest": sha256(text), "content": text}, ensure_ascii=False)


def fill(database: Database, answered: list[tuple[Customer, Outcome]], count: int) -> list[str]:
    """Record decisions as the releases before did, after each other's number; return the chain as it is exported.

    A third of them is of format 1. Each has its own number, which is not that of its receipt.
    """
    upgrade_to(database, BEFORE)
    with database.write() as connection:
        chain, digests = ChainBefore(connection), declared_digests(connection)
        numbers = {digest: number for number, digest in digests.items()}
        for number in range(1, count + 1):
            customer, outcome = answered[number % len(answered)]
            if number <= count // 3:
                chain.add_decision(number, recorded_before(number, customer, outcome, {}), 1)
                continue
            if number == count // 3 + 1:
                chain.adopt(database)
            policy = outcome.product.policy
            declared = {
                "product_declaration": numbers[outcome.product.digest],
                "policy_declaration": numbers[policy.digest] if policy else None,
            }
            record = recorded_before(number, customer, outcome, declared) | {"actor": "somebody", "door": "page"}
            chain.add_decision(number, record | {"declarations": digests_of(record, digests)}, 2)
            if number % 7 == 0:
                chain.add_batch(number, digests)
            if number % 5 == 0:
                chain.add_event(number)
        chain.write()
        return chain.lines


def proved_before(database: Database) -> Iterator[tuple[int, str | None]]:
    """Yield each receipt of the chain, and its line of an export; `None` where it is not what was recorded."""
    with database.read() as connection:
        digests = declared_digests(connection)
        for row in connection.execute(select(receipts).order_by(receipts.c.number)).mappings().all():
            kind, read = Kind.DECISION, _decision
            if row["job_number"] is not None or row["event_number"] is not None:
                kind, read = (Kind.EVENT, _event) if row["job_number"] is None else (Kind.BATCH, _batch)
            try:
                record = read(connection, row)
                declared = {} if kind is Kind.EVENT else {"declarations": digests_of(record, digests)}
                text = content(kind, {**record, **declared}, row["number"], row["previous"], row["format"])
                yield row["number"], line(text) if sha256(text) == row["digest"] else None
            except UNREADABLE:
                yield row["number"], None


def _decision(connection: Connection, row: Mapping[str, Any]) -> Record:
    stored = select(decisions, protected_values.c["values"].label("protected"), protected_values.c.salt)
    joined = stored.join(protected_values, protected_values.c.decision_number == decisions.c.number, isouter=True)
    return connection.execute(joined.where(decisions.c.number == row["decision_number"])).mappings().one()


def _batch(connection: Connection, row: Mapping[str, Any]) -> Record:
    return connection.execute(select(jobs).where(jobs.c.number == row["job_number"])).mappings().one()


def _event(connection: Connection, row: Mapping[str, Any]) -> Record:
    return connection.execute(select(events).where(events.c.number == row["event_number"])).mappings().one()


def outside(database: Database) -> set[str]:
    """Return the ids of the decisions that have no receipt."""
    own = receipts.c.decision_number == decisions.c.number
    query = select(decisions.c.id).join(receipts, own, isouter=True).where(receipts.c.number.is_(None))
    with database.read() as connection:
        return set(connection.scalars(query))
