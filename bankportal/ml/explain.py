"""Exact Shapley values of a forest's score over the business factors, by look-up in tables made in training.

A contribution is an interventional Shapley value (Lundberg et al. 2020, "From local explanations to global
understanding with explainable AI for trees", Nature Machine Intelligence 2): the players are the business factors, so
that the columns of one choice are one player, and a coalition's worth is the mean score over the reference population
with the coalition's factors taken from the customer. Base value + contributions = score.

**Why tables suffice.** A leaf's game is a product: with P the factors whose conditions on the leaf's path the customer
meets, and Q those a reference row meets, a coalition reaches the leaf if it holds all of A = P without Q and none of
B = Q without P, and every factor is in P or Q. Its Shapley values have a closed form, value (|A|-1)! |B|! / (|A|+|B|)!
for a factor in A and -value |A|! (|B|-1)! / (|A|+|B|)! for one in B. So the reference matters only by how often each Q
occurs in it, and the customer only by P: the observation of the WOODELF algorithm (Nadel and Wettenstein, "From
Decision Trees to Boolean Logic: A Fast and Unified SHAP Algorithm", AAAI 2026).

**What is different here.** One table serves a whole small subtree ("group"), not a leaf. Its index has one bit a factor
on the way to the subtree (a condition fails) and one bit a node inside (the customer goes right), so two sister leaves
need no more room than one, and a customer needs one look-up a group. Which subtrees become groups is settled by dynamic
programming over look-ups and bytes (`_cost`), from the forest alone, so that nothing that came with a file ever
serves as an index: the tables are numbers.

Measured with `python benchmarks/explain.py`; the figures stand in `benchmarks/results.md`.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from itertools import pairwise
from math import factorial, fsum, inf, prod
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.ml.encoding import Encoding
from bankportal.ml.forest import LEAF, Forest

# Changes with the layout of the tables or the choice of groups: tables of another format are refused.
FORMAT = 1
# Factors in one table: a look-up of 64-bit numbers is one cache line.
LANES = 8
# Bits of a table's index at most.
MOST_BITS = 12
# What a table's entry costs in look-ups, from the fastest tables to the smallest; the first whose tables fit is taken.
PRICES = (0.002, 0.008, 0.03, 0.1)
# Tables that would be larger than this in 64-bit numbers are kept in 32-bit ones.
MOST_BYTES = 64 * 1024 * 1024
# Base + contributions = score to this, by the tables' numbers.
EXACT_TO = {"float64": 1e-9, "float32": 1e-6}
# Shapley weights of up to eight players are whole multiples of 1/840: counts times weights are exact in any order.
COMMON = 840
# A blank's code where blanks go right: above every threshold's number.
BLANK_RIGHT = 65535
# Leaves whose contributions are worked out at once.
BATCH = 64
PIECE = 1 << 20  # bytes of a file read at once
# Rows at once on the NumPy path.
BLOCK = 128
# Up to so many rows the compiled kernels take one after the other: faster for so few than side by side.
FEW_ROWS = 32

Floats = NDArray[np.float64]
Values = NDArray[np.float64] | NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """How a forest's rows find their places in the tables; derived from forest and encoding alone.

    `cells`: all columns' thresholds, each column's rising, and where each column starts (columns + 1). `visits`: the
    nodes down to the groups in each tree's preorder, as depth, column (2c, or 2c + 1 where blanks go right), number of
    the threshold, bit, whether it is a left child, and group or -1; its bit is set where the way's condition fails.
    `groups`: first and last + 1 of the group's nodes, its first table row, and the factor each lane holds (groups,
    LANES), the number of factors where none yet. `inner`: the groups' nodes as column, number of the threshold and bit,
    set where the row goes right.
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
        """The visits of each depth from 1 on, and the visit before each on its way."""
        depth = self.visits[0]
        last: dict[int, int] = {}
        parent = np.zeros(len(depth), dtype=np.int64)
        for visit, level in enumerate(depth.tolist()):
            parent[visit] = last.get(level - 1, 0)
            last[level] = visit
        chosen = (np.flatnonzero(depth == level) for level in range(1, int(depth.max()) + 1))
        return [(visits, parent[visits]) for visits in chosen]

    @cached_property
    def ranks(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """The first node of each group that has one with the group's number, then the second of each, and so on."""
        first, last = self.groups[:2]
        chosen = (np.flatnonzero(last - first > rank) for rank in range(int((last - first).max())))
        return [(groups, first[groups] + rank) for rank, groups in enumerate(chosen)]

    @cached_property
    def runs(self) -> list[tuple[int, int, slice]]:
        """Factor, lane and groups wherever a lane holds one factor without a break, in the order in which they end."""
        held = self.groups[3]
        found = []
        for lane in range(LANES):
            ends = [0, *(np.flatnonzero(np.diff(held[:, lane])) + 1).tolist(), len(held)]
            found += [(int(held[first, lane]), lane, slice(first, last)) for first, last in pairwise(ends)]
        return sorted((run for run in found if run[0] < self.factors), key=lambda run: run[2].stop)


class _Shape:
    """A forest as Python lists, its nodes' paths, and which subtrees become groups."""

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
        """Return the factors on the way to each node, in the order in which they come up."""
        path: list[tuple[int, ...]] = [()] * len(self.feature)
        for node, factor in enumerate(self.factor):  # parents come before their children
            if factor != LEAF:
                here = path[node] if factor in path[node] else (*path[node], factor)
                path[self.left[node]] = path[self.right[node]] = here
        if max(map(len, path)) > LANES:
            raise ValueError(f"a leaf's path has more than {LANES} factors; train with a depth of at most {LANES}")
        return path

    def _sizes(self) -> tuple[list[int], list[int]]:
        """Return how many factors each subtree has with the way to it, and how many inner nodes."""
        masks = [sum(1 << factor for factor in path) for path in self.path]
        nodes = [0] * len(masks)
        for node in range(len(masks) - 1, -1, -1):
            if self.factor[node] != LEAF:
                left, right = self.left[node], self.right[node]
                masks[node] = masks[left] | masks[right]
                nodes[node] = 1 + nodes[left] + nodes[right]
        return [mask.bit_count() for mask in masks], nodes

    def bits(self, node: int) -> int:
        """Return the bits of a table's index, were the node's subtree a group."""
        return len(self.path[node]) + self.nodes[node]

    def grouped(self, price: float) -> list[bool]:
        """Say of each node whether it is cheaper as one group than in parts; a price is for each table row."""
        cost = [0.0] * len(self.feature)
        whole = [False] * len(cost)
        for node in range(len(cost) - 1, -1, -1):
            fits = self.bits(node) <= MOST_BITS and self.lanes[node] <= LANES
            own = 2 + self.lanes[node] + price * LANES * 2 ** self.bits(node) if fits else inf
            parts = cost[self.left[node]] + cost[self.right[node]] if self.factor[node] != LEAF else inf
            cost[node], whole[node] = min(own, parts), own <= parts
        return whole

    def walk(self, root: int, whole: list[bool]) -> Iterator[tuple[int, int, int]]:
        """Yield the nodes down to the groups in preorder, each with its parent (or -1) and its depth."""
        todo = [(root, LEAF, 0)]
        while todo:
            node, parent, depth = todo.pop()
            yield node, parent, depth
            if not whole[node]:
                todo += [(self.right[node], node, depth + 1), (self.left[node], node, depth + 1)]

    def inside(self, root: int) -> list[int]:
        """Return a group's inner nodes in preorder."""
        found, todo = [], [root]
        while todo:
            node = todo.pop()
            if self.factor[node] != LEAF:
                found.append(node)
                todo += [self.right[node], self.left[node]]
        return found

    def factors_of(self, root: int, inside: list[int]) -> list[int]:
        """Return a group's factors: those of the way to it, then new ones as they come up."""
        return list(dict.fromkeys([*self.path[root], *(self.factor[node] for node in inside)]))


@lru_cache(maxsize=4)
def plan(forest: Forest, encoding: Encoding) -> Plan:
    """Work out how rows find their places in the tables; `ValueError` where the forest is too deep or too large."""
    shape = _Shape(forest, encoding)
    roots = forest.roots.tolist()
    for price in PRICES:
        whole = shape.grouped(price)
        order = [step for root in roots for step in shape.walk(root, whole)]
        groups = [node for node, _, _ in order if whole[node]]
        rows = sum(2 ** shape.bits(node) for node in groups)
        if rows * LANES * 8 <= MOST_BYTES:
            break
    thresholds, starts, code = codes(forest, len(encoding.columns))
    column = (2 * forest.feature + ~forest.missing_left).tolist()
    return Plan(
        factors=len(encoding.factors),
        columns=len(encoding.columns),
        rows=rows,
        dtype="float64" if rows * LANES * 8 <= MOST_BYTES else "float32",
        cells=(thresholds, starts),
        visits=_visits(shape, order, {node: number for number, node in enumerate(groups)}, column, code),
        groups=_groups(shape, groups, len(encoding.factors)),
        inner=_inner(shape, groups, column, code),
        roots=tuple(groups),
    )


def codes(forest: Forest, columns: int) -> tuple[Floats, NDArray[np.int64], list[int]]:
    """Return each column's thresholds, where each column starts, and each node's threshold's number in its column."""
    code = np.zeros(len(forest.feature), dtype=np.int64)
    found = []
    for column in range(columns):
        nodes = np.flatnonzero(forest.feature == column)
        thresholds, code[nodes] = np.unique(forest.threshold[nodes], return_inverse=True)
        found.append(thresholds)
    lengths = [len(thresholds) for thresholds in found]
    if max(lengths) >= BLANK_RIGHT or 2 * columns > BLANK_RIGHT:
        raise ValueError("there are too many columns, or thresholds of one column, to be explained")
    return np.concatenate(found), np.cumsum([0, *lengths]), code.tolist()


def _visits(
    shape: _Shape, order: list[tuple[int, int, int]], group: dict[int, int], column: list[int], code: list[int]
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


def _groups(shape: _Shape, groups: list[int], factors: int) -> tuple[NDArray[Any], ...]:
    ends = np.cumsum([0, *(shape.nodes[node] for node in groups)], dtype=np.int32)
    offsets = np.cumsum([0, *(2 ** shape.bits(node) for node in groups)], dtype=np.int64)
    held = _lanes([shape.factors_of(node, shape.inside(node)) for node in groups], factors)
    return ends[:-1].copy(), ends[1:].copy(), offsets[:-1].copy(), held


def _lanes(wanted: list[list[int]], factors: int) -> NDArray[np.uint16]:
    """Give each group's factors lanes so that sums stay in theirs for long; return what each lane holds, by group.

    A lane that is needed is taken from the factor that is wanted again last (Belady), once all are taken.
    """
    uses = np.full((len(wanted) + 1, factors + 1), len(wanted), dtype=np.int64)
    uses[:, factors] = len(wanted) + 1  # an empty lane goes first
    for number in range(len(wanted) - 1, -1, -1):
        uses[number] = uses[number + 1]
        uses[number, wanted[number]] = number
    lanes = [factors] * LANES
    held = np.empty((len(wanted), LANES), dtype=np.uint16)
    for number, mine in enumerate(wanted):
        next_use = uses[number].tolist()
        for factor in mine:
            if factor not in lanes:
                latest = max(range(LANES), key=[next_use[other] for other in lanes].__getitem__)
                lanes[latest] = factor
        held[number] = lanes
    return held


def _inner(shape: _Shape, groups: list[int], column: list[int], code: list[int]) -> tuple[NDArray[Any], ...]:
    inside = [(root, rank, node) for root in groups for rank, node in enumerate(shape.inside(root))]
    return (
        np.array([column[node] for _, _, node in inside], dtype=np.uint16),
        np.array([code[node] for _, _, node in inside], dtype=np.uint16),
        np.array([1 << (len(shape.path[root]) + rank) for root, rank, _ in inside], dtype=np.uint16),
    )


def _cells(plan: Plan, matrix: Floats) -> NDArray[np.int64]:
    """Return the table row of each group and matrix row, (groups, rows)."""
    thresholds, starts = plan.cells
    codes = np.empty((2 * plan.columns, len(matrix)), dtype=np.uint16)
    rounded = matrix.astype(np.float32).astype(np.float64)
    for column, values in enumerate(rounded.T):
        below = np.searchsorted(thresholds[starts[column] : starts[column + 1]], values)
        blank = np.isnan(values)
        codes[2 * column] = np.where(blank, 0, below)
        codes[2 * column + 1] = np.where(blank, BLANK_RIGHT, below)
    _, on, code, bit, is_left, group = plan.visits
    path = np.zeros((len(on), len(matrix)), dtype=np.uint16)
    for visits, parents in plan.parents:
        fails = (codes[on[visits]] > code[visits, None]) == is_left[visits, None]
        path[visits] = path[parents] | np.where(fails, bit[visits, None], np.uint16(0))
    state = path[group >= 0]
    inner_column, inner_code, inner_bit = plan.inner
    for numbers, nodes in plan.ranks:
        right = codes[inner_column[nodes]] > inner_code[nodes, None]
        state[numbers] |= np.where(right, inner_bit[nodes, None], np.uint16(0))
    return plan.groups[2][:, None] + state.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Tables:
    """What a forest's contributions are looked up in. Plain arrays.

    `values` (table rows, LANES), float64 or, where that would be larger than 64 MB, float32: contributions by group,
    index and lane (see `Plan`), already divided by the number of trees. `base` (1, float64): the mean score of the
    reference population; `reference` (1, int64): its rows. `forest` and `encoding` (32, uint8): SHA-256 of what the
    tables belong to. `format` (1, int64).
    """

    values: Values
    base: Floats
    reference: NDArray[np.int64]
    forest: NDArray[np.uint8]
    encoding: NDArray[np.uint8]
    format: NDArray[np.int64]

    @property
    def exact_to(self) -> float:
        """How close base + contributions come to the score: 1e-9, or 1e-6 with 32-bit tables."""
        return EXACT_TO[self.values.dtype.name]

    def check(self, forest: Forest, encoding: Encoding) -> None:
        """Raise `ValueError` unless the tables belong to this forest and encoding and every look-up stays inside."""
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
        if self.forest.tobytes() != _forest_digest(forest) or self.encoding.tobytes() != _encoding_digest(encoding):
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
        """Read and check what `to_bytes` wrote; `ValueError` where it is anything else. Check its hash first."""
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
    """Read one array piece by piece, so that it is in memory once; zipfile compares its checksum at the end."""
    with members.open(name) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("an array is of another format")
        shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        if by_column or dtype.hasobject:
            raise ValueError("an array is not laid out as it should be")
        array = _at_cache_line(shape, dtype)
        left = array.reshape(-1).view(np.uint8)
        while piece := file.read(PIECE):
            left[: len(piece)] = np.frombuffer(piece, np.uint8)
            left = left[len(piece) :]
        if len(left):
            raise ValueError("an array is cut short")
    return array


def _at_cache_line(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array in memory that starts at a cache line."""
    size = prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    array: NDArray[Any] = memory[start : start + size].view(dtype).reshape(shape)
    return array


def _aligned(array: NDArray[Any]) -> NDArray[Any]:
    aligned = _at_cache_line(array.shape, array.dtype)
    aligned[...] = array
    return aligned


def _forest_digest(forest: Forest) -> bytes:
    """Return the SHA-256 of the forest's arrays; not of its file, which a newer NumPy may write differently."""
    digest = hashlib.sha256()
    for field in fields(forest):
        array = np.ascontiguousarray(getattr(forest, field.name))
        digest.update(f"{field.name} {array.dtype.str} {len(array)}\n".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _encoding_digest(encoding: Encoding) -> bytes:
    return hashlib.sha256(json.dumps(encoding.to_json()).encode()).digest()


def build(forest: Forest, encoding: Encoding, reference: Floats) -> Tables:
    """Make the tables for contributions against a reference population, (rows, columns) with NaN for unknown.

    All rows weigh the same. Counts are whole numbers and so are the weights (`COMMON`): the tables have the same bits
    on every machine. Raises `ValueError` where the reference is empty or does not have the encoding's columns, or where
    a leaf's path has more than eight factors.
    """
    reference = _checked(reference, encoding)
    if not len(reference):
        raise ValueError("the reference population is empty")
    made = plan(forest, encoding)
    counts = np.zeros(made.rows, dtype=np.int64)
    for start in range(0, len(reference), BLOCK):
        cells = _cells(made, reference[start : start + BLOCK])
        counts += np.bincount(cells.ravel(), minlength=made.rows)
    values = _aligned(np.zeros((made.rows, LANES)))
    _fill(values, counts, made, _Shape(forest, encoding), forest.value)
    values /= COMMON * len(reference) * len(forest.roots)
    return Tables(
        values=values if made.dtype == "float64" else _aligned(values.astype(np.float32)),
        base=np.array([fsum(forest.score(reference)) / len(reference)]),
        reference=np.array([len(reference)], dtype=np.int64),
        forest=np.frombuffer(_forest_digest(forest), dtype=np.uint8),
        encoding=np.frombuffer(_encoding_digest(encoding), dtype=np.uint8),
        format=np.array([FORMAT], dtype=np.int64),
    )


def _checked(matrix: Floats, encoding: Encoding) -> Floats:
    if matrix.ndim != 2 or matrix.shape[1] != len(encoding.columns):
        raise ValueError(f"the matrix needs {len(encoding.columns)} columns")
    # Writable as well: a read-only array is another type to the compiler.
    return np.require(matrix, np.float64, ["C", "W"])


@dataclass(frozen=True)
class _Leaf:
    """A leaf in its group's table: the table's rows, the leaf's pattern of failing factors at each, and their lanes."""

    table: slice
    pattern: NDArray[np.int64]
    lanes: list[int]
    value: float


def _fill(values: Floats, counts: NDArray[np.int64], made: Plan, shape: _Shape, value: Floats) -> None:
    """Add all leaves to the tables; `counts` says how often each table row occurs in the reference.

    Contributions come times COMMON and the reference's rows. Leaves with as many players are worked out together.
    """
    waiting: dict[int, list[_Leaf]] = {players: [] for players in range(1, LANES + 1)}
    for root, offset, held in zip(made.roots, made.groups[2].tolist(), made.groups[3].tolist(), strict=True):
        for leaf in _leaves(shape, root, offset, held, value):
            players = len(leaf.lanes)
            if players:  # a tree of one leaf gives everyone the same score
                waiting[players].append(leaf)
                if len(waiting[players]) == BATCH:
                    _add_leaves(values, counts, waiting[players])
                    waiting[players] = []
    for leaves in waiting.values():
        if leaves:
            _add_leaves(values, counts, leaves)


def _leaves(shape: _Shape, root: int, offset: int, held: list[int], value: Floats) -> Iterator[_Leaf]:
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
            lanes = [held.index(factor) for factor in fails]
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

    A pattern has a bit a player who fails the leaf's conditions. Whole numbers.
    """
    patterns = np.arange(1 << players)
    fails = (patterns[:, None] >> np.arange(players)) & 1
    reference, row = fails[:, None, :], fails[None, :, :]
    for_row, against = reference.sum(axis=2), row.sum(axis=2)  # players only the row, only the reference satisfies
    counts = (reference & row).sum(axis=2) == 0
    helps = np.array([[_share(a, b) for b in range(players + 1)] for a in range(players + 1)])
    gain, loss = helps[for_row, against], helps[against, for_row]
    weights = np.where(reference == 1, gain[..., None], np.where(row == 1, -loss[..., None], 0))
    return np.where(counts[..., None], weights, 0).astype(np.float64)


def _share(mine: int, others: int) -> int:
    """Return 840 (mine - 1)! others! / (mine + others)!, the share of one of `mine`; 0 where there is none."""
    if not 1 <= mine <= LANES - others:
        return 0
    return COMMON * factorial(mine - 1) * factorial(others) // factorial(mine + others)


class Explainer:
    """A forest's contributions, exact and fast. Safe under threads.

    Raises `ValueError` where the tables do not belong to the forest. Compiled kernels and the NumPy path give the same
    bits, and so do `explain` and `explain_row`: all add up in the order of `Plan.runs`.
    """

    def __init__(self, forest: Forest, encoding: Encoding, tables: Tables) -> None:
        tables.check(forest, encoding)
        self._encoding = encoding
        self._tables = tables
        self._plan = plan(forest, encoding)

    @property
    def base(self) -> float:
        """The mean score of the reference population."""
        return float(self._tables.base[0])

    @property
    def exact_to(self) -> float:
        """How close base + contributions come to the score."""
        return self._tables.exact_to

    def explain(self, matrix: Floats) -> Floats:
        """Return (rows, factors) contributions of a (rows, columns) float64 matrix, factors as `encoding.factors`.

        NaN is unknown. `ValueError` where the matrix does not have the encoding's columns.
        """
        matrix = _checked(matrix, self._encoding)
        out = np.empty((len(matrix), self._plan.factors))
        compiled = _kernels()
        if compiled is None:
            for start in range(0, len(matrix), BLOCK):
                out[start : start + BLOCK] = self._add_up(matrix[start : start + BLOCK])
        elif len(matrix) <= FEW_ROWS:
            self._call(compiled.explain_each, matrix, out)
        elif len(matrix):
            compiled.share_out(
                lambda start, end: self._call(compiled.explain_rows, matrix[start:end], out[start:end]), len(matrix)
            )
        return out

    def explain_row(self, row: Floats) -> Floats:
        """Return the contributions (factors,) of one row (columns,), with the bits of `explain`."""
        contributions: Floats = self.explain(row[None, :])[0]
        return contributions

    def warm_up(self) -> None:
        """Compile, or load what was compiled, so that the first request does not wait for it."""
        blank = np.full((FEW_ROWS + 1, self._plan.columns), np.nan)
        self.explain(blank)
        self.explain(blank[:1])

    def _call(self, kernel: Any, matrix: Floats, out: Floats) -> None:
        made = self._plan
        kernel(matrix, out, made.cells, made.visits, made.groups, made.inner, self._tables.values)

    def _add_up(self, matrix: Floats) -> Floats:
        cells = _cells(self._plan, matrix)
        out = np.zeros((len(matrix), self._plan.factors))
        for factor, lane, groups in self._plan.runs:
            parts = self._tables.values[cells[groups], lane].astype(np.float64)
            out[:, factor] += np.add.accumulate(parts, axis=0)[-1]
        return out


def _kernels() -> ModuleType | None:
    """Return the compiled kernels, imported when first needed; `None` where there are none."""
    from bankportal.ml import kernels

    return kernels if kernels.available() else None
