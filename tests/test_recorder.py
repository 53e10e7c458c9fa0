import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import delete, event, func, select
from sqlalchemy.exc import OperationalError, StatementError

from bankportal.domain.constraints import Source
from bankportal.domain.errors import Conflict, NoActiveModel
from bankportal.domain.schema import validate
from bankportal.registry.registry import Registry
from bankportal.services import recorder as recorder_module
from bankportal.services.audit import Audit
from bankportal.services.recorder import Recorder
from bankportal.services.scoring import Scoring
from bankportal.store.chain import Chain
from bankportal.store.counts import counted
from bankportal.store.decisions import Decisions
from bankportal.store.declarations import DeclarationStore
from bankportal.store.jobs import JobStore
from bankportal.store.sessions import Database
from bankportal.store.storage import Storage
from bankportal.store.tables import decision_counts, receipts
from bankportal.store.tables import decisions as table
from bankportal.store.versions import Versions
from tests.conftest import PATIENCE
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN


@pytest.fixture
def customer(examples):
    return validate(CHURN, examples["churn"], Source.TEXT)


@pytest.fixture
def outcome(services, customer):
    return services.scoring.score(customer)


class Written:
    """Stands for the database: notes the groups, and lets the first write wait until the others have come."""

    def __init__(self):
        self.groups: list[list[int]] = []
        self.gate = threading.Event()
        self.began = threading.Event()

    def write(self, items):
        self.groups.append(list(items))
        self.began.set()
        assert self.gate.wait(PATIENCE)
        if any(item < 0 for item in items):
            raise ValueError(f"bad: {items}")
        return [item * 10 for item in items]

    def run(self, first: int, others: list[int]):
        """Record one, and the others while it is being written; return what came of each."""
        recorder = Recorder(self.write)
        with ThreadPoolExecutor(len(others) + 1) as pool:
            made = [pool.submit(recorder.record, first)]
            assert self.began.wait(PATIENCE)
            made += [pool.submit(recorder.record, item) for item in others]
            wait_for(recorder, len(others))
            self.gate.set()
            return [each.exception(PATIENCE) or each.result() for each in made]


def wait_for(recorder: Recorder, count: int) -> None:
    """Return once so many calls wait."""
    while len(recorder._waiting) < count:
        time.sleep(0.001)


def test_it_works() -> None:
    written = Written()
    written.gate.set()
    assert Recorder(written.write).record(3) == 30
    assert written.groups == [[3]]


def test_who_comes_during_a_write_shares_the_next_one() -> None:
    written = Written()
    assert written.run(1, [2, 3, 4, 5]) == [10, 20, 30, 40, 50]
    assert [sorted(group) for group in written.groups] == [[1], [2, 3, 4, 5]]


def test_who_was_served_together_and_comes_back_is_served_together(monkeypatch) -> None:
    monkeypatch.setattr(recorder_module, "QUIET", 0.02)
    groups: list[int] = []

    def write(items):
        groups.append(len(items))
        time.sleep(0.2)
        return items

    recorder = Recorder(write)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(lambda: [recorder.record(item) for item in range(4)]) for _ in range(4)]:
            assert done.result(PATIENCE) == [0, 1, 2, 3]
    assert sum(groups) == 16
    assert groups.count(4) >= 2


def test_one_bad_record_fails_alone() -> None:
    made = Written().run(1, [2, -3, 4])
    assert [made[0], made[1], made[3]] == [10, 20, 40]
    assert str(made[2]) == "bad: [-3]"


def test_a_database_that_fails_is_asked_once_and_fails_all() -> None:
    written = Written()

    def write(items):
        written.write(items)
        if 1 not in items:
            raise OperationalError("COMMIT", {}, Exception("disk full"))
        return items

    recorder, made = Recorder(write), []

    def record(item: int) -> None:
        try:
            made.append(recorder.record(item))
        except OperationalError:
            made.append("failed")

    threads = [threading.Thread(target=record, args=(item,)) for item in (1, 2, 3)]
    threads[0].start()
    assert written.began.wait(PATIENCE)
    for thread in threads[1:]:
        thread.start()
    wait_for(recorder, 2)
    written.gate.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert Counter(made) == {1: 1, "failed": 2}
    assert len(written.groups) == 2


def test_an_interrupted_writer_leaves_nobody_waiting() -> None:
    written = Written()

    def write(items):
        written.write(items)
        raise KeyboardInterrupt

    recorder = Recorder(write)
    written.gate.set()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            recorder.record(1)


def test_fifty_with_one_submission_are_one_decision(database, customer, services) -> None:
    decisions = Decisions(database, DeclarationStore(database))
    scoring = Scoring(services.models, decisions)
    with ThreadPoolExecutor(50) as pool:
        made = list(pool.map(lambda _: scoring.decide(customer, "one key", BY_PAGE).id, range(50)))
    assert len(set(made)) == 1
    assert sum(decisions.counts()["churn"].values()) == 1
    assert scoring.decide(customer, "one key", BY_PAGE).id == made[0]


def test_two_hundred_at_once_are_two_hundred_in_an_unbroken_chain(database, customer, services, tmp_path) -> None:
    """Two recorders on one database, as two processes have them."""
    both = [Scoring(services.models, Decisions(database, DeclarationStore(database))) for _ in range(2)]
    with ThreadPoolExecutor(16) as pool:
        made = list(
            pool.map(lambda number: both[number % 2].decide(customer, f"key {number % 200}", BY_PAGE).id, range(220))
        )
    assert len(set(made)) == 200
    audit = Audit(
        Chain(database),
        services.models,
        DeclarationStore(database),
        JobStore(database, DeclarationStore(database)),
        Storage(tmp_path),
    )
    assert audit.verify().decisions == 200
    assert audit.replay().decisions == 200


def test_one_that_cannot_be_stored_does_not_take_others_along(database, customer, outcome, tmp_path, services) -> None:
    decisions = Decisions(database, DeclarationStore(database))
    bad = replace(customer, identifiers={"Surname": object()})

    def record(number: int) -> str:
        try:
            return decisions.record(bad if number == 7 else customer, outcome, f"{number:064}", BY_PAGE).id
        except (StatementError, TypeError):
            return "failed"

    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(record, range(16)))
    assert made.index("failed") == 7
    assert len(set(made)) == 16
    assert (
        Audit(
            Chain(database),
            services.models,
            DeclarationStore(database),
            JobStore(database, DeclarationStore(database)),
            Storage(tmp_path),
        )
        .verify()
        .decisions
        == 15
    )


def test_nobody_is_answered_before_the_commit(database, customer, outcome) -> None:
    decisions, seen = Decisions(database, DeclarationStore(database)), []
    other = Database(database.url)

    def look(number: int) -> None:
        made = decisions.record(customer, outcome, f"{number:064}", BY_PAGE)
        with other.read() as connection:
            seen.append(connection.scalar(select(func.count()).select_from(table).where(table.c.id == made.id)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(look, range(40)))
    other.close()
    assert seen == [1] * 40


def test_a_commit_that_fails_answers_nobody(database, customer, outcome) -> None:
    decisions = Decisions(database, DeclarationStore(database))

    def fail(_connection) -> None:
        raise OperationalError("COMMIT", {}, Exception("disk full"))

    event.listen(database.engine, "commit", fail)
    with ThreadPoolExecutor(8) as pool:
        made = [pool.submit(decisions.record, customer, outcome, f"{number:064}", BY_PAGE) for number in range(8)]
    assert all(isinstance(each.exception(), OperationalError) for each in made)
    event.remove(database.engine, "commit", fail)
    assert decisions.latest() == []
    assert decisions.record(customer, outcome, "0" * 64, BY_PAGE)


def test_a_decision_has_the_number_of_its_receipt_which_no_other_ever_has(database, customer, outcome) -> None:
    decisions = Decisions(database, DeclarationStore(database))
    first = decisions.record(customer, outcome, "0" * 64, BY_PAGE)
    number = decisions.receipt(first.id).number
    with database.write() as connection:
        assert connection.scalar(select(table.c.number).where(table.c.id == first.id)) == number
        for name in ("protected_values", "decisions"):
            connection.exec_driver_sql(f"DELETE FROM {name}")
    again = decisions.record(customer, outcome, "1" * 64, BY_PAGE)
    assert decisions.receipt(again.id).number == number + 1


def test_where_the_end_of_the_chain_was_cut_nothing_is_recorded_over_it(database, customer, outcome) -> None:
    decisions = Decisions(database, DeclarationStore(database))
    first, second = (decisions.record(customer, outcome, str(number) * 64, BY_PAGE) for number in range(2))
    with database.write() as connection:
        connection.execute(delete(receipts).where(receipts.c.number == decisions.receipt(second.id).number))
    with pytest.raises(Conflict, match="end of the chain of receipts was cut off: flask audit verify says where"):
        decisions.record(customer, outcome, "2" * 64, BY_PAGE)
    assert [each.id for each in decisions.latest()] == [second.id, first.id]
    assert Chain(database).head() == decisions.receipt(first.id)


def test_a_repeat_is_answered_also_where_nothing_can_score_any_more(services, customer, tmp_path) -> None:
    made = services.scoring.decide(customer, "one key", BY_PAGE)
    services.models.registry = Registry(tmp_path / "nothing")
    assert services.scoring.decide(customer, "one key", BY_PAGE).id == made.id
    with pytest.raises(NoActiveModel):
        services.scoring.decide(customer, "another key", BY_PAGE)


def counted_rows(database) -> Counter:
    """Count the decisions themselves, in the groups in which they are counted."""
    query = select(table.c.product, table.c.context_number, table.c.band, table.c.limit)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return Counter((*group, limit is not None and limit[0] == 0) for *group, limit in rows)


def test_counts_are_those_of_the_rows_after_groups_repeats_and_failures(
    database, services, examples, monkeypatch
) -> None:
    """Two processes' recorders in turn, in groups of any size; some decisions come again, some groups fail."""
    monkeypatch.setattr("bankportal.store.counts.EVERY", 16)
    chance = random.Random(11)
    both = [Decisions(each, DeclarationStore(each)) for each in (database, Database(database.url))]
    changes = [{}, {"CreditScore": "350", "LatePayments": "30"}, {"EstimatedSalary": "200"}]
    customers = [
        validate(
            product,
            {k: v for k, v in (examples[product.key] | change).items() if k in examples[product.key]},
            Source.TEXT,
        )
        for product in (CHURN, ALLOWANCE)
        for change in changes
    ]
    scored = list(zip(customers, services.scoring.score_all(customers), strict=True))
    sent, kept = set(), 0
    for turn in range(60):
        numbers = [chance.randrange(400) for _ in range(chance.choice([1, 1, 2, 16, 40]))]
        group = [(*scored[number % len(scored)], f"{number:064}", BY_PAGE) for number in numbers]
        if turn % 9 == 8:
            group.append((replace(customers[0], identifiers={"Surname": object()}), scored[0][1], "x" * 64, BY_PAGE))
            with pytest.raises((StatementError, TypeError)):
                both[turn % 2].record_all(group)
        else:
            both[turn % 2].record_all(group)
            sent |= set(numbers)
        if chance.random() < 0.2:
            Versions(database).register("churn", f"v{100 + turn}", "a" * 64, activate=False)  # an event takes a number
        with database.read() as connection:
            counts = counted(connection)
            kept += connection.scalar(select(func.coalesce(func.sum(decision_counts.c.decisions), 0))) > 0
        assert counts == counted_rows(database)
        assert sum(counts.values()) == len(sent)
    assert kept > 40, "most of the time the counts were not counted anew"
    both[1].database.close()
