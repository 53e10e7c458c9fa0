"""The parts of scored chunks, and the finished files they are joined to."""

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bankportal.data.blocks import Block, Layout
from bankportal.domain.batch import REJECTS, RESULTS, SCORED, Chunk, Job, Summary
from bankportal.domain.errors import PortalError
from bankportal.services.batches.chunks import RESULT, Part, Work, reject_all, rejects_header, scored_header
from bankportal.services.batches.results import Results, header
from bankportal.store.jobs import Finished
from bankportal.store.storage import PIECE, Storage, file_digest, flush_folder, writing

KINDS = (SCORED, REJECTS, RESULTS)
QUARANTINED = "quarantined"  # the code of a quarantined chunk's rejects
NOT_UPLOADED = "The stored file is not the one that was uploaded."
NOT_WRITTEN = "A part of the results is not what was written."


class FilesChanged(PortalError):
    """A file of a job is not what was written, so the job cannot continue."""

    code = "files-changed"


class Output:
    """A file that is written under a temporary name and renamed at the end of a `with` block.

    `size` counts the bytes written, `digest` is their SHA-256.
    """

    def __init__(self, path: Path):
        self.path = path
        self.size = 0
        self._sha256 = hashlib.sha256()
        self._stack = ExitStack()

    def __enter__(self) -> "Output":
        self._file = self._stack.enter_context(writing(self.path))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def write(self, content: bytes) -> None:
        """Append bytes."""
        self._file.write(content)
        self._sha256.update(content)
        self.size += len(content)

    @property
    def digest(self) -> str:
        """The SHA-256, in hexadecimal, of the bytes written."""
        return self._sha256.hexdigest()


@dataclass(frozen=True)
class WrittenPart:
    """A part on disk: how many rows were scored and rejected, and the SHA-256 of its files by name."""

    scored: int
    rejected: int
    files: Mapping[str, str]


def part_name(chunk: Chunk, kind: str) -> str:
    """Return the name of a chunk's file. It contains the token, so that no other worker writes the same file."""
    return f"{chunk.place}.{chunk.token}.{kind}"


def write_part(folder: Path, chunk: Chunk, parts: Iterator[Part]) -> WrittenPart:
    """Write the scored blocks of a chunk; `FilesChanged` where they do not have as many rows as the chunk."""
    rows = rejected = 0
    records = [np.empty(0, dtype=RESULT)]
    paths = {kind: folder / part_name(chunk, kind) for kind in KINDS}
    with Output(paths[SCORED]) as scored, Output(paths[REJECTS]) as rejects, Output(paths[RESULTS]) as results:
        for part in parts:
            records.append(shifted(part.results, scored.size))
            scored.write(part.scored)
            rejects.write(part.rejects)
            rows, rejected = rows + part.rows, rejected + part.rejected
        joined = np.concatenate(records)
        if chunk.span is None or rows != chunk.span.rows or len(joined) + rejected != rows:
            raise FilesChanged("The stored file does not hold the rows it held when it was checked.")
        results.write(header(len(joined)) + joined.tobytes())
    files = {output.path.name: output.digest for output in (scored, rejects, results)}
    return WrittenPart(len(joined), rejected, files)


def quarantined_part(layout: Layout, block: Block) -> Part:
    """Return the part of a block of a quarantined chunk: no row of it is scored."""
    message = "was in a part of the file at which scoring broke off again and again; it was not scored"
    lines = reject_all(layout, block, QUARANTINED, message)
    return Part(b"", lines, np.empty(0, dtype=RESULT), block.span.rows, block.span.rows)


def shifted(results: Any, start: int) -> Any:
    """Return `RESULT` records whose lines begin `start` bytes later in the scored file."""
    results = results.copy()
    results["at"] += start
    return results


@dataclass(frozen=True)
class Joined:
    """The finished files of a job, still under temporary names, with their SHA-256 and the job's summary."""

    home: Path
    prefix: str
    files: Mapping[str, str]
    summary: Summary

    def publish(self) -> None:
        """Rename the files to their final names."""
        for name in self.files:
            (self.home / f"{self.prefix}{name}").replace(self.home / name)
        flush_folder(self.home)


def join(
    job: Job, work: Work, storage: Storage, chunk: Chunk, done: list[Finished], heartbeat: Callable[[], None]
) -> Joined:
    """Join a job's parts in the file's order, with memory for one part.

    Raises `FilesChanged` where a file is not what was written. `heartbeat` is called after each part.
    """
    _require(file_digest(storage.input(job.id), heartbeat) == job.input_digest, NOT_UPLOADED)
    home, folder, prefix = storage.home(job.id), storage.parts(job.id), f"finish.{chunk.number}.{chunk.token}."
    paths = {kind: home / f"{prefix}{kind}" for kind in KINDS}
    with Output(paths[SCORED]) as scored, Output(paths[REJECTS]) as rejects, Output(paths[RESULTS]) as results:
        scored.write(scored_header(work))
        rejects.write(rejects_header(work.layout))
        results.write(header(sum(part.scored for part in done)))
        for part in done:
            by_kind = {name.split(".", 2)[2]: (folder / name, digest) for name, digest in part.files.items()}
            results.write(shifted(_records(*by_kind[RESULTS], part.scored), scored.size).tobytes())
            _append(scored, *by_kind[SCORED])
            _append(rejects, *by_kind[REJECTS])
            heartbeat()
    files = {kind: output.digest for kind, output in zip(KINDS, (scored, rejects, results), strict=True)}
    return Joined(home, prefix, files, summary(job, Results(paths[RESULTS]), done))


def summary(job: Job, results: Results, done: list[Finished]) -> Summary:
    """Return the summary of a job's results.

    The mean score is rounded exactly, so it does not depend on the chunks. Raises `FilesChanged` where rows are
    missing.
    """
    rejected = sum(part.rejected for part in done)
    _require(job.checked is not None and len(results) + rejected == job.checked.rows, "Rows were lost or doubled.")
    bands = np.zeros(len(job.product.bands), dtype=np.int64)
    for records in results.pieces():
        bands += np.bincount(records["band"], minlength=len(bands))
    total = math.fsum(score for records in results.pieces() for score in records["score"].tolist())
    return Summary(
        scored=len(results),
        rejected=rejected,
        quarantined=sum(part.rejected for part in done if part.quarantined),
        bands={band.name: int(count) for band, count in zip(job.product.bands, bands, strict=True)},
        mean_score=total / len(results) if len(results) else None,
    )


def _records(path: Path, digest: str, count: int) -> Any:
    content = path.read_bytes()
    _require(hashlib.sha256(content).hexdigest() == digest, NOT_WRITTEN)
    records = np.load(io.BytesIO(content), allow_pickle=False)
    _require(len(records) == count, NOT_WRITTEN)
    return records


def _append(output: Output, path: Path, digest: str) -> None:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            sha256.update(piece)
            output.write(piece)
    _require(sha256.hexdigest() == digest, NOT_WRITTEN)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise FilesChanged(message)
