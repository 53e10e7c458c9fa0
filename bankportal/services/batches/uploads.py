"""Batch uploads, as pages and API need them: receive, map, start, watch, read. Workers (`worker.py`) score them."""

import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from bankportal.config import PREFIX, Config
from bankportal.data.blocks import Layout, blocks, claims
from bankportal.data.blocks import layout as read_layout
from bankportal.domain.batch import REJECTS, RESULTS, SCORED, Job, Progress, Span, State
from bankportal.domain.constraints import Source
from bankportal.domain.errors import Conflict, DataRefused, FieldProblem, InvalidInput, NoActiveModel, NotFound
from bankportal.domain.outcome import Outcome, Reason
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product
from bankportal.domain.provenance import Provenance
from bankportal.domain.schema import MAX_QUOTED, Customer, validate
from bankportal.registry.registry import LoadedModel
from bankportal.services.batches.chunks import NO_REASON, RULE, answer_columns, begins_with, cells_of, customer_key
from bankportal.services.batches.replaying import ReplayDiffers
from bankportal.services.batches.results import Filter, Results, SortKey
from bankportal.services.batches.starting import scoring_versions
from bankportal.services.models import Models
from bankportal.services.scoring import outcome_of
from bankportal.store.jobs import JobStore, Upload
from bankportal.store.storage import Storage, Stored

MAX_NAME_LENGTH = 255
UNNAMED = "upload.csv"
SORTS = ("position", "score", "limit")


@dataclass(frozen=True)
class MappingSuggestion:
    """A suggested mapping of columns to factors, by names and aliases.

    `remembered` are the columns that were mapped by an earlier choice. `ambiguous` maps a factor to the columns that
    could be it, from which a person must choose. `ignored` are the unused columns; `label` is the one of them with the
    product's label. `missing` are the required factors without a column.
    """

    mapping: Mapping[str, str]
    remembered: frozenset[str]
    ambiguous: Mapping[str, tuple[str, ...]]
    ignored: tuple[str, ...]
    label: str | None
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Jobs:
    """A page of jobs, newest first; `next` is the id after which the next page starts, `None` on the last one."""

    items: list[Job]
    next: str | None


@dataclass(frozen=True)
class ScoredRow:
    """A scored row of a finished job; `position` is its place in the uploaded file, from 0.

    `cells` are the uploaded cells by the file's own column names, `answer` the added ones by `chunks.answer_columns`.
    """

    position: int
    line: int
    score: float
    band: str
    limit: float | None
    flags: int
    cells: Mapping[str, str]
    answer: Mapping[str, str]


@dataclass(frozen=True)
class ScoredRows:
    """A page of a finished job's scored rows; `total` counts all rows that match the filters."""

    items: list[ScoredRow]
    total: int
    page: int
    pages: int


class Batches:
    """The operations on batch uploads."""

    def __init__(
        self, config: Config, store: JobStore, storage: Storage, models: Models, portfolio: Callable[[], Portfolio]
    ):
        """`portfolio` returns the products that are in force, under which jobs are started."""
        self.config = config
        self.portfolio = portfolio
        self.store = store
        self.storage = storage
        self.models = models

    def receive(
        self,
        product: Product,
        name: str,
        stream: IO[bytes],
        key: str | None = None,
        mapped: Collection[str] = (),
        *,
        provenance: Provenance,
    ) -> Job:
        """Store an upload and return its job, UPLOADED.

        `mapped` are columns that the later mapping names. The same `key` with the same content returns the same job;
        with other content it raises `Conflict`. Raises `DataRefused` where the upload is not a CSV file, `TooLarge`
        where it is larger or wider than the settings allow; nothing is kept then.
        """
        stored = self.storage.receive(stream, self.config.upload_bytes, upload_limit(self.config))
        try:
            job = self._record(product, _display_name(name), stored, provenance, key, mapped)
        except BaseException:
            self.storage.remove(stored.id)
            raise
        if job.id != stored.id:  # the key had a job already
            self.storage.remove(stored.id)
        return job

    def _record(
        self,
        product: Product,
        name: str,
        stored: Stored,
        provenance: Provenance,
        key: str | None,
        mapped: Collection[str],
    ) -> Job:
        layout = read_layout(self.storage.input(stored.id), product, self.config.upload_columns, name, mapped)
        upload = Upload(
            id=stored.id,
            product=product,
            file_name=name,
            input_digest=stored.digest,
            input_bytes=stored.size,
            header_digest=_digest(json.dumps(layout.header, ensure_ascii=False)),
            layout=layout.to_json(),
            provenance=provenance,
        )
        return self.store.add(upload, _digest(key) if key else None)

    def get(self, id: str) -> Job:  # noqa: A002  # the field's name
        """Return one job; `NotFound` if there is none."""
        return self.store.get(id)

    def page(self, product: str | None, before: str | None, size: int) -> Jobs:
        """Return up to `size` jobs older than the job `before`, newest first."""
        jobs = self.store.page(product, before, size + 1)
        items = jobs[:size]
        return Jobs(items, items[-1].id if len(jobs) > size else None)

    def suggestion(self, job: Job, remembered: Mapping[str, str] = MappingProxyType({})) -> MappingSuggestion:
        """Return a suggested mapping for a job's header, by names and aliases.

        `remembered` is the mapping, column to factor, that the same person chose for this header before. It applies
        only where names and aliases decide nothing.
        """
        return _suggestion(job.product, Layout.from_json(job.layout).header, remembered)

    def sample(self, job: Job, rows: int = 20) -> list[list[str]]:
        """Return the first rows of a job's file as texts; ragged records are left out."""
        first = next(blocks(self.storage.input(job.id), Layout.from_json(job.layout), rows, name=job.file_name))
        return first.rows

    def check(self, job: Job, mapping: Mapping[str, str], *, start: bool = False) -> Job:
        """Confirm a mapping, so that workers check the whole file; with `start`, they score it afterwards.

        Raises `InvalidInput` where the mapping names unknown columns or factors, names a factor twice, or lacks a
        required factor; `Conflict` where the job already has another mapping, or has ended.
        """
        header = Layout.from_json(job.layout).header
        if problems := list(_mapping_problems(job.product, header, mapping)):
            raise InvalidInput(problems)
        in_order = {column: mapping[column] for column in header if column in mapping}
        job = self.store.confirm(job, in_order, start=start)
        return self.start(job) if start and job.state is State.CHECKED else job

    def withdraw(self, job: Job) -> None:
        """Remove an upload whose mapping was not confirmed, which frees its key; any other job is left as it is."""
        if self.store.withdraw(job):
            self.storage.remove(job.id)

    def start(self, job: Job) -> Job:
        """Start scoring a checked job with the active model and the policy in force; return a started one as it is.

        Raises `Conflict` in any other state, and where its product was withdrawn or declared anew in such a way that
        what is active now does not go with it; `NoActiveModel` where no model can score.
        """
        if job.state in {State.SCORING, State.DONE}:
            return job
        return self.store.start(job, scoring_versions(self.models, self.portfolio(), job))

    def cancel(self, job: Job) -> Job:
        """Cancel a job; nothing that was scored is kept. A job that has ended is returned as it is."""
        job = self.store.cancel(job)
        if job.state is State.CANCELLED:
            self.storage.tidy(job.id)
        return job

    def duplicate(self, job: Job) -> Job | None:
        """Return a finished job with the same file and mapping and the same answers as this one has or would have.

        They have the same answers by the same model version, declaration of the product, and policy.
        """
        if job.mapping is None:
            return None
        try:
            answers = _answers(job) if job.model_digest else _answers(self._started(job))
        except (NoActiveModel, Conflict):
            return None
        for finished in self.store.finished_like(job):
            if (finished.mapping, _answers(finished)) == (dict(job.mapping), answers):
                return finished
        return None

    def _started(self, job: Job) -> Job:
        """Return what a job would be if it were started now."""
        versions = scoring_versions(self.models, self.portfolio(), job)
        return replace(job, model_digest=versions.model_digest, product=versions.product)

    def progress(self, job: Job) -> Progress:
        """Return how far a job is."""
        job = self.store.get(job.id)
        rows = job.checked.rows if job.checked else None
        if not job.state.at_work:
            # Nothing is kept of a job that was stopped.
            done = rows if rows and job.state in {State.CHECKED, State.DONE} else 0
            return Progress(job.state, done, rows, None, None, job.message)
        pace = self.store.pace(job)
        begun, silent = pace.seconds is not None, self._silent(job)
        rate = pace.rows_done / pace.seconds if pace.rows_done and pace.seconds and silent is None else None
        left = (rows - pace.rows_done) / rate if rows is not None and rate else None
        return Progress(job.state, pace.rows_done, rows, rate, left, job.message, begun, silent)

    def _silent(self, job: Job) -> float | None:
        """Return the seconds since a worker last reported; `None` below twice the length of a lease."""
        seconds = self.store.silence(job, self.config.lease_seconds)
        return seconds if seconds is not None and seconds > 2 * self.config.lease_seconds else None

    def rows(
        self,
        job: Job,
        *,
        sort: str = "position",
        descending: bool = False,
        band: str | None = None,
        verdict: str | None = None,
        factor: str | None = None,
        customer: str | None = None,
        page: int = 1,
        size: int = 50,
    ) -> ScoredRows:
        """Return a page of a finished job's rows.

        `sort` is `position`, `score` or `limit`. Filters: `band` (by the score), `verdict`, `factor` (named in the
        row's reasons), `customer` (the customer number). A page beyond the end is the last page. Memory grows with the
        number of the page, not with the file. Raises `InvalidInput` for an unknown sort, band, verdict or factor, and
        `ReplayDiffers` where the stored results were changed.
        """
        sort_key, keep = _sort_key(sort, descending=descending), self._filter(job, band, verdict, factor, customer)
        with _reading_results():
            stored = Results(self._finished(job, RESULTS))
            numbers, total = stored.first(min(max(page, 1) * size, len(stored)), sort_key, keep)
            pages = max(1, -(-total // size))
            page = min(max(page, 1), pages)
            records = stored.take(numbers[(page - 1) * size : page * size])
            return ScoredRows(list(self._rows(job, records)), total, page, pages)

    def _filter(
        self, job: Job, band: str | None, verdict: str | None, factor: str | None, customer: str | None
    ) -> Filter | None:
        filters: list[Filter] = []
        if band is not None:
            band_index = _index("band", [declared.name for declared in job.product.bands], band)
            filters.append(lambda records: records["band"] == band_index)
        if verdict is not None:
            filters.append(_verdict_filter(job.product, verdict))
        if factor is not None:
            factor_index = _index("factor", self._model(job).encoding.factors, factor)
            filters.append(lambda records: (records["reasons"] == factor_index).any(axis=1))
        if customer is not None:
            key = customer_key(customer)
            filters.append(lambda records: records["customer"] == key)
        return (lambda records: np.logical_and.reduce([keep(records) for keep in filters])) if filters else None

    def verdict_counts(self, job: Job) -> Mapping[str, int] | None:
        """Return how many of a finished job's rows have each verdict, by its name; `None` where the results are gone.

        Raises `ReplayDiffers` where the stored results were changed.
        """
        if job.summary is None:
            return None
        if job.policy_version is None:
            return job.product.count_verdicts(job.summary.bands, {})
        path = self.storage.home(job.id) / RESULTS
        if not path.is_file():
            return None
        with _reading_results():
            return job.product.count_verdicts(job.summary.bands, _without_limit(path, job.product))

    def _rows(self, job: Job, records: list[Any]) -> Iterator[ScoredRow]:
        with self._finished(job, SCORED).open("rb") as file:
            for record in records:
                file.seek(int(record["at"]))
                yield _row(job, record, file.read(int(record["length"])))

    def row(self, job: Job, position: int) -> tuple[Customer, Outcome]:
        """Compute a scored row again from the uploaded file, with the job's model version and policy.

        Raises `NotFound` where the row was not scored, `ReplayDiffers` where the outcome is not the recorded one.
        """
        with _reading_results():
            record = Results(self._finished(job, RESULTS)).find(position)
        if record is None:
            raise NotFound("This row was not scored.")
        try:
            cells = self._cells(job, record)
            customer = validate(job.product, _raw(job, cells), Source.TEXT)
        except (InvalidInput, DataRefused) as error:
            raise ReplayDiffers(f"Line {record['line']} of the stored file is not what was scored: {error}") from error
        model = self._model(job)
        outcome = outcome_of(customer, model)
        if not begins_with(self._line(job, record), cells):
            raise ReplayDiffers(f"Line {record['line']} of the stored file is not what was scored: it was edited.")
        if differing := _differences(record, outcome, model.encoding.factors):
            raise ReplayDiffers(f"Line {record['line']} recomputed differs in {', '.join(differing)}.")
        return customer, outcome

    def _cells(self, job: Job, record: Any) -> list[str]:
        """Return a scored row's cells from the uploaded file."""
        layout = Layout.from_json(job.layout)
        span = Span(int(record["offset"]), job.input_bytes, int(record["line"]), int(record["position"]), 1)
        rows = next(blocks(self.storage.input(job.id), layout, 1, span, name=job.file_name)).rows
        if not rows:
            raise DataRefused("it has another number of fields.")
        return rows[0]

    def _line(self, job: Job, record: Any) -> bytes:
        """Return a scored row's line from the scored file."""
        with self._finished(job, SCORED).open("rb") as file:
            file.seek(int(record["at"]))
            return file.read(int(record["length"]))

    def _model(self, job: Job) -> LoadedModel:
        return self.models.registry.model(job.product, job.model_version or "", job.model_digest or "")

    def file(self, job: Job, name: str) -> Path:
        """Return a finished job's file, `scored.csv` or `rejects.csv`; `NotFound` where there is none."""
        if name not in {SCORED, REJECTS}:
            raise NotFound("There is no such file.")
        return self._finished(job, name)

    def _finished(self, job: Job, name: str) -> Path:
        path = self.storage.home(job.id) / name
        if job.state is not State.DONE or not path.is_file():
            raise NotFound("There is no such file: the batch is not done, or its files are gone.")
        return path

    def rejects(self, job: Job) -> Path:
        """Return a job's rejects file, which is there once the file was checked; `NotFound` where there is none."""
        job = self.store.get(job.id)  # the job may have ended in the meantime
        name = REJECTS if job.state is State.DONE else self.store.rejects_file(job)
        path = self.storage.home(job.id) / (name or "")
        if not name or not path.is_file():
            raise NotFound("There are no rejects: the file has not been checked, or was stopped.")
        return path


def upload_limit(config: Config) -> str:
    """Return the sentence about files that are too large, with the setting."""
    return (
        f"The file is larger than {config.upload_megabytes:,} MB, the most that may be uploaded. "
        f"Split it, or set {PREFIX}UPLOAD_MEGABYTES."
    )


def _answers(job: Job) -> tuple[str | None, ...]:
    """Return the digests of what gives a job its answers: model version, product and policy."""
    policy = job.product.policy
    return job.model_digest, job.product.digest, policy.digest if policy else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _display_name(name: str) -> str:
    """Return a file's name without folders, control characters and formatting characters, shortened."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    plain = "".join(character for character in last if unicodedata.category(character)[0] != "C").strip()
    return plain[:MAX_NAME_LENGTH] or UNNAMED


def _suggestion(product: Product, header: tuple[str, ...], remembered: Mapping[str, str]) -> MappingSuggestion:
    claimed = _claimed(product, header)
    named = {column: name for name, claim in claimed.items() for _, column in claim}
    best = {name: [column for rank, column in claim if rank == min(claim)[0]] for name, claim in claimed.items()}
    best.pop(product.label.name, None)
    decided = {columns[0]: name for name, columns in best.items() if len(columns) == 1}
    undecided = {product_factor.factor.name for product_factor in product.factors} - {*decided.values()}
    filled = {
        column: factor
        for column, factor in remembered.items()
        if factor in undecided and named.get(column, factor) == factor
    }
    chosen = decided | filled
    ambiguous = {name: tuple(columns) for name, columns in best.items() if name not in chosen.values()}
    offered = {column for columns in ambiguous.values() for column in columns}
    known = {*chosen.values(), *ambiguous}
    return MappingSuggestion(
        mapping={column: chosen[column] for column in header if column in chosen},
        remembered=frozenset(filled),
        ambiguous=ambiguous,
        ignored=tuple(column for column in header if column not in chosen and column not in offered),
        label=next((column for column in header if product.label.matches(column)), None),
        missing=tuple(factor.name for factor in product.required if factor.name not in known),
    )


def _claimed(product: Product, header: tuple[str, ...]) -> Mapping[str, list[tuple[int, str]]]:
    try:
        return claims(header, product)
    except DataRefused:  # no column is recognised: a person chooses all of them
        return {}


def _mapping_problems(product: Product, header: tuple[str, ...], mapping: Mapping[str, str]) -> Iterator[FieldProblem]:
    factors = {product_factor.factor.name for product_factor in product.factors}
    times = Counter(mapping.values())
    for column, factor in mapping.items():
        if not column or column not in header:
            yield FieldProblem(column, "unknown-column", "is not a column of the file")
        elif product.label.matches(column):
            yield FieldProblem(column, "label", "is the answer itself and cannot be used")
        if factor not in factors:
            yield FieldProblem(
                column, "unknown-factor", f"is mapped to a factor that {product.key} does not have", factor
            )
        elif times[factor] > 1:
            yield FieldProblem(column, "factor-twice", f"is not the only column mapped to {factor}", factor)
    for required in product.required:
        if required.name not in times:
            yield FieldProblem(required.name, "required", "needs a column")


def _index(field: str, names: Sequence[str], name: str) -> int:
    if name not in names:
        raise InvalidInput(
            [FieldProblem(field, "not-a-choice", f"must be one of {', '.join(names)}", name[:MAX_QUOTED])]
        )
    return list(names).index(name)


def _verdict_filter(product: Product, name: str) -> Filter:
    """Return the filter for the records with a verdict."""
    _index("verdict", [verdict.name for verdict in product.verdicts], name)
    declined, granted = (
        np.array([product.verdict(band, amount).name == name for band in product.bands]) for amount in (0.0, None)
    )
    return lambda records: np.where(records["limit"] == 0, declined[records["band"]], granted[records["band"]])


@lru_cache(maxsize=1024)  # a finished job's results do not change
def _without_limit(path: Path, product: Product) -> Mapping[str, int]:
    """Return how many of a finished job's rows have a limit of 0, by the name of their band."""
    counts = np.zeros(len(product.bands), dtype=np.int64)
    for records in Results(path).pieces():
        counts += np.bincount(records["band"][records["limit"] == 0], minlength=len(counts))
    return {band.name: int(count) for band, count in zip(product.bands, counts, strict=True)}


def _sort_key(sort: str, *, descending: bool) -> SortKey:
    """Return the sort key; unknown values come last in both directions."""
    if _index("sort", SORTS, sort) == 0:
        return lambda records: -records["position"].astype(np.float64) if descending else records["position"] * 1.0
    sign = -1.0 if descending else 1.0
    return lambda records: np.nan_to_num(sign * records[sort], nan=np.inf)


@contextmanager
def _reading_results() -> Iterator[None]:
    """Raise `ReplayDiffers` for the errors that changed results cause while they are read."""
    try:
        yield
    except (ValueError, IndexError) as error:
        raise ReplayDiffers(
            "The stored results of this batch are not what was written. What exactly: flask audit replay"
        ) from error


def _row(job: Job, record: Any, line: bytes) -> ScoredRow:
    names, added = Layout.from_json(job.layout).header, answer_columns(limits=job.policy_version is not None)
    (texts,) = cells_of(line)
    return ScoredRow(
        position=int(record["position"]),
        line=int(record["line"]),
        score=float(record["score"]),
        band=job.product.bands[int(record["band"])].name,
        limit=None if np.isnan(record["limit"]) else float(record["limit"]),
        flags=int(record["flags"]),
        cells=dict(zip(names, texts, strict=False)),
        answer=dict(zip(added, texts[len(names) :], strict=True)),
    )


def _raw(job: Job, cells: list[str]) -> dict[str, str]:
    mapping, header = job.mapping or {}, Layout.from_json(job.layout).header
    return {mapping[column]: text for column, text in zip(header, cells, strict=True) if column in mapping}


def _differences(record: Any, outcome: Outcome, factors: Sequence[str]) -> list[str]:
    """Return the fields in which a row computed again differs from its record; numbers are compared to the last bit."""
    limit = outcome.limit.amount if outcome.limit else math.nan
    reasons = [factors.index(reason.factor) if reason.factor else RULE for reason in _named_reasons(outcome)]
    pairs = {
        "score": (record["score"].tobytes(), np.float64(outcome.score).tobytes()),
        "limit": (record["limit"].tobytes(), np.float64(limit).tobytes()),
        "band": (int(record["band"]), outcome.product.bands.index(outcome.band)),
        "flags": (int(record["flags"]), len(outcome.flags)),
        "reasons": ([int(reason) for reason in record["reasons"] if reason != NO_REASON], reasons),
    }
    return [name for name, (recorded, recomputed) in pairs.items() if recorded != recomputed]


def _named_reasons(outcome: Outcome) -> list[Reason]:
    """Return the reasons that name a factor or a rule: all but the one for an outcome in which nothing stands out."""
    return [reason for reason in outcome.reasons if reason.factor or reason.rule]
