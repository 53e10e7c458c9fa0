"""What would change the answer: the least change of one factor, or of two together, that reaches a better band.

Found, not sampled. Between its thresholds a forest is constant, so that of all the values in a cell only the one
nearest to the customer's own can be the cheapest: each factor has a short list of candidates. For two factors, a tree
with all other factors fixed cuts the grid of their candidates into few rectangles, one a leaf; the leaves of all trees
are added up over the whole grid in whole numbers, by differences at the corners and two running sums. A cell so near
to a cut-off that the rounding to whole numbers could matter is scored as the forest scores. Only pairs cheaper than
what is known already are looked at, and a pair whose leaves cannot add up to a better band is left out.

Rules that make the answer the only one:
- Effort is |new - old| times the declared effort, of two factors added up in the product's order.
- Of equal efforts, the factor (the first, then the second of two) that the product names earlier, then the lower new
  value (of the first, then of the second).
- A pair must be cheaper than every single factor by more than `CHEAPER`.

On the serving path: NumPy and the domain, and Numba where it is installed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from bankportal.domain.constraints import Number, YesNo
from bankportal.domain.factors import Changeability, Direction, Factor
from bankportal.domain.policy import Value
from bankportal.domain.products import Band, Product, Tone
from bankportal.explanation.cells import Flags, Floats, Ints, Ladder, goes_left, last_left
from bankportal.model.encoding import MAX_FLOAT32, Encoding
from bankportal.model.forest import LEAF, Forest

# Suggestions of a single factor at most.
SINGLES = 3
# By less than this a pair does not beat a single factor: the rounding of efforts is no reason to change two things.
CHEAPER = 1e-9
# Sums in whole numbers: a leaf's value counts this many times.
SCALE = 2**40
# Far more than the whole numbers' rounding: a score nearer to a cut-off is worked out exactly.
NEAR = 1e-9
# What a node splits on, if not on a factor that can change.
FIXED = -2
RANKS = {Tone.BAD: 0, Tone.FAIR: 1, Tone.GOOD: 2}

Limits = Mapping[str, tuple[float, float]]
Nodes = tuple[NDArray[np.generic], ...]
Side = tuple[int, int, int, int, Floats]
Bands = tuple[Floats, Flags, float, float]
Room = tuple[Ints, Ints, Ints, Ints, Ints]
Found = tuple[float, int, int]


@dataclass(frozen=True)
class Replacement:
    """One factor's own value and the suggested one; whole numbers and flags are `int`."""

    factor: Factor
    old: int | float
    new: int | float


@dataclass(frozen=True)
class Suggestion:
    """One or two changes, the forest's score after them, the better band it is in, and what they cost in effort."""

    changes: tuple[Replacement, ...]
    score: float
    band: Band
    effort: float


@dataclass(frozen=True)
class Recourse:
    """A customer's score and band, and the suggestions, cheapest first.

    `best`: no band is better, there is nothing to suggest. `nothing`: a better band exists, and no change of one factor
    or of two together reaches it.
    """

    score: float
    band: Band
    best: bool
    found: tuple[Suggestion, ...]

    @property
    def nothing(self) -> bool:
        """Say whether it is proven that no change of up to two factors reaches a better band."""
        return not self.best and not self.found


@dataclass(frozen=True, eq=False)
class Candidates:
    """One factor's values worth trying, rising, the customer's own (number `own`) among them, and their efforts."""

    factor: Factor
    column: int
    own: int
    values: Floats
    efforts: Floats

    def side(self, number: int, limit: float) -> Side:
        """Return what the search needs: the factor's number, and which candidates cost less than `limit`."""
        within = np.flatnonzero(self.efforts < limit)
        low, high = (int(within[0]), int(within[-1]) + 1) if len(within) else (self.own, self.own)
        return number, low, high, self.own, self.efforts

    def typed(self, number: int) -> int | float:
        """Return a candidate as the type its constraint gives."""
        value = float(self.values[number])
        constraint = self.factor.constraint
        return int(value) if isinstance(constraint, YesNo) or getattr(constraint, "whole", False) else value


# In place of a second factor when one changes alone: a single candidate, and none that is the customer's own.
ALONE: Side = (FIXED - 1, 0, 1, -1, np.zeros(1))


def recourse(
    product: Product, forest: Forest, encoding: Encoding, values: Mapping[str, Value], limits: Limits | None
) -> Recourse:
    """Find the cheapest changes that reach a better band.

    `values` are validated, by factor name, absent or `None` unknown: an unknown factor stays unknown. `limits` are
    the (lowest, highest) that a new value may have, pass the training data's (`Seen.ranges`); a factor without limits
    stays as it is. `None` allows whatever the constraints do. `ValueError` where a declared step is not above 0.
    """
    search = _Search(product, forest, encoding, values, limits)
    singles = search.singles()
    pair = search.pair(singles[0].effort - CHEAPER if singles else np.inf)
    found = (*([pair] if pair else []), *singles[:SINGLES])
    return Recourse(search.score, search.band, best=not search.better.any(), found=found)


def candidates(
    product: Product, forest: Forest, encoding: Encoding, values: Mapping[str, Value], limits: Limits | None
) -> list[Candidates]:
    """Return the candidates of each known factor that can change to another value, in the product's order.

    Arguments are those of `recourse`.
    """
    made = (
        _candidates(factor, change, forest, encoding, own, limits)
        for factor, change, own in _changeable(product, encoding, values)
        if limits is None or factor.name in limits
    )
    return [one for one in made if len(one.values) > 1]


def _changeable(
    product: Product, encoding: Encoding, values: Mapping[str, Value]
) -> Iterator[tuple[Factor, Changeability, float]]:
    for factor in product.scored:
        own = values.get(factor.name)
        if (
            factor.change
            and isinstance(factor.constraint, Number | YesNo)
            and isinstance(own, int | float)
            and factor.name in encoding.factors
            and not factor.barred(credit=product.decides_credit)
        ):
            yield factor, factor.change, float(own)


def _candidates(
    factor: Factor, change: Changeability, forest: Forest, encoding: Encoding, own: float, limits: Limits | None
) -> Candidates:
    column = int(encoding.positions(factor.name)[0])
    if isinstance(factor.constraint, Number):
        last = last_left(forest.threshold[forest.feature == column])
        low, high = _bounds(factor.constraint, factor, limits)
        lower, higher = _nearest(Ladder.of(factor.constraint, change.step), last, own, low, high)
    else:
        low, high = (0.0, 1.0) if limits is None else limits[factor.name]
        lower, higher = (
            np.array([value for value in (side,) if value != own and low <= value <= high]) for side in (0, 1)
        )
    lower = lower[: 0 if change.direction is Direction.UP else None]
    higher = higher[: 0 if change.direction is Direction.DOWN else None]
    found = np.concatenate([lower, [own], higher])
    return Candidates(factor, column, len(lower), found, np.abs(found - own) * change.effort)


def _bounds(constraint: Number, factor: Factor, limits: Limits | None) -> tuple[float, float]:
    low, high = (constraint.minimum, constraint.maximum) if limits is None else limits[factor.name]
    return max(low, constraint.minimum), min(high, constraint.maximum)


def _nearest(ladder: Ladder, last: Floats, own: float, low: float, high: float) -> tuple[Floats, Floats]:
    """Return each cell's legal value nearest to the customer's own, for the cells below it and above it, rising.

    `last` are the cells' last values.
    """
    below = ladder.at_most(np.minimum(last[last < own], high))
    above = ladder.at_least(np.maximum(np.nextafter(last[(own <= last) & (last < high)], np.inf), low))
    return np.unique(below[below >= low]), np.unique(above[above <= high])


def better_bands(product: Product, band: Band) -> Flags:
    """Say for each of the product's bands whether it is better news than `band`, by tone."""
    return np.array([RANKS[other.tone] > RANKS[band.tone] for other in product.bands])


def kernels() -> ModuleType | None:
    """Return the compiled search; `None` where Numba is missing or switched off.

    The first call in a process compiles it, or reads what an earlier process compiled: make it before the first
    customer waits.
    """
    from bankportal.explanation import recourse_kernels

    if not recourse_kernels.available():
        return None
    _warm_up(recourse_kernels)
    return recourse_kernels


@cache
def _warm_up(compiled: ModuleType) -> None:
    """Run the compiled search once, on a forest of one leaf."""
    number, ratio, none = np.zeros(1, dtype=np.int32), np.zeros(1), np.zeros(0)
    leaf = np.full(1, LEAF, dtype=np.int64)
    nodes = (leaf, number, number, number, ratio, leaf, leaf < 0, leaf)
    room = (np.empty((2, 5), np.int64), np.empty((1, 4), np.int64), leaf.copy(), leaf.copy(), leaf.copy())
    compiled.cheapest(nodes, ALONE, ALONE, np.inf, (none, np.ones(1, np.bool_), 1.0, NEAR), room)


class _Search:
    """One customer's candidates, and the forest prepared for them."""

    def __init__(
        self,
        product: Product,
        forest: Forest,
        encoding: Encoding,
        values: Mapping[str, Value],
        limits: Limits | None,
    ) -> None:
        self.product = product
        self.forest = forest
        self.row = encoding.row(values)
        self.score = float(forest.score(self.row[None, :])[0])
        self.band = product.band(self.score)
        self.better = better_bands(product, self.band)
        self.sides = candidates(product, forest, encoding, values, limits) if self.better.any() else []
        self.nodes = _nodes(forest, self.row, self.sides)
        self.bands: Bands = (np.array(product.cut_offs), self.better, 1 / (SCALE * len(forest.roots)), NEAR)
        self.kernels = kernels()
        self.room = self._room() if self.kernels else None

    def _room(self) -> Room:
        """Return arrays for the compiled search to write to, large enough for any pair."""
        nodes, most = len(self.forest.feature), max([len(side.values) for side in self.sides], default=1)
        stack = np.empty((self.forest.depth + 2, 5), dtype=np.int64)
        spans, heights = np.empty((nodes, 4), dtype=np.int64), np.empty(nodes, dtype=np.int64)
        return stack, spans, heights, np.empty(most, dtype=np.int64), np.empty(most, dtype=np.int64)

    def singles(self) -> list[Suggestion]:
        """Return the cheapest change of each factor that reaches a better band alone, cheapest first."""
        found = []
        for number, side in enumerate(self.sides):
            effort, candidate, _ = self._cheapest(side.side(number, np.inf), ALONE, np.inf)
            if candidate >= 0:
                found.append(self._suggestion({number: candidate}, effort))
        return sorted(found, key=lambda suggestion: suggestion.effort)

    def pair(self, limit: float) -> Suggestion | None:
        """Return the cheapest change of two factors, if there is one below an effort."""
        found: Suggestion | None = None
        for first, second in combinations(range(len(self.sides)), 2):
            sides = [self.sides[number].side(number, limit) for number in (first, second)]
            if any(high - low < 2 for _, low, high, _, _ in sides):
                continue
            effort, one, other = self._cheapest(sides[0], sides[1], limit)
            if one >= 0:
                found, limit = self._suggestion({first: one, second: other}, effort), effort
        return found

    def _cheapest(self, first: Side, second: Side, limit: float) -> Found:
        if self.kernels:
            effort, one, other = self.kernels.cheapest(self.nodes, first, second, limit, self.bands, self.room)
            return float(effort), int(one), int(other)
        return cheapest(self.nodes, first, second, limit, self.bands)

    def _suggestion(self, chosen: Mapping[int, int], effort: float) -> Suggestion:
        """Score the changed customer with the forest itself, and hold the search to its promise."""
        row = self.row.copy()
        changes = []
        for number, candidate in chosen.items():
            side = self.sides[number]
            row[side.column] = side.values[candidate]
            changes.append(Replacement(side.factor, side.typed(side.own), side.typed(candidate)))
        score = float(self.forest.score(np.clip(row, -MAX_FLOAT32, MAX_FLOAT32)[None, :])[0])
        band = self.product.band(score)
        assert self.better[self.product.bands.index(band)], "a suggestion misses the band it promises"
        return Suggestion(tuple(changes), score, band, effort)


def _nodes(forest: Forest, row: Floats, sides: Sequence[Candidates]) -> Nodes:
    """Return the forest prepared for one customer, all but the fourth (nodes,).

    What each node splits on (a factor's number in `sides`, `FIXED`, or `LEAF`), left, right, the roots, value, value
    in whole numbers, whether the customer goes left, and how many of the factor's candidates do.
    """
    kind = np.where(forest.feature == LEAF, LEAF, FIXED)
    code = np.zeros(len(kind), dtype=np.int64)
    for number, side in enumerate(sides):
        own = np.flatnonzero(forest.feature == side.column)
        rounded = np.clip(side.values, -MAX_FLOAT32, MAX_FLOAT32).astype(np.float32).astype(np.float64)
        kind[own] = number
        code[own] = np.searchsorted(rounded, forest.threshold[own], side="right")
    units = np.rint(forest.value * SCALE).astype(np.int64)
    # A compiled search is one for arrays that can be written to: others would be compiled for again.
    left, right, roots, value = (
        np.require(array, requirements=["C", "W"]) for array in (forest.left, forest.right, forest.roots, forest.value)
    )
    return kind, left, right, roots, value, units, goes_left(forest, row), code


# ---- the search in NumPy, for where Numba is missing: the compiled one's answers to the last bit --------------------


def cheapest(nodes: Nodes, first: Side, second: Side, limit: float, bands: Bands) -> Found:
    """Return the least effort below `limit` that reaches a better band, and the two candidates; -1, -1 for none."""
    cuts, better, unit, near = bands
    spans, heights = _leaves(nodes, first, second)
    chosen = _cells(spans[:, :2], first)
    others = _cells(spans[:, 2:], second)
    change = np.zeros((len(chosen) + 1, len(others) + 1), dtype=np.int64)
    for row, column, sign in ((0, 2, 1), (1, 2, -1), (0, 3, -1), (1, 3, 1)):
        np.add.at(change, (spans[:, row], spans[:, column]), sign * heights)
    scores = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] * unit
    efforts = first[4][chosen][:, None] + second[4][others][None, :]
    open_ = (efforts < limit) & (chosen != first[3])[:, None] & (others != second[3])[None, :]
    low, high = (np.searchsorted(cuts, scores + way, side="right") for way in (-near, near))
    good = open_ & better[low]
    rows, columns = np.nonzero(open_ & (low != high))
    exact = _exact(nodes, first[0], chosen[rows], second[0], others[columns])
    good[rows, columns] = better[np.searchsorted(cuts, exact, side="right")]
    if not good.any():
        return limit, -1, -1
    one, other = np.unravel_index(np.where(good, efforts, np.inf).argmin(), good.shape)
    return float(efforts[one, other]), int(chosen[one]), int(others[other])


def _leaves(nodes: Nodes, first: Side, second: Side) -> tuple[Ints, Ints]:
    """Return the leaves in reach: spans of candidates (leaves, 4), as start and end of each factor, and heights."""
    kind, left, right, roots, _, units, fixed, code = nodes
    node, spans = roots.astype(np.int64), np.tile(np.array([first[1], first[2], second[1], second[2]]), (len(roots), 1))
    found_nodes, found_spans = [], []
    while len(node):
        at_leaf = kind[node] == LEAF
        found_nodes.append(node[at_leaf])
        found_spans.append(spans[at_leaf])
        node, spans = node[~at_leaf], spans[~at_leaf]
        goes_right = spans.copy()
        to_left, to_right = fixed[node].astype(np.bool_), ~fixed[node].astype(np.bool_)
        for place, side in ((0, first), (2, second)):
            own = kind[node] == side[0]
            middle = np.clip(code[node], spans[:, place], spans[:, place + 1])
            to_left = np.where(own, spans[:, place] < middle, to_left)
            to_right = np.where(own, middle < spans[:, place + 1], to_right)
            spans[own, place + 1] = goes_right[own, place] = middle[own]
        node = np.concatenate([left[node[to_left]], right[node[to_right]]]).astype(np.int64)
        spans = np.concatenate([spans[to_left], goes_right[to_right]])
    return np.concatenate(found_spans), units[np.concatenate(found_nodes)].astype(np.int64)


def _cells(spans: Ints, side: Side) -> Ints:
    """Put together candidates that no leaf tells apart: number their cells in place of the spans' ends, (leaves, 2).

    Returns each cell's candidate nearest to the customer's own.
    """
    _, _, high, own, _ = side
    starts = np.unique(spans[:, 0])
    ends = np.append(starts[1:], high)
    spans[:] = np.searchsorted(starts, spans)
    nearest: Ints = np.where(own < starts, starts, np.minimum(own, ends - 1))
    return nearest


def _exact(nodes: Nodes, first: int, chosen: Ints, second: int, others: Ints) -> Floats:
    """Return the scores (pairs,) at pairs of candidates, added up as `Forest.score` does."""
    kind, left, right, roots, value, _, fixed, code = nodes
    node = np.broadcast_to(roots, (len(chosen), len(roots)))
    while (kind[node] != LEAF).any():
        here = np.where(kind[node] == first, chosen[:, None] < code[node], fixed[node])
        here = np.where(kind[node] == second, others[:, None] < code[node], here)
        node = np.where(kind[node] == LEAF, node, np.where(here, left[node], right[node]))
    total: Floats = np.add.accumulate(value[node], axis=1)[:, -1]
    return total / len(roots)
