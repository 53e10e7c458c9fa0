"""Recomputing what was recorded: a decision from its input, a batch from its file, equal to the last bit or named."""

import json
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bankportal.data.blocks import blocks
from bankportal.domain.batch import INPUT, REJECTS, RESULTS, SCORED, Job, Span
from bankportal.domain.canonical import canonical
from bankportal.domain.constraints import Choice
from bankportal.domain.errors import DataRefused, PortalError, VersionRefused
from bankportal.domain.policy import POLICIES, Limit, LimitPolicy
from bankportal.domain.products import PRODUCTS, Product
from bankportal.domain.receipt import Record
from bankportal.registry.registry import LoadedModel
from bankportal.services.batches.checking import BLOCK_ROWS
from bankportal.services.batches.chunks import (
    REASONS,
    RESULT,
    Part,
    Work,
    cells_of,
    rejects_header,
    score_block,
    scored_header,
    work_of,
)
from bankportal.services.batches.parts import quarantined_part, summary
from bankportal.services.batches.results import Results
from bankportal.services.models import Models
from bankportal.services.scoring import NO_REASON, Answers, answer, answers
from bankportal.store.chain import UNREADABLE
from bankportal.store.decisions import decision_from
from bankportal.store.jobs import Finished
from bankportal.store.storage import Storage, file_digest

Spans = Iterable[tuple[Span, bool]]
# The columns that say who answered.
ANSWERING = ("product", "model_version", "model_digest", "policy_version")
NOTHING = (None, None, 0.0)  # the reason where no value stands out alone
# What must come out again of each row; where its line stands depends on the words.
COMPARED = tuple(name for name in RESULT.names or () if name not in {"at", "length"})
# Which of a file's last columns are words: the bank may have edited its sentences since, a release its messages.
SENTENCES = slice(-2 - len(REASONS), -2)  # of the scored file: flags and model version follow
MESSAGE = slice(-2, -1)  # of the rejects: the raw row follows


class ReplayDiffers(PortalError):
    """What was recomputed is not what was recorded; the message names it and what differs."""

    code = "replay-differs"


class FilesGone(PortalError):
    """A batch cannot be recomputed because a file of it is no longer there; the message names both."""

    code = "files-gone"


def replay_decisions(models: Models, records: Sequence[Record]) -> None:
    """Recompute stored decisions from their input and model version; `ReplayDiffers` names the first that differs.

    Those of one model version and policy are recomputed together. Only where not all of them come out again is each
    recomputed by itself, in order, to name the first. Sentences are not compared: the bank may have edited its words.
    """
    if not _come_out_again(models, records):
        for record in records:
            replay_decision(models, record)


def replay_decision(models: Models, record: Record) -> None:
    """Recompute one stored decision; `ReplayDiffers` names the fields that are not equal to the last bit."""
    name = f"Decision {record['id']}"
    try:
        model, policy = _answering(models, record)
        again = answer(decision_from(record).customer, model, models.catalogue, policy).to_record()
        differing = [field for field in again if _text(field, record) != _text(field, again)]
    except VersionRefused as error:
        raise ReplayDiffers(f"{name} cannot be recomputed: {error}") from error
    except UNREADABLE as error:
        raise ReplayDiffers(f"{name} cannot be recomputed: its record is not what was scored.") from error
    if differing:
        raise ReplayDiffers(f"{name} recomputed differs in {', '.join(differing)}.")


def _answering(models: Models, record: Record) -> tuple[LoadedModel, LimitPolicy | None]:
    """Return the model version and the policy that a decision stands on; `VersionRefused` where one cannot be had."""
    policy = record["policy_version"]
    if policy and policy not in POLICIES:
        raise VersionRefused(f"Limit policy {policy} is no longer known.")
    model = models.registry.model(PRODUCTS[record["product"]], record["model_version"], record["model_digest"])
    return model, POLICIES[policy] if policy else None


def _text(field: str, record: Record) -> str:
    """Write a field of an answer so that every bit of it shows, without sentences."""
    value = record[field]
    if field == "reasons":
        value = [(reason["factor"], reason["rule"], reason["contribution"]) for reason in value]
    return json.dumps(value, sort_keys=True)


def _come_out_again(models: Models, records: Sequence[Record]) -> bool:
    """Say whether all decisions, recomputed together, are equal to the last bit; `False` where one cannot be."""
    groups = defaultdict(list)
    for record in records:
        groups[tuple(record[name] for name in ANSWERING)].append(record)
    try:
        return all(_group_comes_out_again(models, group) for group in groups.values())
    except (PortalError, *UNREADABLE):
        return False


def _group_comes_out_again(models: Models, records: Sequence[Record]) -> bool:
    """Recompute decisions of one product, model version and policy."""
    model, policy = _answering(models, records[0])
    again = answers(_columns(model.product, records), model, models.catalogue, policy)
    factors = model.encoding.factors
    shares = [record["contributions"] for record in records]
    return (
        all(len(each) == len(factors) for each in shares)
        and _numbers(each[factor] for each in shares for factor in factors).tobytes() == again.contributions.tobytes()
        and _numbers(record["score"] for record in records).tobytes() == again.scores.tobytes()
        and [canonical(_recorded(record)) for record in records] == list(map(canonical, _recomputed(again, model)))
    )


def _columns(product: Product, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
    """Return what `answers` takes of decisions' input; raises one of `UNREADABLE` where that is not what is scored."""
    columns = {factor: [record["scored"][factor.name] for record in records] for factor in product.scored}
    columns |= {factor: [record["policy"][factor.name] for record in records] for factor in product.policy_factors}
    return {
        factor.name: _options(values) if isinstance(factor.constraint, Choice) else _amounts(values)
        for factor, values in columns.items()
    }


def _options(values: list[Any]) -> NDArray[Any]:
    if not all(value is None or isinstance(value, str) for value in values):
        raise TypeError("an option is a text")
    return np.array(values, dtype=object)


def _amounts(values: list[Any]) -> NDArray[Any]:
    amounts = _numbers(math.nan if value is None else value for value in values)
    if np.isnan(amounts).sum() != values.count(None):
        raise ValueError("NaN is no number")
    return amounts


def _numbers(values: Iterable[Any]) -> NDArray[np.float64]:
    """Return numbers as an array; `TypeError` for a text, which NumPy would read as a number."""
    return np.frombuffer(array("d", values))


def _recorded(record: Record) -> tuple[Any, ...]:
    """Return what an answer says beside its score and contributions, without sentences."""
    reasons = [(reason["factor"], reason["rule"], reason["contribution"]) for reason in record["reasons"]]
    return record["band"], record["limit"], record["flags"], record["base"], reasons


def _recomputed(again: Answers, model: LoadedModel) -> Iterator[tuple[Any, ...]]:
    """Yield, row by row, what `_recorded` has of a decision that is equal."""
    bands, factors = model.product.bands, model.encoding.factors
    limits: Sequence[Limit | None] = again.limits or [None] * len(again.scores)
    rows = zip(again.bands.tolist(), limits, again.contributions.tolist(), again.reasons.tolist(), strict=True)
    for row, (band, limit, shares, chosen) in enumerate(rows):
        reasons = [
            (factors[number], None, shares[number]) if number >= 0 else (None, limit.rule if limit else None, 0.0)
            for number in chosen
            if number != NO_REASON
        ]
        flags = [flag.to_record() for flag in again.flags.get(row, ())]
        yield bands[band].name, limit.to_record() if limit else None, flags, model.explainer.base, reasons or [NOTHING]


def replay_batch(models: Models, job: Job, storage: Storage, spans: Spans) -> None:
    """Recompute a finished batch from its stored file by its model version, with memory for a block.

    `spans` are those it was scored in. Raises `FilesGone` where a file is no longer there, `ReplayDiffers` where one is
    not as recorded or is not what comes out again. Sentences and messages are not compared.
    """
    _require_recorded(job, storage)
    try:
        _compare(job, storage, work_of(models, job), spans)
    except VersionRefused as error:
        raise ReplayDiffers(f"Batch {job.id} cannot be recomputed: {error}") from error
    except (DataRefused, *UNREADABLE) as error:
        raise ReplayDiffers(f"Batch {job.id} cannot be recomputed: its record is not what was scored.") from error


def _require_recorded(job: Job, storage: Storage) -> None:
    """Raise where a file of the batch is gone or is not the recorded one."""
    for name, digest in {INPUT: job.input_digest, **(job.files or {})}.items():
        try:
            found = file_digest(storage.home(job.id) / name)
        except FileNotFoundError as error:
            raise FilesGone(f"Batch {job.id} cannot be recomputed: {name} is gone.") from error
        if found != digest:
            raise ReplayDiffers(f"Batch {job.id}: {name} is not the file that was recorded.")


def _compare(job: Job, storage: Storage, work: Work, spans: Spans) -> None:
    """Go through the recorded files and what comes out again side by side."""
    done = []
    with _Recorded(job, storage.home(job.id)) as recorded:
        recorded.require_headers(work)
        for place, (span, quarantined) in enumerate(spans):
            scored = rejected = 0
            for block in blocks(storage.input(job.id), work.layout, BLOCK_ROWS, span, name=job.file_name):
                part = quarantined_part(work.layout, block) if quarantined else score_block(work, block)
                recorded.require(part)
                scored, rejected = scored + len(part.results), rejected + part.rejected
            done.append(Finished(place, scored, rejected, quarantined, {}))
        recorded.require_end()
    if summary(job, Results(storage.home(job.id) / RESULTS), done) != job.summary:
        raise ReplayDiffers(f"Batch {job.id} recomputed differs in its counts.")


class _Recorded:
    """A batch's finished files, read on with every part that is compared."""

    def __init__(self, job: Job, home: Path):
        self._job = job
        self._home = home
        self._files = ExitStack()

    def __enter__(self) -> "_Recorded":
        self._scored, self._rejects, self._results = (
            self._files.enter_context((self._home / name).open("rb")) for name in (SCORED, REJECTS, RESULTS)
        )
        self._results.seek(Results(self._home / RESULTS).start)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._files.close()

    def require_headers(self, work: Work) -> None:
        for name, file, header in (
            (SCORED, self._scored, scored_header(work)),
            (REJECTS, self._rejects, rejects_header(work.layout)),
        ):
            if cells_of(_first_line(file)) != cells_of(header):
                raise self._differs(f"the first line of {name}")

    def require(self, part: Part) -> None:
        """Read on by a part and raise `ReplayDiffers` where it is another."""
        found = np.frombuffer(self._results.read(part.results.nbytes), dtype=RESULT)
        if len(found) != len(part.results):
            raise self._differs("the number of scored rows")
        for name in COMPARED:
            if found[name].tobytes() != part.results[name].tobytes():
                pairs = zip(found[name], part.results[name], strict=True)
                row = next(row for row, (old, new) in enumerate(pairs) if old.tobytes() != new.tobytes())
                raise self._differs(f"{name} of line {part.results['line'][row]}")
        rejects = b"".join(islice(self._rejects, part.rejects.count(b"\n")))  # a message has no line break
        if rejects != part.rejects and _without(MESSAGE, rejects) != _without(MESSAGE, part.rejects):
            raise self._differs(REJECTS)
        lines = self._scored.read(int(found["length"].sum(dtype=np.int64)))
        if lines != part.scored and _without(SENTENCES, lines) != _without(SENTENCES, part.scored):
            raise self._differs(SCORED)

    def require_end(self) -> None:
        """Raise `ReplayDiffers` where there is more than was compared."""
        if self._scored.read(1) or self._rejects.read(1) or self._results.read(1):
            raise self._differs("the number of rows")

    def _differs(self, what: str) -> ReplayDiffers:
        return ReplayDiffers(f"Batch {self._job.id} recomputed differs in {what}.")


def _first_line(file: BinaryIO) -> bytes:
    """Read a file's first line; a name may hold line breaks, within quotes."""
    line = file.readline()
    while line.count(b'"') % 2 and (further := file.readline()):
        line += further
    return line


def _without(words: slice, lines: bytes) -> list[list[str]]:
    """Return the cells of a file's lines without those in words."""
    rows = cells_of(lines)
    for row in rows:
        del row[words]
    return rows
