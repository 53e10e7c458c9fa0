"""Building a forest's tables of contributions against its reference population."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import factorial, fsum

import numpy as np
from numpy.typing import NDArray

from bankportal.explanation.plan import LANES, Floats, Plan, Shape, checked_matrix, plan, table_rows
from bankportal.explanation.tables import FORMAT, Tables, aligned, encoding_digest, forest_digest
from bankportal.model.encoding import Encoding
from bankportal.model.forest import LEAF, Forest

# Shapley weights of up to eight players are whole multiples of 1/840. So sums of counts times weights are exact in any
# order.
COMMON_DENOMINATOR = 840
# Leaves whose contributions are computed at once.
BLOCK_LEAVES = 64
# Reference rows that are looked up at once.
BLOCK_ROWS = 128


def build(forest: Forest, encoding: Encoding, reference: Floats) -> Tables:
    """Return the tables for contributions against a reference population, (rows, columns) with NaN for unknown.

    All reference rows have the same weight. Counts and weights (times `COMMON_DENOMINATOR`) are whole numbers, so the
    tables have the same bits on every machine. Raises `ValueError` where the reference is empty or does not have the
    encoding's columns, or where a leaf's path has more than eight factors.
    """
    reference = checked_matrix(reference, encoding)
    if not len(reference):
        raise ValueError("the reference population is empty")
    lookup = plan(forest, encoding)
    counts = np.zeros(lookup.rows, dtype=np.int64)
    for start in range(0, len(reference), BLOCK_ROWS):
        cells = table_rows(lookup, reference[start : start + BLOCK_ROWS])
        counts += np.bincount(cells.ravel(), minlength=lookup.rows)
    values = aligned(np.zeros((lookup.rows, LANES)))
    _fill(values, counts, lookup, Shape(forest, encoding), forest.value)
    values /= COMMON_DENOMINATOR * len(reference) * len(forest.roots)
    return Tables(
        values=values if lookup.dtype == "float64" else aligned(values.astype(np.float32)),
        base=np.array([fsum(forest.score(reference)) / len(reference)]),
        reference=np.array([len(reference)], dtype=np.int64),
        forest=np.frombuffer(forest_digest(forest), dtype=np.uint8),
        encoding=np.frombuffer(encoding_digest(encoding), dtype=np.uint8),
        format=np.array([FORMAT], dtype=np.int64),
    )


@dataclass(frozen=True)
class _Leaf:
    """A leaf of a group: the rows of the group's table, the leaf's failing factors at each row, and their lanes.

    `pattern` (table rows,) has a bit for each factor of the leaf's path, set where its conditions fail.
    """

    table: slice
    pattern: NDArray[np.int64]
    lanes: list[int]
    value: float


def _fill(values: Floats, counts: NDArray[np.int64], lookup: Plan, shape: Shape, value: Floats) -> None:
    """Add all leaves' contributions to the tables, times `COMMON_DENOMINATOR` and the number of reference rows.

    `counts` says how often each table row occurs in the reference. Leaves with equally many players are computed
    together.
    """
    waiting: dict[int, list[_Leaf]] = {players: [] for players in range(1, LANES + 1)}
    _, _, offsets, lane_factors = (array.tolist() for array in lookup.groups)
    for root, offset, factors in zip(lookup.roots, offsets, lane_factors, strict=True):
        for leaf in _leaves(shape, root, offset, factors, value):
            players = len(leaf.lanes)
            if players:  # a tree of one leaf gives everyone the same score
                waiting[players].append(leaf)
                if len(waiting[players]) == BLOCK_LEAVES:
                    _add_leaves(values, counts, waiting[players])
                    waiting[players] = []
    for leaves in waiting.values():
        if leaves:
            _add_leaves(values, counts, leaves)


def _leaves(shape: Shape, root: int, offset: int, lane_factors: list[int], value: Floats) -> Iterator[_Leaf]:
    inside = shape.inside(root)
    index = np.arange(1 << shape.bits(root))
    known = len(shape.path[root])
    right = {node: (index >> (known + rank)) & 1 for rank, node in enumerate(inside)}
    todo = [(root, {factor: (index >> place) & 1 for place, factor in enumerate(shape.path[root])})]
    while todo:
        node, fails = todo.pop()
        factor = shape.factor[node]
        if factor == LEAF:
            pattern = np.zeros_like(index)
            for place, failed in enumerate(fails.values()):
                pattern |= failed << place
            lanes = [lane_factors.index(factor) for factor in fails]
            yield _Leaf(slice(offset, offset + len(index)), pattern, lanes, float(value[node]))
            continue
        before = fails.get(factor, 0)
        todo.append((shape.left[node], fails | {factor: before | right[node]}))
        todo.append((shape.right[node], fails | {factor: before | (1 - right[node])}))


def _add_leaves(values: Floats, counts: NDArray[np.int64], leaves: list[_Leaf]) -> None:
    players = len(leaves[0].lanes)
    size = 1 << players
    occurs = [np.bincount(leaf.pattern, weights=counts[leaf.table], minlength=size) for leaf in leaves]
    exact = np.stack(occurs) @ _weights(players).reshape(size, -1)
    for leaf, contributions in zip(leaves, exact.reshape(len(leaves), size, players), strict=True):
        values[leaf.table, leaf.lanes] += leaf.value * contributions[leaf.pattern]


@lru_cache
def _weights(players: int) -> Floats:
    """Return 840 x each player's Shapley value in a leaf's game, (reference pattern, row pattern, player).

    A pattern has a bit for each player, set where the player fails the leaf's conditions. All are whole numbers.
    """
    patterns = np.arange(1 << players)
    fails = (patterns[:, None] >> np.arange(players)) & 1
    reference, row = fails[:, None, :], fails[None, :, :]
    # The number of players that only the row, and that only the reference satisfies.
    for_row, against = reference.sum(axis=2), row.sum(axis=2)
    counts = (reference & row).sum(axis=2) == 0
    shares = np.array([[_share(own, others) for others in range(players + 1)] for own in range(players + 1)])
    gain, loss = shares[for_row, against], shares[against, for_row]
    weights = np.where(reference == 1, gain[..., None], np.where(row == 1, -loss[..., None], 0))
    return np.where(counts[..., None], weights, 0).astype(np.float64)


def _share(own: int, others: int) -> int:
    """Return 840 (own - 1)! others! / (own + others)!, each player's share where `own` players play against `others`.

    0 where there is no such game.
    """
    if not 1 <= own <= LANES - others:
        return 0
    return COMMON_DENOMINATOR * factorial(own - 1) * factorial(others) // factorial(own + others)
