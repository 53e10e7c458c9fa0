"""Replaying batches: each is computed again from its stored file and compared to the last bit."""

from collections.abc import Iterable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bankportal.data.blocks import blocks
from bankportal.domain.batch import INPUT, REJECTS, RESULTS, SCORED, Job, Span
from bankportal.domain.errors import DataRefused, PortalError, VersionRefused
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
from bankportal.store.chain import UNREADABLE
from bankportal.store.jobs import Finished
from bankportal.store.storage import Storage, file_digest

Spans = Iterable[tuple[Span, bool]]
# The fields of a row's record that are compared; where its line is depends on the length of its sentences.
COMPARED = tuple(name for name in RESULT.names or () if name not in {"at", "length"})
# The last columns that are not compared: before there were declarations a bank edited its sentences without a trace;
# a later release may have edited its messages.
SENTENCES = slice(-2 - len(REASONS), -2)  # of the scored file: flags and model version follow
MESSAGE = slice(-2, -1)  # of the rejects: the raw row follows


class ReplayDiffers(PortalError):
    """A decision or batch computed again is not what was recorded; the message names it and what differs."""

    code = "replay-differs"


class FilesGone(PortalError):
    """A batch cannot be computed again since a file of it is gone; the message names both."""

    code = "files-gone"


def replay_batch(models: Models, job: Job, storage: Storage, spans: Spans) -> None:
    """Compute a finished batch again from its stored file and model version, with memory for one block.

    `spans` are the spans in which it was scored, and whether each was quarantined. Raises `FilesGone` where a file is
    gone, `ReplayDiffers` where a file was changed or the result is not equal. Sentences and messages are not compared.
    """
    _require_recorded(job, storage)
    try:
        _compare(job, storage, work_of(models, job), spans)
    except VersionRefused as error:
        raise ReplayDiffers(f"Batch {job.id} cannot be recomputed: {error}") from error
    except (DataRefused, *UNREADABLE) as error:
        raise ReplayDiffers(f"Batch {job.id} cannot be recomputed: its record is not what was scored.") from error


def _require_recorded(job: Job, storage: Storage) -> None:
    """Raise `FilesGone` or `ReplayDiffers` where a file of the batch is gone or was changed."""
    for name, digest in {INPUT: job.input_digest, **(job.files or {})}.items():
        try:
            present = file_digest(storage.home(job.id) / name)
        except FileNotFoundError as error:
            raise FilesGone(f"Batch {job.id} cannot be recomputed: {name} is gone.") from error
        if present != digest:
            raise ReplayDiffers(f"Batch {job.id}: {name} is not the file that was recorded.")


def _compare(job: Job, storage: Storage, work: Work, spans: Spans) -> None:
    """Compute the batch again block by block and compare it with the recorded files; raise `ReplayDiffers`."""
    done = []
    with _RecordedFiles(job, storage.home(job.id)) as recorded:
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


class _RecordedFiles:
    """A batch's finished files, read part by part as they are compared."""

    def __init__(self, job: Job, home: Path):
        self._job = job
        self._home = home
        self._files = ExitStack()

    def __enter__(self) -> "_RecordedFiles":
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
        """Read the next part and raise `ReplayDiffers` where it is not equal to `part`."""
        records = np.frombuffer(self._results.read(part.results.nbytes), dtype=RESULT)
        if len(records) != len(part.results):
            raise self._differs("the number of scored rows")
        for name in COMPARED:
            if records[name].tobytes() != part.results[name].tobytes():
                pairs = zip(records[name], part.results[name], strict=True)
                row = next(row for row, (old, new) in enumerate(pairs) if old.tobytes() != new.tobytes())
                raise self._differs(f"{name} of line {part.results['line'][row]}")
        rejects = b"".join(islice(self._rejects, part.rejects.count(b"\n")))  # a message has no line break
        if rejects != part.rejects and _without(MESSAGE, rejects) != _without(MESSAGE, part.rejects):
            raise self._differs(REJECTS)
        lines = self._scored.read(int(records["length"].sum(dtype=np.int64)))
        if lines != part.scored and _without(SENTENCES, lines) != _without(SENTENCES, part.scored):
            raise self._differs(SCORED)

    def require_end(self) -> None:
        """Raise `ReplayDiffers` where a file has more than was compared."""
        if self._scored.read(1) or self._rejects.read(1) or self._results.read(1):
            raise self._differs("the number of rows")

    def _differs(self, what: str) -> ReplayDiffers:
        return ReplayDiffers(f"Batch {self._job.id} recomputed differs in {what}.")


def _first_line(file: BinaryIO) -> bytes:
    """Read a file's first line; a column's name may contain line breaks within quotes."""
    line = file.readline()
    while line.count(b'"') % 2 and (further := file.readline()):
        line += further
    return line


def _without(columns: slice, lines: bytes) -> list[list[str]]:
    """Return the cells of a file's lines without some columns."""
    rows = cells_of(lines)
    for row in rows:
        del row[columns]
    return rows
