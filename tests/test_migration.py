"""Decisions of before are copied into compact rows: nothing is lost, whatever interrupts it, and no edit disappears."""

import json
import math
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import JSON, Text, cast, select, text, type_coerce
from sqlalchemy.types import NullType

from bankportal import wiring
from bankportal.domain.constraints import Source
from bankportal.domain.receipt import content
from bankportal.domain.schema import validate
from bankportal.services.audit import ChainBroken
from bankportal.store.chain import _INSIDE, UNREADABLE, _Walk
from bankportal.store.migrate import is_migrated, upgrade
from bankportal.store.receipts import OF_DECISION
from bankportal.store.sessions import Database
from bankportal.store.tables import decisions, metadata, receipts
from tests import before
from tests.conftest import new_postgresql
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN
from tests.test_audit_edits import without_rules

DECISIONS = 3_500  # more than are copied in two transactions
# Says how far it is after each transaction, and waits to be told to go on, so that it never does more than is asked.
MIGRATE = """
import sys
from bankportal.store.migrate import upgrade
from bankportal.store.sessions import Database
def report(*progress):
    print(*progress, flush=True)
    sys.stdin.readline()
print(flush=True)
sys.stdin.readline()
upgrade(Database(sys.argv[1]), report)
"""


@pytest.fixture(scope="module")
def answered(ready_instance, tmp_path_factory):
    """Customers of both products with their outcomes: granted, refused by rules, with blanks, with unseen values."""
    from tests.conftest import config_for
    from tests.shipped import PRODUCTS

    instance = tmp_path_factory.mktemp("answered") / "instance"
    shutil.copytree(ready_instance, instance)
    services = wiring.build(config_for(instance))
    examples = {
        key: {entry.factor.name: entry.factor.example for entry in product.factors} for key, product in PRODUCTS.items()
    }
    changes = [
        {"Surname": "Nuñez-Örn 👤"},
        {"HasLoan": ""},
        {"CreditScore": "350", "LatePayments": "30"},
        {"RequestedLimit": "900000"},
        {"EstimatedSalary": "200"},
        {"Balance": "1e-7"},
        {"NumOfProducts": "4", "IsActiveMember": "0"},
    ]
    customers = [
        validate(
            product,
            examples[product.key] | {k: v for k, v in change.items() if k in examples[product.key]},
            Source.TEXT,
        )
        for product in (CHURN, ALLOWANCE)
        for change in changes
    ]
    outcomes = services.scoring.score_all(customers)
    services.database.close()
    assert any(outcome.flags for outcome in outcomes)
    assert {outcome.limit is None or outcome.limit.amount > 0 for outcome in outcomes} == {True, False}
    assert {outcome.reasons[0].rule is None for outcome in outcomes if outcome.reasons} == {True, False}
    return list(zip(customers, outcomes, strict=True))


@contextmanager
def database_on(backend: str, folder):
    with ExitStack() as stack:
        address = f"sqlite:///{folder}/before.sqlite3"
        database = Database(stack.enter_context(new_postgresql()) if backend == "postgresql" else address)
        yield database
        database.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request, answered, tmp_path_factory):
    """A database as the release before left it, and its chain as that exported it; copy it, do not use it."""
    with database_on(request.param, tmp_path_factory.mktemp("filled")) as database:
        lines = before.fill(database, answered, DECISIONS)
        database.close()
        yield database.url, lines


@pytest.fixture
def old(filled, tmp_path):
    """A copy of that database."""
    url, _ = filled
    with ExitStack() as stack:
        if url.get_backend_name() == "sqlite":
            copied = Database(f"sqlite:///{shutil.copy(url.database, tmp_path)}")
        else:
            copied = Database(stack.enter_context(new_postgresql(template=url.database)))
        yield copied
        copied.close()


@pytest.fixture
def lines(filled):
    return filled[1]


@pytest.fixture
def audit(config, old):
    """The audit of today's portal over that database."""
    built = wiring.build(replace(config, database_url=old.url))
    yield built.audit
    built.database.close()


def counted_rows(database) -> Counter:
    """Count the rows themselves, by product and band."""
    with database.read() as connection:
        return Counter(tuple(row) for row in connection.execute(select(decisions.c.product, decisions.c.band)))


def assert_whole(audit, lines) -> None:
    """Hold that the chain has become the same bytes, and the counts those of the rows."""
    assert [line for _, line in audit.export()] == lines
    verified = audit.verify()
    assert (verified.decisions, verified.head.number) == (DECISIONS, len(lines))
    with audit.chain.database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        counts = connection.execute(text("SELECT product, band, sum(decisions) FROM decision_counts GROUP BY 1, 2"))
        assert {(product, band): count for product, band, count in counts} == counted_rows(audit.chain.database)


def test_it_works(old, audit, lines, services, answered) -> None:
    assert not is_migrated(old)
    reported, other = [], Database(old.url)

    def report(done: int, total: int) -> None:
        reported.append((done, total))
        assert not is_migrated(other), "the portal does not serve meanwhile"
        with other.read() as connection:
            assert connection.scalar(text("SELECT max(number) FROM receipts")) == done, "what is reported is kept"

    upgrade(old, report)
    other.close()
    assert is_migrated(old)
    assert len(reported) > 2
    assert reported == sorted(reported), "never backwards"
    assert reported[-1] == (len(lines), len(lines))
    assert {total for _, total in reported} == {len(lines)}
    assert_whole(audit, lines)
    upgrade(old, lambda *_: pytest.fail("there is nothing to copy"))


def test_what_was_copied_is_recomputed_shown_and_gone_on_with(old, config, answered) -> None:
    upgrade(old)
    portal = wiring.build(replace(config, database_url=old.url))
    replayed = portal.audit.replay()
    assert replayed.decisions == DECISIONS
    assert len(replayed.skipped) == portal.audit.verify().batches, "of the batches there is only the record"
    for number in (1, DECISIONS // 2, DECISIONS):
        customer, outcome = answered[number % len(answered)]
        shown = portal.decisions.get(f"{number:026}")
        assert shown.outcome == outcome
        assert shown.customer.scored == customer.scored
    newest = portal.audit.head()
    made = portal.decisions.record(*answered[0], "f" * 64, BY_PAGE)
    assert portal.decisions.receipt(made.id).previous == newest.digest
    assert portal.decisions.record(*answered[0], f"{7:064}", BY_PAGE).id == f"{7:026}", "what was recorded before"
    assert portal.audit.verify().decisions == DECISIONS + 1
    portal.database.close()


@contextmanager
def migrating(database):
    """Run a process that migrates, from one report to the next, as it is let."""
    address = database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", MIGRATE, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        yield process


def let_go_on(process) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def told(line: str) -> int:
    done, total = map(int, line.split())
    assert done <= total
    return done


def test_killed_in_the_middle_it_goes_on_where_it_was(old, audit, lines) -> None:
    with migrating(old) as process:
        let_go_on(process)
        time.sleep(0.02)  # seconds into its first transaction
        process.kill()
    with migrating(old) as process:
        let_go_on(process)
        reached = told(process.stdout.readline())
        process.kill()  # between two transactions
    assert not is_migrated(old)
    resumed = []
    upgrade(old, lambda done, _: resumed.append(done))
    assert resumed[0] > reached
    assert resumed == sorted(resumed)
    assert_whole(audit, lines)


def test_portals_that_start_at_once_copy_every_row_once(old, audit, lines) -> None:
    with migrating(old) as one, migrating(old) as other:
        for process in (one, other):
            process.stdin.close()  # nobody tells it to go on, so it does at once
        reports = [[told(line) for line in process.stdout] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    for report in reports:
        assert report == sorted(report)
    together = sorted(reports[0] + reports[1])
    assert len(set(together)) == len(together), "each row is copied by one of them"
    assert together[-1] == len(lines)
    assert_whole(audit, lines)


def in_json(change):
    """Return what edits the text of a value by what it says."""
    return lambda stored: json.dumps(change(json.loads(stored)))


def with_first(**changes):
    """Return what edits the first of some objects."""
    return in_json(lambda objects: [objects[0] | changes, *objects[1:]])


def without_first(named: dict) -> dict:
    return dict(list(named.items())[1:])


# Edits of a decision as it stood before, by column: another text of JSON, or another value. Each is made to a decision
# of its own, of those whose answer is as named.
PLAIN, BLANK, FLAGGED, BY_RULE, CHURNING = 7, 8, 9, 10, 0
KINDS = (BLANK, FLAGGED, BY_RULE, CHURNING, *[PLAIN] * 12)  # in turn
EDITS = [
    (PLAIN, "carried", in_json(lambda named: named | {"Surname": "Other"})),
    (PLAIN, "carried", in_json(lambda named: named | {"another": None})),
    (PLAIN, "carried", in_json(without_first)),
    (PLAIN, "carried", in_json(lambda named: {f"_{name}": value for name, value in named.items()})),
    (PLAIN, "carried", in_json(lambda named: list(named.values()))),
    (PLAIN, "carried", in_json(lambda named: json.dumps(named))),
    *(
        (PLAIN, "carried", lambda _, text=text: text)
        for text in ("null", "7", "true", '""', "[]", "{}", r'{"a":"\ud800"}')
    ),
    (PLAIN, "carried", lambda _: r'{"\ud800": 1}'),
    (PLAIN, "carried", lambda _: r'{"a": "\u0000"}'),
    (PLAIN, "scored", in_json(lambda named: named | {"CreditScore": float(named["CreditScore"])})),
    (PLAIN, "scored", in_json(lambda named: named | {"CreditScore": 2**70})),
    (PLAIN, "scored", in_json(lambda named: named | {"Balance": None})),
    (PLAIN, "scored", in_json(lambda named: named | {"Balance": [1, {"a": 2}]})),
    (BLANK, "scored", lambda stored: stored.replace("null", "1e400")),
    (PLAIN, "policy", lambda _: "[]"),
    (PLAIN, "policy", lambda _: "{}"),
    (PLAIN, "limit", in_json(lambda named: named | {"amount": 0.0})),
    (PLAIN, "limit", in_json(lambda named: named | {"requested": 5000})),
    (PLAIN, "limit", in_json(lambda named: named | {"another": 1})),
    (PLAIN, "limit", in_json(without_first)),
    (PLAIN, "limit", in_json(lambda named: list(named.values()))),
    *((PLAIN, "limit", lambda _, text=text: text) for text in ("null", "0", '"x"', "{}")),
    (PLAIN, "limit", lambda _: None),
    (CHURNING, "limit", lambda _: "{}"),
    (CHURNING, "limit", lambda _: '"null"'),
    *((PLAIN, "flags", lambda _, text=text: text) for text in ("{}", '""', "[1]", "[null]", "[[]]", '[["Age","x"]]')),
    (FLAGGED, "flags", with_first(message="Other")),
    (FLAGGED, "flags", with_first(another=1)),
    (FLAGGED, "flags", in_json(lambda flags: [list(flag.values()) for flag in flags])),
    (FLAGGED, "flags", lambda _: "[]"),
    (PLAIN, "contributions", in_json(lambda named: named | {"CreditScore": 0.5})),
    (PLAIN, "contributions", in_json(lambda named: named | {"CreditScore": None})),
    (PLAIN, "contributions", in_json(lambda named: named | {"CreditScore": "0.5"})),
    (PLAIN, "contributions", in_json(lambda named: named | {"CreditScore": True})),
    (PLAIN, "contributions", in_json(lambda named: named | {"another": 0.5})),
    (PLAIN, "contributions", in_json(without_first)),
    (PLAIN, "contributions", in_json(lambda named: list(named.values()))),
    (PLAIN, "contributions", in_json(lambda named: dict.fromkeys(named, 0.5))),
    *((PLAIN, "reasons", lambda _, text=text: text) for text in ("{}", '""', "[]", "[null]", '[[0,"x"]]', "[[0]]")),
    (PLAIN, "reasons", with_first(sentence="Other")),
    (PLAIN, "reasons", with_first(factor="CreditScore")),
    (PLAIN, "reasons", with_first(factor=["CreditScore"])),
    (PLAIN, "reasons", with_first(rule="other")),
    (PLAIN, "reasons", with_first(contribution=0.5)),
    (PLAIN, "reasons", with_first(contribution=0)),
    (PLAIN, "reasons", with_first(contribution=None)),
    (PLAIN, "reasons", with_first(another=1)),
    (BY_RULE, "reasons", with_first(contribution=0)),
    (BY_RULE, "reasons", with_first(factor="CreditScore")),
    (PLAIN, "score", lambda score: math.nextafter(score, 1)),
    (PLAIN, "score", lambda _: math.inf),
    (PLAIN, "base", lambda base: math.nextafter(base, 1)),
    (PLAIN, "base", lambda _: math.inf),
    (PLAIN, "base", lambda _: -0.0),
    (PLAIN, "band", lambda _: "Other"),
    (PLAIN, "id", lambda _: "z" * 26),
    (PLAIN, "submission", lambda _: "z" * 64),
    (PLAIN, "at", lambda at: at.replace("2026", "2025") if isinstance(at, str) else at.replace(year=2025)),
    (PLAIN, "product", lambda _: "loans"),
    (PLAIN, "model_version", lambda _: "v2"),
    (PLAIN, "model_digest", lambda _: "x"),
    (PLAIN, "policy_version", lambda _: None),
    (PLAIN, "policy_version", lambda _: ""),
    (PLAIN, "product_declaration", lambda _: None),
    (PLAIN, "product_declaration", lambda _: 1),
    (PLAIN, "product_declaration", lambda _: 99),
    (PLAIN, "policy_declaration", lambda _: 99),
    (PLAIN, "policy_declaration", lambda _: None),
    (PLAIN, "actor", lambda _: None),
    (PLAIN, "door", lambda _: "api"),
]
# What the text says is the same, so that it was not found before either.
HARMLESS = [
    (PLAIN, "contributions", in_json(lambda named: dict(sorted(named.items(), reverse=True)))),
    (PLAIN, "limit", in_json(lambda named: dict(sorted(named.items(), reverse=True)))),
    (PLAIN, "scored", lambda stored: stored.replace(":", " : ")),
    (PLAIN, "scored", lambda stored: stored.replace("{", '{"CreditScore": 1, ', 1)),
    (CHURNING, "limit", lambda _: "null"),
]
# What PostgreSQL refuses.
ON_SQLITE = [
    (PLAIN, "carried", lambda _: "not json"),
    (PLAIN, "carried", lambda _: ""),
    (PLAIN, "carried", lambda _: "[" * 50_000),
    (PLAIN, "carried", lambda _: b"\xff\x00"),
    (BLANK, "scored", lambda stored: stored.replace("null", "NaN")),
    (PLAIN, "contributions", in_json(lambda named: named | {"CreditScore": math.nan})),
    (PLAIN, "reasons", lambda _: "not json"),
    (PLAIN, "flags", lambda _: "not json"),
    (CHURNING, "limit", lambda _: "NaN"),
    (PLAIN, "score", lambda _: b"\x00"),
    (PLAIN, "score", lambda _: "much"),
    (PLAIN, "base", lambda _: b"\x00"),
    (PLAIN, "base", lambda _: "much"),
    (PLAIN, "band", lambda _: b"\xff"),
    (PLAIN, "model_version", lambda _: b"v1"),
    (PLAIN, "at", lambda _: "yesterday"),
]
# Statements that edit what belongs to a decision; {0} is its number, {1} that of its receipt.
STATEMENTS = [
    "UPDATE protected_values SET salt = 'other' WHERE decision_number = {0}",
    """UPDATE protected_values SET "values" = '[]' WHERE decision_number = {0}""",
    "DELETE FROM protected_values WHERE decision_number = {0}",
    "DELETE FROM decisions WHERE number = {0}",
    "UPDATE receipts SET digest = 'x' WHERE number = {1}",
    "UPDATE receipts SET previous = 'x' WHERE number = {1}",
    "UPDATE receipts SET format = 1 WHERE number = {1}",
    "UPDATE receipts SET format = 3 WHERE number = {1}",
    "UPDATE receipts SET number = -{1} WHERE number = {1}",
    "UPDATE receipts SET decision_number = 9999 WHERE number = {1}",
    "DELETE FROM receipts WHERE number = {1}",
    "UPDATE decisions SET number = -{0} WHERE number = {0}",
]


def test_what_was_edited_before_is_found_afterwards(without_tables, config, answered) -> None:
    old = without_tables
    edits = [*EDITS, *HARMLESS, *(ON_SQLITE if old.engine.dialect.name == "sqlite" else [])]
    before.fill(old, [answered[kind] for kind in KINDS], 2 * (len(edits) + len(STATEMENTS)))
    taken, harmless = edited(old, edits)
    with without_rules(old) as connection:
        connection.execute(text("UPDATE jobs SET state = 'other' WHERE number = (SELECT max(number) FROM jobs)"))
        for table in ("jobs", "events"):
            connection.execute(text(f"DELETE FROM {table} WHERE number = (SELECT max(number) - 35 FROM {table})"))
    found, outside = dict(before.proved_before(old)), before.outside(old)
    assert {number for number in taken if found[number]} == harmless
    assert len(outside) == 3
    upgrade(old)
    portal = wiring.build(replace(config, database_url=old.url))
    assert dict(proved(portal.audit.chain)) == found
    assert set(outside_now(old)) == outside
    with pytest.raises(ChainBroken):
        portal.audit.verify()
    made = portal.decisions.record(*answered[CHURNING], "f" * 64, BY_PAGE)
    assert portal.decisions.receipt(made.id).number == max(found) + 1, "and the chain goes on"
    portal.database.close()


def edited(old, edits) -> tuple[set[int], set[int]]:
    """Make the edits; return the receipts of what was edited, and of those those where nothing else is said."""
    taken, harmless = set(), set()
    with without_rules(old) as connection:
        numbers = {row.decision_number: row.number for row in connection.execute(select(before.receipts))}
        free = defaultdict(list)
        for number in sorted(set(numbers) - {None}, reverse=True):
            free[KINDS[number % len(KINDS)]].append(number)
        for kind, column, change in edits:
            number = free[kind].pop(0)
            edit(connection, number, column, change)
            taken.add(numbers[number])
            if (kind, column, change) in HARMLESS:
                harmless.add(numbers[number])
        for statement in STATEMENTS:
            number = free[PLAIN].pop(0)
            connection.execute(text(statement.format(number, numbers[number])))
    return taken, harmless


def edit(connection, number: int, column: str, change) -> None:
    """Change one value of a decision of before, as it is stored."""
    table = before.decisions
    is_json = isinstance(table.c[column].type, JSON)
    stored = cast(table.c[column], Text) if is_json else type_coerce(table.c[column], NullType())
    value = change(connection.scalar(select(stored).where(table.c.number == number)))
    as_json = is_json and connection.dialect.name == "postgresql"
    written = "CAST(:value AS JSON)" if as_json else ":value"
    connection.execute(
        text(f'UPDATE decisions SET "{column}" = {written} WHERE number = :number'), {"value": value, "number": number}
    )


def proved(chain):
    """Yield each receipt of the chain, and its line of an export; `None` where it is not what was recorded."""
    with chain.database.read() as connection:
        numbers = connection.scalars(select(receipts.c.number).order_by(receipts.c.number)).all()
    for number in numbers:
        try:
            (link,) = chain._read(_INSIDE.where(receipts.c.number == number), _Walk(chain.database))
            at = link.receipt
            line = before.line(content(link.kind, link.record, number, at.previous, at.format))
            yield number, line if json.loads(line)["digest"] == at.digest else None
        except UNREADABLE:
            yield number, None


def outside_now(database) -> list[str]:
    """Return the ids of the decisions that have no receipt."""
    own = (receipts.c.number == decisions.c.number) & OF_DECISION
    query = select(decisions.c.id).join(receipts, own, isouter=True).where(receipts.c.number.is_(None))
    with database.read() as connection:
        return connection.scalars(query).all()
