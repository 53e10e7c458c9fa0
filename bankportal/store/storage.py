"""The files of jobs: each job has a folder under a name of our own, its owner's alone to read.

`<job id>/input.csv` is the upload, `parts/` what chunks left, `scored.csv`, `rejects.csv` and `results.npy` the end.
Every file is written aside, flushed and renamed: after a kill there is a whole file or none.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, BinaryIO

from bankportal.domain.batch import INPUT, REJECTS, RESULTS, SCORED, State
from bankportal.domain.errors import TooLarge
from bankportal.domain.ids import is_id, new_id

PARTS = "parts"
KEPT = frozenset({INPUT, SCORED, REJECTS, RESULTS})
PIECE = 1 << 20  # bytes read at once
ROOM = 1 << 16  # bytes; more than a decision takes
ORPHAN_AFTER = 3600.0  # seconds that an upload may take to become a job


@dataclass(frozen=True)
class Stored:
    """An upload on the disk: the job's id, SHA-256 in hex, size in bytes."""

    id: str
    digest: str
    size: int


class Storage:
    """The folder that web server and workers share."""

    def __init__(self, folder: Path):
        self.folder = folder

    def require_writable(self) -> None:
        """Raise `OSError` where no upload could be stored; leaves nothing, a folder that is yet to be made neither."""
        require_room(next(folder for folder in (self.folder, *self.folder.parents) if folder.exists()))

    def home(self, id: str) -> Path:  # noqa: A002  # the field's name
        """Return a job's folder."""
        return self.folder / id

    def input(self, id: str) -> Path:  # noqa: A002
        """Return the path of a job's upload."""
        return self.home(id) / INPUT

    def parts(self, id: str) -> Path:  # noqa: A002
        """Return the folder of a job's parts."""
        return self.home(id) / PARTS

    def receive(self, stream: IO[bytes], max_bytes: int, limit: str) -> Stored:
        """Store an upload under a new id; `TooLarge`, naming `limit`, and nothing kept, beyond `max_bytes` bytes."""
        id_ = new_id()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home(id_).mkdir(mode=0o700)
        try:
            self.parts(id_).mkdir(mode=0o700)
            with writing(self.input(id_)) as file:
                digest, size = _copy(stream, file, max_bytes, limit)
            flush_folder(self.folder)
        except BaseException:
            self.remove(id_)
            raise
        return Stored(id_, digest, size)

    def remove(self, id: str) -> None:  # noqa: A002
        """Remove a job's folder with all in it."""
        shutil.rmtree(self.home(id), ignore_errors=True)

    def tidy(self, id: str) -> None:  # noqa: A002
        """Remove what a job at rest does not need: its parts and unfinished files."""
        shutil.rmtree(self.parts(id), ignore_errors=True)
        for path in self.home(id).iterdir() if self.home(id).is_dir() else ():
            if path.name not in KEPT:
                path.unlink(missing_ok=True)

    def has_lost(self, id: str) -> bool:  # noqa: A002
        """Return whether a job at work lacks its upload or its folders while the storage itself is there.

        A storage without any job counts as not mounted, or as the wrong folder: then nothing is lost yet.
        """
        if self.input(id).is_file() and self.parts(id).is_dir():
            return False
        return any(is_id(path.name) for path in self.folder.iterdir())

    def sweep(self, states: Callable[[list[str]], Mapping[str, State]]) -> list[str]:
        """Remove uploads that never became a job, and leftovers of jobs at rest; return the ids of those uploads.

        `states` returns the states of the ids that are jobs. Files and folders of other names are left alone.
        """
        ids = [path.name for path in self.folder.iterdir() if is_id(path.name)] if self.folder.is_dir() else []
        known = states(ids)
        orphans = [id_ for id_ in ids if id_ not in known and _age(self.home(id_)) > ORPHAN_AFTER]
        for id_ in orphans:
            self.remove(id_)
        for id_, state in known.items():
            if state.at_rest and _has_leftovers(self.home(id_)):
                self.tidy(id_)
        return orphans


def _copy(stream: IO[bytes], file: BinaryIO, max_bytes: int, limit: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while piece := stream.read(PIECE):
        size += len(piece)
        if size > max_bytes:
            raise TooLarge(limit)
        digest.update(piece)
        file.write(piece)
    return digest.hexdigest(), size


def _age(home: Path) -> float:
    """Return the seconds since anything was written to a folder."""
    try:
        return time.time() - max(path.stat().st_mtime for path in (home, *home.iterdir()))
    except OSError:  # another worker swept it
        return 0.0


def _has_leftovers(home: Path) -> bool:
    return any(path.name not in KEPT for path in home.iterdir())


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file, its owner's alone to read; it takes the place of `path`, durably, if the block succeeds."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def require_room(folder: Path) -> None:
    """Write `ROOM` bytes into a folder, durably, in a file without a name; `OSError` where that is not possible."""
    with TemporaryFile(dir=folder) as file:
        file.write(bytes(ROOM))
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Flush a folder, so that renames in it survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_digest(path: Path, heartbeat: Callable[[], None] = lambda: None) -> str:
    """Return a file's SHA-256 in hex; `heartbeat` is called for every piece that was read."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            sha256.update(piece)
            heartbeat()
    return sha256.hexdigest()
