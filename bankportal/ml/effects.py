"""What one factor does by itself: the score, less the mean score with that factor alone put at the reference's values.

This is how a reason is checked before it is printed: a contribution shares out what factors do together, an effect says
whether changing this factor alone would move the score the same way.
"""

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bankportal.ml.encoding import Encoding
from bankportal.ml.forest import LEAF, Forest

NOT_ONE = -2  # the row fails the conditions of more than one factor
NONE = -1
Floats = NDArray[np.float64]


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
        state = self._failing(row.astype(np.float32))
        leaf, value = self._leaves
        at_leaf = state[leaf]
        hit = at_leaf == NONE
        missed = np.flatnonzero(at_leaf >= 0)
        factor = at_leaf[missed]
        lost = np.bincount(factor, value[missed] * self.shares[missed, factor], minlength=self.shares.shape[1])
        effect: Floats = (value[hit] @ (1.0 - self.shares[hit]) - lost) / len(self.forest.roots)
        return effect

    def _failing(self, row: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return for each node the one factor whose conditions on its path the row fails, `NONE`, or `NOT_ONE`."""
        forest = self.forest
        values = row[forest.feature]  # a leaf's is not used
        left = np.where(np.isnan(values), forest.missing_left, values.astype(np.float64) <= forest.threshold)
        state = np.full(len(forest.feature), NONE, dtype=np.int64)
        for nodes, parents, is_left, factor in self._levels:
            before = state[parents]
            failed = np.where((before == NONE) | (before == factor), factor, NOT_ONE)
            state[nodes] = np.where(left[parents] == is_left, before, failed)
        return state

    @cached_property
    def _leaves(self) -> tuple[NDArray[np.intp], Floats]:
        leaf = np.flatnonzero(self.forest.feature == LEAF)
        return leaf, self.forest.value[leaf]

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


def _factor_of_column(encoding: Encoding) -> NDArray[np.int64]:
    number = {name: number for number, name in enumerate(encoding.factors)}
    return np.array([number[column.factor] for column in encoding.columns], dtype=np.int64)


def _goes_left(forest: Forest, rounded: NDArray[np.float32], node: int) -> NDArray[np.bool_]:
    """Say which reference rows (rows,) a node sends left."""
    values = rounded[:, forest.feature[node]]
    known: NDArray[np.bool_] = values.astype(np.float64) <= forest.threshold[node]
    return np.where(np.isnan(values), forest.missing_left[node], known)
