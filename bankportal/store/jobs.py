"""Jobs and their chunks in the database: claims, leases, progress and results.

A claim lends a chunk to one worker until its lease runs out, by the database's clock. Every write of a worker names the
chunk's token and needs a lease that still runs, in the same transaction: a worker that lost its chunk writes nothing.
A transaction that changes a job and its chunks locks the job's row first, so that two of them cannot deadlock.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Row,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from bankportal.domain.batch import CheckResult, Chunk, Job, ProblemExample, ProblemGroup, Span, Stage, State, Summary
from bankportal.domain.errors import Conflict, NotFound, PortalError
from bankportal.domain.ids import is_id
from bankportal.domain.products import Product
from bankportal.domain.provenance import Provenance
from bankportal.domain.receipt import Record
from bankportal.store.decisions import provenance_from
from bankportal.store.declarations import DeclarationStore
from bankportal.store.receipts import add_batch
from bankportal.store.sessions import Database
from bankportal.store.tables import chunks, jobs

# A chunk's states. HELD chunks wait for their job's start.
HELD, WAITING, WORKING, DONE, QUARANTINED = "held", "waiting", "working", "done", "quarantined"
# Seconds since 1970 by the database's clock, which all workers share.
CLOCK = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())::double precision",
}
NOTHING_TO_SCORE = "No row of this file can be scored. Correct what the rejects name and upload the file again."


class LeaseLost(PortalError):
    """A worker no longer holds its chunk: the lease ran out, or the job was stopped. Nothing was written."""

    code = "lease-lost"


@dataclass(frozen=True)
class Upload:
    """A stored file that becomes a job. `layout` is `data.blocks.Layout` as plain data; digests are SHA-256 in hex."""

    id: str
    product: Product
    file_name: str
    input_digest: str
    input_bytes: int
    header_digest: str
    layout: Mapping[str, Any]
    provenance: Provenance


@dataclass(frozen=True)
class ScoringVersions:
    """Who scores a job's rows: a model version, and the policy of `product`, under whose declarations they are."""

    model_version: str
    model_digest: str
    product: Product


@dataclass(frozen=True)
class Pace:
    """Rows done in a job's present stage, and seconds since its first claim; `None` before that."""

    rows_done: int
    seconds: float | None


@dataclass(frozen=True)
class Finished:
    """A finished score chunk: its place, and its part's files by kind, each name with its SHA-256."""

    place: int
    scored: int
    rejected: int
    quarantined: bool
    files: Mapping[str, str]


class JobStore:
    """The jobs and chunks. Nothing here reads or writes files."""

    def __init__(self, database: Database, declarations: DeclarationStore):
        self.database = database
        self.declarations = declarations

    # Jobs, as pages see them

    def add(self, upload: Upload, key: str | None) -> Job:
        """Record an upload as a job and return it; return the job with this `key` (SHA-256, hex) where there is one.

        `Conflict` where that job has other content, or the product's declaration was never applied.
        """
        values = {name: value for name, value in vars(upload).items() if name != "provenance"}
        values |= {"product": upload.product.key, "key": key, "at": datetime.now(UTC)}
        values |= {"actor": upload.provenance.actor, "door": upload.provenance.door.value}
        values |= self.declarations.numbers_of(upload.product)
        values |= {"state": State.UPLOADED.value, "start_when_checked": False, "message": ""}
        try:
            with self.database.write() as connection:
                connection.execute(insert(jobs).values(values))
        except IntegrityError:
            if key and (known := self._with_key(key)):
                return _require_same(known, upload)
            raise
        return self.get(upload.id)

    def _with_key(self, key: str) -> Job | None:
        with self.database.read() as connection:
            row = connection.execute(_read().where(jobs.c.key == key)).first()
            return self._read_job(connection, row) if row else None

    def get(self, id: str) -> Job:  # noqa: A002  # the field's name
        """Return one job; `NotFound` if there is none."""
        with self.database.read() as connection:
            return self._job(connection, jobs.c.id == (id if is_id(id) else ""))

    def numbered(self, number: int) -> Job:
        """Return the job of a chunk; `NotFound` if there is none."""
        with self.database.read() as connection:
            return self._job(connection, jobs.c.number == number)

    def page(self, product: str | None, before: str | None, size: int) -> list[Job]:
        """Return up to `size` jobs older than the job `before`, newest first; none if there is no such."""
        query = _read().order_by(jobs.c.number.desc()).limit(size)
        if product:
            query = query.where(jobs.c.product == product)
        if before:
            anchor = select(jobs.c.number).where(jobs.c.id == (before if is_id(before) else "")).scalar_subquery()
            query = query.where(jobs.c.number < anchor)
        with self.database.read() as connection:
            return [self._read_job(connection, row) for row in connection.execute(query)]

    def finished_like(self, job: Job) -> list[Job]:
        """Return the other finished jobs of the same product and file, newest first."""
        same = (jobs.c.product == job.product.key, jobs.c.input_digest == job.input_digest, jobs.c.id != job.id)
        query = _read().where(*same, jobs.c.state == State.DONE.value).order_by(jobs.c.number.desc())
        with self.database.read() as connection:
            return [self._read_job(connection, row) for row in connection.execute(query)]

    def confirm(self, job: Job, mapping: Mapping[str, str], *, start: bool) -> Job:
        """Record a mapping and have the file checked with it; `Conflict` where another mapping is already used."""
        with self._changing(job) as (connection, job):
            same = job.mapping is not None and dict(job.mapping) == dict(mapping)
            if job.state is State.UPLOADED or (job.state is State.CHECKED and not same):
                _check_anew(connection, job, mapping, start=start)
            elif not same:
                raise Conflict(f"This file is {job.state.value}: its mapping cannot be changed any more.")
            elif start and job.state is State.CHECKING:
                _set(connection, job.number, start_when_checked=True)
            return self._job(connection, jobs.c.number == job.number)

    def start(self, job: Job, versions: ScoringVersions) -> Job:
        """Have a checked job scored with these versions; return it unchanged where it was started already.

        `Conflict` where it is in any other state, or no row of it can be scored.
        """
        with self._changing(job) as (connection, job):
            if job.state in {State.SCORING, State.DONE}:
                return job
            if job.state is not State.CHECKED or job.checked is None:
                raise Conflict(f"This file is {job.state.value}: only a checked file can be scored.")
            if not job.checked.good:
                raise Conflict(NOTHING_TO_SCORE)
            self._start(connection, job.number, versions)
            return self._job(connection, jobs.c.number == job.number)

    def _start(self, connection: Connection, number: int, versions: ScoringVersions) -> None:
        values = self.declarations.numbers_of(versions.product) | {"policy_version": versions.product.policy_version}
        values |= {"model_version": versions.model_version, "model_digest": versions.model_digest}
        _set(connection, number, state=State.SCORING.value, started_at=datetime.now(UTC), **values)
        connection.execute(update(chunks).where(*_held(number)).values(state=WAITING))

    def cancel(self, job: Job) -> Job:
        """Stop a job for good; return it unchanged where it is at rest."""
        with self._changing(job) as (connection, job):
            if not job.state.at_rest:
                _end(connection, job.number, State.CANCELLED, "")
            return self._job(connection, jobs.c.number == job.number)

    def withdraw(self, job: Job) -> bool:
        """Remove a job without a confirmed mapping, and its key; return whether there was one."""
        unconfirmed = (jobs.c.number == job.number, jobs.c.state == State.UPLOADED.value)
        with self.database.write() as connection:
            return connection.execute(delete(jobs).where(*unconfirmed)).rowcount == 1

    def _job(self, connection: Connection, which: ColumnElement[bool]) -> Job:
        row = connection.execute(_read().where(which)).first()
        if row is None:
            raise NotFound("There is no such batch.")
        return self._read_job(connection, row)

    def _read_job(self, connection: Connection, row: Row[Any]) -> Job:
        record = row._asdict()
        return read_job(record, self.declarations.product_of(record, connection))

    @contextmanager
    def _changing(self, job: Job) -> Iterator[tuple[Connection, Job]]:
        with self.database.write() as connection:
            _lock(connection, job.number)
            yield connection, self._job(connection, jobs.c.number == job.number)

    def pace(self, job: Job) -> Pace:
        """Return how far the job's present stage is."""
        totals = select(func.coalesce(func.sum(chunks.c.rows_done), 0), self._clock() - func.min(chunks.c.began))
        step = Stage.CHECK if job.state is State.CHECKING else Stage.SCORE
        with self.database.read() as connection:
            rows_done, seconds = connection.execute(
                totals.where(chunks.c.job_number == job.number, chunks.c.step == step.value)
            ).one()
        return Pace(int(rows_done), seconds)

    def silence(self, job: Job, lease_seconds: float) -> float | None:
        """Return the seconds since a worker renewed any lease or claimed a chunk of this job; `None` where none did."""
        renewed = case((chunks.c.state == WORKING, chunks.c.lease_until - lease_seconds), else_=chunks.c.began)
        query = select(self._clock() - func.max(renewed))
        with self.database.read() as connection:
            of_job_or_at_work = or_(chunks.c.job_number == job.number, chunks.c.state == WORKING)
            return connection.execute(query.where(of_job_or_at_work)).scalar()

    def rejects_file(self, job: Job) -> str | None:
        """Return the name of the rejects that a job's check left."""
        query = select(chunks.c.files).where(chunks.c.job_number == job.number, chunks.c.step == Stage.CHECK.value)
        with self.database.read() as connection:
            files = connection.execute(query.where(chunks.c.state == DONE)).scalar()
        return next(iter(files), None) if files else None

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        """Return the states of those jobs that are recorded."""
        query = select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(ids))
        with self.database.read() as connection:
            return {id_: State(state) for id_, state in connection.execute(query)}

    # Chunks, as workers see them

    def at_work(self) -> list[Job]:
        """Return the jobs that are being scored, oldest first."""
        query = _read().where(jobs.c.state == State.SCORING.value).order_by(jobs.c.number)
        with self.database.read() as connection:
            return [self._read_job(connection, row) for row in connection.execute(query).all()]

    def claim(self, worker: str, lease_seconds: float) -> Chunk | None:
        """Lend a worker the next chunk that waits or whose lease has run out; `None` where there is none.

        Chunks are ordered by their place in the job, then by age, so that jobs take turns. A lease that has run out
        counts as a lost worker; the first lost worker counts as a fault of the chunk too.
        """
        lapsed = and_(chunks.c.state == WORKING, chunks.c.lease_until <= self._clock())
        free = select(chunks.c.number).where(or_(chunks.c.state == WAITING, lapsed))
        first = free.order_by(chunks.c.place, chunks.c.number).limit(1).with_for_update(skip_locked=True)
        lost = case((chunks.c.state == WORKING, 1), else_=0)
        first_lost = case((chunks.c.losses == 0, lost), else_=0)
        values = {
            "state": WORKING,
            "worker": worker[:100],
            "token": chunks.c.token + 1,
            "faults": chunks.c.faults + first_lost,
            "losses": chunks.c.losses + lost,
            "lease_until": self._clock() + lease_seconds,
            "began": func.coalesce(chunks.c.began, self._clock()),
            "rows_done": 0,
        }
        claimed = update(chunks).where(chunks.c.number == first.scalar_subquery()).values(values).returning(chunks)
        with self.database.write() as connection:
            row = connection.execute(claimed).first()
        return _chunk(row) if row else None

    def renew(self, chunk: Chunk, lease_seconds: float, rows_done: int = 0) -> None:
        """Extend a lease that still runs and record the rows done; `LeaseLost` where it has run out."""
        with self.database.write() as connection:
            self._hold(connection, chunk, lease_until=self._clock() + lease_seconds, rows_done=rows_done)

    def release(self, chunk: Chunk, *, at_fault: bool) -> None:
        """Give a chunk back for another worker, with one more fault where it was `at_fault`; `LeaseLost` as `renew`."""
        faults = chunk.faults + at_fault
        with self.database.write() as connection:
            self._hold(connection, chunk, state=WAITING, lease_until=None, faults=faults, rows_done=0)

    def complete_check(
        self,
        chunk: Chunk,
        checked: CheckResult,
        spans: Sequence[Span],
        files: Mapping[str, str],
        versions: ScoringVersions | None,
    ) -> None:
        """Record the result of a check and the spans to score; start scoring at once where there are `versions`."""
        message = "" if checked.good else NOTHING_TO_SCORE
        with self._completing(chunk, DONE, rows_done=checked.rows, files=files) as connection:
            _set(connection, chunk.job_number, checked=checked.to_record(), state=State.CHECKED.value, message=message)
            add = [_new_chunk(chunk.job_number, Stage.SCORE, place, HELD, span) for place, span in enumerate(spans)]
            connection.execute(insert(chunks), add)
            if versions and checked.good:
                self._start(connection, chunk.job_number, versions)

    def complete_score(
        self, chunk: Chunk, scored: int, rejected: int, files: Mapping[str, str], *, quarantined: bool = False
    ) -> None:
        """Record a scored part and its files; the last part of a job adds the chunk that finishes it."""
        values = {"rows_done": scored + rejected, "scored": scored, "rejected": rejected, "files": files}
        with self._completing(chunk, QUARANTINED if quarantined else DONE, **values) as connection:
            undone = and_(chunks.c.step == Stage.SCORE.value, chunks.c.state.not_in((DONE, QUARANTINED)))
            left = select(func.count()).where(chunks.c.job_number == chunk.job_number, undone)
            if not connection.execute(left).scalar_one():
                connection.execute(insert(chunks), [_new_chunk(chunk.job_number, Stage.FINISH, 0, WAITING)])

    def complete_finish(
        self, chunk: Chunk, summary: Summary, files: Mapping[str, str], publish: Callable[[], None]
    ) -> Job:
        """Mark a job as done and add it to the chain of receipts.

        `publish` moves the files to their places within the transaction: a worker that lost its lease moves none.
        """
        values = {"state": State.DONE.value, "summary": summary.to_record(), "files": dict(files), "message": ""}
        with self._completing(chunk, DONE) as connection:
            _set(connection, chunk.job_number, finished_at=datetime.now(UTC), **values)
            job = self._job(connection, jobs.c.number == chunk.job_number)
            publish()
            add_batch(connection, self.database, job)
        return job

    def end(self, chunk: Chunk, state: State, message: str) -> None:
        """Stop the job of a chunk as REFUSED or FAILED, and say why; `LeaseLost` as `renew`."""
        with self._completing(chunk, DONE) as connection:
            _end(connection, chunk.job_number, state, message)

    def finished_chunks(self, job: Job) -> list[Finished]:
        """Return a job's finished score chunks in the file's order."""
        of_job = (chunks.c.job_number == job.number, chunks.c.step == Stage.SCORE.value)
        query = select(chunks).where(*of_job, chunks.c.state.in_((DONE, QUARANTINED))).order_by(chunks.c.place)
        with self.database.read() as connection:
            return [
                Finished(row.place, row.scored, row.rejected, row.state == QUARANTINED, row.files)
                for row in connection.execute(query)
            ]

    def score_spans(self, job: Job) -> list[tuple[Span, bool]]:
        """Return the spans a job was scored in, in the file's order, and whether each was quarantined."""
        of_job = (chunks.c.job_number == job.number, chunks.c.step == Stage.SCORE.value)
        query = select(chunks.c.span, chunks.c.state).where(*of_job).order_by(chunks.c.place)
        with self.database.read() as connection:
            return [(Span(**span), state == QUARANTINED) for span, state in connection.execute(query)]

    @contextmanager
    def _completing(self, chunk: Chunk, state: str, **values: Any) -> Iterator[Connection]:
        with self.database.write() as connection:
            _lock(connection, chunk.job_number)
            self._hold(connection, chunk, state=state, lease_until=None, **values)
            yield connection

    def _hold(self, connection: Connection, chunk: Chunk, **values: Any) -> None:
        """Change a chunk that is still held; `LeaseLost`, which rolls the transaction back, where it is not."""
        held = (chunks.c.number == chunk.number, chunks.c.token == chunk.token, chunks.c.state == WORKING)
        running = chunks.c.lease_until > self._clock()
        if connection.execute(update(chunks).where(*held, running).values(values)).rowcount != 1:
            raise LeaseLost("The chunk was taken over by another worker, or its job was stopped.")

    def _clock(self) -> ColumnElement[float]:
        return literal_column(CLOCK[self.database.engine.dialect.name], Float)


def _require_same(known: Job, upload: Upload) -> Job:
    if (known.input_digest, known.product.key) != (upload.input_digest, upload.product.key):
        raise Conflict("This idempotency key was used before, for another file.")
    return known


def _lock(connection: Connection, number: int) -> None:
    connection.execute(select(jobs.c.number).where(jobs.c.number == number).with_for_update())


def _set(connection: Connection, number: int, **values: Any) -> None:
    connection.execute(update(jobs).where(jobs.c.number == number).values(values))


def _check_anew(connection: Connection, job: Job, mapping: Mapping[str, str], *, start: bool) -> None:
    connection.execute(delete(chunks).where(chunks.c.job_number == job.number))
    values = {"state": State.CHECKING.value, "start_when_checked": start, "message": "", "checked": null()}
    _set(connection, job.number, mapping=dict(mapping), **values)
    connection.execute(insert(chunks), [_new_chunk(job.number, Stage.CHECK, 0, WAITING)])


def _held(number: int) -> tuple[ColumnElement[bool], ...]:
    return chunks.c.job_number == number, chunks.c.state == HELD


def _end(connection: Connection, number: int, state: State, message: str) -> None:
    """Stop a job and delete its chunks, so that no worker holds one any more."""
    _set(connection, number, state=state.value, message=message, finished_at=datetime.now(UTC))
    connection.execute(delete(chunks).where(chunks.c.job_number == number))


def _new_chunk(job_number: int, step: Stage, place: int, state: str, span: Span | None = None) -> dict[str, Any]:
    return {
        "job_number": job_number,
        "step": step.value,
        "place": place,
        "span": asdict(span) if span else None,
        "state": state,
        "token": 0,
        "faults": 0,
        "losses": 0,
        "rows_done": 0,
    }


def _read() -> Select[Any]:
    """Select jobs with the rows done in their present stage."""
    step = case((jobs.c.state == State.CHECKING.value, Stage.CHECK.value), else_=Stage.SCORE.value)
    done = select(func.coalesce(func.sum(chunks.c.rows_done), 0)).where(
        chunks.c.job_number == jobs.c.number, chunks.c.step == step
    )
    return select(jobs, done.scalar_subquery().label("rows_done"))


def read_job(record: Record, product: Product) -> Job:
    """Return the job of a row of `jobs` that stands on a product; `rows_done` is 0 where the row does not have it."""
    fields = {name: record[name] for name in Job.__dataclass_fields__ if name in record}
    return Job(
        **fields
        | {
            "product": product,
            "provenance": provenance_from(record),
            "state": State(record["state"]),
            "checked": _checked(record["checked"]) if record["checked"] else None,
            "summary": Summary(**record["summary"]) if record["summary"] else None,
        }
    )


def _checked(content: dict[str, Any]) -> CheckResult:
    return CheckResult(**content | {"groups": tuple(_group(group) for group in content["groups"])})


def _group(content: dict[str, Any]) -> ProblemGroup:
    return ProblemGroup(**content | {"examples": tuple(ProblemExample(**example) for example in content["examples"])})


def _chunk(row: Row[Any]) -> Chunk:
    span = Span(**row.span) if row.span else None
    place = (row.number, row.job_number, Stage(row.step), row.place, span)
    return Chunk(*place, row.token, row.faults, row.losses, row.files or {})
