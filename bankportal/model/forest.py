"""A trained forest as plain arrays: it scores with NumPy alone and runs no code that came with a file."""

import io
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAF = -1
# Rows scored at once: rows x trees node numbers stay within the processor's cache.
BLOCK = 2048
# scikit-learn splits "known or unknown" at an infinite threshold; this finite one sends every float32 left as well.
EVERY_KNOWN_VALUE = float(np.finfo(np.float32).max)
DTYPES = {
    "feature": np.int32,
    "threshold": np.float64,
    "left": np.int32,
    "right": np.int32,
    "missing_left": np.bool_,
    "value": np.float64,
    "roots": np.int32,
}


@dataclass(frozen=True, eq=False)
class Forest:
    """All trees' nodes one after the other, child numbers absolute.

    `feature`, `left`, `right` (int32, nodes) are -1 at a leaf; `threshold` (float64, nodes) is compared with the column
    value rounded to float32, `<=` goes left, as scikit-learn does; `missing_left` (bool, nodes) says where a blank
    goes; `value` (float64, nodes) is the share of label 1; `roots` (int32, trees) is each tree's first node.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    roots: NDArray[np.int32]

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of label 1 for each row of a (rows, columns) float64 matrix; NaN is unknown.

        Trees are added up in their order, so that a row scores the same to the last bit alone and among others, with
        compiled kernels and without. `ValueError` where the matrix lacks columns.
        """
        if matrix.ndim != 2 or matrix.shape[1] <= self.feature.max():
            raise ValueError("the matrix does not have the forest's columns")
        if self.compiled_scorer is not None:
            return self.compiled_scorer(matrix)
        rounded = matrix.astype(np.float32)
        blocks = [self._score_block(rounded[start : start + BLOCK]) for start in range(0, len(rounded), BLOCK)]
        return np.concatenate(blocks) if blocks else np.empty(0)

    def _score_block(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        feature, left, right = self._walkable
        node = np.broadcast_to(self.roots, (len(rows), len(self.roots)))
        row = np.arange(len(rows))[:, None]
        for _ in range(self.depth):
            column_value = rows[row, feature[node]]
            goes_left = np.where(
                np.isnan(column_value), self.missing_left[node], column_value.astype(np.float64) <= self.threshold[node]
            )
            node = np.where(goes_left, left[node], right[node])
        total: NDArray[np.float64] = np.add.accumulate(self.value[node], axis=1)[:, -1]
        return total / len(self.roots)

    @cached_property
    def compiled_scorer(self) -> Callable[[NDArray[np.float64]], NDArray[np.float64]] | None:
        """The compiled kernel, where there is one; imported when first needed."""
        from bankportal.model import kernels

        return kernels.scorer({name: getattr(self, name) for name in DTYPES}, self.depths)

    @cached_property
    def _walkable(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Feature and children with leaves that lead to themselves, so that all walks take the same steps."""
        is_leaf = self.feature == LEAF
        own = np.arange(len(self.feature), dtype=np.int32)
        return (
            np.where(is_leaf, np.int32(0), self.feature),
            np.where(is_leaf, own, self.left),
            np.where(is_leaf, own, self.right),
        )

    @cached_property
    def depths(self) -> NDArray[np.int32]:
        """Each tree's longest way from root to leaf, in steps, (trees,)."""
        depth = np.zeros(len(self.feature), dtype=np.int32)
        for node in np.flatnonzero(self.feature != LEAF):  # parents come before their children
            depth[self.left[node]] = depth[self.right[node]] = depth[node] + 1
        return np.maximum.reduceat(depth, self.roots)

    @property
    def depth(self) -> int:
        """The longest way from a root to a leaf, in steps."""
        return int(self.depths.max())

    def check(self, columns: int) -> None:
        """Raise `ValueError` unless the arrays are trees over that many columns.

        Every child comes after its parent and within its tree, every node but a root has exactly one parent, features
        are in range, thresholds and values finite, values between 0 and 1: a walk always ends, and inside the arrays.
        """
        self._check_shapes()
        inner = self.feature != LEAF
        if ((self.feature < LEAF) | (self.feature >= columns)).any():
            raise ValueError("a feature is out of range")
        if not np.isfinite(self.threshold).all():
            raise ValueError("a threshold is not finite")
        if not ((self.value >= 0) & (self.value <= 1)).all():
            raise ValueError("a value is not between 0 and 1")
        self._check_roots()
        self._check_children(np.flatnonzero(inner))
        if (self.left[~inner] != LEAF).any() or (self.right[~inner] != LEAF).any():
            raise ValueError("a leaf has children")

    def _check_shapes(self) -> None:
        nodes = len(self.feature)
        for name, dtype in DTYPES.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1 or (name != "roots" and len(array) != nodes):
                raise ValueError(f"{name} has the wrong type or shape")
        if not nodes or not len(self.roots):
            raise ValueError("there are no trees")

    def _check_roots(self) -> None:
        if self.roots[0] != 0 or (np.diff(self.roots) <= 0).any() or self.roots[-1] >= len(self.feature):
            raise ValueError("the roots do not rise from 0 within the nodes")

    def _check_children(self, inner: NDArray[np.intp]) -> None:
        ends = np.append(self.roots[1:], len(self.feature))
        end = ends[np.searchsorted(self.roots, inner, side="right") - 1]
        for child in (self.left[inner], self.right[inner]):
            if ((child <= inner) | (child >= end)).any():
                raise ValueError("a child is not after its parent within its tree")
        parents = np.bincount(np.concatenate([self.left[inner], self.right[inner]]), minlength=len(self.feature))
        expected = np.ones(len(self.feature), dtype=np.int64)
        expected[self.roots] = 0
        if (parents != expected).any():
            raise ValueError("a node does not have exactly one parent")

    def to_bytes(self) -> bytes:
        """Return the arrays as an `.npz` file; equal forests give equal bytes."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, columns: int) -> "Forest":
        """Read and check what `to_bytes` wrote; `ValueError` where it is anything else. Check its hash first."""
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                if set(arrays.files) != set(DTYPES):
                    raise ValueError("the arrays are not those of a forest")
                forest = cls(**{name: arrays[name] for name in DTYPES})
        except ValueError:
            raise
        except Exception as error:  # zipfile and NumPy raise many kinds on damaged files
            raise ValueError(f"the arrays cannot be read: {error}") from error
        forest.check(columns)
        return forest
