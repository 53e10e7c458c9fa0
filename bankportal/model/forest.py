"""A trained forest as plain arrays. It scores with NumPy alone, and nothing in its file is executed."""

import io
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAF = -1
# Rows scored at once: their node numbers, rows x trees, stay within the processor's cache.
BLOCK_ROWS = 2048
# scikit-learn separates known from unknown values at an infinite threshold. This finite one does the same for float32.
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
    """All trees' nodes, one tree after the other; children are numbered among all nodes.

    `feature`, `left`, `right`: int32 (nodes,), the column and the two children, -1 at a leaf. `threshold`: float64
    (nodes,); a column's value is rounded to float32 and goes left where it is `<=` the threshold, as in scikit-learn.
    `missing_left`: bool (nodes,), whether a blank goes left. `value`: float64 (nodes,), the share of label 1.
    `roots`: int32 (trees,), each tree's first node.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    roots: NDArray[np.int32]

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of label 1, (rows,), for each row of a (rows, columns) float64 matrix; NaN is unknown.

        The trees' values are added in order. So a row has the same score to the last bit alone and among others, with
        compiled kernels and without. Raises `ValueError` where the matrix lacks columns.
        """
        if matrix.ndim != 2 or matrix.shape[1] < self._columns:
            raise ValueError("the matrix does not have the forest's columns")
        if self.compiled_scorer is not None:
            return self.compiled_scorer(matrix)
        rounded = matrix.astype(np.float32)
        blocks = [
            self._score_block(rounded[start : start + BLOCK_ROWS]) for start in range(0, len(rounded), BLOCK_ROWS)
        ]
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
        """The compiled scorer, or `None` where kernels cannot be compiled. It is imported when first needed."""
        from bankportal.model import kernels

        return kernels.scorer({name: getattr(self, name) for name in DTYPES}, self.depths)

    @cached_property
    def _columns(self) -> int:
        """The least number of columns of a matrix that can be scored."""
        return int(self.feature.max()) + 1

    @cached_property
    def _walkable(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """`feature`, `left`, `right` with each leaf its own child: every walk through a tree has equally many steps."""
        is_leaf = self.feature == LEAF
        own = np.arange(len(self.feature), dtype=np.int32)
        return (
            np.where(is_leaf, np.int32(0), self.feature),
            np.where(is_leaf, own, self.left),
            np.where(is_leaf, own, self.right),
        )

    @cached_property
    def depths(self) -> NDArray[np.int32]:
        """The steps from root to deepest leaf of each tree, (trees,)."""
        depth = np.zeros(len(self.feature), dtype=np.int32)
        for node in np.flatnonzero(self.feature != LEAF):  # parents come before their children
            depth[self.left[node]] = depth[self.right[node]] = depth[node] + 1
        return np.maximum.reduceat(depth, self.roots)

    @property
    def depth(self) -> int:
        """The steps from root to deepest leaf of the deepest tree."""
        return int(self.depths.max())

    def check(self, columns: int) -> None:
        """Raise `ValueError` unless the arrays are trees over that many columns.

        Every child follows its parent within its tree. Every node but a root has exactly one parent. Features are in
        range, thresholds are finite, values are between 0 and 1. So every walk ends and stays inside the arrays.
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
        """Read and check what `to_bytes` wrote; `ValueError` where it is anything else. Verify its hash before."""
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
