"""Compiled scoring of a forest, with the same bits as `Forest.score` in NumPy. Imported only when first needed.

The kernel checks no bounds: callers pass arrays derived from a checked forest.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.model.compiling import available, compiled, run_in_parallel

# Rows scored at once: their values stay within the processor's first-level cache.
BLOCK_ROWS = 128

Arrays = Mapping[str, NDArray[Any]]


class Scorer:
    """A forest's arrays arranged for compiled scoring.

    One comparison decides a step: a blank is minus infinity where the node sends it left, else plus infinity.
    Thresholds are rounded down to float32, which changes no comparison with a float32. Each leaf is its own child.
    """

    def __init__(self, arrays: Arrays, depths: NDArray[np.int32]) -> None:
        feature = arrays["feature"]
        leaf = feature < 0
        own = np.arange(len(leaf), dtype=np.int32)
        children = [np.where(leaf, own, arrays[side]) for side in ("left", "right")]
        self._column = np.where(leaf, 0, 2 * feature + ~arrays["missing_left"]).astype(np.int32)
        self._threshold = np.where(leaf, np.float32(np.inf), _rounded_down(arrays["threshold"]))
        self._child = np.stack(children, axis=1).ravel()
        self._value = np.array(arrays["value"])
        self._roots = np.array(arrays["roots"])
        self._depth = depths

    def __call__(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the scores (rows,) of a (rows, columns) float64 matrix; NaN is unknown.

        The matrix must have at least the columns that the forest was checked for.
        """
        matrix = np.require(matrix, np.float64, ["C", "W"])
        scores = np.empty(len(matrix))

        def work(start: int, end: int) -> None:
            score_rows(
                matrix[start:end],
                scores[start:end],
                self._column,
                self._threshold,
                self._child,
                self._value,
                self._roots,
                self._depth,
            )

        if len(matrix) == 1:
            work(0, 1)
        elif len(matrix):
            run_in_parallel(work, len(matrix))
        return scores


def scorer(arrays: Arrays, depths: NDArray[np.int32]) -> Scorer | None:
    """Return a forest's compiled scorer, already compiled; `None` where Numba is missing or switched off.

    `arrays` are the forest's arrays by name (`forest.DTYPES`); `depths` (trees,) are the steps to the deepest leaf.
    """
    if not available():
        return None
    compiled_scorer = Scorer(arrays, depths)
    columns = int(arrays["feature"].max(initial=0)) + 1
    compiled_scorer(np.zeros((1, columns)))
    return compiled_scorer


def _rounded_down(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 not above each threshold: `<=` with a float32 gives the same result."""
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    return np.where(above, np.nextafter(rounded, np.float32(-np.inf)), rounded)


@compiled
def score_rows(
    matrix: Any, scores: Any, column: Any, threshold: Any, child: Any, value: Any, roots: Any, depth: Any
) -> None:
    """Write a matrix's scores (rows,). `both` has each column twice: blank as minus and as plus infinity."""
    rows, columns = matrix.shape
    both = np.empty((BLOCK_ROWS, 2 * columns), np.float32)
    for first in range(0, rows, BLOCK_ROWS):
        here = min(BLOCK_ROWS, rows - first)
        for row in range(here):
            for number in range(columns):
                cell = np.float32(matrix[first + row, number])
                both[row, 2 * number] = -np.inf if cell != cell else cell
                both[row, 2 * number + 1] = np.inf if cell != cell else cell
            scores[first + row] = 0.0
        for tree in range(len(roots)):
            root = np.uint64(roots[tree])
            steps = depth[tree]
            row = 0
            while row + 4 <= here:  # four rows at once: while one waits for memory, the others go on
                a = b = c = d = root
                for _ in range(steps):
                    a = np.uint64(child[np.uint64(2) * a + np.uint64(both[row, column[a]] > threshold[a])])
                    b = np.uint64(child[np.uint64(2) * b + np.uint64(both[row + 1, column[b]] > threshold[b])])
                    c = np.uint64(child[np.uint64(2) * c + np.uint64(both[row + 2, column[c]] > threshold[c])])
                    d = np.uint64(child[np.uint64(2) * d + np.uint64(both[row + 3, column[d]] > threshold[d])])
                scores[first + row] += value[a]
                scores[first + row + 1] += value[b]
                scores[first + row + 2] += value[c]
                scores[first + row + 3] += value[d]
                row += 4
            while row < here:
                a = root
                for _ in range(steps):
                    a = np.uint64(child[np.uint64(2) * a + np.uint64(both[row, column[a]] > threshold[a])])
                scores[first + row] += value[a]
                row += 1
        for row in range(first, first + here):
            scores[row] /= len(roots)
