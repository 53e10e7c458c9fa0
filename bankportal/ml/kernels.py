"""Compiled loops: walking a forest, and adding up contributions from tables. Imported only when first needed.

Numba compiles them once and keeps the result on disk; where Numba is missing, or `BANKPORTAL_NO_NUMBA` is 1, callers
take their NumPy path, which gives the same bits. All kernels release the interpreter's lock. Rows are shared out by a
pool of threads of our own: Numba's `prange` must not be entered by two threads at once where its workqueue layer is
all there is, and a web server does just that.

The kernels check no bounds: callers pass arrays derived from a checked forest.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bankportal.ml.explain import BLANK_RIGHT

if TYPE_CHECKING:
    from bankportal.ml.forest import Forest

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
OFF = "BANKPORTAL_NO_NUMBA"
# Rows scored at once; their values stay within the processor's first cache.
SCORED = 128
# Fewer rows than this are not worth a second thread; more than that are handed out piece by piece.
LEAST_ROWS, MOST_ROWS = 512, 4096


def _import_numba() -> Any:
    try:
        import numba
    except ImportError:
        return None
    # Numba leaves this pass of LLVM off by default. With it a table's eight numbers are added in two steps.
    setattr(numba.config, "SLP_VECTORIZE", 1)  # noqa: B010  # made at run time: type checkers do not know it
    return numba


NUMBA = _import_numba()


def available() -> bool:
    """Say whether compiled kernels may be used."""
    return NUMBA is not None and os.environ.get(OFF) != "1"


def compiled(kernel: Kernel) -> Kernel:
    """Compile a kernel when first called, kept on disk, free of the interpreter lock; as it is without Numba."""
    if NUMBA is None:
        return kernel
    made: Kernel
    try:
        made = NUMBA.njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # no folder that can be written to: compile for this process alone
        made = NUMBA.njit(nogil=True)(kernel)
    return made


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(processors(), thread_name_prefix="kernels")


# Threads do not survive a fork; the child starts its own.
os.register_at_fork(after_in_child=_pool.cache_clear)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_out(work: Callable[[int, int], None], rows: int) -> None:
    """Call `work(start, end)` for pieces that cover all rows, on all processors; an error is raised here."""
    piece = min(max(-(-rows // processors()), LEAST_ROWS), MOST_ROWS)
    starts = range(0, rows, piece)
    if len(starts) < 2:
        work(0, rows)
        return
    for _ in _pool().map(lambda start: work(start, min(start + piece, rows)), starts):
        pass


class Scorer:
    """A forest laid out for walking. Scores have the bits of `Forest.score` on its NumPy path.

    A blank becomes minus or plus infinity as the node sends it left or right, so that one comparison settles a step;
    thresholds are rounded down to float32, which changes no comparison with a float32; leaves lead to themselves.
    """

    def __init__(self, forest: "Forest") -> None:
        leaf = forest.feature < 0
        own = np.arange(len(leaf), dtype=np.int32)
        self._column = np.where(leaf, 0, 2 * forest.feature + ~forest.missing_left).astype(np.int32)
        self._threshold = np.where(leaf, np.float32(np.inf), _rounded_down(forest.threshold))
        self._child = np.stack([np.where(leaf, own, forest.left), np.where(leaf, own, forest.right)], axis=1).ravel()
        self._value = np.array(forest.value)
        self._roots = np.array(forest.roots)
        self._depth = _depths(forest)

    def __call__(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the score (rows,) of each row of a (rows, columns) float64 matrix; NaN is unknown.

        The matrix must have at least the columns the forest was checked for.
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
            share_out(work, len(matrix))
        return scores


def scorer(forest: "Forest") -> Scorer | None:
    """Return what scores a forest fast, compiled and ready; `None` where Numba is missing or switched off."""
    if not available():
        return None
    made = Scorer(forest)
    columns = int(forest.feature.max(initial=0)) + 1
    made(np.zeros((1, columns)))
    return made


def _rounded_down(threshold: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the largest float32 not above each threshold: `<=` with a float32 stays what it was."""
    with np.errstate(over="ignore"):
        rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    return np.where(above, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _depths(forest: "Forest") -> NDArray[np.int32]:
    """Return each tree's longest way from root to leaf, in steps."""
    depth = np.zeros(len(forest.feature), dtype=np.int32)
    for node in np.flatnonzero(forest.feature >= 0):  # parents come before their children
        depth[forest.left[node]] = depth[forest.right[node]] = depth[node] + 1
    return np.maximum.reduceat(depth, forest.roots)


@compiled
def score_rows(
    matrix: Any, scores: Any, column: Any, threshold: Any, child: Any, value: Any, roots: Any, depth: Any
) -> None:
    """Write the scores of a matrix's rows. Each column stands twice in `both`: blanks low and blanks high."""
    rows, columns = matrix.shape
    both = np.empty((SCORED, 2 * columns), np.float32)
    for first in range(0, rows, SCORED):
        here = min(SCORED, rows - first)
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
            while row + 4 <= here:  # four walks side by side: each waits for memory while the others go on
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


@compiled
def code_rows(matrix: Any, thresholds: Any, starts: Any, codes: Any) -> None:
    """Write how many of its column's thresholds lie below each cell, (2 x columns, rows) uint16.

    Row 2c is for nodes that send a blank of column c left, row 2c + 1 for those that send it right.
    """
    rows, columns = matrix.shape
    for column in range(columns):
        start, count = starts[column], starts[column + 1] - starts[column]
        for row in range(rows):
            cell = np.float64(np.float32(matrix[row, column]))
            if cell != cell:
                codes[2 * column, row] = 0
                codes[2 * column + 1, row] = BLANK_RIGHT
                continue
            low, length = start, count
            while length > 0:
                half = length >> 1
                if thresholds[low + half] < cell:
                    low += half + 1
                    length -= half + 1
                else:
                    length = half
            codes[2 * column, row] = low - start
            codes[2 * column + 1, row] = low - start


@compiled
def step_down(parent: Any, here: Any, codes: Any, code: Any, bit: Any, is_left: Any) -> None:
    """Write the rows' states at a child: the parent's, and the bit where the child's condition fails."""
    none = np.uint16(0)
    if is_left:
        for row in range(len(here)):
            here[row] = parent[row] | (bit if codes[row] > code else none)
    else:
        for row in range(len(here)):
            here[row] = parent[row] | (none if codes[row] > code else bit)


@compiled
def mark_right(state: Any, codes: Any, code: Any, bit: Any) -> None:
    """Set the bit in the states of rows that a node sends right."""
    none = np.uint16(0)
    for row in range(len(state)):
        state[row] = state[row] | (bit if codes[row] > code else none)


@compiled
def add_up(state: Any, offset: Any, values: Any, held: Any) -> None:
    """Add a group's contributions to the sums that the lanes hold, (rows, lanes): eight additions in two or so."""
    # Unsigned indices: signed ones would be tested for counting from the end.
    base = np.uint64(offset)
    for number in range(len(state)):
        row = np.uint64(number)
        cell = base + np.uint64(state[row])
        # All is read before anything is written, or the compiler could not put lanes together.
        a, b, c, d = values[cell, 0], values[cell, 1], values[cell, 2], values[cell, 3]
        e, f, g, h = values[cell, 4], values[cell, 5], values[cell, 6], values[cell, 7]
        a, b, c, d = a + held[row, 0], b + held[row, 1], c + held[row, 2], d + held[row, 3]
        e, f, g, h = e + held[row, 4], f + held[row, 5], g + held[row, 6], h + held[row, 7]
        held[row, 0], held[row, 1], held[row, 2], held[row, 3] = a, b, c, d
        held[row, 4], held[row, 5], held[row, 6], held[row, 7] = e, f, g, h


@compiled
def put_down(held: Any, before: Any, after: Any, total: Any) -> None:
    """Where a lane is to hold another factor, add what it holds to its factor's totals, (factors + 1, rows)."""
    for lane in range(8):
        if before[lane] != after[lane]:
            mine = total[before[lane]]
            for row in range(len(held)):
                mine[row] += held[row, lane]
                held[row, lane] = 0.0


@compiled
def add_up_one(found: Any, factor: Any, values: Any, out: Any) -> None:
    """Write one row's contributions from its cells, in the order of `explain_rows`."""
    touched = 0.0
    for number in range(len(found)):
        touched += values[found[number], 0]  # fetches the cache line: so little work that many are on their way at once
    held = np.zeros(8)
    total = np.zeros(len(out) + 1)
    total[len(out)] = touched  # a place that is not returned; without a use there would be no fetching
    for number in range(len(found)):
        cell = found[number]
        for lane in range(8):
            before = factor[max(number - 1, 0), lane]
            if before != factor[number, lane]:
                total[before] += held[lane]
                held[lane] = 0.0
            held[lane] += values[cell, lane]
    for lane in range(8):
        total[factor[len(factor) - 1, lane]] += held[lane]
    for place in range(len(out)):
        out[place] = total[place]


@compiled
def explain_rows(matrix: Any, out: Any, cells: Any, visits: Any, groups: Any, inner: Any, values: Any) -> None:
    """Write the contributions (rows, factors) of a matrix's rows, group by group so that a table stays in cache.

    The tuples are those of `explain.Plan`: one comparison serves sixteen rows at a time, one look-up eight factors.
    """
    thresholds, starts = cells
    depth, column, code, bit, is_left, group = visits
    first, last, offset, factor = groups
    inner_column, inner_code, inner_bit = inner
    rows = len(matrix)
    codes = np.empty((2 * matrix.shape[1], rows), np.uint16)
    code_rows(matrix, thresholds, starts, codes)
    path = np.zeros((depth.max() + 1, rows), np.uint16)
    state = np.empty(rows, np.uint16)
    held = np.zeros((rows, 8))
    total = np.zeros((out.shape[1] + 1, rows))
    for visit in range(len(depth)):
        level = depth[visit]
        if level > 0:
            step_down(path[level - 1], path[level], codes[column[visit]], code[visit], bit[visit], is_left[visit])
        number = group[visit]
        if number >= 0:
            way = path[level]
            for row in range(rows):
                state[row] = way[row]
            for node in range(first[number], last[number]):
                mark_right(state, codes[inner_column[node]], inner_code[node], inner_bit[node])
            put_down(held, factor[max(number - 1, 0)], factor[number], total)
            add_up(state, offset[number], values, held)
    put_down(held, factor[len(factor) - 1], np.full(8, out.shape[1], np.uint16), total)
    for row in range(rows):
        for place in range(out.shape[1]):
            out[row, place] = total[place, row]


@compiled
def explain_one(matrix: Any, out: Any, cells: Any, visits: Any, groups: Any, inner: Any, values: Any) -> None:
    """Write the contributions of a matrix's only row, with the bits of `explain_rows`.

    All cells are found first, so that the look-ups after them do not wait for one another.
    """
    thresholds, starts = cells
    depth, column, code, bit, is_left, group = visits
    first, last, offset, factor = groups
    inner_column, inner_code, inner_bit = inner
    codes = np.empty((2 * matrix.shape[1], 1), np.uint16)
    code_rows(matrix, thresholds, starts, codes)
    # Kept as numbers and multiplied below: as jumps these would be guessed wrong half the time.
    way, right = np.empty(len(depth), np.uint8), np.empty(len(inner_code), np.uint8)
    for visit in range(len(depth)):
        way[visit] = codes[column[visit], 0] > code[visit]
    for node in range(len(inner_code)):
        right[node] = codes[inner_column[node], 0] > inner_code[node]
    path = np.zeros(depth.max() + 1, np.int64)
    found = np.empty(len(offset), np.uint64)
    for visit in range(len(depth)):
        level = depth[visit]
        if level > 0:
            fails = np.int64(way[visit]) ^ (np.int64(1) - np.int64(is_left[visit]))
            path[level] = path[level - 1] | (fails * np.int64(bit[visit]))
        number = group[visit]
        if number >= 0:
            state = path[level]
            for node in range(first[number], last[number]):
                state |= np.int64(right[node]) * np.int64(inner_bit[node])
            found[number] = np.uint64(offset[number] + state)
    add_up_one(found, factor, values, out[0])


@compiled
def explain_each(matrix: Any, out: Any, cells: Any, visits: Any, groups: Any, inner: Any, values: Any) -> None:
    """Write the contributions of a few rows, one after the other: the bits of `explain_rows`, faster for so few."""
    for row in range(len(matrix)):
        explain_one(matrix[row : row + 1], out[row : row + 1], cells, visits, groups, inner, values)
