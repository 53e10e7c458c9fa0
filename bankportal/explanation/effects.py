"""Effects: what one factor does by itself.

A factor's effect is the score minus the mean score when that factor alone takes the values of the reference population.
A contribution becomes a reason only where the effect has the same sign: a contribution is a share of what factors do
together, an effect says which way the score would move if this factor alone changed.

Two kinds of leaf matter for a row. Where the row meets all conditions of a leaf, each factor gains what the reference
population would lose there. Where it fails the conditions of a single factor, that factor loses what the reference
population would gain. Amounts are rounded to whole multiples of `UNIT`, so that sums have the same bits in any order:
for a row alone and among others, with compiled kernels and without.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.explanation.plan import MAX_STEP_CODE, codes
from bankportal.model.encoding import Encoding
from bankportal.model.forest import LEAF, Forest

# In place of the factor whose conditions a row fails.
SEVERAL, NONE = -2, -1
# Sums stay below 2**63, since no tree gives a factor more than 1.
UNIT, MAX_TREES = 2.0**-48, 2**14
# Rows at once without compiled kernels.
BLOCK_ROWS = 128
# Up to so many rows, the compiled kernels are fastest one row after the other; up to so many, sixteen at once.
ROW_BY_ROW, FEW_ROWS = 8, 128
# A state of `_KernelArrays.steps` has a bit for each factor on a path, and one above them.
MAX_STEP_FACTORS = 15
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _KernelArrays:
    """The arrays that the kernels need, derived from the forest and the encoding alone.

    `cells`: the thresholds of all columns, rising within each column; and where each column starts (columns + 1,).
    `nodes`: column (2c, or 2c + 1 where blanks go right), number of the threshold, factor (-1 at a leaf), and leaf.
    `child`: left and right child of each node. `widest`: the largest number of nodes at one depth.
    `visits`: the nodes in each tree's preorder, as depth; the parent's threshold (among all thresholds, which are there
    twice: for blanks left and blanks right); whether the node is a left child; the place of the parent's factor on the
    path, from 1; whether the factor is new on the path; the number of factors on the path; and leaf or -1.
    `path_factors` (leaves, places): the factors on the path to each leaf.
    `steps`: as `Plan.steps` for all nodes; a state has a bit for each factor on the path whose conditions fail, the
    first factor's bit lowest. The last array (leaves,) has the steps that lead to leaves. `None` where a column has too
    many thresholds, or a path too many factors.
    `leaves`: in the order of these steps, the leaf's number and the number of factors on the path.
    """

    cells: tuple[NDArray[Any], ...]
    nodes: tuple[NDArray[Any], ...]
    child: NDArray[np.uint32]
    roots: NDArray[np.uint32]
    widest: int
    visits: tuple[NDArray[Any], ...]
    path_factors: NDArray[np.int64]
    steps: tuple[NDArray[Any], ...] | None
    leaves: tuple[NDArray[Any], ...]


@dataclass(frozen=True, eq=False)
class Effects:
    """The effects of a forest's factors against its reference population.

    `shares` (leaves, factors) float64: the share of the reference population that meets a leaf's conditions on a
    factor, 1 where there are none. Leaves are in the order of the nodes, factors in the encoding's order. Raises
    `ValueError` where the shares do not match the forest.
    """

    forest: Forest
    encoding: Encoding
    shares: Floats

    def __post_init__(self) -> None:
        expected = (int((self.forest.feature == LEAF).sum()), len(self.encoding.factors))
        if self.shares.shape != expected or self.shares.dtype != np.float64:
            raise ValueError("the shares are not those of the forest's leaves and factors")
        if not ((self.shares >= 0) & (self.shares <= 1)).all():
            raise ValueError("a share is not between 0 and 1")
        if len(self.forest.roots) > MAX_TREES:
            raise ValueError(f"a forest of more than {MAX_TREES} trees has no effects")

    @classmethod
    def build(cls, forest: Forest, encoding: Encoding, reference: Floats) -> "Effects":
        """Return the effects against a reference population, (rows, columns) with NaN for unknown."""
        factors, of_column = len(encoding.factors), _factor_of_column(encoding)
        shares = np.ones((len(forest.feature), factors))
        rounded, all_rows = reference.astype(np.float32), np.ones(len(reference), dtype=np.bool_)
        todo: list[tuple[int, dict[int, NDArray[np.bool_]]]] = [(int(root), {}) for root in forest.roots]
        while todo:
            node, met = todo.pop()
            if forest.feature[node] == LEAF:
                for factor, rows in met.items():
                    shares[node, factor] = rows.mean()
                continue
            factor, left = int(of_column[forest.feature[node]]), _goes_left(forest, rounded, node)
            before = met.get(factor, all_rows)
            todo.append((int(forest.left[node]), met | {factor: before & left}))
            todo.append((int(forest.right[node]), met | {factor: before & ~left}))
        return cls(forest, encoding, shares[forest.feature == LEAF])

    def of(self, row: Floats) -> Floats:
        """Return each factor's effect on the score of one row (columns,), as (factors,)."""
        effects: Floats = self.of_rows(row[None, :])[0]
        return effects

    def of_rows(self, matrix: Floats) -> Floats:
        """Return the effects (rows, factors) of a (rows, columns) float64 matrix; NaN is unknown."""
        matrix = np.require(matrix, np.float64, ["C", "W"])
        total = np.zeros((len(matrix), self.shares.shape[1]), dtype=np.int64)
        compiled = _kernels()
        if compiled is None:
            for start in range(0, len(matrix), BLOCK_ROWS):
                self._add_up(matrix[start : start + BLOCK_ROWS], total[start : start + BLOCK_ROWS])
        elif len(matrix) <= FEW_ROWS:
            self._of_few(compiled, matrix, total)
        elif len(matrix):
            compiled.run_in_parallel(
                lambda start, end: self._of_many(compiled, matrix[start:end], total[start:end]), len(matrix)
            )
        effects: Floats = total.astype(np.float64) * (UNIT / len(self.forest.roots))
        return effects

    def warm_up(self) -> None:
        """Compile the kernels, or load the compiled ones, so that the first request does not wait."""
        blank = np.full((FEW_ROWS + 1, len(self.encoding.columns)), np.nan)
        for rows in (len(blank), ROW_BY_ROW + 1, 1):
            self.of_rows(blank[:rows])

    def _of_few(self, compiled: ModuleType, matrix: Floats, total: NDArray[np.int64]) -> None:
        arrays = self._kernel_arrays
        gain, loss = self._amounts
        for start in range(0, len(matrix), compiled.ROWS_AT_ONCE):
            part = slice(start, start + compiled.ROWS_AT_ONCE)
            rows, sums = matrix[part], total[part]
            if len(rows) <= ROW_BY_ROW or arrays.steps is None:
                compiled.effects_of_few(
                    rows, sums, arrays.cells, arrays.nodes, arrays.child, arrays.roots, gain, loss, arrays.widest
                )
            else:
                compiled.effects_of_sixteen(
                    rows, sums, arrays.cells, arrays.steps, arrays.leaves, arrays.path_factors, gain, loss
                )

    def _of_many(self, compiled: ModuleType, matrix: Floats, total: NDArray[np.int64]) -> None:
        arrays = self._kernel_arrays
        compiled.effects_of_rows(matrix, total, arrays.cells, arrays.visits, arrays.path_factors, *self._amounts)

    def _add_up(self, matrix: Floats, total: NDArray[np.int64]) -> None:
        """Add the effects, (rows, factors) in units, to `total` without compiled kernels."""
        failing = self._failing(matrix)[self.forest.feature == LEAF]
        gain, loss = self._amounts
        leaf, row = np.nonzero(failing == NONE)
        np.add.at(total, row, gain[leaf])
        leaf, row = np.nonzero(failing >= 0)
        factor = failing[leaf, row]
        np.subtract.at(total, (row, factor), loss[leaf, factor])

    def _failing(self, matrix: Floats) -> NDArray[np.int64]:
        """Return (nodes, rows): the factor whose conditions a row fails on the node's path, or `NONE`, or `SEVERAL`."""
        forest = self.forest
        values = matrix.astype(np.float32).T[forest.feature]  # a leaf's is not used
        below = values.astype(np.float64) <= forest.threshold[:, None]
        left = np.where(np.isnan(values), forest.missing_left[:, None], below)
        state = np.full(left.shape, NONE, dtype=np.int64)
        for nodes, parents, is_left, factor in self._levels:
            before, split_factor = state[parents], factor[:, None]
            failed = np.where((before == NONE) | (before == split_factor), split_factor, SEVERAL)
            state[nodes] = np.where(left[parents] == is_left[:, None], before, failed)
        return state

    @cached_property
    def _amounts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The factors' gains and losses at the leaves, (leaves, factors) each, in units.

        A factor gains where a row meets all conditions of a leaf, and loses where the row fails only those on it.
        """
        value = self.forest.value[self.forest.feature == LEAF][:, None]
        return _in_units(value * (1 - self.shares)), _in_units(value * self.shares)

    @cached_property
    def _levels(self) -> list[tuple[NDArray[np.int64], ...]]:
        """For each depth from 1 on: the nodes, their parents, whether they are left children, the parents' factors."""
        forest, of_column = self.forest, _factor_of_column(self.encoding)
        level = forest.roots.astype(np.int64)
        levels: list[tuple[NDArray[np.int64], ...]] = []
        while len(parents := level[forest.feature[level] != LEAF]):
            both = np.concatenate([parents, parents])
            is_left = np.repeat([True, False], len(parents))
            level = np.where(is_left, forest.left[both], forest.right[both]).astype(np.int64)
            levels.append((level, both, is_left.astype(np.int64), of_column[forest.feature[both]]))
        return levels

    @cached_property
    def _kernel_arrays(self) -> _KernelArrays:
        return _kernel_arrays(self.forest, self.encoding)

    def to_bytes(self) -> bytes:
        """Return the shares as an `.npy` file."""
        buffer = io.BytesIO()
        np.save(buffer, self.shares, allow_pickle=False)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, forest: Forest, encoding: Encoding) -> "Effects":
        """Read what `to_bytes` wrote; `ValueError` where it is anything else."""
        try:
            shares = np.load(io.BytesIO(content), allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"the effects cannot be read: {error}") from error
        return cls(forest, encoding, shares)


def _kernels() -> ModuleType | None:
    """Return the compiled kernels, imported when first needed; `None` where kernels cannot be compiled."""
    from bankportal.explanation import effects_kernels

    return effects_kernels if effects_kernels.available() else None


def _in_units(amounts: Floats) -> NDArray[np.int64]:
    return np.rint(amounts / UNIT).astype(np.int64)


def _kernel_arrays(forest: Forest, encoding: Encoding) -> _KernelArrays:
    inner, of_column = forest.feature != LEAF, _factor_of_column(encoding)
    thresholds, starts, number = codes(forest, len(encoding.columns))
    leaf = np.where(inner, LEAF, np.cumsum(~inner) - 1)
    column = np.where(inner, 2 * forest.feature + ~forest.missing_left, 0)
    count = np.diff(starts)[np.where(inner, forest.feature, 0)]
    condition = 2 * starts[np.where(inner, forest.feature, 0)] + ~forest.missing_left * count + number
    factor = np.where(inner, of_column[forest.feature], LEAF)
    visits, parent, path_factors = _visits(forest, factor, condition, leaf)
    own = np.arange(len(inner))
    return _KernelArrays(
        cells=(thresholds, starts),
        nodes=(column.astype(np.uint16), np.array(number, np.uint16), factor.astype(np.int16), leaf.astype(np.int32)),
        child=np.where(inner, [forest.left, forest.right], own).T.astype(np.uint32).ravel(),
        roots=forest.roots.astype(np.uint32),
        widest=int(np.bincount(visits[0]).max()),
        visits=visits,
        path_factors=path_factors,
        steps=_steps(visits, column[parent], np.array(number)[parent], int(np.diff(starts).max())),
        leaves=tuple(array[visits[6] >= 0] for array in (visits[6], visits[5])),
    )


def _steps(
    visits: tuple[NDArray[Any], ...], column: NDArray[Any], number: NDArray[Any], longest: int
) -> tuple[NDArray[Any], ...] | None:
    """Return `steps` of `_KernelArrays`; `column` and `number` are those of the visits' parents."""
    depth, _, is_left, place, _, known, leaf = visits
    if longest >= MAX_STEP_CODE or known.max() > MAX_STEP_FACTORS:
        return None
    previous, at_depth = [], [0] * (int(depth.max()) + 1)
    for step, level in enumerate(depth.tolist(), start=1):
        at_depth[level] = step
        previous.append(at_depth[level - 1] if level else 0)
    is_root = depth == 0
    least = np.where(is_left, number + 1, MAX_STEP_CODE - number)
    steps = (
        (np.array(previous), np.uint32),
        (np.where(is_root, 0, 2 * column + ~is_left), np.uint16),
        (np.where(is_root, MAX_STEP_CODE + 1, least), np.uint16),
        (np.where(is_root, 0, 16 - place), np.uint8),
    )
    # As in `Plan.steps`, step 0 is the empty state; the other arrays' first numbers are not used.
    return (*(np.append(0, array).astype(dtype) for array, dtype in steps), np.flatnonzero(leaf >= 0) + 1)


def _visits(
    forest: Forest, factor: NDArray[Any], condition: NDArray[Any], leaf: NDArray[Any]
) -> tuple[tuple[NDArray[Any], ...], NDArray[np.int64], NDArray[np.int64]]:
    """Walk each tree in preorder and return `visits`, the visits' parents, and `path_factors` of `_KernelArrays`."""
    visits: list[tuple[int, int, bool, int, bool, int, int]] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = [()] * (int(leaf.max()) + 1)
    feature, left, right = forest.feature.tolist(), forest.left.tolist(), forest.right.tolist()
    factors, conditions, leaves = factor.tolist(), condition.tolist(), leaf.tolist()
    for root in forest.roots.tolist():
        todo: list[tuple[int, int, tuple[int, ...], int, bool]] = [(root, LEAF, (), 0, False)]
        while todo:
            node, parent, parent_path, depth, is_left = todo.pop()
            split_factor, is_new = factors[parent], parent != LEAF and factors[parent] not in parent_path
            path = (*parent_path, split_factor) if is_new else parent_path
            place = 1 + path.index(split_factor) if depth else 0
            parents.append(parent)
            visits.append((depth, conditions[parent], is_left, place, is_new, len(path), leaves[node]))
            if feature[node] == LEAF:
                paths[leaves[node]] = path
            else:
                todo += [(right[node], node, path, depth + 1, False), (left[node], node, path, depth + 1, True)]
    path_factors = np.zeros((len(paths), max(1, *map(len, paths))), dtype=np.int64)
    for number, path in enumerate(paths):
        path_factors[number, : len(path)] = path
    dtypes = (np.int64, np.int64, np.bool_, np.int64, np.bool_, np.int64, np.int64)
    columns = zip(zip(*visits, strict=True), dtypes, strict=True)
    return tuple(np.array(column, dtype) for column, dtype in columns), np.array(parents), path_factors


def _factor_of_column(encoding: Encoding) -> NDArray[np.int64]:
    number = {name: number for number, name in enumerate(encoding.factors)}
    return np.array([number[column.factor] for column in encoding.columns], dtype=np.int64)


def _goes_left(forest: Forest, rounded: NDArray[np.float32], node: int) -> NDArray[np.bool_]:
    """Return which reference rows (rows,) a node sends left."""
    values = rounded[:, forest.feature[node]]
    known: NDArray[np.bool_] = values.astype(np.float64) <= forest.threshold[node]
    return np.where(np.isnan(values), forest.missing_left[node], known)
