"""A worker: claims chunks, works on them, and hands in what came of it, until it is told to stop.

It may be killed at any moment: what it held goes to another when its lease has run out, and nothing half done counts.
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
from bankportal.domain.errors import DataRefused, NoActiveModel, PortalError, VersionRefused
from bankportal.domain.products import PRODUCTS
from bankportal.services.batches.checking import BLOCK_ROWS, check
from bankportal.services.batches.chunks import Part, score_block, work_of
from bankportal.services.batches.isolated_run import crashes_the_worker
from bankportal.services.batches.parts import NOT_UPLOADED, FilesChanged, join, quarantined_part, write_part
from bankportal.services.batches.uploads import scoring_versions
from bankportal.services.models import Models
from bankportal.store.jobs import JobStore, LeaseLost, ScoringVersions
from bankportal.store.storage import Storage, file_digest

IDLE = 0.5  # seconds between looks for work
MAX_PAUSE = 30.0  # seconds, after faults of database or storage
SWEEP_EVERY = 600.0  # seconds
STALLED = 600.0  # seconds without a heartbeat: the longest way between two is a block of rows, or a model to be loaded
MAX_FAULTS = 3
# Lost workers prove nothing, so the limit is far above what bad luck does. It is there because a chunk that takes more
# than its own process along, the container for one, would otherwise be tried for ever.
MAX_LOSSES = 20

NOT_THERE = "The stored file, or what was made of it so far, is no longer there."

log = structlog.get_logger()


class Stopping(PortalError):
    """The worker was told to stop before its chunk was done."""

    code = "stopping"


class IsolatedRunCrashed(PortalError):
    """Scoring a chunk killed the process that tried it."""

    code = "trial-died"


class Lease:
    """Holds a chunk during a `with` block: renews its lease in the background, and says how far the work is.

    Where the work has not beaten for `STALLED` seconds it ends the process: a thread that hangs cannot be ended alone.
    """

    def __init__(self, store: JobStore, chunk: Chunk, seconds: float):
        self.store, self.chunk, self.seconds = store, chunk, seconds
        self._lost = False
        self._renewed = self._last_heartbeat = time.monotonic()
        self._rows = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def heartbeat(self, rows: int = 0) -> None:
        """Note how many rows are done; `LeaseLost` where the chunk is another's by now."""
        self._rows, self._last_heartbeat = rows, time.monotonic()
        # A process that was stopped for long finds out here at once, before its thread has asked the database.
        if self._lost or time.monotonic() - self._renewed > self.seconds:
            raise LeaseLost("The chunk was taken over by another worker, or its job was stopped.")

    def _keep(self) -> None:
        told = 0
        while not self._over.wait(min(1.0, self.seconds / 6)):
            if time.monotonic() - self._last_heartbeat > STALLED:
                log.error("work stalled, process ends", job=self.chunk.job_number, place=self.chunk.place)
                os._exit(os.EX_TEMPFAIL)
            if self._rows == told and time.monotonic() - self._renewed < self.seconds / 3:
                continue
            try:
                rows, begun = self._rows, time.monotonic()
                self.store.renew(self.chunk, self.seconds, rows)
                told, self._renewed = rows, begun
            except LeaseLost:
                self._lost = True
                return
            except SQLAlchemyError as error:
                log.warning("lease not renewed", why=str(error))


class Worker:
    """One process's worker."""

    def __init__(self, config: Config, store: JobStore, storage: Storage, models: Models):
        self.config = config
        self.store = store
        self.storage = storage
        self.models = models
        self.stopping = threading.Event()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._owed: Chunk | None = None  # could not be given back when the database did not answer

    def run(self, stopping: threading.Event) -> None:
        """Work until told to stop, then finish or give back what is in hand; faults of the database are waited out."""
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
        """Load what the jobs at work need before a chunk is held: loading takes longer than a chunk."""
        try:
            for key in self.store.products_at_work():
                self.models.serving(PRODUCTS[key]).warm_up()
        except (NoActiveModel, SQLAlchemyError) as error:
            log.warning("not warmed up", worker=self.name, why=str(error))

    def sweep(self) -> None:
        """Remove uploads that never became a job and what jobs at rest left."""
        for orphan in self.storage.sweep(self.store.states):
            log.info("orphan removed", upload=orphan)

    def step(self) -> bool:
        """Work on one chunk; `False` where there is none. Faults of database and storage go to the caller."""
        self._give_back_owed()
        chunk = self.store.claim(self.name, self.config.lease_seconds)
        if chunk is None:
            return False
        about = {"worker": self.name, "job": chunk.job_number, "step": chunk.step.value, "place": chunk.place}
        begun = time.monotonic()
        try:
            with Lease(self.store, chunk, self.config.lease_seconds) as lease:
                self._work(chunk, lease)
            log.info("chunk done", **about, seconds=round(time.monotonic() - begun, 2))
        except LeaseLost as error:
            log.warning("chunk lost", **about, why=str(error))
        except Stopping:
            self._give_back(chunk, at_fault=False)
            log.info("chunk given back", **about)
        except IsolatedRunCrashed as error:
            log.error("chunk failed", **about, faults=chunk.faults + 1, why=str(error))
            self._give_back(chunk, at_fault=True)
        except OSError:  # of the storage: nothing is wrong with the chunk, unless another has finished it
            if self._give_back(chunk, at_fault=False):
                raise
        except SQLAlchemyError:
            self._owed = chunk
            raise
        except Exception:
            log.exception("chunk failed", **about, faults=chunk.faults + 1)
            self._give_back(chunk, at_fault=True)
        return True

    def _give_back_owed(self) -> None:
        if self._owed:
            self._give_back(self._owed, at_fault=False)
            self._owed = None

    def _give_back(self, chunk: Chunk, *, at_fault: bool) -> bool:
        """Give a chunk back; `False` where it was not held any more."""
        try:
            self.store.release(chunk, at_fault=at_fault)
        except LeaseLost as error:
            log.warning("chunk lost", worker=self.name, job=chunk.job_number, why=str(error))
            return False
        return True

    def _work(self, chunk: Chunk, lease: Lease) -> None:
        job = self.store.numbered(chunk.job_number)
        doing = {Stage.CHECK: self._check, Stage.SCORE: self._score, Stage.FINISH: self._finish}[chunk.step]
        if _given_up(chunk, times=2 if chunk.step is Stage.SCORE else 1):  # its first time is the quarantine
            said = f"Work on this file broke off too often: {chunk.faults} faults, {chunk.losses} workers lost."
            self._end(chunk, job, State.FAILED, said)
            return
        try:
            doing(chunk, job, lease)
        except FileNotFoundError:
            if not self.storage.has_lost(job.id):
                raise
            self._end(chunk, job, State.FAILED, NOT_THERE)
        except (VersionRefused, FilesChanged) as error:
            self._end(chunk, job, State.FAILED, str(error))
        except DataRefused as error:
            self._end(chunk, job, State.REFUSED if chunk.step is Stage.CHECK else State.FAILED, str(error))

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
        by = self._answering(job) if job.start_when_checked else None
        self.store.complete_check(chunk, survey.checked, survey.spans, {name: survey.rejects_digest}, by)

    def _answering(self, job: Job) -> ScoringVersions | None:
        """Return who answers a job that starts by itself; without a model it waits for its start."""
        try:
            return scoring_versions(self.models, job.product)
        except NoActiveModel as error:
            log.error("job not started", worker=self.name, job=job.id, why=str(error))
            return None

    def _score(self, chunk: Chunk, job: Job, lease: Lease) -> None:
        quarantined = _given_up(chunk)
        if chunk.losses and not quarantined:
            self._run_isolated(chunk, job, lease)
        parts = self._rejected(chunk, job, lease) if quarantined else self._scored(chunk, job, lease)
        part = write_part(self.storage.parts(job.id), chunk, parts)
        self.store.complete_score(chunk, part.scored, part.rejected, part.files, quarantined=quarantined)

    def _run_isolated(self, chunk: Chunk, job: Job, lease: Lease) -> None:
        """Raise `IsolatedRunCrashed` where scoring the chunk kills whoever does it."""
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
        """Return what long work calls between pieces: it ends where the lease is lost or the worker must stop."""

        def heartbeat(rows: int = 0) -> None:
            lease.heartbeat(rows)
            if self.stopping.is_set():
                raise Stopping("The worker was told to stop.")

        return heartbeat


def _given_up(chunk: Chunk, times: int = 1) -> bool:
    return chunk.faults >= times * MAX_FAULTS or chunk.losses >= times * MAX_LOSSES
