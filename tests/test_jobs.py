"""Jobs and chunks in the database, on each back end: who may work on what, and what a late worker may not."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from bankportal.domain.batch import CheckResult, ProblemExample, ProblemGroup, Span, Stage, State, Summary
from bankportal.domain.errors import Conflict, NotFound
from bankportal.domain.ids import new_id
from bankportal.store.declarations import DeclarationStore
from bankportal.store.jobs import Finished, JobStore, LeaseLost, Pace, ScoringVersions, Upload
from bankportal.store.tables import chunks, jobs
from tests.conftest import PATIENCE
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN

LEASE = 1000  # seconds: no test takes so long
ANSWERING = ScoringVersions("v1", "d" * 64, CHURN)
MAPPING = {"credit_score": "CreditScore"}
GROUP = ProblemGroup("age", "Age", "too-low", "must be 18 or more", 2, (ProblemExample(3, "1"), ProblemExample(9, "2")))


@pytest.fixture
def store(database) -> JobStore:
    return JobStore(database, DeclarationStore(database))


def upload(digest: str = "a") -> Upload:
    return Upload(new_id(), CHURN, "May.csv", digest * 64, 1000, "b" * 64, {"delimiter": ","}, BY_PAGE)


def spans(count: int, rows: int = 10) -> list[Span]:
    return [Span(100 * n, 100 * n + 100, 2 + rows * n, rows * n, rows) for n in range(count)]


def checked(count: int) -> CheckResult:
    return CheckResult(10 * count, 10 * count - 2, 2, (GROUP,))


def ready(store: JobStore, count: int):
    """A job that was checked, with its chunks."""
    job = store.confirm(store.add(upload(), None), MAPPING, start=False)
    chunk = store.claim("checker", LEASE)
    assert chunk.stage is Stage.CHECK
    store.complete_check(chunk, checked(count), spans(count), {"check.csv": "c" * 64}, None)
    return store.get(job.id)


def scoring(store: JobStore, count: int):
    """A job that was started."""
    return together(store, count)[0]


def together(store: JobStore, *counts: int):
    """Jobs that are scored at the same time."""
    return [store.start(job, ANSWERING) for job in [ready(store, count) for count in counts]]


def pass_by(store: JobStore, seconds: float) -> None:
    """Let time pass for leases. The database's clock cannot be set: what was noted by it is put back instead."""
    noted = {"lease_until": chunks.c.lease_until - seconds, "began": chunks.c.began - seconds}
    with store.database.write() as connection:
        connection.execute(update(chunks).values(noted))


def test_it_works(store) -> None:
    job = scoring(store, 2)
    assert job.state is State.SCORING
    for _ in range(2):
        chunk = store.claim("w", LEASE)
        store.complete_score(chunk, 9, 1, {f"{chunk.place}.csv": "e" * 64})
    assert store.get(job.id).rows_done == 20
    finish = store.claim("w", LEASE)
    assert finish.stage is Stage.FINISH
    assert store.claim("w", LEASE) is None
    done = store.complete_finish(finish, Summary(18, 2, 0, {"Loyal": 18}, 0.25), {"scored.csv": "f" * 64}, lambda: None)
    assert done == store.get(job.id)
    assert (done.state, done.summary.scored, done.checked) == (State.DONE, 18, checked(2))
    assert done.mapping == MAPPING
    assert store.claim("w", LEASE) is None


def test_concurrent_claims_never_share_a_chunk(store) -> None:
    scoring(store, 40)
    claimed, barrier = [], threading.Barrier(8)

    def work(name: str) -> None:
        barrier.wait()
        while chunk := store.claim(name, LEASE):
            claimed.append(chunk)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(chunk.place for chunk in claimed) == dict.fromkeys(range(40), 1)


def test_jobs_take_turns(store) -> None:
    first, second = together(store, 3, 3)
    order = [store.claim("w", LEASE).job_number for _ in range(6)]
    assert order == [first.number, second.number] * 3


def test_what_was_uploaded_is_what_is_recorded(store) -> None:
    before, sent = datetime.now(UTC), upload()
    job = store.add(sent, None)
    assert before <= job.at <= datetime.now(UTC)
    later = ("mapping", "checked", "started_at", "finished_at", "summary", "files")
    answering = ("model_version", "model_digest", "policy_version")
    assert vars(job) == vars(sent) | dict.fromkeys([*later, *answering]) | {
        "number": job.number,
        "state": State.UPLOADED,
        "at": job.at,
        "start_when_checked": False,
        "message": "",
        "rows_done": 0,
    }
    assert store.get(sent.id) == store.numbered(job.number) == job


def test_what_is_recorded_as_a_job_goes_on(store) -> None:
    """Each step's time, who answers, and an empty message where nothing is wrong."""
    began, versions = datetime.now(UTC), ScoringVersions("v3", "e" * 64, CHURN)
    job = store.start(ready(store, 1), versions)
    assert (job.message, job.model_version, job.model_digest, job.policy_version) == ("", "v3", "e" * 64, None)
    assert began <= job.started_at <= datetime.now(UTC)
    assert job.finished_at is None
    store.complete_score(store.claim("w", LEASE), 9, 1, {})
    finished = datetime.now(UTC)
    done = store.complete_finish(store.claim("w", LEASE), Summary(9, 1, 0, {}, 0.5), {}, lambda: None)
    assert done.started_at == job.started_at
    assert finished <= done.finished_at <= datetime.now(UTC)
    assert done.message == ""


def test_a_check_may_have_the_file_scored_at_once(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=True)
    assert (job.start_when_checked, job.message, job.checked) == (True, "", None)
    store.complete_check(store.claim("w", LEASE), checked(1), spans(1), {"check.csv": "c" * 64}, ANSWERING)
    job = store.get(job.id)
    assert (job.state, job.model_version, job.message) == (State.SCORING, "v1", "")
    assert store.claim("w", LEASE).job_number == job.number


def test_a_chunk_says_what_to_work_on(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=False)
    check = store.claim("w" * 150, LEASE)
    assert vars(check) == {
        "number": check.number,
        "job_number": job.number,
        "stage": Stage.CHECK,
        "place": 0,
        "span": None,
        "token": 1,
        "faults": 0,
        "losses": 0,
        "files": {},
    }
    with store.database.read() as connection:
        assert connection.execute(select(chunks.c.worker)).scalar_one() == "w" * 100
    store.complete_check(check, checked(2), spans(2), {"check.csv": "c" * 64}, ANSWERING)
    assert [store.claim("w", LEASE).span for _ in range(2)] == spans(2)
    assert store.score_spans(job) == [(span, False) for span in spans(2)]


def test_finished_parts_come_in_the_order_of_the_file(store) -> None:
    job, other = together(store, 3, 1)
    claimed = [store.claim("w", LEASE) for _ in range(4)]
    held = {chunk.place: chunk for chunk in claimed if chunk.job_number == job.number}
    store.complete_score(held[2], 8, 2, {"2.csv": "e" * 64})
    store.complete_score(held[0], 0, 10, {"0.csv": "f" * 64}, quarantined=True)
    assert store.finished_chunks(job) == [
        Finished(0, 0, 10, True, {"0.csv": "f" * 64}),
        Finished(2, 8, 2, False, {"2.csv": "e" * 64}),
    ]
    assert store.score_spans(job) == list(zip(spans(3), (True, False, False), strict=True))
    assert [span for span, _ in store.score_spans(other)] == spans(1)
    store.complete_score(held[1], 10, 0, {})
    assert (store.get(job.id).rows_done, store.get(other.id).rows_done) == (30, 0)
    finish = store.claim("w", LEASE)
    assert (finish.stage, finish.job_number, finish.place) == (Stage.FINISH, job.number, 0)


def test_a_file_that_cannot_be_read_ends_its_job(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=False)
    before = datetime.now(UTC)
    store.end(store.claim("w", LEASE), State.REFUSED, "May.csv is empty.")
    ended = store.get(job.id)
    assert (ended.state, ended.message) == (State.REFUSED, "May.csv is empty.")
    assert before <= ended.finished_at <= datetime.now(UTC)
    assert store.claim("w", LEASE) is None


def test_jobs_by_page(store) -> None:
    made = [store.add(replace(upload(), product=product), None) for product in (CHURN, ALLOWANCE, CHURN, CHURN)]
    newest = made[::-1]
    assert store.page(None, None, 9) == newest
    assert store.page(None, None, 2) == newest[:2]
    assert store.page(None, newest[1].id, 9) == newest[2:]
    assert store.page("churn", newest[1].id, 9) == [made[0]]
    assert store.page("churn", None, 2) == newest[:2]
    assert store.states([made[1].id, "unknown"]) == {made[1].id: State.UPLOADED}


def test_finished_jobs_of_the_same_file(store) -> None:
    done = [finished(store) for _ in range(2)]
    other = scoring(store, 1)
    assert store.finished_like(other) == done[::-1]
    assert store.finished_like(done[0]) == [done[1]]
    assert store.finished_like(store.add(upload("c"), None)) == []
    assert store.finished_like(store.add(replace(upload(), product=ALLOWANCE), None)) == []
    assert store.at_work() == [store.get(other.id)]
    store.cancel(other)
    assert store.at_work() == []


def finished(store: JobStore):
    """A job that is done."""
    scoring(store, 1)
    store.complete_score(store.claim("w", LEASE), 9, 1, {})
    return store.complete_finish(store.claim("w", LEASE), Summary(9, 1, 0, {}, 0.5), {}, lambda: None)


def test_the_rejects_of_a_check_are_named(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=False)
    assert store.rejects_file(job) is None
    store.complete_check(store.claim("w", LEASE), checked(1), spans(1), {"check.csv": "c" * 64}, None)
    assert store.rejects_file(job) == "check.csv"
    store.start(job, ANSWERING)
    store.complete_score(store.claim("w", LEASE), 9, 1, {"0.csv": "e" * 64})
    assert store.rejects_file(job) == "check.csv"
    assert store.rejects_file(store.add(upload(), None)) is None


def test_an_upload_is_withdrawn_until_its_mapping_is_confirmed(store) -> None:
    kept, job = store.add(upload(), None), store.add(upload(), "k" * 64)
    assert store.withdraw(job)
    assert not store.withdraw(job)
    assert store.page(None, None, 9) == [kept]
    assert store.add(upload("c"), "k" * 64).input_digest == "c" * 64
    store.confirm(kept, MAPPING, start=False)
    assert not store.withdraw(kept)
    assert store.get(kept.id).state is State.CHECKING


def test_a_lapsed_lease_is_taken_over_and_the_late_worker_writes_nothing(store) -> None:
    job = scoring(store, 1)
    late = store.claim("late", LEASE)
    pass_by(store, LEASE - 10)
    assert store.claim("other", LEASE) is None
    pass_by(store, 10)
    taken = store.claim("other", LEASE)
    assert (taken.number, taken.token, taken.losses) == (late.number, late.token + 1, 1)
    for write in (
        lambda: store.renew(late, LEASE),
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
    chunk = store.claim("w", LEASE)
    pass_by(store, LEASE)
    for write in (lambda: store.renew(chunk, LEASE), lambda: store.complete_score(chunk, 10, 0, {})):
        with pytest.raises(LeaseLost):
            write()
    assert store.get(job.id).rows_done == 0


def test_a_renewed_lease_holds_and_tells_how_far_it_is(store) -> None:
    job = scoring(store, 1)
    chunk = store.claim("w", LEASE)
    for rows in range(4):
        pass_by(store, LEASE / 2)
        store.renew(chunk, LEASE, rows)
    assert store.claim("other", LEASE) is None
    assert store.get(job.id).rows_done == store.pace(job).rows_done == 3
    assert store.pace(job).seconds >= 2 * LEASE


def test_pace_is_that_of_the_present_stage_of_one_job(store) -> None:
    assert store.pace(store.add(upload(), None)) == Pace(0, None)
    job = store.confirm(store.add(upload(), None), MAPPING, start=False)
    check = store.claim("w", LEASE)
    store.renew(check, LEASE, 7)
    assert store.pace(job).rows_done == store.get(job.id).rows_done == 7
    store.renew(check, LEASE)
    assert store.pace(job).rows_done == 0
    assert 0 <= store.pace(job).seconds < LEASE
    store.complete_check(check, checked(2), spans(2), {}, ANSWERING)
    assert store.pace(job).rows_done == 20  # the job as it was: all its rows are checked
    store.cancel(job)
    job, other = together(store, 1, 1)
    assert store.pace(job) == store.pace(other) == Pace(0, None)
    given_back = store.claim("w", LEASE)
    store.renew(given_back, LEASE, 3)
    store.release(given_back, at_fault=False)
    pass_by(store, LEASE)
    assert store.claim("w", LEASE).number == given_back.number
    assert store.pace(job).rows_done == 0
    assert LEASE <= store.pace(job).seconds < 2 * LEASE  # since it was first claimed
    assert store.pace(other) == Pace(0, None)


def test_how_long_no_worker_has_been_heard_of(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=True)
    assert store.silence(job, LEASE) is None
    checking = store.claim("w", LEASE)
    assert 0 <= store.silence(job, LEASE) < LEASE
    assert store.silence(job, 0) < 0  # its lease still runs
    store.complete_check(checking, checked(1), spans(1), {"check.csv": "c" * 64}, ANSWERING)
    pass_by(store, LEASE)
    assert LEASE <= store.silence(job, LEASE) < 2 * LEASE  # since the check began
    store.claim("w", LEASE)
    pass_by(store, 3 * LEASE)
    assert 3 * LEASE <= store.silence(job, LEASE) < 4 * LEASE


def test_a_worker_is_heard_of_whatever_job_it_is_at(store) -> None:
    job = scoring(store, 1)
    assert store.claim("w", LEASE).job_number == job.number
    other = store.confirm(store.add(upload("b"), None), MAPPING, start=False)
    busy = store.claim("elsewhere", LEASE)
    assert busy.job_number == other.number
    assert store.silence(job, LEASE) >= 0
    store.renew(busy, 2 * LEASE)
    assert store.silence(job, LEASE) < 0


def test_finishing_publishes_nothing_without_the_lease(store) -> None:
    scoring(store, 1)
    store.complete_score(store.claim("w", LEASE), 10, 0, {"0.csv": "e" * 64})
    finish = store.claim("late", LEASE)
    pass_by(store, LEASE)
    with pytest.raises(LeaseLost):
        store.complete_finish(finish, Summary(10, 0, 0, {}, 0.5), {}, lambda: pytest.fail("published"))


def test_a_failure_while_publishing_leaves_the_job_as_it_was(store) -> None:
    job = scoring(store, 1)
    store.complete_score(store.claim("w", LEASE), 10, 0, {"0.csv": "e" * 64})
    finish = store.claim("w", LEASE)
    with pytest.raises(ZeroDivisionError):
        store.complete_finish(finish, Summary(10, 0, 0, {}, 0.5), {}, lambda: 1 / 0)
    assert store.get(job.id).state is State.SCORING
    done = store.complete_finish(finish, Summary(10, 0, 0, {}, 0.5), {}, lambda: None)
    assert done.state is State.DONE


def test_the_last_chunks_completed_at_once_make_one_finish(store) -> None:
    scoring(store, 8)
    held = [store.claim(f"w{n}", LEASE) for n in range(8)]
    threads = [threading.Thread(target=store.complete_score, args=(chunk, 9, 1, {})) for chunk in held]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.claim("w", LEASE).stage is Stage.FINISH
    assert store.claim("w", LEASE) is None


def test_only_the_first_worker_lost_over_a_chunk_is_held_against_it(store) -> None:
    scoring(store, 1)
    counted = []
    for _ in range(4):
        chunk = store.claim("w", LEASE)
        counted.append((chunk.faults, chunk.losses))
        pass_by(store, LEASE)
    assert counted == [(0, 0), (1, 1), (1, 2), (1, 3)]


def test_a_chunk_given_back_has_a_fault_more_where_it_was_at_fault(store) -> None:
    scoring(store, 1)
    store.release(store.claim("w", LEASE), at_fault=False)
    untouched = store.claim("w", LEASE)
    assert (untouched.faults, untouched.losses) == (0, 0)
    store.release(untouched, at_fault=True)
    blamed = store.claim("w", LEASE)
    assert (blamed.faults, blamed.losses) == (1, 0)


@pytest.mark.parametrize("held", [0, 1])
def test_cancelling_takes_the_work_away(store, held) -> None:
    job = scoring(store, 2)
    chunks = [store.claim("w", LEASE) for _ in range(held)]
    assert store.cancel(job).state is State.CANCELLED
    assert store.cancel(job).state is State.CANCELLED
    assert store.claim("w", LEASE) is None
    for chunk in chunks:
        with pytest.raises(LeaseLost):
            store.complete_score(chunk, 10, 0, {})
    with pytest.raises(Conflict, match="cancelled"):
        store.start(job, ANSWERING)


def test_cancelling_and_completing_at_once_never_lock_up(store) -> None:
    for _ in range(10):
        job = scoring(store, 1)
        chunk = store.claim("w", LEASE)
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
        assert store.claim("w", LEASE) is None


def test_starting_is_safe_to_repeat(store) -> None:
    job = scoring(store, 2)
    again = store.start(job, ScoringVersions("v2", "e" * 64, CHURN))
    assert (again.model_version, again.started_at) == (job.model_version, job.started_at)
    assert [store.claim("w", LEASE).place for _ in range(2)] == [0, 1]


def test_a_file_without_a_good_row_is_not_started(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=True)
    found = CheckResult(10, 0, 10, ())
    store.complete_check(store.claim("w", LEASE), found, spans(1), {}, ANSWERING)
    assert store.get(job.id).state is State.CHECKED
    assert "No row" in store.get(job.id).message
    with pytest.raises(Conflict, match="No row"):
        store.start(job, ANSWERING)


def test_the_same_mapping_again_changes_nothing(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=False)
    check = store.claim("w", LEASE)
    assert store.confirm(job, MAPPING, start=False) == job
    assert store.confirm(job, MAPPING, start=True) == replace(job, start_when_checked=True)
    assert store.confirm(job, MAPPING, start=False).start_when_checked
    store.complete_check(check, checked(1), spans(1), {}, None)
    assert store.confirm(job, MAPPING, start=True).checked == checked(1)
    started = store.start(job, ANSWERING)
    assert store.confirm(job, MAPPING, start=True) == started


def test_a_mapping_may_change_until_the_start(store) -> None:
    job = store.confirm(store.add(upload(), None), MAPPING, start=False)
    late = store.claim("w", LEASE)
    with pytest.raises(Conflict, match="checking"):
        store.confirm(job, {"credit": "CreditScore"}, start=False)
    store.complete_check(late, checked(1), spans(1), {}, None)
    changed = store.confirm(job, {"credit": "CreditScore"}, start=False)
    assert (changed.state, changed.checked, changed.mapping) == (State.CHECKING, None, {"credit": "CreditScore"})
    store.complete_check(store.claim("w", LEASE), checked(3), spans(3), {}, None)
    started = store.start(job, ANSWERING)
    with pytest.raises(Conflict, match="scoring"):
        store.confirm(started, MAPPING, start=False)
    assert [store.claim("w", LEASE).place for _ in range(3)] == [0, 1, 2]


def test_a_key_is_one_job(store) -> None:
    first = upload()
    job = store.add(first, "k" * 64)
    assert store.add(upload(), "k" * 64) == job
    with pytest.raises(Conflict, match=r"^This idempotency key was used before, for another file\.$"):
        store.add(upload("c"), "k" * 64)
    assert [each.id for each in store.page("churn", None, 9)] == [first.id]


@pytest.mark.parametrize("id_", ["", "nothing", "\x00", "0" * 26])
def test_unknown_jobs(store, id_) -> None:
    with pytest.raises(NotFound):
        store.get(id_)
    assert store.page(None, id_ or "?", 5) == []


def test_another_fault_of_the_database_is_not_taken_for_a_known_key(store) -> None:
    job = upload()
    store.add(job, None)
    with pytest.raises(IntegrityError):
        store.add(job, "k" * 64)


@pytest.fixture
def postgresql(store) -> JobStore:
    """The store on the back end where several transactions write at once."""
    if store.database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite lets one transaction at a time write")
    return store


def test_a_chunk_that_is_being_claimed_is_passed_over(postgresql) -> None:
    scoring(postgresql, 2)
    first = select(chunks.c.number).where(chunks.c.state == "waiting").order_by(chunks.c.place).limit(1)
    with postgresql.database.write() as connection, ThreadPoolExecutor(1) as pool:
        connection.execute(first.with_for_update())
        claimed = pool.submit(postgresql.claim, "w", LEASE).result(PATIENCE)
    assert claimed.place == 1


def test_a_transaction_waits_for_others_of_its_own_job_alone(postgresql) -> None:
    job, other = together(postgresql, 1, 1)
    with ThreadPoolExecutor(1) as pool:
        with postgresql.database.write() as connection:
            connection.execute(select(jobs).where(jobs.c.number == job.number).with_for_update())
            assert pool.submit(postgresql.cancel, other).result(PATIENCE).state is State.CANCELLED
            waits = pool.submit(postgresql.cancel, job)
            with pytest.raises(TimeoutError):
                waits.result(0.5)
        assert waits.result(PATIENCE).state is State.CANCELLED
