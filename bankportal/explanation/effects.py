"""What one factor does by itself: the score, less the mean score with that factor alone put at the reference's values.

This is how a reason is checked before it is printed: a contribution shares out what factors do together, an effect says
whether changing this factor alone would move the score the same way.

A leaf counts for a row that meets all its conditions (each factor gains what the reference would lose there) and for
one that fails those on a single factor (which loses what the reference would gain). Amounts are whole multiples of
`UNIT`, so that they add up to the same bits in any order: for a row alone, among others, with compiled kernels and
without.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.explanation.explainer import FEW_ROWS
from bankportal.explanation.plan import codes
from bankportal.model.encoding import Encoding
from bankportal.model.forest import LEAF, Forest

NOT_ONE = -2  # the row fails the conditions of more than one factor
NONE = -1
# Sums stay below 2**63: no tree gives a factor more than 1.
UNIT, MAX_TREES = 2.0**-48, 2**14
# Rows at once on the NumPy path.
BLOCK = 128
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Walk:
    """The forest laid out for the kernels; derived from forest and encoding alone.

    `cells`: all columns' thresholds, each column's rising, and where each column starts (columns + 1). `nodes`: column
    (2c, or 2c + 1 where blanks go right), number of the threshold, factor (-1 at a leaf) and leaf. `child`: left and
    right of each node. `widest`: the most nodes of one level. `visits`: the nodes in each tree's preorder, as depth,
    the parent's threshold (among all, each twice: blanks left, blanks right), whether it is a left child, the place
    (from 1) of the factor its parent asks for on the way, whether that factor is new there, how many factors are on
    the way, and leaf or -1. `held` (leaves, places): the factors on the way to each leaf.
    """

    cells: tuple[NDArray[Any], ...]
    nodes: tuple[NDArray[Any], ...]
    child: NDArray[np.uint32]
    roots: NDArray[np.uint32]
    widest: int
    visits: tuple[NDArray[Any], ...]
    held: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Effects:
    """The forest with, for each leaf and factor, the share of the reference that meets the leaf's conditions on it.

    `shares` (leaves, factors) is 1 where a leaf has no condition on a factor; leaves in the order of the nodes, factors
    in the encoding's. Raises `ValueError` where the shares do not fit the forest.
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
        """Count the shares in a reference population, (rows, columns)."""
        factors, of_column = len(encoding.factors), _factor_of_column(encoding)
        shares = np.ones((len(forest.feature), factors))
        rounded, everybody = reference.astype(np.float32), np.ones(len(reference), dtype=np.bool_)
        todo: list[tuple[int, dict[int, NDArray[np.bool_]]]] = [(int(root), {}) for root in forest.roots]
        while todo:
            node, met = todo.pop()
            if forest.feature[node] == LEAF:
                for factor, rows in met.items():
                    shares[node, factor] = rows.mean()
                continue
            factor, left = int(of_column[forest.feature[node]]), _goes_left(forest, rounded, node)
            before = met.get(factor, everybody)
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
            for start in range(0, len(matrix), BLOCK):
                self._add_up(matrix[start : start + BLOCK], total[start : start + BLOCK])
        elif len(matrix) <= FEW_ROWS:
            walk = self._walk
            gain, loss = self._amounts
            compiled.effects_of_each(
                matrix, total, walk.cells, walk.nodes, walk.child, walk.roots, gain, loss, walk.widest
            )
        elif len(matrix):
            compiled.run_in_parallel(
                lambda start, end: self._call(compiled, matrix[start:end], total[start:end]), len(matrix)
            )
        effects: Floats = total.astype(np.float64) * (UNIT / len(self.forest.roots))
        return effects

    def warm_up(self) -> None:
        """Compile, or load what was compiled, so that the first request does not wait for it."""
        blank = np.full((FEW_ROWS + 1, len(self.encoding.columns)), np.nan)
        self.of_rows(blank)
        self.of_rows(blank[:1])

    def _call(self, compiled: ModuleType, matrix: Floats, total: NDArray[np.int64]) -> None:
        walk = self._walk
        compiled.effects_of_rows(matrix, total, walk.cells, walk.visits, walk.held, *self._amounts)

    def _add_up(self, matrix: Floats, total: NDArray[np.int64]) -> None:
        """Add up the amounts (rows, factors) without compiled kernels."""
        at_leaf = self._failing(matrix)[self.forest.feature == LEAF]
        gain, loss = self._amounts
        leaf, row = np.nonzero(at_leaf == NONE)
        np.add.at(total, row, gain[leaf])
        leaf, row = np.nonzero(at_leaf >= 0)
        factor = at_leaf[leaf, row]
        np.subtract.at(total, (row, factor), loss[leaf, factor])

    def _failing(self, matrix: Floats) -> NDArray[np.int64]:
        """Return for each node and row the one factor whose conditions the row fails on its path, `NONE`, `NOT_ONE`."""
        forest = self.forest
        values = matrix.astype(np.float32).T[forest.feature]  # a leaf's is not used
        below = values.astype(np.float64) <= forest.threshold[:, None]
        left = np.where(np.isnan(values), forest.missing_left[:, None], below)
        state = np.full(left.shape, NONE, dtype=np.int64)
        for nodes, parents, is_left, factor in self._levels:
            before, asked = state[parents], factor[:, None]
            failed = np.where((before == NONE) | (before == asked), asked, NOT_ONE)
            state[nodes] = np.where(left[parents] == is_left[:, None], before, failed)
        return state

    @cached_property
    def _amounts(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """What each factor (leaves, factors) gains where a row meets all, and loses where it fails that factor's."""
        value = self.forest.value[self.forest.feature == LEAF][:, None]
        return _whole(value * (1 - self.shares)), _whole(value * self.shares)

    @cached_property
    def _levels(self) -> list[tuple[NDArray[np.int64], ...]]:
        """The nodes of each depth from 1 on, with their parents, which child they are, and the factor asked there."""
        forest, of_column = self.forest, _factor_of_column(self.encoding)
        level = forest.roots.astype(np.int64)
        found: list[tuple[NDArray[np.int64], ...]] = []
        while len(parents := level[forest.feature[level] != LEAF]):
            both = np.concatenate([parents, parents])
            is_left = np.repeat([True, False], len(parents))
            level = np.where(is_left, forest.left[both], forest.right[both]).astype(np.int64)
            found.append((level, both, is_left.astype(np.int64), of_column[forest.feature[both]]))
        return found

    @cached_property
    def _walk(self) -> _Walk:
        return _laid_out(self.forest, self.encoding)

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
    """Return the compiled kernels, imported when first needed; `None` where there are none."""
    from bankportal.explanation import effects_kernels

    return effects_kernels if effects_kernels.available() else None


def _whole(amounts: Floats) -> NDArray[np.int64]:
    return np.rint(amounts / UNIT).astype(np.int64)


def _laid_out(forest: Forest, encoding: Encoding) -> _Walk:
    inner, of_column = forest.feature != LEAF, _factor_of_column(encoding)
    thresholds, starts, number = codes(forest, len(encoding.columns))
    leaf = np.where(inner, LEAF, np.cumsum(~inner) - 1)
    column = np.where(inner, 2 * forest.feature + ~forest.missing_left, 0)
    count = np.diff(starts)[np.where(inner, forest.feature, 0)]
    condition = 2 * starts[np.where(inner, forest.feature, 0)] + ~forest.missing_left * count + number
    factor = np.where(inner, of_column[forest.feature], LEAF)
    visits, held = _visits(forest, factor, condition, leaf)
    own = np.arange(len(inner))
    return _Walk(
        cells=(thresholds, starts),
        nodes=(column.astype(np.uint16), np.array(number, np.uint16), factor.astype(np.int16), leaf.astype(np.int32)),
        child=np.where(inner, [forest.left, forest.right], own).T.astype(np.uint32).ravel(),
        roots=forest.roots.astype(np.uint32),
        widest=int(np.bincount(visits[0]).max()),
        visits=visits,
        held=held,
    )


def _visits(
    forest: Forest, factor: NDArray[Any], condition: NDArray[Any], leaf: NDArray[Any]
) -> tuple[tuple[NDArray[Any], ...], NDArray[np.int64]]:
    """Walk each tree in preorder; return what `_Walk` says of `visits` and `held`."""
    found: list[tuple[int, int, bool, int, bool, int, int]] = []
    ways: list[tuple[int, ...]] = [()] * (int(leaf.max()) + 1)
    feature, left, right = forest.feature.tolist(), forest.left.tolist(), forest.right.tolist()
    factors, conditions, leaves = factor.tolist(), condition.tolist(), leaf.tolist()
    for root in forest.roots.tolist():
        todo: list[tuple[int, int, tuple[int, ...], int, bool]] = [(root, LEAF, (), 0, False)]
        while todo:
            node, parent, way, depth, is_left = todo.pop()
            asked, is_new = factors[parent], parent != LEAF and factors[parent] not in way
            here = (*way, asked) if is_new else way
            own = 1 + here.index(asked) if depth else 0
            found.append((depth, conditions[parent], is_left, own, is_new, len(here), leaves[node]))
            if feature[node] == LEAF:
                ways[leaves[node]] = here
            else:
                todo += [(right[node], node, here, depth + 1, False), (left[node], node, here, depth + 1, True)]
    held = np.zeros((len(ways), max(1, *map(len, ways))), dtype=np.int64)
    for number, way in enumerate(ways):
        held[number, : len(way)] = way
    dtypes = (np.int64, np.int64, np.bool_, np.int64, np.bool_, np.int64, np.int64)
    return tuple(np.array(each, dtype) for each, dtype in zip(zip(*found, strict=True), dtypes, strict=True)), held


def _factor_of_column(encoding: Encoding) -> NDArray[np.int64]:
    number = {name: number for number, name in enumerate(encoding.factors)}
    return np.array([number[column.factor] for column in encoding.columns], dtype=np.int64)


def _goes_left(forest: Forest, rounded: NDArray[np.float32], node: int) -> NDArray[np.bool_]:
    """Say which reference rows (rows,) a node sends left."""
    values = rounded[:, forest.feature[node]]
    known: NDArray[np.bool_] = values.astype(np.float64) <= forest.threshold[node]
    return np.where(np.isnan(values), forest.missing_left[node], known)
