"""The recorded declarations: append-only, proved by their events, and what old decisions and jobs are read with."""

import json
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from alembic import command
from sqlalchemy import delete, func, insert, select, update

from bankportal.domain.canonical import canonical
from bankportal.domain.constraints import Source
from bankportal.domain.declaration import Declaration, Kind, policy_from, product_from
from bankportal.domain.errors import Conflict, NotFound
from bankportal.domain.receipt import YOUNGER
from bankportal.domain.schema import validate
from bankportal.services.audit import Audit, ChainBroken
from bankportal.store import migrate
from bankportal.store.chain import Chain
from bankportal.store.decisions import Decisions
from bankportal.store.declarations import Change, DeclarationBroken, DeclarationStore, Origin, Recorded
from bankportal.store.jobs import JobStore
from bankportal.store.storage import Storage
from bankportal.store.tables import activations, declarations, events, model_versions, receipts
from bankportal.store.versions import Versions
from tests import before
from tests.shipped import ALLOWANCE, BY_PAGE, CARD_LIMIT_POLICY, CHURN

SOMEBODY = "somebody"


@pytest.fixture
def store(database):
    return DeclarationStore(database)


@pytest.fixture
def audit(database, store, services, tmp_path):
    return Audit(Chain(database), services.models, store, JobStore(database, store), Storage(tmp_path))


def changed(text: str, *replacements: tuple[str, str]) -> str:
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    return canonical(json.loads(text))


LOYAL = Declaration(Kind.PRODUCT, "churn", changed(CHURN.text, ('"Low"', '"Loyal"')))


def apply(store, declaration, origin=Origin.BANK) -> int:
    with store.changing() as connection:
        return store.apply(connection, declaration, origin, SOMEBODY)


def in_force(store) -> list[Recorded]:
    changes = store.timeline().in_force.values()
    return [store.recorded(change.kind, change.key, change.number) for change in changes]


def history(store) -> list[Change]:
    return [change for change in store.timeline().changes if (change.kind, change.key) == (Kind.PRODUCT, "churn")]


def count(database, table) -> int:
    with database.read() as connection:
        return connection.scalar(select(func.count()).select_from(table))


def test_it_works(database, store, audit) -> None:
    assert in_force(store) == []
    before, rows = store.changes(), count(database, declarations)
    number = apply(store, LOYAL)
    assert store.changes() > before
    (recorded,) = in_force(store)
    assert (recorded.number, recorded.kind, recorded.key, recorded.text) == (number, Kind.PRODUCT, "churn", LOYAL.text)
    assert recorded.digest == LOYAL.digest
    assert count(database, declarations) == rows + 1
    (change,) = history(store)
    assert (change.applied, change.number, change.origin, change.actor) == (True, number, Origin.BANK, SOMEBODY)
    audit.verify()


def test_a_text_that_was_recorded_before_keeps_its_number(database, store, audit) -> None:
    shipped = Declaration(Kind.PRODUCT, "churn", CHURN.text)
    first = apply(store, shipped, Origin.SHIPPED)
    assert first == store.number_of(CHURN), "what release 0.1.0 declared"
    second = apply(store, LOYAL)
    assert apply(store, shipped, Origin.SHIPPED) == first != second
    assert [change.number for change in history(store)] == [first, second, first]
    audit.verify()


def test_what_is_withdrawn_is_not_in_force_and_stays_recorded(store, audit) -> None:
    number = apply(store, LOYAL)
    with store.changing() as connection:
        store.withdraw(connection, Kind.PRODUCT, "churn", SOMEBODY)
    assert in_force(store) == []
    assert [change.applied for change in history(store)] == [True, False]
    assert store.product("churn", number, None).text == LOYAL.text
    with store.changing() as connection, pytest.raises(NotFound, match="No product churn is in force"):
        store.withdraw(connection, Kind.PRODUCT, "churn", SOMEBODY)
    audit.verify()


def test_what_fails_records_nothing(database, store) -> None:
    before = [count(database, table) for table in (declarations, events, receipts)]

    def half_way() -> None:
        with store.changing() as connection:
            store.apply(connection, LOYAL, Origin.BANK, SOMEBODY)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert [count(database, table) for table in (declarations, events, receipts)] == before


def test_before_there_were_declarations_there_was_release_0_1_0(store) -> None:
    assert store.product("churn", None, None) is CHURN
    allowance = store.product("allowance", None, None)
    assert allowance is ALLOWANCE
    assert allowance.policy.version == "2026-11"
    numbers = store.number_of(ALLOWANCE), store.policy_number_of(ALLOWANCE)
    assert store.product("allowance", *numbers) is allowance
    assert store.product("allowance", numbers[0], None).policy is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"text": LOYAL.text}, "does not have the text that was recorded"),
        ({"text": "{}"}, "does not have the text that was recorded"),
        ({"digest": LOYAL.digest}, "are not those that were there when they were adopted"),
        ({"text": LOYAL.text, "digest": LOYAL.digest}, "are not those that were there when they were adopted"),
        ({"at": datetime(2020, 1, 1, tzinfo=UTC)}, "are not those that were there when they were adopted"),
    ],
)
def test_an_edited_declaration_is_found_and_not_used(database, store, audit, spoil, message) -> None:
    with database.write() as connection:
        connection.execute(update(declarations).where(declarations.c.key == "churn").values(spoil))
    with pytest.raises(ChainBroken, match=message):
        audit.verify()
    if len(spoil) == 1 and "at" not in spoil:
        with pytest.raises(DeclarationBroken, match="Declaration 1, product churn, is not what was recorded"):
            store.product("churn", None, None)


def test_a_deleted_declaration_is_missed(database, store) -> None:
    with database.write() as connection:
        connection.execute(delete(declarations).where(declarations.c.key == "churn"))
    with pytest.raises(DeclarationBroken, match="it was deleted"):
        store.product("churn", None, None)
    with pytest.raises(DeclarationBroken, match="it was deleted"):
        store.product("churn", 99, None)


def test_decisions_are_read_and_counted_by_their_own_declaration(database, store, services, examples, audit) -> None:
    """The same band under two names, and a verdict that both have."""
    recorded = Decisions(database, store)
    customer = validate(CHURN, examples["churn"], Source.TEXT)
    first = services.scoring.score(customer)
    old = recorded.record(customer, first, "1" * 64, BY_PAGE)
    loyal = store.product("churn", apply(store, LOYAL), None)
    outcomes = [replace(first, product=loyal, band=band) for band in loyal.bands]
    for number, outcome in enumerate(outcomes):
        recorded.record(replace(customer, product=loyal), outcome, f"{number:064}", BY_PAGE)
    assert recorded.get(old.id).outcome.product is CHURN
    assert [each.outcome.product for each in recorded.latest(3)] == [loyal] * 3
    expected = {"Loyal": 1, "Moderate": 1, "Critical": 1}
    expected[old.outcome.verdict.name] = expected.get(old.outcome.verdict.name, 0) + 1
    assert {name: number for name, number in recorded.counts()["churn"].items() if number} == expected
    assert audit.verify().decisions == 4


def test_nothing_is_recorded_under_what_was_never_applied(database, store, services, examples) -> None:
    unknown = product_from(LOYAL.text, None)
    customer = replace(validate(CHURN, examples["churn"], Source.TEXT), product=unknown)
    outcome = replace(services.scoring.score(replace(customer, product=CHURN)), product=unknown)
    with pytest.raises(Conflict, match="This declaration of product churn was never applied"):
        Decisions(database, store).record(customer, outcome, "1" * 64, BY_PAGE)
    assert Decisions(database, store).latest() == []
    other = policy_from(changed(CARD_LIMIT_POLICY.text, ('"2026-11"', '"2027-01"')))
    with pytest.raises(Conflict, match="policy card-limit was never applied"):
        store.numbers_of(product_from(ALLOWANCE.text, other))


def test_versions_and_activations_are_proved(database, audit) -> None:
    versions = Versions(database)
    versions.register("churn", "v1", "a" * 64, activate=True)
    versions.register("churn", "v2", "b" * 64, activate=False)
    versions.activate("churn", "v2", SOMEBODY)
    with database.read() as connection:
        written = connection.execute(select(events.c.kind, events.c.subject, events.c.actor)).all()[1:]
    assert written == [
        ("model-registered", "model churn v1", "system"),
        ("model-activated", "model churn v1", "system"),
        ("model-registered", "model churn v2", "system"),
        ("model-activated", "model churn v2", SOMEBODY),
    ]
    audit.verify()
    for statement, message in (
        (
            update(activations).where(activations.c.number == 2).values(model_version_number=1),
            "Row 2 of activations is",
        ),
        (delete(activations).where(activations.c.number == 2), "Row 2 of activations is not there: it was deleted"),
        (insert(activations).values(model_version_number=1, at=datetime.now(UTC)), "has no event: it was inserted"),
        (update(model_versions).values(manifest_digest="c" * 64), "Row 1 of model_versions is not what"),
    ):
        with edited(database, statement), pytest.raises(ChainBroken, match=message):
            audit.verify()
    audit.verify()


PROVED = (activations, model_versions)  # in the order in which they can be emptied


@contextmanager
def edited(database, statement):
    """Do what the portal never does, and put it back."""
    with database.write() as connection:
        kept = {table: connection.execute(select(table)).mappings().all() for table in PROVED}
        connection.execute(statement)
    yield
    with database.write() as connection:
        for table in PROVED:
            connection.execute(delete(table))
        for table in reversed(PROVED):
            connection.execute(insert(table), kept[table])


def test_adopting_again_changes_nothing(database, audit) -> None:
    before = audit.verify()
    migrate.upgrade(database)
    assert audit.verify() == before


def test_nothing_is_given_away_by_going_back(database) -> None:
    with database.write() as connection, pytest.raises(RuntimeError, match="restore the backup made before"):
        before.run(connection, command.downgrade, "0007")
    assert migrate.is_migrated(database)


def test_the_release_with_events_goes_back_only_where_there_are_none(without_tables) -> None:
    database = without_tables
    before.upgrade_to(database, before.BEFORE)
    with database.write() as connection:
        before.run(connection, command.downgrade, "0005")
        before.run(connection, command.upgrade, before.BEFORE)
        before.ChainBefore(connection).adopt(database)
    with database.write() as connection, pytest.raises(RuntimeError, match="would be lost"):
        before.run(connection, command.downgrade, "0005")
    migrate.upgrade(database)
    assert Chain(database).head().number == 1


def test_rows_of_before_are_kept_adopted_and_proved(without_tables, services, examples, tmp_path) -> None:
    """What release 0.1.0 recorded in its own tables comes along."""
    database, customer = without_tables, validate(CHURN, examples["churn"], Source.TEXT)
    outcome = services.scoring.score(customer)
    before.upgrade_to(database, "0005")
    with database.write() as connection:
        add_as_in_0_1_0(connection, before.recorded_before(1, customer, outcome, {}))
    migrate.upgrade(database)
    store = DeclarationStore(database)
    audit = Audit(Chain(database), services.models, store, JobStore(database, store), Storage(tmp_path))
    verified = audit.verify()
    assert (verified.decisions, verified.events) == (1, 1)
    (decision,) = Decisions(database, store).latest()
    assert (decision.outcome, decision.outcome.product, decision.provenance) == (outcome, CHURN, None)
    assert Versions(database).activated("churn")[0].version == "v1"
    message = "model_versions are not those that were there when they were adopted"
    with (
        edited(database, update(model_versions).values(version="v2")),
        pytest.raises(ChainBroken, match=message),
    ):
        audit.verify()
    Versions(database).register("churn", "v2", "b" * 64, activate=True)
    assert audit.verify().events == 3


def add_as_in_0_1_0(connection, record) -> None:
    """Add a decision, a version and its activation as release 0.1.0 did, whose tables have no more columns."""
    chain = before.ChainBefore(connection, without=(*YOUNGER[1], "event_number"))
    chain.add_decision(1, record, 1)
    chain.write()
    version = {"product": "churn", "version": "v1", "manifest_digest": "m" * 64, "registered_at": record["at"]}
    registered = insert(model_versions).values(version).returning(model_versions.c.number)
    connection.execute(insert(activations).values(model_version_number=connection.scalar(registered), at=record["at"]))
