import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from itertools import islice

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, event, func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from bankportal.domain.constraints import Source
from bankportal.domain.errors import NotFound
from bankportal.domain.ids import new_id
from bankportal.domain.schema import validate
from bankportal.services.audit import ChainBroken
from bankportal.store.chain import Chain
from bankportal.store.counts import counted
from bankportal.store.decisions import Decisions, decision_from
from bankportal.store.declarations import DeclarationStore
from bankportal.store.migrate import upgrade
from bankportal.store.receipts import head
from bankportal.store.sessions import Database
from bankportal.store.tables import decision_contexts, decision_counts, metadata, protected_values, receipts
from bankportal.store.tables import decisions as table
from bankportal.store.versions import NOTICED_WITHIN, Versions
from tests.conftest import emptied, new_postgresql
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN
from tests.test_audit_edits import without_rules


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


def test_portals_that_start_at_once_migrate_one_after_the_other() -> None:
    migrating = (
        "import sys; from bankportal.store.migrate import upgrade; from bankportal.store.sessions import Database; "
        "print(flush=True); sys.stdin.read(); sys.stdout = None; upgrade(Database(sys.argv[1]))"
    )
    with new_postgresql() as address:
        command = [sys.executable, "-c", migrating, address]
        portals = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
        for portal in portals:
            portal.stdout.readline()
        for portal in portals:
            portal.stdin.close()
            portal.stdout.close()
        assert [portal.wait() for portal in portals] == [0, 0, 0, 0]


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


def test_old_decisions_are_not_read_to_be_counted(database, customer, outcome, monkeypatch) -> None:
    monkeypatch.setattr("bankportal.store.counts.EVERY", 2)
    decisions = Decisions(database, DeclarationStore(database))
    made = [decisions.record(customer, outcome, f"{number:064}", BY_PAGE) for number in range(5)]
    newest = decisions.receipt(made[-1].id).number
    with database.write() as connection:
        connection.execute(delete(protected_values))
        connection.execute(delete(table).where(table.c.number < newest - newest % 2))
    assert decisions.counts()["allowance"][outcome.verdict.name] == 5


@pytest.mark.parametrize(
    ("column", "value"),
    [*(("limit", text) for text in ("[]", "{}", '""', "7", "not JSON")), ("context_number", 99)],
)
def test_an_edited_decision_stops_no_other(portal, customer, outcome, monkeypatch, column, value) -> None:
    first = portal.decisions.record(customer, outcome, None, BY_PAGE)
    with without_rules(portal.database) as connection:
        edit = text(f'UPDATE decisions SET "{column}" = :value WHERE id = :id')
        connection.execute(edit, {"value": value, "id": first.id})
    monkeypatch.setattr("bankportal.store.counts.EVERY", 1)
    for _ in range(2):
        portal.decisions.record(customer, outcome, None, BY_PAGE)
    assert portal.decisions.counts()["allowance"][outcome.verdict.name] >= 2
    with pytest.raises(ChainBroken):
        portal.audit.verify()


def test_decisions_recorded_while_they_are_counted_are_not_lost(
    migrated_postgresql, customer, outcome, monkeypatch
) -> None:
    """Where a transaction sees what others commit (SQLite's sees one moment)."""
    monkeypatch.setattr("bankportal.store.counts.EVERY", 2)
    database, other = emptied(migrated_postgresql), Database(migrated_postgresql)
    decisions, others = (Decisions(each, DeclarationStore(each)) for each in (database, other))
    submissions = (f"{number:064}" for number in range(8))

    def record(*call) -> None:
        if "FROM decision_counts" in call[2]:
            for submission in islice(submissions, 4):
                others.record(customer, outcome, submission, BY_PAGE)

    record(None, None, "FROM decision_counts")
    event.listen(database.engine, "after_cursor_execute", record)
    assert decisions.counts()["allowance"][outcome.verdict.name] == 8
    for each in (database, other):
        each.close()


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


@pytest.mark.parametrize("at", [decision_contexts, receipts, table, protected_values, decision_counts])
def test_half_a_decision_is_never_there(database, customer, outcome, monkeypatch, at) -> None:
    """What fails at any table takes the rows of all with it."""
    monkeypatch.setattr("bankportal.store.counts.EVERY", 1)
    decisions = Decisions(database, DeclarationStore(database))
    with database.read() as connection:
        before = head(connection)

    def fail(*call) -> None:
        if call[2].startswith(f"INSERT INTO {at.name} "):
            raise RuntimeError("half way")

    event.listen(database.engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="half way"):
        decisions.record(customer, outcome, "c" * 64, BY_PAGE)
    event.remove(database.engine, "before_cursor_execute", fail)
    with database.read() as connection:
        assert head(connection) == before
        for each in (decision_contexts, table, protected_values, decision_counts):
            assert connection.execute(select(each)).all() == []
    recorded = decisions.record(customer, outcome, "c" * 64, BY_PAGE)
    assert decisions.find("c" * 64) == without_protected(recorded)


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
        "from bankportal.store import counts; counts.EVERY = 4\n"
        f"s = wiring.build(load()); churn = shipped_portfolio()['churn']; by = Provenance(Door.COMMAND)\n"
        f"c = validate(churn, {examples['churn']!r}, Source.TEXT); n = 0\n"
        "while True:\n    s.scoring.decide(c, str(n), by); n += 1; print(n, flush=True)\n"
    )
    environment = os.environ | {"BANKPORTAL_INSTANCE": str(config.instance)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        answered = [next(process.stdout) for _ in range(25)]  # the counts change several times
        process.kill()
    database = Database(config.database_url)
    with database.read() as connection:
        own = "JOIN protected_values p ON p.decision_number = d.number JOIN receipts r ON r.number = d.number"
        whole = connection.execute(text(f"SELECT count(*) FROM decisions d {own}")).scalar_one()
        of_decisions = "receipts WHERE job_number IS NULL AND event_number IS NULL"
        for name in ("decisions", "protected_values", of_decisions):
            assert connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() == whole >= len(answered)
        assert sum(counted(connection).values()) == whole
        assert connection.scalar(select(func.sum(decision_counts.c.decisions))) > 0, "some were counted before the kill"
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
