"""A finished job's results (`results.npy`), read a piece at a time: what a page needs, never the whole file."""

import bisect
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bankportal.services.batches.chunks import RESULT

PIECE = 65_536  # records read at once: some 4 MB
Keep = Callable[[NDArray[Any]], NDArray[np.bool_]]  # records (n,) -> which of them (n,)
Key = Callable[[NDArray[Any]], NDArray[np.float64]]  # records (n,) -> what they are sorted by, rising (n,)


def header(count: int) -> bytes:
    """Return how a results file of `count` records begins; their bytes follow."""
    described = {"descr": npy.dtype_to_descr(RESULT), "fortran_order": False, "shape": (count,)}
    beginning = io.BytesIO()
    npy.write_array_header_1_0(beginning, described)
    return beginning.getvalue()


class Results:
    """The records of a results file, in the order of the uploaded rows; `ValueError` where it is not such a file."""

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
        """Yield all records, up to `PIECE` at a time."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            for begun in range(0, self.count, PIECE):
                yield self._read(file, min(PIECE, self.count - begun))

    def take(self, numbers: NDArray[np.int64]) -> list[Any]:
        """Return some records, given by their number in the file, in the order asked for."""
        with self.path.open("rb") as file:
            return [self._at(file, int(number)) for number in numbers]

    def find(self, position: int) -> Any | None:
        """Return the record of the row at a position of the uploaded file; `None` where that was not scored."""
        with self.path.open("rb") as file:
            place = bisect.bisect_left(range(self.count), position, key=lambda i: int(self._at(file, i)["position"]))
            found = self._at(file, place) if place < self.count else None
        return found if found is not None and found["position"] == position else None

    def first(self, count: int, key: Key, keep: Keep | None = None) -> tuple[NDArray[np.int64], int]:
        """Return the numbers of the `count` records that a key sorts first, and how many are kept by `keep` in all.

        The sort is stable. Memory grows with `count`, not with the file.
        """
        best = _Best(count)
        total = begun = 0
        for records in self.pieces():
            kept = np.arange(len(records)) if keep is None else np.flatnonzero(keep(records))
            best.add(key(records)[kept], kept + begun)
            total, begun = total + len(kept), begun + len(records)
        return best.sorted(), total

    def _at(self, file: BinaryIO, number: int) -> Any:
        file.seek(self.start + number * RESULT.itemsize)
        return self._read(file, 1)[0]

    def _read(self, file: BinaryIO, count: int) -> NDArray[Any]:
        content = file.read(count * RESULT.itemsize)
        return np.frombuffer(content, dtype=RESULT, count=count)


class _Best:
    """The numbers with the smallest keys so far; among equal keys those added first."""

    def __init__(self, count: int):
        self.count = count
        self.keys = np.empty(0, dtype=np.float64)
        self.numbers = np.empty(0, dtype=np.int64)
        self.worst = np.inf  # a key as large can no longer be among the best

    def add(self, keys: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
        """Add records whose numbers follow all that were added."""
        hopeful = keys < self.worst if np.isfinite(self.worst) else np.ones(len(keys), dtype=np.bool_)
        self.keys = np.concatenate([self.keys, keys[hopeful]])
        self.numbers = np.concatenate([self.numbers, numbers[hopeful]])
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
