"""Batch uploads, as pages and API see them: receive, map, start, watch, read. Workers do the work (`working.py`)."""

import hashlib
import json
import math
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from bankportal.domain.errors import DataRefused, FieldProblem, InvalidInput, NoActiveModel, NotFound
from bankportal.domain.outcome import Outcome, Reason
from bankportal.domain.policy import POLICIES
from bankportal.domain.products import Product
from bankportal.domain.schema import MAX_QUOTED, Customer, validate
from bankportal.registry.registry import LoadedModel
from bankportal.services.batches import results
from bankportal.services.batches.chunks import NO_REASON, RULE, answer_columns, begins_with, cells_of, customer_key
from bankportal.services.batches.replaying import ReplayDiffers
from bankportal.services.batches.results import Results
from bankportal.services.models import Models
from bankportal.services.scoring import answer
from bankportal.store.jobs import JobStore, ScoringVersions, Upload
from bankportal.store.storage import Storage, Stored

MAX_NAME_LENGTH = 255
UNNAMED = "upload.csv"
SORTS = ("position", "score", "limit")


@dataclass(frozen=True)
class MappingSuggestion:
    """A suggested mapping: column to factor, by names and aliases; `remembered` are the columns by an earlier choice.

    `ambiguous` maps a factor to the columns that could mean it and must be chosen among; `ignored` are the columns that
    stay unused, `label` the one of them that holds the answer itself; `missing` the required factors without a column.
    """

    mapping: Mapping[str, str]
    remembered: frozenset[str]
    ambiguous: Mapping[str, tuple[str, ...]]
    ignored: tuple[str, ...]
    label: str | None
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Jobs:
    """Some jobs, newest first, and the id to continue after; `None` at the end."""

    items: list[Job]
    next: str | None


@dataclass(frozen=True)
class ScoredRow:
    """One scored row as the table shows it: `position` from 0 names it.

    `cells` are the uploaded ones by the file's own column names, `answer` what was added, by `chunks.answer_columns`.
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
    """A page of a finished job's scored rows; `total` counts all that the filter lets through."""

    items: list[ScoredRow]
    total: int
    page: int
    pages: int


class Batches:
    """What the portal does with uploaded files."""

    def __init__(self, config: Config, store: JobStore, storage: Storage, models: Models):
        self.config = config
        self.store = store
        self.storage = storage
        self.models = models

    def receive(
        self, product: Product, name: str, stream: IO[bytes], key: str | None = None, mapped: Collection[str] = ()
    ) -> Job:
        """Store an upload and return its job, UPLOADED. `mapped` are columns that a mapping to come names.

        The same `key` with the same content again is the same job, with other content `Conflict`. `DataRefused` where
        it is no CSV file, `TooLarge` where it is larger or wider than the settings allow: nothing is kept then.
        """
        stored = self.storage.receive(stream, self.config.upload_bytes, upload_limit(self.config))
        try:
            job = self._record(product, _shown(name), stored, key, mapped)
        except BaseException:
            self.storage.remove(stored.id)
            raise
        if job.id != stored.id:  # the key's job was there before
            self.storage.remove(stored.id)
        return job

    def _record(self, product: Product, name: str, stored: Stored, key: str | None, mapped: Collection[str]) -> Job:
        layout = read_layout(self.storage.input(stored.id), product, self.config.upload_columns, name, mapped)
        upload = Upload(
            id=stored.id,
            product=product,
            file_name=name,
            input_digest=stored.digest,
            input_bytes=stored.size,
            header_digest=_digest(json.dumps(layout.header, ensure_ascii=False)),
            layout=layout.to_json(),
        )
        return self.store.add(upload, _digest(key) if key else None)

    def get(self, id: str) -> Job:  # noqa: A002  # the field's name
        """Return one job; `NotFound`."""
        return self.store.get(id)

    def page(self, product: str | None, before: str | None, size: int) -> Jobs:
        """Return up to `size` jobs older than the job `before`, newest first."""
        found = self.store.page(product, before, size + 1)
        items = found[:size]
        return Jobs(items, items[-1].id if len(found) > size else None)

    def suggestion(self, job: Job, remembered: Mapping[str, str] = MappingProxyType({})) -> MappingSuggestion:
        """Suggest a mapping for a job's header, by names and aliases.

        `remembered` is what the same person chose for this header before, column to factor: it fills what names leave
        open, and never overrides them.
        """
        return _suggestion(job.product, Layout.from_json(job.layout).header, remembered)

    def sample(self, job: Job, rows: int = 20) -> list[list[str]]:
        """Return the first rows of a job's file, as text; ragged ones are left out."""
        first = next(blocks(self.storage.input(job.id), Layout.from_json(job.layout), rows, name=job.file_name))
        return first.rows

    def check(self, job: Job, mapping: Mapping[str, str], *, start: bool = False) -> Job:
        """Confirm a mapping and have the whole file checked; with `start`, scored right after.

        `InvalidInput` where the mapping names unknown columns or factors, a factor twice, or lacks a required factor;
        `Conflict` where the job is at work or at rest already with another mapping.
        """
        header = Layout.from_json(job.layout).header
        if problems := list(_mapping_problems(job.product, header, mapping)):
            raise InvalidInput(problems)
        in_order = {column: mapping[column] for column in header if column in mapping}
        job = self.store.confirm(job, in_order, start=start)
        return self.start(job) if start and job.state is State.CHECKED else job

    def withdraw(self, job: Job) -> None:
        """Remove an upload whose mapping was never confirmed: its key is free again. Others stay as they are."""
        if self.store.withdraw(job):
            self.storage.remove(job.id)

    def start(self, job: Job) -> Job:
        """Have a checked job scored with the active model; one that was started is returned as it is. `Conflict`."""
        if job.state in {State.SCORING, State.DONE}:
            return job
        return self.store.start(job, scoring_versions(self.models, job.product))

    def cancel(self, job: Job) -> Job:
        """Stop a job for good; what was scored is not kept. One at rest is returned as it is."""
        job = self.store.cancel(job)
        if job.state is State.CANCELLED:
            self.storage.tidy(job.id)
        return job

    def twin(self, job: Job) -> Job | None:
        """Return the finished job with the same file, mapping, model version and policy as this one would have."""
        if job.mapping is None:
            return None
        try:
            by = scoring_versions(self.models, job.product)
        except NoActiveModel:
            return None
        asked = (dict(job.mapping), job.model_digest or by.model_digest, job.policy_version or by.policy_version)
        for other in self.store.finished_like(job):
            if (other.mapping, other.model_digest, other.policy_version) == asked:
                return other
        return None

    def progress(self, job: Job) -> Progress:
        """Say how far a job is."""
        job = self.store.get(job.id)
        rows = job.checked.rows if job.checked else None
        if not job.state.at_work:
            done = (
                rows if rows and job.state in {State.CHECKED, State.DONE} else 0
            )  # of what was stopped nothing is kept
            return Progress(job.state, done, rows, None, None, job.message)
        pace = self.store.pace(job)
        begun, silent = pace.seconds is not None, self._silent(job)
        rate = pace.rows_done / pace.seconds if pace.rows_done and pace.seconds and silent is None else None
        left = (rows - pace.rows_done) / rate if rows is not None and rate else None
        return Progress(job.state, pace.rows_done, rows, rate, left, job.message, begun, silent)

    def _silent(self, job: Job) -> float | None:
        """Return the seconds since a worker last reported, where two leases could have been renewed since."""
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

        `sort` is `position`, `score` or `limit`; `band` (of the score), `verdict`, `factor` (named in the row's
        reasons) and `customer` (its number) filter. Memory grows with how far the page is from the beginning, not with
        the file. A page beyond the end is the last one. `InvalidInput` names a sort, band, verdict or factor that there
        is not; `ReplayDiffers` where the stored results are not such as were written.
        """
        key, keep = _key(sort, descending=descending), self._keep(job, band, verdict, factor, customer)
        with _as_written():
            found = Results(self._finished(job, RESULTS))
            numbers, total = found.first(min(max(page, 1) * size, len(found)), key, keep)
            pages = max(1, -(-total // size))
            page = min(max(page, 1), pages)
            records = found.take(numbers[(page - 1) * size : page * size])
            return ScoredRows(list(self._rows(job, records)), total, page, pages)

    def _keep(
        self, job: Job, band: str | None, verdict: str | None, factor: str | None, customer: str | None
    ) -> results.Keep | None:
        wanted: list[results.Keep] = []
        if band is not None:
            number = _index("band", [each.name for each in job.product.bands], band)
            wanted.append(lambda records: records["band"] == number)
        if verdict is not None:
            wanted.append(_with_verdict(job.product, verdict))
        if factor is not None:
            place = _index("factor", self._model(job).encoding.factors, factor)
            wanted.append(lambda records: (records["reasons"] == place).any(axis=1))
        if customer is not None:
            key = customer_key(customer)
            wanted.append(lambda records: records["customer"] == key)
        return (lambda records: np.logical_and.reduce([keep(records) for keep in wanted])) if wanted else None

    def verdict_counts(self, job: Job) -> Mapping[str, int] | None:
        """Return how many of a finished job's rows have each verdict, by its name; `None` where its results are gone.

        `ReplayDiffers` where the stored results are not such as were written.
        """
        if job.summary is None:
            return None
        if job.policy_version is None:
            return job.product.count_verdicts(job.summary.bands, {})
        path = self.storage.home(job.id) / RESULTS
        if not path.is_file():
            return None
        with _as_written():
            return job.product.count_verdicts(job.summary.bands, _without_limit(path, job.product))

    def _rows(self, job: Job, records: list[Any]) -> Iterator[ScoredRow]:
        with self._finished(job, SCORED).open("rb") as file:
            for record in records:
                file.seek(int(record["at"]))
                yield _row(job, record, file.read(int(record["length"])))

    def row(self, job: Job, position: int) -> tuple[Customer, Outcome]:
        """Work one scored row out again, in full, by the job's model version and policy.

        `NotFound` where it was not scored; `ReplayDiffers` where the outcome is not the recorded one.
        """
        with _as_written():
            record = Results(self._finished(job, RESULTS)).find(position)
        if record is None:
            raise NotFound("This row was not scored.")
        try:
            cells = self._cells(job, record)
            customer = validate(job.product, _raw(job, cells), Source.TEXT)
        except (InvalidInput, DataRefused) as error:
            raise ReplayDiffers(f"Line {record['line']} of the stored file is not what was scored: {error}") from error
        model = self._model(job)
        outcome = answer(customer, model, self.models.catalogue, POLICIES.get(job.policy_version or ""))
        if not begins_with(self._line(job, record), cells):
            raise ReplayDiffers(f"Line {record['line']} of the stored file is not what was scored: it was edited.")
        if differing := _differences(record, outcome, model.encoding.factors):
            raise ReplayDiffers(f"Line {record['line']} recomputed differs in {', '.join(differing)}.")
        return customer, outcome

    def _cells(self, job: Job, record: Any) -> list[str]:
        """Read a scored row's cells in the uploaded file again."""
        layout = Layout.from_json(job.layout)
        at = Span(int(record["offset"]), job.input_bytes, int(record["line"]), int(record["position"]), 1)
        rows = next(blocks(self.storage.input(job.id), layout, 1, at, name=job.file_name)).rows
        if not rows:
            raise DataRefused("it has another number of fields.")
        return rows[0]

    def _line(self, job: Job, record: Any) -> bytes:
        """Read a scored row's line in the scored file."""
        with self._finished(job, SCORED).open("rb") as file:
            file.seek(int(record["at"]))
            return file.read(int(record["length"]))

    def _model(self, job: Job) -> LoadedModel:
        return self.models.registry.model(job.product, job.model_version or "", job.model_digest or "")

    def file(self, job: Job, name: str) -> Path:
        """Return a finished job's file: `scored.csv` or `rejects.csv`; `NotFound`."""
        if name not in {SCORED, REJECTS}:
            raise NotFound("There is no such file.")
        return self._finished(job, name)

    def _finished(self, job: Job, name: str) -> Path:
        path = self.storage.home(job.id) / name
        if job.state is not State.DONE or not path.is_file():
            raise NotFound("There is no such file: the batch is not done, or its files are gone.")
        return path

    def rejects(self, job: Job) -> Path:
        """Return the file of a checked job's rejects as they are known, before it was scored as well; `NotFound`."""
        job = self.store.get(job.id)  # it may have come to its end by now
        name = REJECTS if job.state is State.DONE else self.store.rejects_file(job)
        path = self.storage.home(job.id) / (name or "")
        if not name or not path.is_file():
            raise NotFound("There are no rejects: the file has not been checked, or was stopped.")
        return path


def upload_limit(config: Config) -> str:
    """Say how large a file may be, and what sets that."""
    return (
        f"The file is larger than {config.upload_megabytes:,} MB, the most that may be uploaded. "
        f"Split it, or set {PREFIX}UPLOAD_MEGABYTES."
    )


def scoring_versions(models: Models, product: Product) -> ScoringVersions:
    """Return who answers from now on; `NoActiveModel`."""
    model = models.serving(product)
    return ScoringVersions(model.version, model.manifest_digest, product.policy.version if product.policy else None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _shown(name: str) -> str:
    """Return a file's name fit to be shown: no folders, no control or formatting characters, not too long."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    plain = "".join(character for character in last if unicodedata.category(character)[0] != "C").strip()
    return plain[:MAX_NAME_LENGTH] or UNNAMED


def _suggestion(product: Product, header: tuple[str, ...], remembered: Mapping[str, str]) -> MappingSuggestion:
    claimed = _claimed(product, header)
    named = {column: name for name, claim in claimed.items() for _, column in claim}
    best = {name: [column for rank, column in claim if rank == min(claim)[0]] for name, claim in claimed.items()}
    best.pop(product.label.name, None)
    settled = {columns[0]: name for name, columns in best.items() if len(columns) == 1}
    open_factors = {entry.factor.name for entry in product.factors} - {*settled.values()}
    filled = {
        column: factor
        for column, factor in remembered.items()
        if factor in open_factors and named.get(column, factor) == factor
    }
    chosen = settled | filled
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
    except DataRefused:  # no column means anything: all are chosen by hand
        return {}


def _mapping_problems(product: Product, header: tuple[str, ...], mapping: Mapping[str, str]) -> Iterator[FieldProblem]:
    factors = {entry.factor.name for entry in product.factors}
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


def _with_verdict(product: Product, name: str) -> results.Keep:
    """Return what keeps the records with a verdict."""
    _index("verdict", [verdict.name for verdict in product.verdicts], name)
    declined, granted = (
        np.array([product.verdict(band, amount).name == name for band in product.bands]) for amount in (0.0, None)
    )
    return lambda records: np.where(records["limit"] == 0, declined[records["band"]], granted[records["band"]])


@lru_cache(maxsize=1024)  # a finished job's results do not change
def _without_limit(path: Path, product: Product) -> Mapping[str, int]:
    """Count a finished job's rows without a limit, by their band's name."""
    counts = np.zeros(len(product.bands), dtype=np.int64)
    for records in Results(path).pieces():
        counts += np.bincount(records["band"][records["limit"] == 0], minlength=len(counts))
    return {band.name: int(count) for band, count in zip(product.bands, counts, strict=True)}


def _key(sort: str, *, descending: bool) -> results.Key:
    """Return what sorts: rising keys, what is unknown last either way."""
    if _index("sort", SORTS, sort) == 0:
        return lambda records: -records["position"].astype(np.float64) if descending else records["position"] * 1.0
    sign = -1.0 if descending else 1.0
    return lambda records: np.nan_to_num(sign * records[sort], nan=np.inf)


@contextmanager
def _as_written() -> Iterator[None]:
    """Say that stored results are not what was written, instead of failing over what stands there."""
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
    """Name what a row recomputed has other than recorded; numbers must be equal to the last bit."""
    limit = outcome.limit.amount if outcome.limit else math.nan
    named = [factors.index(reason.factor) if reason.factor else RULE for reason in _standing(outcome)]
    pairs = {
        "score": (record["score"].tobytes(), np.float64(outcome.score).tobytes()),
        "limit": (record["limit"].tobytes(), np.float64(limit).tobytes()),
        "band": (int(record["band"]), outcome.product.bands.index(outcome.band)),
        "flags": (int(record["flags"]), len(outcome.flags)),
        "reasons": ([int(each) for each in record["reasons"] if each != NO_REASON], named),
    }
    return [name for name, (recorded, again) in pairs.items() if recorded != again]


def _standing(outcome: Outcome) -> list[Reason]:
    """Return the reasons that name something; where no value stands out alone there is one that does not."""
    return [reason for reason in outcome.reasons if reason.factor or reason.rule]
