"""A finished job's results (`results.npy`), read in pieces: what a page needs, never the whole file."""

import bisect
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bankportal.services.batches.chunks import RESULT

PIECE = 65_536  # records read at once, about 4 MB
Filter = Callable[[NDArray[Any]], NDArray[np.bool_]]  # records (n,) -> whether each is kept (n,)
SortKey = Callable[[NDArray[Any]], NDArray[np.float64]]  # records (n,) -> keys to sort them by, rising (n,)


def header(count: int) -> bytes:
    """Return the header of a results file with `count` records, in NumPy's `.npy` format."""
    description = {"descr": npy.dtype_to_descr(RESULT), "fortran_order": False, "shape": (count,)}
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


class Results:
    """The `RESULT` records of a results file, in the order of the uploaded rows; `ValueError` for any other file."""

    def __init__(self, path: Path):
        self.path = path
        self.start = len(header(0))
        self.count = (path.stat().st_size - self.start) // RESULT.itemsize
        if self.count < 0 or path.stat().st_size != self.start + self.count * RESULT.itemsize:
            raise ValueError(f"{path.name} ends within a record")
        with path.open("rb") as file:
            if file.read(self.start) != header(self.count):
                raise ValueError(f"{path.name} holds records of another kind, or number")

    def __len__(self) -> int:
        return self.count

    def pieces(self) -> Iterator[NDArray[Any]]:
        """Yield all records in order, as arrays of `RESULT`, up to `PIECE` at a time."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            for start in range(0, self.count, PIECE):
                yield self._read(file, min(PIECE, self.count - start))

    def take(self, numbers: NDArray[np.int64]) -> list[Any]:
        """Return the records at the places `numbers` (records,), from 0, in that order."""
        with self.path.open("rb") as file:
            return [self._at(file, int(number)) for number in numbers]

    def find(self, position: int) -> Any | None:
        """Return the record of the row at a position of the uploaded file; `None` where the row was not scored."""
        with self.path.open("rb") as file:
            place = bisect.bisect_left(range(self.count), position, key=lambda i: int(self._at(file, i)["position"]))
            record = self._at(file, place) if place < self.count else None
        return record if record is not None and record["position"] == position else None

    def first(self, count: int, sort_key: SortKey, keep: Filter | None = None) -> tuple[NDArray[np.int64], int]:
        """Return the places (records,) of the first `count` records by a sort key, and how many `keep` keeps in all.

        The sort is stable. Memory grows with `count`, not with the file.
        """
        best = _Best(count)
        total = start = 0
        for records in self.pieces():
            kept = np.arange(len(records)) if keep is None else np.flatnonzero(keep(records))
            best.add(sort_key(records)[kept], kept + start)
            total, start = total + len(kept), start + len(records)
        return best.sorted(), total

    def _at(self, file: BinaryIO, number: int) -> Any:
        file.seek(self.start + number * RESULT.itemsize)
        return self._read(file, 1)[0]

    def _read(self, file: BinaryIO, count: int) -> NDArray[Any]:
        content = file.read(count * RESULT.itemsize)
        return np.frombuffer(content, dtype=RESULT, count=count)


class _Best:
    """The records with the smallest keys so far, by their places; of equal keys, those that were added first."""

    def __init__(self, count: int):
        self.count = count
        self.keys = np.empty(0, dtype=np.float64)
        self.numbers = np.empty(0, dtype=np.int64)
        self.worst = np.inf  # a key that is not smaller cannot be among the best any more

    def add(self, keys: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
        """Add records that come after all records added so far."""
        candidates = keys < self.worst if np.isfinite(self.worst) else np.ones(len(keys), dtype=np.bool_)
        self.keys = np.concatenate([self.keys, keys[candidates]])
        self.numbers = np.concatenate([self.numbers, numbers[candidates]])
        if len(self.keys) > 2 * max(self.count, PIECE):
            self._cut()

    def _cut(self) -> None:
        order = np.argsort(self.keys, kind="stable")[: self.count]
        self.keys, self.numbers = self.keys[order], self.numbers[order]
        if 0 < self.count == len(self.keys):
            self.worst = cast("float", self.keys[-1])

    def sorted(self) -> NDArray[np.int64]:
        self._cut()
        return self.numbers
