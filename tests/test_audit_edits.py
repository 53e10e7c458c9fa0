"""Random edits of what is chained, and of the tables that events prove, in the database itself: each is found."""

import math
import random
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import cycle

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from bankportal.domain.constraints import Source
from bankportal.domain.schema import validate
from bankportal.services.audit import ChainBroken, Head
from bankportal.store.receipts import add_batch
from bankportal.store.tables import (
    activations,
    decision_contexts,
    decision_counts,
    decisions,
    declarations,
    events,
    jobs,
    model_versions,
    protected_values,
    receipts,
)
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN
from tests.test_receipts import insert_job

EDITS = 500
TABLES = (
    *(decisions, decision_contexts, decision_counts, protected_values),
    *(jobs, events, receipts, model_versions, activations, declarations),
)
# What has a receipt, and the column that names it there.
CHAINED = {
    decisions: receipts.c.number,
    jobs: receipts.c.job_number,
    events: receipts.c.event_number,
}
# Not proven: no answer depends on these once the batch is done.
LEFT_OUT = {jobs.c.key, jobs.c.start_when_checked, jobs.c.message}
# Where a copy of a row is found; a context on which no decision stands is none of what was recorded.
COPIED = (*CHAINED, decision_counts, model_versions, activations, declarations)
# What comes next: each table and column has its turn.
DELETED, EXCHANGED, TO_COPY = cycle(TABLES), cycle(TABLES), cycle(COPIED)
COLUMNS = cycle([column for table in TABLES for column in table.c if column not in LEFT_OUT])


class NoEdit(Exception):
    """The value is what it was."""


def insert_batch(portal, name: str) -> None:
    """Record a batch of which there is only the record."""
    job = insert_job(portal, name * 26)
    with portal.database.write() as connection:
        add_batch(connection, portal.database, job)


@pytest.fixture
def recorded(portal, examples, monkeypatch):
    """Ten decisions, two batches and an activation in turn, after the events with which a portal begins.

    Most of the decisions stand in the counts, the last of them do not yet.
    """
    monkeypatch.setattr("bankportal.store.counts.EVERY", portal.audit.head().number + 11)
    for number in range(10):
        product = (CHURN, ALLOWANCE)[number % 2]
        raw = examples[product.key] | {"CustomerId": str(number), "Surname": "Nuñez-Örn"}
        raw |= {"HasLoan": ""} if number % 3 else {"CreditScore": str(400 + 10 * number)}
        portal.scoring.decide(validate(product, raw, Source.TEXT), f"submission-{number}", BY_PAGE)
        if number in {3, 8}:
            insert_batch(portal, str(number))
        if number == 5:
            portal.models.activate(CHURN, "v1")
    return portal


@contextmanager
def without_rules(database):
    """Write as somebody who owns the database can."""
    with database.engine.connect() as connection:
        sqlite = database.engine.dialect.name == "sqlite"
        if sqlite:
            connection.connection.execute("PRAGMA foreign_keys=OFF")
        with connection.begin():
            if not sqlite:
                connection.execute(text("SET LOCAL session_replication_role = replica"))
            yield connection
        if sqlite:
            connection.connection.execute("PRAGMA foreign_keys=ON")


def contents(portal) -> dict:
    with portal.database.read() as connection:
        return {table: [row._asdict() for row in connection.execute(select(table))] for table in TABLES}


def restore(portal, kept: dict) -> None:
    with without_rules(portal.database) as connection:
        for table in TABLES:
            connection.execute(delete(table))
            connection.execute(insert(table), kept[table])


def changed(value, chance: random.Random):
    """Return another value of the same kind, or of another."""
    match value:
        case bool():
            return not value
        case None:
            return chance.choice([0, 1.5, "x"])
        case int():
            return chance.choice([value + 1, value - 1, -value - 1, value + 1000])
        case float():
            return chance.choice([math.nextafter(value, math.inf), math.nextafter(value, -math.inf), value + 1.0])
        case str():
            place = chance.randrange(len(value) + 1)
            return chance.choice([value[:place] + "~" + value[place + 1 :], "ü" + value[1:], value[: place // 2] + "ü"])
        case datetime():
            return value + timedelta(microseconds=chance.choice([-1, 1, 3_600_000_000]))
    return changed_within(value, chance)


def changed_within(value: dict | list, chance: random.Random):
    """Return another object or list: one of its values is another, or it has one more or less."""
    match value:
        case dict() if value and chance.random() < 0.8:
            key = chance.choice(sorted(value))
            return value | {key: changed(value[key], chance)}
        case dict():
            return chance.choice([value | {"more_of_it": None}, dict(list(value.items())[1:]) or None])
        case list() if value and chance.random() < 0.8:
            place = chance.randrange(len(value))
            return [*value[:place], changed(value[place], chance), *value[place + 1 :]]
        case list():
            return [*value, None]


def key_of(table, row: dict) -> dict:
    """Return what names a row, by column."""
    return {column.name: row[column.name] for column in table.primary_key}


def only(table, row: dict) -> list:
    """Return the conditions under which a statement is about this row alone."""
    return [table.c[name] == value for name, value in key_of(table, row).items()]


def edit_a_column(connection, kept: dict, chance: random.Random) -> str:
    """Change one value; NULL among the others."""
    column = next(COLUMNS)
    table = column.table
    # Mostly where there is a value: the database refuses one in most of the columns that are NULL.
    with_value = [row for row in kept[table] if row[column.name] is not None]
    row = chance.choice(with_value if with_value and chance.random() < 0.8 else kept[table])
    value = None if chance.random() < 0.1 else changed(row[column.name], chance)
    if repr(value) == repr(row[column.name]):
        raise NoEdit
    connection.execute(update(table).where(*only(table, row)).values({column.name: value}))
    return f"{column} of {key_of(table, row)}: {row[column.name]!r} to {value!r}"


def delete_a_row(connection, kept: dict, chance: random.Random) -> str:
    """Delete a row, or what is chained with all that belongs to it."""
    table = next(DELETED)
    row = chance.choice(kept[table])
    connection.execute(delete(table).where(*only(table, row)))
    if table in CHAINED and chance.random() < 0.5:
        connection.execute(delete(receipts).where(CHAINED[table] == row["number"]))
        if table is decisions:
            connection.execute(delete(protected_values).where(protected_values.c.decision_number == row["number"]))
    return f"{table} {key_of(table, row)} deleted"


def exchange_two(connection, kept: dict, chance: random.Random) -> str:
    """Let two rows of one table have each other's number, or what names them in its place."""
    table = next(EXCHANGED)
    rows = chance.sample(kept[table], 2)
    exchanged = [row | key_of(table, other) for row, other in zip(rows, rows[::-1], strict=True)]
    if exchanged == rows[::-1]:
        raise NoEdit
    for row in rows:
        connection.execute(delete(table).where(*only(table, row)))
    connection.execute(insert(table), exchanged)
    return f"{table} {' and '.join(str(key_of(table, row)) for row in rows)} exchanged"


# What must differ in a copy, since it is unique.
UNLIKE = {
    decisions: {"id": "z" * 26, "submission": "z" * 64},
    decision_counts: {"band": "Elite ?"},
    jobs: {"id": "z" * 26},
    model_versions: {"version": "v99"},
    declarations: {"digest": "z" * 64},
}


def insert_a_copy(connection, kept: dict, chance: random.Random) -> str:
    """Insert a copy of a row; of what is chained, with a receipt of its own or without."""
    table = next(TO_COPY)
    row = chance.choice(kept[table])
    end = len(kept[receipts])
    number = chance.choice([0, -3, end + 1, end + 27])
    own = {} if table is decision_counts else {"number": number}
    connection.execute(insert(table).values(row | own | UNLIKE.get(table, {})))
    if table in CHAINED and chance.random() < 0.5:
        name = CHAINED[table].name
        at = next(each for each in kept[receipts] if each[name] == row["number"])
        taken = {"number": chance.choice([0, -3, end + 1, end + 27])} | {name: number}
        connection.execute(insert(receipts).values(at | taken))
    return f"{table} {key_of(table, row)} copied"


WAYS = [edit_a_column] * 7 + [delete_a_row, exchange_two, insert_a_copy]


def test_it_works(recorded) -> None:
    """What is put back is right again, so that an edit alone is what is found."""
    verified = recorded.audit.verify()
    restore(recorded, contents(recorded))
    assert recorded.audit.verify() == verified
    assert (verified.decisions, verified.batches) == (10, 2)
    assert verified.events + 12 == verified.head.number
    assert all(contents(recorded).values())


def test_random_edits_are_found(recorded) -> None:
    kept, newest, chance = contents(recorded), recorded.audit.head(), random.Random(10)
    head, done, columns = Head(newest.number, newest.digest), [], set()
    expected = {str(column) for table in TABLES for column in table.c if column not in LEFT_OUT}
    # Which column's edits the database refuses is chance: a few more edits, where one was never edited.
    while len(done) < EDITS or (expected - columns and len(done) < 2 * EDITS):
        try:
            with without_rules(recorded.database) as connection:
                done.append(chance.choice(WAYS)(connection, kept, chance))
        except (NoEdit, DBAPIError):  # the database itself refuses a NULL or a number that is taken
            continue
        columns.add(done[-1].split(" of ")[0])
        with pytest.raises(ChainBroken):
            pytest.fail(f"{done[-1]}: not found, {recorded.audit.verify(head)}")
        restore(recorded, kept)
    assert not expected - columns, "each column is edited at least once"
    for way in ("deleted", "exchanged"):
        assert {each.split()[0] for each in done if each.endswith(way)} == set(map(str, TABLES))
    assert {each.split()[0] for each in done if each.endswith("copied")} == set(map(str, COPIED))
