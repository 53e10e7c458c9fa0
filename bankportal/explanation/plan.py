"""The plan of a forest's tables of contributions, and the look-up of rows in them.

It is derived from the forest and the encoding alone. `explainer.py` says why tables suffice and what a group is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.model.encoding import Encoding
from bankportal.model.forest import LEAF, Forest

# Factors in one table: a look-up reads one cache line of 64-bit numbers.
LANES = 8
# Bits of a table's index at most.
MAX_BITS = 12
# The price of a number in a table, in look-ups, from the fastest tables to the smallest. The first one is taken whose
# tables fit into `MAX_BYTES`.
PRICES = (0.002, 0.008, 0.03, 0.1)
# Tables that would be larger than this with 64-bit numbers have 32-bit numbers.
MAX_BYTES = 64 * 1024 * 1024
# The code of a blank where blanks go right: larger than the number of every threshold.
BLANK_RIGHT = 65535
# The largest code of a step: above it is the bit in which a comparison leaves its result.
MAX_STEP_CODE = 32767

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """The arrays by which rows are looked up in the tables.

    `cells`: the thresholds of all columns, rising within each column; and where each column starts (columns + 1,).
    `visits`: the nodes above the groups and the groups' roots, in each tree's preorder. They are given as depth; the
    parent's column (2c, or 2c + 1 where blanks go right); the number of the parent's threshold in its column; the bit
    that is set where the condition fails; whether the node is a left child; and the group, or -1.
    `groups`: each group's first node in `inner` and last + 1; its first table row; and the factor of each lane (groups,
    LANES), which is the number of factors while a lane has none.
    `inner`: the groups' inner nodes as column, number of the threshold, and the bit that is set where a row goes right.
    """

    factors: int
    columns: int
    rows: int
    dtype: str
    cells: tuple[NDArray[Any], ...]
    visits: tuple[NDArray[Any], ...]
    groups: tuple[NDArray[Any], ...]
    inner: tuple[NDArray[Any], ...]
    roots: tuple[int, ...]

    @cached_property
    def parents(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """For each depth from 1 on, two arrays (visits,): its visits, and the visit of each one's parent."""
        depth = self.visits[0]
        last: dict[int, int] = {}
        parent = np.zeros(len(depth), dtype=np.int64)
        for visit, level in enumerate(depth.tolist()):
            parent[visit] = last.get(level - 1, 0)
            last[level] = visit
        by_level = (np.flatnonzero(depth == level) for level in range(1, int(depth.max()) + 1))
        return [(visits, parent[visits]) for visits in by_level]

    @cached_property
    def ranks(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """Pairs of arrays (groups,): the groups with a first inner node, and these nodes; with a second; and so on."""
        first, last = self.groups[:2]
        by_rank = (np.flatnonzero(last - first > rank) for rank in range(int((last - first).max())))
        return [(groups, first[groups] + rank) for rank, groups in enumerate(by_rank)]

    @cached_property
    def runs(self) -> list[tuple[int, int, slice]]:
        """The runs of groups for which a lane has the same factor: factor, lane, groups; in the order of their ends."""
        lane_factors = self.groups[3]
        runs = []
        for lane in range(LANES):
            ends = [0, *(np.flatnonzero(np.diff(lane_factors[:, lane])) + 1).tolist(), len(lane_factors)]
            runs += [(int(lane_factors[first, lane]), lane, slice(first, last)) for first, last in pairwise(ends)]
        return sorted((run for run in runs if run[0] < self.factors), key=lambda run: run[2].stop)

    @cached_property
    def steps(self) -> tuple[NDArray[Any], ...] | None:
        """Visits and inner nodes as one list of steps without branches; `None` where a column has too many thresholds.

        The state after a step is the state after an earlier one, with a bit set where a code is large enough. Step 0 is
        the empty state. Arrays (steps,): the earlier step; the column (4c for nodes that send a blank of column c left,
        4c + 2 for nodes that send it right, each 1 more for `MAX_STEP_CODE` less the code, which sets a bit where the
        code is small); the least code that sets the bit; how far the bit is from the highest of 16. And an array
        (groups,): the step after which a row's state is the group's index.
        """
        _, starts = self.cells
        if np.diff(starts).max() >= MAX_STEP_CODE:
            return None
        steps = [(0, 0, MAX_STEP_CODE + 1, 0)]  # as do the roots, it sets no bit
        ends, at_depth = [], [0] * (int(self.visits[0].max()) + 1)
        inner = list(zip(*(array.tolist() for array in self.inner), strict=True))
        first, last = self.groups[0].tolist(), self.groups[1].tolist()
        for depth, column, code, bit, is_left, group in zip(*(array.tolist() for array in self.visits), strict=True):
            at_depth[depth] = len(steps)
            if depth == 0:
                steps.append(steps[0])
            elif is_left:
                steps.append((at_depth[depth - 1], 2 * column, code + 1, 16 - bit.bit_length()))
            else:
                steps.append((at_depth[depth - 1], 2 * column + 1, MAX_STEP_CODE - code, 16 - bit.bit_length()))
            if group >= 0:
                for column_inside, code_inside, bit_inside in inner[first[group] : last[group]]:
                    shift = 16 - bit_inside.bit_length()
                    steps.append((len(steps) - 1, 2 * column_inside, code_inside + 1, shift))
                ends.append(len(steps) - 1)
        dtypes = (np.uint32, np.uint16, np.uint16, np.uint8)
        arrays = (np.array(values, dtype) for values, dtype in zip(zip(*steps, strict=True), dtypes, strict=True))
        return (*arrays, np.array(ends, np.uint32))

    @cached_property
    def handovers(self) -> tuple[NDArray[Any], ...]:
        """Where a lane passes from one factor to another, in the order of groups and lanes.

        `until` (groups,): how many handovers come before a group's numbers are added. `lane` and `factor` (handovers,):
        the lane, and the factor that it had. `kept` (groups, LANES) float64: 0 where the lane has just been handed
        over, else 1.
        """
        factor = self.groups[3]
        changed = np.zeros(factor.shape, dtype=np.bool_)
        changed[1:] = factor[1:] != factor[:-1]
        group, lane = np.nonzero(changed)
        return (
            np.cumsum(changed.sum(axis=1)).astype(np.uint32),
            lane.astype(np.uint8),
            factor[group - 1, lane],
            np.where(changed, 0.0, 1.0),
        )


class Shape:
    """A forest as Python lists, the factors on the path to each node, and the choice of groups."""

    def __init__(self, forest: Forest, encoding: Encoding) -> None:
        number = {name: number for number, name in enumerate(encoding.factors)}
        of_column = [number[column.factor] for column in encoding.columns]
        self.feature: list[int] = forest.feature.tolist()
        self.left: list[int] = forest.left.tolist()
        self.right: list[int] = forest.right.tolist()
        self.factor = [of_column[column] if column != LEAF else LEAF for column in self.feature]
        self.path = self._paths()
        self.lanes, self.nodes = self._sizes()

    def _paths(self) -> list[tuple[int, ...]]:
        """Return the factors on the path to each node, in the order in which they come up."""
        path: list[tuple[int, ...]] = [()] * len(self.feature)
        for node, factor in enumerate(self.factor):  # parents come before their children
            if factor != LEAF:
                here = path[node] if factor in path[node] else (*path[node], factor)
                path[self.left[node]] = path[self.right[node]] = here
        if max(map(len, path)) > LANES:
            raise ValueError(f"a leaf's path has more than {LANES} factors; train with a depth of at most {LANES}")
        return path

    def _sizes(self) -> tuple[list[int], list[int]]:
        """Return for each node how many factors its subtree and its path have, and how many inner nodes its subtree."""
        masks = [sum(1 << factor for factor in path) for path in self.path]
        nodes = [0] * len(masks)
        for node in range(len(masks) - 1, -1, -1):
            if self.factor[node] != LEAF:
                left, right = self.left[node], self.right[node]
                masks[node] = masks[left] | masks[right]
                nodes[node] = 1 + nodes[left] + nodes[right]
        return [mask.bit_count() for mask in masks], nodes

    def bits(self, node: int) -> int:
        """Return the bits that the table's index would need if the node's subtree were a group."""
        return len(self.path[node]) + self.nodes[node]

    def grouped(self, price: float) -> list[bool]:
        """Return for each node whether its subtree is cheaper as one group than in parts (dynamic programming)."""
        cost = [0.0] * len(self.feature)
        is_group = [False] * len(cost)
        for node in range(len(cost) - 1, -1, -1):
            fits = self.bits(node) <= MAX_BITS and self.lanes[node] <= LANES
            own = 2 + self.lanes[node] + price * LANES * 2 ** self.bits(node) if fits else inf
            parts = cost[self.left[node]] + cost[self.right[node]] if self.factor[node] != LEAF else inf
            cost[node], is_group[node] = min(own, parts), own <= parts
        return is_group

    def walk(self, root: int, is_group: list[bool]) -> Iterator[tuple[int, int, int]]:
        """Yield a tree's nodes down to the groups' roots in preorder, with parent (or -1) and depth."""
        todo = [(root, LEAF, 0)]
        while todo:
            node, parent, depth = todo.pop()
            yield node, parent, depth
            if not is_group[node]:
                todo += [(self.right[node], node, depth + 1), (self.left[node], node, depth + 1)]

    def inside(self, root: int) -> list[int]:
        """Return a group's inner nodes in preorder."""
        inner, todo = [], [root]
        while todo:
            node = todo.pop()
            if self.factor[node] != LEAF:
                inner.append(node)
                todo += [self.right[node], self.left[node]]
        return inner

    def factors_of(self, root: int, inside: list[int]) -> list[int]:
        """Return a group's factors: those on the path to it, then the others as they come up."""
        return list(dict.fromkeys([*self.path[root], *(self.factor[node] for node in inside)]))


@lru_cache(maxsize=4)
def plan(forest: Forest, encoding: Encoding) -> Plan:
    """Return the plan of a forest's tables; `ValueError` where the forest is too deep or too large for tables."""
    shape = Shape(forest, encoding)
    roots = forest.roots.tolist()
    for price in PRICES:
        is_group = shape.grouped(price)
        order = [step for root in roots for step in shape.walk(root, is_group)]
        groups = [node for node, _, _ in order if is_group[node]]
        rows = sum(2 ** shape.bits(node) for node in groups)
        if rows * LANES * 8 <= MAX_BYTES:
            break
    thresholds, starts, code = codes(forest, len(encoding.columns))
    column = (2 * forest.feature + ~forest.missing_left).tolist()
    return Plan(
        factors=len(encoding.factors),
        columns=len(encoding.columns),
        rows=rows,
        dtype="float64" if rows * LANES * 8 <= MAX_BYTES else "float32",
        cells=(thresholds, starts),
        visits=_visits(shape, order, {node: number for number, node in enumerate(groups)}, column, code),
        groups=_groups(shape, groups, len(encoding.factors)),
        inner=_inner(shape, groups, column, code),
        roots=tuple(groups),
    )


def codes(forest: Forest, columns: int) -> tuple[Floats, NDArray[np.int64], list[int]]:
    """Return all columns' thresholds (thresholds,), where each column starts (columns + 1,), and a code for each node.

    A node's code is the number of its threshold among those of its column. Raises `ValueError` where there are too many
    columns, or too many thresholds of one column.
    """
    code = np.zeros(len(forest.feature), dtype=np.int64)
    by_column = []
    for column in range(columns):
        nodes = np.flatnonzero(forest.feature == column)
        thresholds, code[nodes] = np.unique(forest.threshold[nodes], return_inverse=True)
        by_column.append(thresholds)
    lengths = [len(thresholds) for thresholds in by_column]
    if max(lengths) >= BLANK_RIGHT or 2 * columns > BLANK_RIGHT:
        raise ValueError("there are too many columns, or thresholds of one column, to be explained")
    return np.concatenate(by_column), np.cumsum([0, *lengths]), code.tolist()


def _visits(
    shape: Shape, order: list[tuple[int, int, int]], group: dict[int, int], column: list[int], code: list[int]
) -> tuple[NDArray[Any], ...]:
    bits = [1 << shape.path[node].index(shape.factor[parent]) if depth else 0 for node, parent, depth in order]
    return (
        np.array([depth for _, _, depth in order], dtype=np.uint8),
        np.array([column[parent] if depth else 0 for _, parent, depth in order], dtype=np.uint16),
        np.array([code[parent] if depth else 0 for _, parent, depth in order], dtype=np.uint16),
        np.array(bits, dtype=np.uint16),
        np.array([depth > 0 and shape.left[parent] == node for node, parent, depth in order], dtype=np.bool_),
        np.array([group.get(node, -1) for node, _, _ in order], dtype=np.int32),
    )


def _groups(shape: Shape, groups: list[int], factors: int) -> tuple[NDArray[Any], ...]:
    ends = np.cumsum([0, *(shape.nodes[node] for node in groups)], dtype=np.int32)
    offsets = np.cumsum([0, *(2 ** shape.bits(node) for node in groups)], dtype=np.int64)
    lane_factors = _lane_factors([shape.factors_of(node, shape.inside(node)) for node in groups], factors)
    return ends[:-1].copy(), ends[1:].copy(), offsets[:-1].copy(), lane_factors


def _lane_factors(group_factors: list[list[int]], factors: int) -> NDArray[np.uint16]:
    """Return the factor of each lane by group, (groups, LANES), so that a factor keeps its lane for long.

    When no lane is empty, a new factor takes the lane of the factor whose next use is farthest away (Belady 1966).
    """
    uses = np.full((len(group_factors) + 1, factors + 1), len(group_factors), dtype=np.int64)
    uses[:, factors] = len(group_factors) + 1  # empty lanes are taken first
    for number in range(len(group_factors) - 1, -1, -1):
        uses[number] = uses[number + 1]
        uses[number, group_factors[number]] = number
    lanes = [factors] * LANES
    by_group = np.empty((len(group_factors), LANES), dtype=np.uint16)
    for number, needed in enumerate(group_factors):
        next_use = uses[number].tolist()
        for factor in needed:
            if factor not in lanes:
                farthest = max(range(LANES), key=[next_use[in_lane] for in_lane in lanes].__getitem__)
                lanes[farthest] = factor
        by_group[number] = lanes
    return by_group


def _inner(shape: Shape, groups: list[int], column: list[int], code: list[int]) -> tuple[NDArray[Any], ...]:
    inside = [(root, rank, node) for root in groups for rank, node in enumerate(shape.inside(root))]
    return (
        np.array([column[node] for _, _, node in inside], dtype=np.uint16),
        np.array([code[node] for _, _, node in inside], dtype=np.uint16),
        np.array([1 << (len(shape.path[root]) + rank) for root, rank, _ in inside], dtype=np.uint16),
    )


def table_rows(plan: Plan, matrix: Floats) -> NDArray[np.int64]:
    """Return the table row of each group and matrix row, (groups, rows)."""
    thresholds, starts = plan.cells
    codes = np.empty((2 * plan.columns, len(matrix)), dtype=np.uint16)
    rounded = matrix.astype(np.float32).astype(np.float64)
    for column, values in enumerate(rounded.T):
        below = np.searchsorted(thresholds[starts[column] : starts[column + 1]], values)
        blank = np.isnan(values)
        codes[2 * column] = np.where(blank, 0, below)
        codes[2 * column + 1] = np.where(blank, BLANK_RIGHT, below)
    _, column_of, code, bit, is_left, group = plan.visits
    path = np.zeros((len(column_of), len(matrix)), dtype=np.uint16)
    for visits, parents in plan.parents:
        fails = (codes[column_of[visits]] > code[visits, None]) == is_left[visits, None]
        path[visits] = path[parents] | np.where(fails, bit[visits, None], np.uint16(0))
    state = path[group >= 0]
    inner_column, inner_code, inner_bit = plan.inner
    for groups, nodes in plan.ranks:
        right = codes[inner_column[nodes]] > inner_code[nodes, None]
        state[groups] |= np.where(right, inner_bit[nodes, None], np.uint16(0))
    return plan.groups[2][:, None] + state.astype(np.int64)


def checked_matrix(matrix: Floats, encoding: Encoding) -> Floats:
    """Return a (rows, columns) matrix as the kernels need it; `ValueError` where it lacks the encoding's columns."""
    if matrix.ndim != 2 or matrix.shape[1] != len(encoding.columns):
        raise ValueError(f"the matrix needs {len(encoding.columns)} columns")
    # Writable, since a read-only array is another type for the compiler.
    return np.require(matrix, np.float64, ["C", "W"])
