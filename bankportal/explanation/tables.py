"""The tables of contributions: plain arrays, checked before they are used."""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, fields
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.explanation.plan import LANES, Floats, plan
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest

# To be raised when the layout of the tables or the choice of groups changes: tables of another format are refused.
FORMAT = 1
# The largest difference between base + contributions and the score, by the dtype of the tables.
TOLERANCE = {"float64": 1e-9, "float32": 1e-6}
PIECE = 1 << 20  # bytes of a file read at once

TableValues = NDArray[np.float64] | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Tables:
    """A forest's contributions for every possible row, as plain arrays.

    `values` (table rows, LANES): contributions by group, index and lane (see `Plan`), already divided by the number of
    trees; float64, or float32 where that would be larger than 64 MiB. `base` (1,) float64: the mean score of the
    reference population. `reference` (1,) int64: the number of its rows. `forest` and `encoding` (32,) uint8: the
    SHA-256 of the forest and the encoding that the tables belong to. `format` (1,) int64.
    """

    values: TableValues
    base: Floats
    reference: NDArray[np.int64]
    forest: NDArray[np.uint8]
    encoding: NDArray[np.uint8]
    format: NDArray[np.int64]

    @property
    def tolerance(self) -> float:
        """The largest difference between base + contributions and the score: 1e-9, or 1e-6 with 32-bit tables."""
        return TOLERANCE[self.values.dtype.name]

    def check(self, forest: Forest, encoding: Encoding) -> None:
        """Raise `ValueError` unless the tables belong to this forest and encoding; then every look-up stays inside."""
        for name, dtype, shape in (
            ("format", "int64", (1,)),
            ("base", "float64", (1,)),
            ("reference", "int64", (1,)),
            ("forest", "uint8", (32,)),
            ("encoding", "uint8", (32,)),
        ):
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"the tables' {name} has the wrong type or shape")
        if self.format[0] != FORMAT:
            raise ValueError("the tables are of another format")
        if self.forest.tobytes() != forest_digest(forest) or self.encoding.tobytes() != encoding_digest(encoding):
            raise ValueError("the tables belong to another forest")
        expected = plan(forest, encoding)
        if self.values.dtype != expected.dtype or self.values.shape != (expected.rows, LANES):
            raise ValueError("the tables' values have the wrong type or shape")
        if self.reference[0] < 1 or not 0 <= self.base[0] <= 1 or not np.isfinite(self.values).all():
            raise ValueError("the tables hold numbers that cannot be")

    def to_bytes(self) -> bytes:
        """Return the arrays as an `.npz` file; equal tables give equal bytes."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, forest: Forest, encoding: Encoding) -> "Tables":
        """Read and check what `to_bytes` wrote; `ValueError` where it is anything else. Verify its hash before."""
        names = [field.name for field in fields(cls)]
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as members:
                if sorted(members.namelist()) != sorted(f"{name}.npy" for name in names):
                    raise ValueError("the arrays are not those of tables")
                tables = cls(**{name: _array(members, f"{name}.npy") for name in names})
        except ValueError:
            raise
        except Exception as error:  # zipfile and NumPy raise many kinds on damaged files
            raise ValueError(f"the tables cannot be read: {error}") from error
        tables.check(forest, encoding)
        return tables


def _array(members: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read one array in pieces, so that it is in memory only once; zipfile compares the checksum at the end."""
    with members.open(name) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("an array is of another format")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        if by_column or dtype.hasobject:
            raise ValueError("an array is not laid out as it should be")
        array = _at_cache_line(shape, dtype)
        unread = array.reshape(-1).view(np.uint8)
        while piece := file.read(PIECE):
            unread[: len(piece)] = np.frombuffer(piece, np.uint8)
            unread = unread[len(piece) :]
        if len(unread):
            raise ValueError("an array is cut short")
    return array


def _at_cache_line(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return a new array whose memory starts at a cache line."""
    size = prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    array: NDArray[Any] = memory[start : start + size].view(dtype).reshape(shape)
    return array


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy of an array of any shape, whose memory starts at a cache line."""
    copy = _at_cache_line(array.shape, array.dtype)
    copy[...] = array
    return copy


def forest_digest(forest: Forest) -> bytes:
    """Return the SHA-256 of the forest's arrays, not of its file, which a newer NumPy may write differently."""
    digest = hashlib.sha256()
    for field in fields(forest):
        array = np.ascontiguousarray(getattr(forest, field.name))
        digest.update(f"{field.name} {array.dtype.str} {len(array)}\n".encode())
        digest.update(array.tobytes())
    return digest.digest()


def encoding_digest(encoding: Encoding) -> bytes:
    """Return the SHA-256 of the encoding as the manifest keeps it."""
    return hashlib.sha256(json.dumps(encoding.to_json()).encode()).digest()
