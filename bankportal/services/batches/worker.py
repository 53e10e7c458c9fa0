"""A worker: claims chunks, works on them and records their results, until it is stopped.

A worker may be killed at any moment. Another one takes its chunk over when the lease has expired; only a chunk that was
completed counts.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import structlog
from sqlalchemy.exc import SQLAlchemyError

from bankportal.config import Config
from bankportal.data.blocks import Layout, blocks
from bankportal.domain.batch import REJECTS, Chunk, Job, Stage, State
from bankportal.domain.errors import Conflict, DataRefused, NoActiveModel, PortalError, VersionRefused
from bankportal.domain.portfolio import Portfolio
from bankportal.services.batches.checking import BLOCK_ROWS, check
from bankportal.services.batches.chunks import Part, score_block, work_of
from bankportal.services.batches.isolated_run import crashes_the_worker
from bankportal.services.batches.parts import NOT_UPLOADED, FilesChanged, join, quarantined_part, write_part
from bankportal.services.batches.starting import scoring_versions
from bankportal.services.models import Models
from bankportal.store.jobs import JobStore, LeaseLost, ScoringVersions
from bankportal.store.storage import Storage, file_digest

IDLE = 0.5  # seconds between looks for work
MAX_PAUSE = 30.0  # seconds, after faults of database or storage
SWEEP_EVERY = 600.0  # seconds
STALLED = 600.0  # seconds without a heartbeat; the longest work between two is a block of rows, or loading a model
MAX_FAULTS = 3
# Lost workers prove nothing, so this is far more than happens by chance. It is needed for a chunk that ends more than
# its own process, such as the container: it would be tried for ever.
MAX_LOSSES = 20

FILES_GONE = "The stored file, or what was made of it so far, is no longer there."

log = structlog.get_logger()


class Stopping(PortalError):
    """The worker is being stopped before its chunk is done."""

    code = "stopping"


class IsolatedRunCrashed(PortalError):
    """The isolated run of a chunk crashed or hung."""

    code = "isolated-run-crashed"


class Lease:
    """Holds a chunk during a `with` block: renews its lease in the background and reports how far the work is.

    It ends the process where there was no heartbeat for `STALLED` seconds: a thread that hangs cannot be ended alone.
    """

    def __init__(self, store: JobStore, chunk: Chunk, seconds: float):
        self.store, self.chunk, self.seconds = store, chunk, seconds
        self._lost = False
        self._renewed = self._last_heartbeat = time.monotonic()
        self._rows = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def heartbeat(self, rows: int = 0) -> None:
        """Report how many rows are done; `LeaseLost` where another worker may have the chunk by now."""
        self._rows, self._last_heartbeat = rows, time.monotonic()
        # A process that was suspended for long notices it here, before its thread has asked the database.
        if self._lost or time.monotonic() - self._renewed > self.seconds:
            raise LeaseLost("The chunk was taken over by another worker, or its job was stopped.")

    def _renew(self) -> None:
        """Renew the lease until the block ends, whenever rows are done or a third of the lease has passed."""
        reported = 0
        while not self._over.wait(min(1.0, self.seconds / 6)):
            if time.monotonic() - self._last_heartbeat > STALLED:
                log.error("work stalled, process ends", job=self.chunk.job_number, place=self.chunk.place)
                os._exit(os.EX_TEMPFAIL)
            if self._rows == reported and time.monotonic() - self._renewed < self.seconds / 3:
                continue
            try:
                rows, begun = self._rows, time.monotonic()
                self.store.renew(self.chunk, self.seconds, rows)
                reported, self._renewed = rows, begun
            except LeaseLost:
                self._lost = True
                return
            except SQLAlchemyError as error:
                log.warning("lease not renewed", why=str(error))


class Worker:
    """One process's worker."""

    def __init__(
        self, config: Config, store: JobStore, storage: Storage, models: Models, portfolio: Callable[[], Portfolio]
    ):
        """`portfolio` returns the products that are in force, under which jobs are started."""
        self.config = config
        self.portfolio = portfolio
        self.store = store
        self.storage = storage
        self.models = models
        self.stopping = threading.Event()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._unreleased: Chunk | None = None  # a chunk that could not be released while the database did not answer

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set, then release the chunk; while the database or the storage fails, wait."""
        self.stopping = stopping
        self.warm_up()
        log.info("worker ready", worker=self.name)
        pause, swept = IDLE, -SWEEP_EVERY
        while not self.stopping.is_set():
            try:
                worked, pause = self.step(), IDLE
                if not worked and time.monotonic() - swept >= SWEEP_EVERY:
                    self.sweep()
                    swept = time.monotonic()
            except (SQLAlchemyError, OSError) as error:
                log.error("worker waits", worker=self.name, why=str(error), seconds=pause)
                worked, pause = False, min(2 * pause, MAX_PAUSE)
            if not worked:
                self.stopping.wait(pause)
        log.info("worker ended", worker=self.name)

    def warm_up(self) -> None:
        """Load the models of the jobs in work before a chunk is claimed, since loading takes longer than a chunk."""
        try:
            for job in self.store.at_work():
                work_of(self.models, job).model.warm_up()
        except (VersionRefused, SQLAlchemyError) as error:
            log.warning("not warmed up", worker=self.name, why=str(error))

    def sweep(self) -> None:
        """Remove uploads without a job, and the intermediate files of jobs that have ended."""
        for orphan in self.storage.sweep(self.store.states):
            log.info("orphan removed", upload=orphan)

    def step(self) -> bool:
        """Work on one chunk; return `False` where there is none. Errors of the database and the storage are raised."""
        if self._unreleased:
            self._release(self._unreleased, at_fault=False)
            self._unreleased = None
        chunk = self.store.claim(self.name, self.config.lease_seconds)
        if chunk is None:
            return False
        about = {"worker": self.name, "job": chunk.job_number, "step": chunk.stage.value, "place": chunk.place}
        begun = time.monotonic()
        try:
            with Lease(self.store, chunk, self.config.lease_seconds) as lease:
                self._work(chunk, lease)
            log.info("chunk done", **about, seconds=round(time.monotonic() - begun, 2))
        except LeaseLost as error:
            log.warning("chunk lost", **about, why=str(error))
        except Stopping:
            self._release(chunk, at_fault=False)
            log.info("chunk given back", **about)
        except IsolatedRunCrashed as error:
            log.error("chunk failed", **about, faults=chunk.faults + 1, why=str(error))
            self._release(chunk, at_fault=True)
        except OSError:  # of the storage: the chunk is not at fault; another worker may have finished it
            if self._release(chunk, at_fault=False):
                raise
        except SQLAlchemyError:
            self._unreleased = chunk
            raise
        except Exception:
            log.exception("chunk failed", **about, faults=chunk.faults + 1)
            self._release(chunk, at_fault=True)
        return True

    def _release(self, chunk: Chunk, *, at_fault: bool) -> bool:
        """Release a chunk; return `False` where this worker did not hold it any more."""
        try:
            self.store.release(chunk, at_fault=at_fault)
        except LeaseLost as error:
            log.warning("chunk lost", worker=self.name, job=chunk.job_number, why=str(error))
            return False
        return True

    def _work(self, chunk: Chunk, lease: Lease) -> None:
        job = self.store.numbered(chunk.job_number)
        work = {Stage.CHECK: self._check, Stage.SCORE: self._score, Stage.FINISH: self._finish}[chunk.stage]
        # A score chunk is quarantined first; it fails the job where it cannot even be rejected.
        if _failed_too_often(chunk, times=2 if chunk.stage is Stage.SCORE else 1):
            message = f"Work on this file broke off too often: {chunk.faults} faults, {chunk.losses} workers lost."
            self._end(chunk, job, State.FAILED, message)
            return
        try:
            work(chunk, job, lease)
        except FileNotFoundError:
            if not self.storage.has_lost(job.id):
                raise
            self._end(chunk, job, State.FAILED, FILES_GONE)
        except (VersionRefused, FilesChanged) as error:
            self._end(chunk, job, State.FAILED, str(error))
        except DataRefused as error:
            self._end(chunk, job, State.REFUSED if chunk.stage is Stage.CHECK else State.FAILED, str(error))

    def _end(self, chunk: Chunk, job: Job, state: State, message: str) -> None:
        self.store.end(chunk, state, message)
        self.storage.tidy(job.id)
        log.error("job ended", worker=self.name, job=job.id, state=state.value, why=message)

    def _check(self, chunk: Chunk, job: Job, lease: Lease) -> None:
        source, name = self.storage.input(job.id), f"check.{chunk.number}.{chunk.token}.{REJECTS}"
        heartbeat = self._heartbeat(lease)
        if file_digest(source, heartbeat) != job.input_digest:
            raise FilesChanged(NOT_UPLOADED)
        survey = check(job, source, self.storage.home(job.id) / name, heartbeat)
        versions = self._scoring_versions(job) if job.start_when_checked else None
        self.store.complete_check(chunk, survey.checked, survey.spans, {name: survey.rejects_digest}, versions)

    def _scoring_versions(self, job: Job) -> ScoringVersions | None:
        """Return the versions for a job that starts by itself; `None` where it cannot: it waits to be started."""
        try:
            return scoring_versions(self.models, self.portfolio(), job)
        except (NoActiveModel, Conflict) as error:
            log.error("job not started", worker=self.name, job=job.id, why=str(error))
            return None

    def _score(self, chunk: Chunk, job: Job, lease: Lease) -> None:
        quarantined = _failed_too_often(chunk)
        if chunk.losses and not quarantined:
            self._run_isolated(chunk, job, lease)
        parts = self._rejected(chunk, job, lease) if quarantined else self._scored(chunk, job, lease)
        part = write_part(self.storage.parts(job.id), chunk, parts)
        self.store.complete_score(chunk, part.scored, part.rejected, part.files, quarantined=quarantined)

    def _run_isolated(self, chunk: Chunk, job: Job, lease: Lease) -> None:
        """Raise `IsolatedRunCrashed` where scoring the chunk crashes the process that does it."""
        source, heartbeat = self.storage.input(job.id), self._heartbeat(lease)
        if crashes_the_worker(job, chunk.span, source, self.config.models, heartbeat, STALLED):
            raise IsolatedRunCrashed("The process that tried it died or hung.")

    def _scored(self, chunk: Chunk, job: Job, lease: Lease) -> Iterator[Part]:
        work = work_of(self.models, job)
        for block in blocks(self.storage.input(job.id), work.layout, BLOCK_ROWS, chunk.span, name=job.file_name):
            yield score_block(work, block)
            lease.heartbeat()

    def _rejected(self, chunk: Chunk, job: Job, lease: Lease) -> Iterator[Part]:
        layout = Layout.from_json(job.layout)
        for block in blocks(self.storage.input(job.id), layout, BLOCK_ROWS, chunk.span, name=job.file_name):
            yield quarantined_part(layout, block)
            lease.heartbeat()

    def _finish(self, chunk: Chunk, job: Job, lease: Lease) -> None:
        done = self.store.finished_chunks(job)
        joined = join(job, work_of(self.models, job), self.storage, chunk, done, self._heartbeat(lease))
        self.store.complete_finish(chunk, joined.summary, joined.files, joined.publish)
        self.storage.tidy(job.id)

    def _heartbeat(self, lease: Lease) -> Callable[..., None]:
        """Return the function that long work calls regularly.

        It raises `LeaseLost` where the lease is lost, and `Stopping` where the worker is being stopped.
        """

        def heartbeat(rows: int = 0) -> None:
            lease.heartbeat(rows)
            if self.stopping.is_set():
                raise Stopping("The worker was told to stop.")

        return heartbeat


def _failed_too_often(chunk: Chunk, times: int = 1) -> bool:
    return chunk.faults >= times * MAX_FAULTS or chunk.losses >= times * MAX_LOSSES
