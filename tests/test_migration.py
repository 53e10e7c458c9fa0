"""Decisions of before are copied into compact rows: nothing is lost, whatever interrupts it, and no edit disappears."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text

from bankportal import wiring
from bankportal.domain.constraints import Source
from bankportal.domain.schema import validate
from bankportal.store.migrate import is_migrated, upgrade
from bankportal.store.sessions import Database
from bankportal.store.tables import decisions, metadata
from tests import before
from tests.conftest import new_postgresql
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN

DECISIONS = 3_500  # more than are copied in two transactions
MIGRATE = """
import sys
from bankportal.store.migrate import upgrade
from bankportal.store.sessions import Database
print(flush=True)
sys.stdin.readline()
upgrade(Database(sys.argv[1]), lambda *progress: print(*progress, flush=True))
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
    """Run a process that migrates as soon as it is let."""
    address = database.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", MIGRATE, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        yield process


def told(line: str) -> int:
    done, total = map(int, line.split())
    assert done <= total
    return done


def test_killed_in_the_middle_it_goes_on_where_it_was(old, audit, lines) -> None:
    reached = 0
    for pause in (0.0, 0.02):  # seconds into the next transaction
        with migrating(old) as process:
            process.stdin.write("\n")
            process.stdin.flush()
            first = told(process.stdout.readline())
            time.sleep(pause)
            process.kill()
        assert first >= reached, "never backwards"
        reached = first
        assert not is_migrated(old)
    resumed = []
    upgrade(old, lambda done, _: resumed.append(done))
    assert resumed[0] >= reached
    assert resumed == sorted(resumed)
    assert_whole(audit, lines)


def test_portals_that_start_at_once_copy_every_row_once(old, audit, lines) -> None:
    with migrating(old) as one, migrating(old) as other:
        for process in (one, other):
            process.stdin.write("\n")
            process.stdin.flush()
        reports = [[told(line) for line in process.stdout] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0)
    for report in reports:
        assert report == sorted(report)
    together = sorted(reports[0] + reports[1])
    assert len(set(together)) == len(together), "each row is copied by one of them"
    assert together[-1] == len(lines)
    assert_whole(audit, lines)
