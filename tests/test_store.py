import os
import secrets
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError

from bankportal.domain.constraints import Source
from bankportal.domain.errors import NotFound
from bankportal.domain.ids import new_id
from bankportal.domain.schema import validate
from bankportal.store.chain import Chain
from bankportal.store.decisions import Decisions, decision_from
from bankportal.store.declarations import DeclarationStore
from bankportal.store.migrate import upgrade
from bankportal.store.sessions import Database
from bankportal.store.tables import metadata
from bankportal.store.versions import NOTICED_WITHIN, Versions
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN


def without_protected(decision):
    """A decision as it is read back: only the audit's chain reads the protected values."""
    return replace(decision, customer=replace(decision.customer, protected={}))


@pytest.fixture
def customer(examples):
    return validate(ALLOWANCE, examples["allowance"], Source.TEXT)


@pytest.fixture
def outcome(services, customer):
    return services.scoring.score(customer)


def test_it_works(database, customer, outcome) -> None:
    decisions = Decisions(database, DeclarationStore(database))
    recorded = decisions.record(customer, outcome, "a" * 64, BY_PAGE)
    assert decisions.get(recorded.id) == without_protected(recorded)
    link = list(Chain(database).links())[-1]
    assert decision_from(link.record, ALLOWANCE, link.record["protected"]) == recorded


def test_migrations_make_the_declared_tables(database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrating_again_changes_nothing(database, customer, outcome) -> None:
    recorded = Decisions(database, DeclarationStore(database)).record(customer, outcome, "a" * 64, BY_PAGE)
    upgrade(database)
    assert Decisions(database, DeclarationStore(database)).get(recorded.id) == without_protected(recorded)


def test_portals_that_start_at_once_migrate_one_after_the_other(migrated_postgresql) -> None:
    server = create_engine(migrated_postgresql, isolation_level="AUTOCOMMIT")
    name = f"bankportal_test_{secrets.token_hex(6)}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    address = server.url.set(database=name).render_as_string(hide_password=False)
    migrating = (
        "import sys; from bankportal.store.migrate import upgrade; from bankportal.store.sessions import Database; "
        "print(flush=True); sys.stdin.read(); sys.stdout = None; upgrade(Database(sys.argv[1]))"
    )
    try:
        command = [sys.executable, "-c", migrating, address]
        portals = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
        for portal in portals:
            portal.stdout.readline()
        for portal in portals:
            portal.stdin.close()
            portal.stdout.close()
        assert [portal.wait() for portal in portals] == [0, 0, 0, 0]
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


def test_protected_values_stand_apart(database, customer, outcome) -> None:
    Decisions(database, DeclarationStore(database)).record(customer, outcome, "a" * 64, BY_PAGE)
    with database.engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM decisions")).mappings().one()
        protected = connection.execute(text("SELECT * FROM protected_values")).mappings().one()
    for name in ("Gender", "Age", "Geography"):
        assert name not in str(dict(row))
        assert name in str(dict(protected))


def test_one_submission_is_one_decision_however_many_send_it(database, customer, outcome) -> None:
    decisions = Decisions(database, DeclarationStore(database))
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(decisions.record(customer, outcome, "b" * 64, BY_PAGE).id))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(found) == {found[0]: 10}
    assert decisions.counts()["allowance"][outcome.verdict.name] == 1


def test_decisions_without_a_limit_are_counted_as_that(database, customer, outcome) -> None:
    decisions = Decisions(database, DeclarationStore(database))
    granted = replace(outcome, band=ALLOWANCE.band_named("Elite"), limit=replace(outcome.limit, amount=900.0))
    standard = replace(granted, band=ALLOWANCE.band_named("Standard"))
    declined = replace(standard, limit=replace(outcome.limit, amount=0.0))
    ineligible = replace(declined, band=ALLOWANCE.band_named("Ineligible"))
    older = replace(ineligible, limit=None)
    for number, each in enumerate((granted, standard, standard, declined, ineligible, older)):
        decisions.record(customer, each, f"{number:064}", BY_PAGE)
    assert decisions.counts()["allowance"] == {"No limit": 3, "Standard": 2, "Elite": 1}


def test_decisions_without_a_limit_are_counted_from_their_index(tmp_path, migrated_sqlite) -> None:
    database = Database(f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path)}")
    statements = []
    event.listen(database.engine, "before_cursor_execute", lambda *call: statements.append(call[2:4]))
    Decisions(database, DeclarationStore(database)).counts()
    plans = []
    with database.read() as connection:
        for statement, parameters in statements[1:3]:
            plans += connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    database.close()
    assert len(plans) == 2
    assert "ix_decisions_product_band" in plans[0][3]
    assert "ix_decisions_without_limit" in plans[1][3]


def test_pages_hold_every_decision_once_newest_first(database, customer, outcome) -> None:
    decisions = Decisions(database, DeclarationStore(database))
    recorded = [decisions.record(customer, outcome, f"{number:064}", BY_PAGE).id for number in range(7)]
    seen, before = [], None
    while True:
        page = decisions.page("allowance", before, 3)
        seen += [decision.id for decision in page.items]
        if (before := page.next) is None:
            break
    assert seen == recorded[::-1]
    assert decisions.page("churn", None, 3).items == []
    assert decisions.page(None, "no such", 3).items == []


def test_half_a_decision_is_never_there(database, customer, outcome, monkeypatch) -> None:
    """What fails after the decision's row takes the row with it."""
    monkeypatch.setattr("bankportal.store.decisions._NEW_PROTECTED", None)
    with pytest.raises(Exception, match=r"."):
        Decisions(database, DeclarationStore(database)).record(customer, outcome, "c" * 64, BY_PAGE)
    monkeypatch.undo()
    assert Decisions(database, DeclarationStore(database)).latest() == []


@pytest.mark.parametrize("id_", ["nothing", "", "\x00", "a" * 10_000, "0" * 26])
def test_unknown_decision(database, id_) -> None:
    with pytest.raises(NotFound):
        Decisions(database, DeclarationStore(database)).get(id_)
    with pytest.raises(NotFound):
        Decisions(database, DeclarationStore(database)).receipt(id_)
    assert Decisions(database, DeclarationStore(database)).page(None, id_ or "?", 5).items == []


def test_while_somebody_writes_a_portal_can_record(database) -> None:
    with database.write():
        database.require_writable()  # a second write transaction would wait for the first to end, and here for ever


def test_a_portal_that_cannot_record_knows_it(tmp_path) -> None:
    database = Database(f"sqlite:///{tmp_path}/portal.sqlite3")
    upgrade(database)
    database.require_writable()
    (tmp_path / "portal.sqlite3").unlink()
    with pytest.raises(OSError, match=r"portal\.sqlite3"):
        database.require_writable()
    database.close()


def test_decision_numbers_sort_by_time_and_differ() -> None:
    made = [new_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(len(number) == 26 for number in made)
    assert [number[:10] for number in made] == sorted(number[:10] for number in made)


def test_a_kill_leaves_whole_decisions(config, examples) -> None:
    """A process is killed while it records; what is there is whole, and the database opens."""
    code = (
        "from bankportal import wiring; from bankportal.config import load; "
        "from bankportal.domain.constraints import Source; from bankportal.domain.portfolio import shipped_portfolio; "
        "from bankportal.domain.schema import validate\n"
        "from bankportal.domain.provenance import Door, Provenance\n"
        f"s = wiring.build(load()); churn = shipped_portfolio()['churn']; by = Provenance(Door.COMMAND)\n"
        f"c = validate(churn, {examples['churn']!r}, Source.TEXT); n = 0\n"
        "while True:\n    s.scoring.decide(c, str(n), by); n += 1; print(n, flush=True)\n"
    )
    environment = os.environ | {"BANKPORTAL_INSTANCE": str(config.instance)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        answered = [next(process.stdout) for _ in range(25)]
        process.kill()
    database = Database(config.database_url)
    with database.read() as connection:
        protected = "JOIN protected_values p ON d.number = p.decision_number"
        whole = connection.execute(
            text(f"SELECT count(*) FROM decisions d {protected} JOIN receipts r ON d.number = r.decision_number")
        ).scalar_one()
        for table in ("decisions", "protected_values", "receipts WHERE decision_number IS NOT NULL"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == whole >= len(answered)
        assert connection.execute(text("PRAGMA integrity_check")).scalar_one() == "ok"
    database.close()


def test_sqlite_waits_for_the_disk(tmp_path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x.sqlite3")
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
        assert inspect(connection).get_table_names() == []
    database.close()


def test_churn_has_no_limit(database, services, examples) -> None:
    customer = validate(CHURN, examples["churn"], Source.TEXT)
    recorded = Decisions(database, DeclarationStore(database)).record(
        customer, services.scoring.score(customer), "d" * 64, BY_PAGE
    )
    again = Decisions(database, DeclarationStore(database)).get(recorded.id)
    assert again.outcome.limit is None
    assert again.outcome.policy_version is None
    assert again == without_protected(recorded)


def test_a_version_activated_elsewhere_is_noticed_within_a_second(database, monkeypatch) -> None:
    ours, theirs = Versions(database), Versions(database)
    now = [100.0]
    monkeypatch.setattr("bankportal.store.versions.time.monotonic", lambda: now[0])

    def active() -> str:
        return ours.activated("churn")[0].version

    ours.register("churn", "v1", "a" * 64, activate=True)
    theirs.register("churn", "v2", "b" * 64, activate=False)
    assert active() == "v1"
    theirs.activate("churn", "v2")
    assert [theirs.activated("churn")[0].version, active()] == ["v2", "v1"]
    now[0] += NOTICED_WITHIN
    assert active() == "v2"
    ours.activate("churn", "v1")
    assert active() == "v1", "what was activated here is known at once"


def test_a_database_error_does_not_tell_what_was_sent(database) -> None:
    with pytest.raises(DBAPIError) as raised, database.read() as connection:
        connection.execute(text("SELECT * FROM nowhere WHERE surname = :surname"), {"surname": "Hargrave"})
    assert "nowhere" in str(raised.value)
    assert "Hargrave" not in str(raised.value)
