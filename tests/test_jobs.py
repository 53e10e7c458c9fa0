"""Jobs and chunks in the database, on each back end: who may work on what, and what a late worker may not."""

import threading
import time
from collections import Counter

import pytest

from bankportal.domain.batch import CheckResult, ProblemExample, ProblemGroup, Span, Stage, State, Summary
from bankportal.domain.errors import Conflict, NotFound
from bankportal.domain.ids import new_id
from bankportal.domain.products import CHURN
from bankportal.store.jobs import JobStore, LeaseLost, ScoringVersions, Upload

LONG, SHORT = 60, 0.05  # seconds of a lease
ANSWERING = ScoringVersions("v1", "d" * 64, None)
MAPPING = {"credit_score": "CreditScore"}
GROUP = ProblemGroup("age", "Age", "too-low", "must be 18 or more", 2, (ProblemExample(3, "1"), ProblemExample(9, "2")))


@pytest.fixture
def store(database) -> JobStore:
    return JobStore(database)


def upload(digest: str = "a") -> Upload:
    return Upload(new_id(), CHURN, "May.csv", digest * 64, 1000, "b" * 64, {"delimiter": ","})


def spans(count: int, rows: int = 10) -> list[Span]:
    return [Span(100 * n, 100 * n + 100, 2 + rows * n, rows * n, rows) for n in range(count)]


def checked(count: int) -> CheckResult:
    return CheckResult(10 * count, 10 * count - 2, 2, (GROUP,))


def ready(store: JobStore, count: int):
    """A job that was checked, with its chunks."""
    job = store.confirm(store.add(upload(), None), MAPPING, start=False)
    chunk = store.claim("checker", LONG)
    assert chunk.step is Stage.CHECK
    store.complete_check(chunk, checked(count), spans(count), {"check.csv": "c" * 64}, None)
    return store.get(job.id)


def scoring(store: JobStore, count: int):
    """A job that was started."""
    return store.start(ready(store, count), ANSWERING)


def test_it_works(store) -> None:
    job = scoring(store, 2)
    assert job.state is State.SCORING
    for _ in range(2):
        chunk = store.claim("w", LONG)
        store.complete_score(chunk, 9, 1, {f"{chunk.place}.csv": "e" * 64})
    assert store.get(job.id).rows_done == 20
    finish = store.claim("w", LONG)
    assert finish.step is Stage.FINISH
    assert store.claim("w", LONG) is None
    done = store.complete_finish(finish, Summary(18, 2, 0, {"Loyal": 18}, 0.25), {"scored.csv": "f" * 64}, lambda: None)
    assert done == store.get(job.id)
    assert (done.state, done.summary.scored, done.checked) == (State.DONE, 18, checked(2))
    assert done.mapping == MAPPING
    assert store.claim("w", LONG) is None


def test_concurrent_claims_never_share_a_chunk(store) -> None:
    scoring(store, 40)
    claimed, barrier = [], threading.Barrier(8)

    def work(name: str) -> None:
        barrier.wait()
        while chunk := store.claim(name, LONG):
            claimed.append(chunk)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(chunk.place for chunk in claimed) == dict.fromkeys(range(40), 1)


def test_jobs_take_turns(store) -> None:
    first, second = ready(store, 3), ready(store, 3)
    for job in (first, second):
        store.start(job, ANSWERING)
    order = [store.claim("w", LONG).job_number for _ in range(6)]
    assert order == [first.number, second.number] * 3


def test_a_lapsed_lease_is_taken_over_and_the_late_worker_writes_nothing(store) -> None:
    job = scoring(store, 1)
    late = store.claim("late", SHORT)
    assert store.claim("other", LONG) is None
    time.sleep(2 * SHORT)
    taken = store.claim("other", LONG)
    assert (taken.number, taken.token, taken.losses) == (late.number, late.token + 1, 1)
    for write in (
        lambda: store.renew(late, LONG),
        lambda: store.complete_score(late, 10, 0, {"late.csv": "e" * 64}),
        lambda: store.release(late, at_fault=False),
        lambda: store.end(late, State.FAILED, "late"),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert store.get(job.id).state is State.SCORING
    store.complete_score(taken, 9, 1, {"0.2.csv": "f" * 64})
    assert [part.files for part in store.finished_chunks(job)] == [{"0.2.csv": "f" * 64}]


def test_a_lease_that_ran_out_cannot_be_used_though_nobody_took_over(store) -> None:
    job = scoring(store, 1)
    chunk = store.claim("w", SHORT)
    time.sleep(2 * SHORT)
    for write in (lambda: store.renew(chunk, LONG), lambda: store.complete_score(chunk, 10, 0, {})):
        with pytest.raises(LeaseLost):
            write()
    assert store.get(job.id).rows_done == 0


def test_a_renewed_lease_holds_and_tells_how_far_it_is(store) -> None:
    job = scoring(store, 1)
    chunk = store.claim("w", 0.4)
    for rows in range(4):
        time.sleep(0.2)
        store.renew(chunk, 0.4, rows)
    assert store.claim("other", LONG) is None
    assert store.get(job.id).rows_done == store.pace(job).rows_done == 3
    assert store.pace(job).seconds > 0.5


def test_how_long_no_worker_has_been_heard_of(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=True)
    assert store.silence(job, LONG) is None
    checking = store.claim("w", LONG)
    assert 0 <= store.silence(job, LONG) < LONG
    assert store.silence(job, 0) < 0  # its lease still runs
    store.complete_check(checking, checked(1), spans(1), {"check.csv": "c" * 64}, ANSWERING)
    time.sleep(2 * SHORT)
    assert store.silence(job, LONG) > 2 * SHORT  # since the check began
    store.claim("w", SHORT)
    time.sleep(2 * SHORT)
    assert store.silence(job, SHORT) > 2 * SHORT


def test_a_worker_is_heard_of_whatever_job_it_is_at(store) -> None:
    job = scoring(store, 1)
    assert store.claim("w", LONG).job_number == job.number
    other = store.confirm(store.add(upload("b"), None), MAPPING, start=False)
    busy = store.claim("elsewhere", LONG)
    assert busy.job_number == other.number
    assert store.silence(job, LONG) >= 0
    store.renew(busy, 2 * LONG)
    assert store.silence(job, LONG) < 0


def test_finishing_publishes_nothing_without_the_lease(store) -> None:
    scoring(store, 1)
    store.complete_score(store.claim("w", LONG), 10, 0, {"0.csv": "e" * 64})
    finish = store.claim("late", SHORT)
    time.sleep(2 * SHORT)
    with pytest.raises(LeaseLost):
        store.complete_finish(finish, Summary(10, 0, 0, {}, 0.5), {}, lambda: pytest.fail("published"))


def test_a_failure_while_publishing_leaves_the_job_as_it_was(store) -> None:
    job = scoring(store, 1)
    store.complete_score(store.claim("w", LONG), 10, 0, {"0.csv": "e" * 64})
    finish = store.claim("w", LONG)
    with pytest.raises(ZeroDivisionError):
        store.complete_finish(finish, Summary(10, 0, 0, {}, 0.5), {}, lambda: 1 / 0)
    assert store.get(job.id).state is State.SCORING
    done = store.complete_finish(finish, Summary(10, 0, 0, {}, 0.5), {}, lambda: None)
    assert done.state is State.DONE


def test_the_last_chunks_completed_at_once_make_one_finish(store) -> None:
    scoring(store, 8)
    held = [store.claim(f"w{n}", LONG) for n in range(8)]
    threads = [threading.Thread(target=store.complete_score, args=(chunk, 9, 1, {})) for chunk in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.claim("w", LONG).step is Stage.FINISH
    assert store.claim("w", LONG) is None


def test_only_the_first_worker_lost_over_a_chunk_is_held_against_it(store) -> None:
    scoring(store, 1)
    counted = []
    for _ in range(4):
        chunk = store.claim("w", SHORT)
        counted.append((chunk.faults, chunk.losses))
        time.sleep(2 * SHORT)
    assert counted == [(0, 0), (1, 1), (1, 2), (1, 3)]


def test_a_chunk_given_back_has_a_fault_more_where_it_was_at_fault(store) -> None:
    scoring(store, 1)
    store.release(store.claim("w", LONG), at_fault=False)
    untouched = store.claim("w", LONG)
    assert (untouched.faults, untouched.losses) == (0, 0)
    store.release(untouched, at_fault=True)
    blamed = store.claim("w", LONG)
    assert (blamed.faults, blamed.losses) == (1, 0)


@pytest.mark.parametrize("held", [0, 1])
def test_cancelling_takes_the_work_away(store, held) -> None:
    job = scoring(store, 2)
    chunks = [store.claim("w", LONG) for _ in range(held)]
    assert store.cancel(job).state is State.CANCELLED
    assert store.cancel(job).state is State.CANCELLED
    assert store.claim("w", LONG) is None
    for chunk in chunks:
        with pytest.raises(LeaseLost):
            store.complete_score(chunk, 10, 0, {})
    with pytest.raises(Conflict, match="cancelled"):
        store.start(job, ANSWERING)


def test_cancelling_and_completing_at_once_never_lock_up(store) -> None:
    for _ in range(10):
        job = scoring(store, 1)
        chunk = store.claim("w", LONG)
        faults = []

        def complete(chunk=chunk, faults=faults) -> None:
            try:
                store.complete_score(chunk, 10, 0, {})
            except LeaseLost as error:
                faults.append(error)

        threads = [threading.Thread(target=complete), threading.Thread(target=store.cancel, args=(job,))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert store.get(job.id).state is State.CANCELLED
        assert store.claim("w", LONG) is None


def test_starting_is_safe_to_repeat(store) -> None:
    job = scoring(store, 2)
    again = store.start(job, ScoringVersions("v2", "e" * 64, None))
    assert (again.model_version, again.started_at) == (job.model_version, job.started_at)
    assert [store.claim("w", LONG).place for _ in range(2)] == [0, 1]


def test_a_file_without_a_good_row_is_not_started(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=True)
    found = CheckResult(10, 0, 10, ())
    store.complete_check(store.claim("w", LONG), found, spans(1), {}, ANSWERING)
    assert store.get(job.id).state is State.CHECKED
    assert "No row" in store.get(job.id).message
    with pytest.raises(Conflict, match="No row"):
        store.start(job, ANSWERING)


def test_a_mapping_may_change_until_the_start(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=False)
    late = store.claim("w", LONG)
    with pytest.raises(Conflict, match="checking"):
        store.confirm(job, {"credit": "CreditScore"}, start=False)
    store.complete_check(late, checked(1), spans(1), {}, None)
    changed = store.confirm(job, {"credit": "CreditScore"}, start=False)
    assert (changed.state, changed.checked, changed.mapping) == (State.CHECKING, None, {"credit": "CreditScore"})
    store.complete_check(store.claim("w", LONG), checked(3), spans(3), {}, None)
    started = store.start(job, ANSWERING)
    with pytest.raises(Conflict, match="scoring"):
        store.confirm(started, MAPPING, start=False)
    assert [store.claim("w", LONG).place for _ in range(3)] == [0, 1, 2]


def test_a_key_is_one_job(store) -> None:
    first = upload()
    job = store.add(first, "k" * 64)
    assert store.add(upload(), "k" * 64) == job
    with pytest.raises(Conflict, match="idempotency key"):
        store.add(upload("c"), "k" * 64)
    assert [each.id for each in store.page("churn", None, 9)] == [first.id]


@pytest.mark.parametrize("id_", ["", "nothing", "\x00", "0" * 26])
def test_unknown_jobs(store, id_) -> None:
    with pytest.raises(NotFound):
        store.get(id_)
    assert store.page(None, id_ or "?", 5) == []
