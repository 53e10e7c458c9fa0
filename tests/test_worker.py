"""Workers: killed, stopped, poisoned or interrupted, they lose, double and change nothing."""

import csv
import hashlib
import io
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from sqlalchemy.exc import OperationalError

from bankportal import wiring
from bankportal.cli import worker as command
from bankportal.config import Config
from bankportal.domain.batch import REJECTS, RESULTS, SCORED, State
from bankportal.domain.errors import NotFound
from bankportal.services.batches import isolated_run, worker
from bankportal.sqlite import driver
from bankportal.store.storage import PIECE, file_digest
from tests.conftest import config_for
from tests.shipped import BY_PAGE, CHURN
from tests.test_batches import received

ROWS = 1500
LEASE = 2  # seconds
KILLS = 8
KEPT = sorted(["input.csv", REJECTS, RESULTS, SCORED])
PATIENCE = 300  # seconds until a test gives up: on a busy machine each process takes long to start
SPAWN = multiprocessing.get_context("forkserver")
# An isolated run in which the file's first rows do what `{act}` does.
ISOLATED_RUN = """
import os, signal, time
from bankportal.services.batches import isolated_run
scored = isolated_run.score_block
def score_block(work, block):
    if block.positions[0] == 0:
        {act}
    return scored(work, block)
isolated_run.score_block = score_block
isolated_run.main()
"""
BEGUN = f"os.write(1, {isolated_run.BEGUN})"
NO_ISOLATED_RUN = "pass"  # for tests of something else


@pytest.fixture(scope="module", autouse=True)
def _preloaded():
    SPAWN.set_forkserver_preload(["bankportal.cli.worker"])


def slow_work(config: Config, nap: float, log_file: Path, stalled: float, command: str) -> None:
    """A worker that takes its time over each chunk, so that what befalls it befalls it in the middle."""
    isolated_run.COMMAND, worker.STALLED = command, stalled
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(log_file.open("a")))
    scored = worker.score_block

    def score_slowly(work, block):
        time.sleep(nap)
        part = scored(work, block)
        time.sleep(nap)
        return part

    worker.score_block = score_slowly
    wiring.build(config).worker.run(threading.Event())


def started(config: Config, nap: float = 0.1, log_file: Path = Path(os.devnull), stalled: float = worker.STALLED):
    process = SPAWN.Process(target=slow_work, args=(config, nap, log_file, stalled, isolated_run.COMMAND), daemon=True)
    process.start()
    return process


def stopped(process, portal) -> None:
    """Stop a process between its transactions: one stopped within would keep everybody out of SQLite."""
    while True:
        os.kill(process.pid, signal.SIGSTOP)
        if portal.database.engine.dialect.name != "sqlite":
            return
        try:
            with closing(driver.connect(portal.database.url.database, timeout=0.2)) as connection:
                connection.execute("BEGIN EXCLUSIVE")
                connection.rollback()
                return
        except driver.OperationalError:
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.05)


def until(holds, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def mapped(portal, path, *, start: bool = True):
    """An upload that is to be checked, and scored right after."""
    job = received(portal, path)
    return portal.batches.check(job, portal.batches.suggestion(job).mapping, start=start)


def worked_off(portal, job):
    while portal.worker.step():
        pass
    return portal.batches.get(job.id)


def files_of(portal, job) -> dict[str, bytes]:
    return {name: (portal.batches.storage.home(job.id) / name).read_bytes() for name in (SCORED, REJECTS, RESULTS)}


@pytest.fixture
def spoiled(bank_files, tmp_path):
    """The small bank's file with a bad cell and a ragged row."""
    lines = bank_files["churn"].read_text().splitlines()
    age = lines[0].split(",").index("Age")
    cells = lines[10].split(",")
    cells[age] = "seven"
    lines[10] = ",".join(cells)
    lines[700] += ",more"
    path = tmp_path / "spoiled.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_it_works(portal, spoiled) -> None:
    job = worked_off(portal, mapped(portal, spoiled))
    assert (job.state, job.summary.scored, job.summary.rejected) == (State.DONE, ROWS - 2, 2)
    assert sum(job.summary.bands.values()) == ROWS - 2
    scored = list(csv.DictReader(io.StringIO(portal.batches.file(job, SCORED).read_text())))
    assert len(scored) == ROWS - 2
    rejects = list(csv.DictReader(io.StringIO(portal.batches.rejects(job).read_text(encoding="utf-8"))))
    assert [row["line"] for row in rejects] == ["11", "701"]
    assert sorted(path.name for path in portal.batches.storage.home(job.id).iterdir()) == KEPT
    assert portal.audit.verify().batches == 1


def test_a_checked_file_waits_and_tells_what_to_mend(portal, spoiled) -> None:
    job = worked_off(portal, mapped(portal, spoiled, start=False))
    assert (job.state, job.checked.rows, job.checked.good, job.checked.rejected) == (State.CHECKED, ROWS, ROWS - 2, 2)
    assert {(group.column, group.rows) for group in job.checked.groups} == {("Age", 1), ("", 1)}
    told = portal.batches.rejects(job).read_bytes()
    portal.batches.start(job)
    assert worked_off(portal, job).state is State.DONE
    assert portal.batches.rejects(job).read_bytes() == told


def test_killed_at_any_point_nothing_is_lost_doubled_or_wrong(portal, spoiled) -> None:
    undisturbed = worked_off(portal, mapped(portal, spoiled))
    config = replace(portal.config, lease_seconds=LEASE)
    job, chance = mapped(portal, spoiled), random.Random(4)
    workers = [started(config) for _ in range(2)]
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.1, 1.0))
        victim = chance.randrange(len(workers))
        os.kill(workers[victim].pid, signal.SIGKILL)
        workers[victim].join()
        workers[victim] = started(config)
    until(lambda: portal.batches.get(job.id).state.at_rest)
    for process in workers:
        process.kill()
        process.join()
    done = portal.batches.get(job.id)
    assert (done.state, done.message) == (State.DONE, "")
    assert done.summary == undisturbed.summary
    assert files_of(portal, done) == files_of(portal, undisturbed)
    assert portal.audit.verify().batches == 2


def test_stopped_past_its_lease_a_worker_writes_nothing(portal, spoiled, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(isolated_run, "COMMAND", NO_ISOLATED_RUN)
    job = mapped(portal, spoiled)
    assert portal.worker.step()  # the check
    process = started(replace(portal.config, lease_seconds=LEASE), nap=0.5, log_file=tmp_path / "log")
    until(lambda: portal.batches.store.pace(portal.batches.get(job.id)).seconds is not None)
    stopped(process, portal)
    until(lambda: not portal.worker.step() and portal.batches.get(job.id).state is State.DONE)
    done, files = portal.batches.get(job.id), files_of(portal, job)
    os.kill(process.pid, signal.SIGCONT)
    until(lambda: "chunk lost" in (tmp_path / "log").read_text())
    process.kill()
    process.join()
    assert done == portal.batches.get(job.id)
    assert files == files_of(portal, job)
    assert sorted(path.name for path in portal.batches.storage.home(job.id).iterdir()) == KEPT


def test_stopped_past_its_lease_in_the_midst_of_a_job(portal, spoiled, tmp_path, monkeypatch) -> None:
    """The others have taken over the chunk and not yet finished the job: parts are still there to be spoiled."""
    monkeypatch.setattr(isolated_run, "COMMAND", NO_ISOLATED_RUN)
    job = mapped(portal, spoiled)
    assert portal.worker.step()
    process = started(replace(portal.config, lease_seconds=LEASE), nap=0.5, log_file=tmp_path / "log")
    until(lambda: portal.batches.store.pace(portal.batches.get(job.id)).seconds is not None)
    stopped(process, portal)
    until(lambda: portal.worker.step() and any(part.place == 0 for part in portal.batches.store.finished_chunks(job)))
    before = portal.batches.store.finished_chunks(job)
    os.kill(process.pid, signal.SIGCONT)
    until(lambda: "chunk lost" in (tmp_path / "log").read_text())
    process.kill()
    process.join()
    assert portal.batches.store.finished_chunks(job)[: len(before)] == before
    assert not list(portal.batches.storage.parts(job.id).glob("0.1.*"))


def lost(portal, times: int) -> None:
    """Claim the next chunk and be lost with it, so many times."""
    for _ in range(times):
        assert portal.batches.store.claim("doomed", 0.001)
        time.sleep(0.005)


def first_chunk_lost(portal, path):
    """A job whose first score chunk was lost with a worker once: the next worker gives it an isolated run."""
    job = mapped(portal, path)
    assert portal.worker.step()
    lost(portal, 1)
    return job


def isolated_run_of(portal, path):
    """The arguments of the isolated run of such a job's first chunk."""
    job = first_chunk_lost(portal, path)
    chunk = portal.batches.store.claim("trying", PATIENCE)
    return portal.batches.get(job.id), chunk, portal.batches.storage.input(job.id), portal.config.models


def test_a_chunk_that_kills_three_times_is_quarantined_and_the_rest_completes(portal, spoiled, monkeypatch) -> None:
    monkeypatch.setattr(isolated_run, "COMMAND", ISOLATED_RUN.format(act="os.kill(os.getpid(), signal.SIGKILL)"))
    done = worked_off(portal, first_chunk_lost(portal, spoiled))
    summary = done.summary
    assert (done.state, summary.quarantined, summary.rejected) == (State.DONE, 500, 501)  # the ragged row is elsewhere
    assert summary.scored + summary.rejected == done.checked.rows == ROWS
    rejects = list(csv.DictReader(io.StringIO(portal.batches.file(done, REJECTS).read_text())))
    assert [row["line"] for row in rejects] == [str(line) for line in [*range(2, 502), 701]]
    assert Counter(row["code"] for row in rejects) == {"quarantined": 500, "ragged": 1}
    assert portal.batches.rows(done, size=1).items[0].position == 500


def test_a_chunk_that_survives_its_isolated_run_is_scored_however_many_workers_were_lost(portal, spoiled) -> None:
    undisturbed = worked_off(portal, mapped(portal, spoiled))
    job = mapped(portal, spoiled)
    assert portal.worker.step()
    lost(portal, worker.MAX_LOSSES - 1)
    done = worked_off(portal, job)
    assert (done.state, done.summary) == (State.DONE, undisturbed.summary)
    assert files_of(portal, done) == files_of(portal, undisturbed)


def test_a_chunk_lost_beyond_all_bad_luck_is_quarantined(portal, spoiled) -> None:
    job = mapped(portal, spoiled)
    assert portal.worker.step()
    lost(portal, worker.MAX_LOSSES)
    done = worked_off(portal, job)
    assert (done.state, done.summary.quarantined) == (State.DONE, 500)


@pytest.mark.parametrize(
    ("act", "crashes"),
    [
        (f"{BEGUN}; os.kill(os.getpid(), 9)", True),
        (f"{BEGUN}; os._exit(3)", True),
        (f"{BEGUN}; os._exit(0)", False),
        ("os.kill(os.getpid(), 9)", False),
        ("os._exit(3)", False),
    ],
    ids=["died", "exited", "survived", "died before the rows", "exited before the rows"],
)
def test_only_a_crash_over_the_rows_counts(services, spoiled, monkeypatch, act, crashes) -> None:
    monkeypatch.setattr(isolated_run, "COMMAND", f"import os; {act}")
    job, chunk, source, models = isolated_run_of(services, spoiled)
    assert isolated_run.crashes_the_worker(job, chunk.span, source, models, lambda: None, PATIENCE) is crashes


def test_an_isolated_run_that_hangs_counts_as_a_crash(services, spoiled, monkeypatch, tmp_path) -> None:
    hung = tmp_path / "hung"
    monkeypatch.setattr(
        isolated_run, "COMMAND", f"import os, time; {BEGUN}; os.mkdir({str(hung)!r}); time.sleep({PATIENCE})"
    )
    job, chunk, source, models = isolated_run_of(services, spoiled)
    assert isolated_run.crashes_the_worker(job, chunk.span, source, models, lambda: until(hung.exists), 0.01)


def test_an_error_in_an_isolated_run_is_left_to_the_worker(services, spoiled, monkeypatch) -> None:
    monkeypatch.setattr(isolated_run, "COMMAND", ISOLATED_RUN.format(act="raise ValueError('these rows')"))
    done = worked_off(services, first_chunk_lost(services, spoiled))
    assert (done.state, done.summary.quarantined) == (State.DONE, 0)


def test_a_worker_that_is_stopped_ends_the_isolated_run_and_releases_the_chunk(services, spoiled, monkeypatch) -> None:
    monkeypatch.setattr(isolated_run, "COMMAND", f"import os, time; {BEGUN}; time.sleep({PATIENCE})")
    first_chunk_lost(services, spoiled)
    threading.Timer(0.5, services.worker.stopping.set).start()
    assert services.worker.step()
    chunk = services.batches.store.claim("next", LEASE)
    assert (chunk.place, chunk.faults, chunk.losses) == (0, 1, 1)


@pytest.mark.skipif(not shutil.which("ps"), reason="no ps to see processes with: install procps to try it")
def test_an_isolated_run_ends_before_its_worker_and_with_it(services, spoiled, monkeypatch, tmp_path) -> None:
    noted = tmp_path / "pid"
    act = f"open({str(noted)!r}, 'w').write(str(os.getpid())); time.sleep({PATIENCE})"
    monkeypatch.setattr(isolated_run, "COMMAND", ISOLATED_RUN.format(act=act))
    first_chunk_lost(services, spoiled)
    process = started(services.config)
    until(lambda: noted.exists() and noted.read_text())
    pid = int(noted.read_text())
    assert alive(pid)
    if sys.platform == "linux":
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    process.kill()
    process.join()
    until(lambda: not alive(pid))


def test_reading_a_large_file_sends_heartbeats(tmp_path) -> None:
    path, heartbeats = tmp_path / "large", []
    path.write_bytes(b"x" * (2 * PIECE + 1))
    assert file_digest(path, lambda: heartbeats.append(1)) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(heartbeats) == 3


def test_a_worker_whose_work_hangs_ends_and_its_chunk_goes_to_another(services, spoiled, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(isolated_run, "COMMAND", NO_ISOLATED_RUN)
    job = mapped(services, spoiled)
    assert services.worker.step()
    process = started(replace(services.config, lease_seconds=LEASE), PATIENCE, tmp_path / "log", stalled=1.0)
    process.join(PATIENCE)
    assert process.exitcode == os.EX_TEMPFAIL
    assert "work stalled" in (tmp_path / "log").read_text()
    until(lambda: not services.worker.step() and services.batches.get(job.id).state is State.DONE)
    assert services.batches.get(job.id).summary.quarantined == 0


def test_a_chunk_that_fails_three_times_is_quarantined(portal, spoiled, monkeypatch) -> None:
    scored, tries = worker.score_block, []

    def fragile(work, block):
        if block.positions[0] == 500:
            tries.append(block)
            raise ValueError("a fault of ours")
        return scored(work, block)

    monkeypatch.setattr(worker, "score_block", fragile)
    done = worked_off(portal, mapped(portal, spoiled))
    assert len(tries) == 3
    assert (done.summary.quarantined, done.summary.scored) == (500, 999)


def test_a_chunk_that_cannot_even_be_rejected_fails_the_job(portal, spoiled) -> None:
    job = mapped(portal, spoiled)
    assert portal.worker.step()
    lost(portal, 2 * worker.MAX_LOSSES)
    done = worked_off(portal, job)
    assert (done.state, done.summary) == (State.FAILED, None)
    assert "40 workers lost" in done.message
    with pytest.raises(NotFound):
        portal.batches.file(done, SCORED)


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("bad_luck", [True, False], ids=["bad luck", "beyond it"])
def test_a_check_or_finish_fails_the_job_only_where_workers_are_lost_beyond_bad_luck(
    portal, spoiled, steps, bad_luck
) -> None:
    job = mapped(portal, spoiled)
    for _ in range(steps):
        assert portal.worker.step()
    lost(portal, worker.MAX_LOSSES - bad_luck)
    done = worked_off(portal, job)
    assert done.state is (State.DONE if bad_luck else State.FAILED)
    assert done.message == ("" if bad_luck else "Work on this file broke off too often: 1 faults, 20 workers lost.")


@pytest.mark.parametrize("step", ["check", "join"])
def test_a_check_or_finish_that_fails_three_times_fails_the_job(services, spoiled, monkeypatch, step) -> None:
    def failing(*_):
        raise ValueError("a fault of ours")

    monkeypatch.setattr(worker, step, failing)
    done = worked_off(services, mapped(services, spoiled))
    assert (done.state, done.summary) == (State.FAILED, None)
    assert "3 faults" in done.message


def test_a_file_that_cannot_be_read_to_its_end_is_refused(portal, bank_files, tmp_path) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(bank_files["churn"].read_bytes() + "1,Müller\n".encode("latin-1"))
    done = worked_off(portal, mapped(portal, path))
    assert done.state is State.REFUSED
    assert "May.csv" in done.message
    assert str(ROWS + 2) in done.message


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_stored_file_that_was_changed_fails_the_job(portal, spoiled, steps) -> None:
    job = mapped(portal, spoiled)
    for _ in range(steps):
        assert portal.worker.step()
    path = portal.batches.storage.input(job.id)
    path.write_bytes(path.read_bytes()[:-20])
    done = worked_off(portal, job)
    assert (done.state, done.files) == (State.FAILED, None)
    assert done.message


def test_a_part_that_was_changed_fails_the_job(portal, spoiled) -> None:
    job = mapped(portal, spoiled)
    for _ in range(4):
        assert portal.worker.step()
    part = next(portal.batches.storage.parts(job.id).glob("1.*.scored.csv"))
    part.write_bytes(part.read_bytes().replace(b"Low", b"Hig"))
    done = worked_off(portal, job)
    assert (done.state, done.files) == (State.FAILED, None)
    assert "part of the results" in done.message


def test_a_model_version_that_is_refused_fails_the_job(portal, spoiled) -> None:
    job = worked_off(portal, mapped(portal, spoiled, start=False))
    portal.batches.start(job)
    forest = portal.config.models / "churn" / "v1" / "forest.npz"
    forest.write_bytes(forest.read_bytes()[:-1])
    other = wiring.build(portal.config)
    done = worked_off(other, job)
    other.database.close()
    assert done.state is State.FAILED
    assert "Churn model v1 is refused" in done.message


def test_a_file_that_starts_by_itself_waits_where_no_model_serves(portal, spoiled) -> None:
    job = mapped(portal, spoiled)
    forest = portal.config.models / "churn" / "v1" / "forest.npz"
    forest.write_bytes(forest.read_bytes()[:-1])
    other = wiring.build(portal.config)
    assert worked_off(other, job).state is State.CHECKED
    other.database.close()


def test_cancelled_at_work_nothing_is_kept(portal, spoiled, monkeypatch) -> None:
    scored = worker.score_block
    job = mapped(portal, spoiled)

    def interrupted(work, block):
        portal.batches.cancel(job)
        return scored(work, block)

    monkeypatch.setattr(worker, "score_block", interrupted)
    done = worked_off(portal, job)
    assert done.state is State.CANCELLED
    portal.worker.sweep()
    assert [path.name for path in portal.batches.storage.home(job.id).iterdir()] == ["input.csv"]


def test_told_to_stop_a_worker_gives_its_chunk_back(portal, spoiled, monkeypatch) -> None:
    job = mapped(portal, spoiled)
    portal.worker.stopping.set()
    assert portal.worker.step()
    chunk = portal.batches.store.claim("next", 0.01)
    assert (chunk.faults, chunk.losses) == (0, 0)
    time.sleep(0.05)
    portal.worker.stopping.clear()
    assert worked_off(portal, job).state is State.DONE


def test_a_full_disk_is_waited_out(portal, spoiled, monkeypatch) -> None:
    job = mapped(portal, spoiled)
    assert portal.worker.step()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(worker, "write_part", full)
        for _ in range(5):
            with pytest.raises(OSError, match="No space"):
                portal.worker.step()
    done = worked_off(portal, job)
    assert (done.state, done.summary.quarantined) == (State.DONE, 0)


@pytest.mark.parametrize("gone", ["parts", "input.csv", "."], ids=["parts", "upload", "all"])
@pytest.mark.parametrize("steps", [0, 1, 2], ids=["to be checked", "to be scored", "in the midst"])
def test_a_job_whose_files_are_gone_fails_and_holds_nobody_up(portal, spoiled, steps, gone) -> None:
    other = mapped(portal, spoiled)
    lost = mapped(portal, spoiled)
    for _ in range(2 * steps):
        assert portal.worker.step()
    path = portal.batches.storage.home(lost.id) / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    assert worked_off(portal, lost).state is State.FAILED
    assert "no longer there" in portal.batches.get(lost.id).message or gone == "input.csv"
    assert portal.batches.get(other.id).state is State.DONE


def test_a_storage_that_is_not_mounted_is_waited_for(portal, spoiled) -> None:
    job = mapped(portal, spoiled)
    folder = portal.batches.storage.folder
    away = folder.rename(folder.with_name("away"))
    folder.mkdir()
    for _ in range(5):
        with pytest.raises(FileNotFoundError):
            portal.worker.step()
    folder.rmdir()
    away.rename(folder)
    assert worked_off(portal, job).state is State.DONE


def test_a_job_without_a_folder_can_be_cancelled(portal, spoiled) -> None:
    job = mapped(portal, spoiled)
    shutil.rmtree(portal.batches.storage.home(job.id))
    assert portal.batches.cancel(job).state is State.CANCELLED


def test_a_database_that_was_away_costs_no_attempt(portal, spoiled, monkeypatch) -> None:
    job = mapped(portal, spoiled)
    assert portal.worker.step()

    def away(*_, **__):
        raise OperationalError("", {}, Exception("server closed the connection"))

    for _ in range(5):
        with monkeypatch.context() as patch:
            patch.setattr(portal.batches.store, "complete_score", away)
            with pytest.raises(OperationalError):
                portal.worker.step()
    done = worked_off(portal, job)
    assert (done.state, done.summary.quarantined) == (State.DONE, 0)


def receive_slowly(config: Config, path) -> None:
    """Upload a file of which the end never comes."""

    class Stalling(io.BytesIO):
        def read(self, size=-1):
            return super().read(1000) or time.sleep(PATIENCE)

    wiring.build(config).batches.receive(CHURN, "May.csv", Stalling(path.read_bytes()), provenance=BY_PAGE)


def test_killed_during_an_upload_there_is_no_job(portal, bank_files) -> None:
    process = SPAWN.Process(target=receive_slowly, args=(portal.config, bank_files["churn"]), daemon=True)
    process.start()
    storage = portal.batches.storage
    until(lambda: list(storage.folder.glob("*/.input.csv.*")))
    process.kill()
    process.join()
    assert portal.batches.page(None, None, 5).items == []
    (home,) = storage.folder.iterdir()
    portal.worker.sweep()
    assert home.exists()  # it could still be coming in
    for path in (*home.iterdir(), home):
        os.utime(path, (0, 0))
    portal.worker.sweep()
    assert not home.exists()


def test_sweeping_leaves_alone_what_is_not_ours(portal, bank_files) -> None:
    job = received(portal, bank_files["churn"])
    foreign = portal.batches.storage.folder / "lost+found"
    foreign.mkdir()
    for path in (foreign, *portal.batches.storage.home(job.id).iterdir(), portal.batches.storage.home(job.id)):
        os.utime(path, (0, 0))
    portal.worker.sweep()
    assert foreign.exists()
    assert portal.batches.sample(job, 1)


def test_a_worker_waits_for_a_database_that_is_not_set_up(tmp_path) -> None:
    services, stopping = wiring.build(config_for(tmp_path / "empty")), threading.Event()
    assert not wiring.is_migrated(services)
    assert not (tmp_path / "empty" / "portal.sqlite3").exists()
    threading.Timer(0.2, wiring.upgrade, [services]).start()
    assert command._wait_for_database(services, stopping)
    stopping.set()
    assert not command._wait_for_database(services, stopping)
    services.database.close()


@pytest.fixture
def keeper(config, monkeypatch):
    """The command as it runs, with two workers."""
    if not (shutil.which("pgrep") and shutil.which("ps")):
        pytest.skip("no pgrep and ps to see processes with: install procps to try it")
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(config.instance))
    monkeypatch.setenv("BANKPORTAL_SECRET_KEY", config.secret_key)
    command = [sys.executable, "-m", "flask", "worker", "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        until(lambda: len(children(process.pid)) == 2)
        yield process
        process.kill()


def test_workers_that_die_are_started_again_and_end_with_their_keeper(keeper) -> None:
    first, second = children(keeper.pid)
    os.kill(first, signal.SIGKILL)
    until(lambda: second in children(keeper.pid) and len(set(children(keeper.pid)) - {first}) == 2)
    workers = children(keeper.pid)
    keeper.kill()
    keeper.wait()
    until(lambda: not any(alive(pid) for pid in workers))


def test_the_command_ends_cleanly_when_told_to(keeper) -> None:
    assert any("worker ready" in line for line in keeper.stdout)
    workers = children(keeper.pid)
    keeper.terminate()
    output = keeper.stdout.read()
    assert keeper.wait() == 0
    assert "worker ended" in output
    assert not any(alive(pid) for pid in workers)


def test_told_over_and_over_the_command_ends_all_the_same(keeper) -> None:
    assert any("worker ready" in line for line in keeper.stdout)
    workers = children(keeper.pid)
    for _ in range(300):
        for pid in (*workers, keeper.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
    keeper.stdout.read()
    assert keeper.wait(PATIENCE) == 0
    assert not any(alive(pid) for pid in workers)


def children(pid: int) -> list[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return sorted(map(int, listed.stdout.split()))


def alive(pid: int) -> bool:
    """Say whether a process runs; one that ended and that nobody has asked about does not."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(listed.stdout.strip()) and not listed.stdout.startswith("Z")
