"""Recourse: the smallest change of one factor, or of two together, that reaches a better band.

The search is exact; nothing is sampled. Between its thresholds a forest is constant, so of all values in a cell only
the one nearest to the customer's own can be the cheapest: each factor has a short list of candidates. For two factors,
with all others fixed, a tree divides the grid of their candidates into a few rectangles, one for each leaf. The leaves
of all trees are added over the whole grid in whole numbers, by differences at the corners and two cumulative sums. A
cell so near to a cut-off that the rounding to whole numbers could matter is scored as the forest scores. Pairs that
cannot be cheaper than what is known already are skipped, and so are pairs whose leaves cannot add up to a better band.

These rules make the answer unique:
- Effort is |new - old| times the declared effort. For two factors it is added in the product's order.
- Of equal efforts, the factor that the product names earlier wins (for a pair the first factor, then the second); then
  the lower new value (of the first factor, then of the second).
- A pair must be cheaper than every single factor by more than `MIN_SAVING`.
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
from bankportal.explanation.cells import Booleans, Floats, Ints, Multiples, goes_left, last_left
from bankportal.model.encoding import MAX_FLOAT32, Encoding
from bankportal.model.forest import LEAF, Forest

MAX_SINGLES = 3  # suggestions that change a single factor
# How much less effort a pair must need than a single factor, so that it does not win by rounding alone.
MIN_SAVING = 1e-9
# Leaf values are multiplied by this and rounded, so that they can be added as whole numbers.
SCALE = 2**40
# A score nearer than this to a cut-off is computed exactly; far more than the rounding to whole numbers can change.
NEAR = 1e-9
# In place of a factor's number where a node splits on a factor that does not change.
FIXED = -2
TONE_RANKS = {Tone.BAD: 0, Tone.FAIR: 1, Tone.GOOD: 2}

Ranges = Mapping[str, tuple[float, float]]
# Tuples, since compiled functions take no objects of ours.
Nodes = tuple[NDArray[np.generic], ...]  # see `_nodes`
SearchRange = tuple[int, int, int, int, Floats]  # see `Candidates.search_range`
Bands = tuple[Floats, Booleans, float, float]  # cut-offs, whether a band is better, score of one unit, NEAR
Workspace = tuple[Ints, Ints, Ints, Ints, Ints]  # see `_Search._workspace`
Cheapest = tuple[float, int, int]  # effort, and the two candidates


@dataclass(frozen=True)
class Replacement:
    """A factor's own and suggested value; `int` for whole numbers and yes/no factors."""

    factor: Factor
    old: int | float
    new: int | float


@dataclass(frozen=True)
class Suggestion:
    """One or two changes, the score and the better band after them, and their effort (see `Changeability`)."""

    changes: tuple[Replacement, ...]
    score: float
    band: Band
    effort: float


@dataclass(frozen=True)
class Recourse:
    """A customer's score and band, and the suggestions, cheapest first.

    `best`: no band is better, so there is nothing to suggest. `nothing`: a better band exists, but no change of one
    factor or of two together reaches it.
    """

    score: float
    band: Band
    best: bool
    suggestions: tuple[Suggestion, ...]

    @property
    def nothing(self) -> bool:
        """Whether a better band exists and no change of up to two factors reaches it."""
        return not self.best and not self.suggestions


@dataclass(frozen=True, eq=False)
class Candidates:
    """The values of one factor to be tried, with their efforts; both (candidates,).

    `values` rises and includes the customer's own value, at position `own`. `column` is the encoding's column.
    """

    factor: Factor
    column: int
    own: int
    values: Floats
    efforts: Floats

    def search_range(self, number: int, max_effort: float) -> SearchRange:
        """Return what the search needs: `number`, the first and last + 1 candidate below an effort, `own`, efforts.

        `number` is the factor's position among all that can change.
        """
        within = np.flatnonzero(self.efforts < max_effort)
        low, high = (int(within[0]), int(within[-1]) + 1) if len(within) else (self.own, self.own)
        return number, low, high, self.own, self.efforts

    def typed(self, number: int) -> int | float:
        """Return a candidate in the type of the factor's constraint."""
        value = float(self.values[number])
        constraint = self.factor.constraint
        return int(value) if isinstance(constraint, YesNo) or getattr(constraint, "whole", False) else value


# In place of the second factor where one changes alone: a single candidate, and none that is the customer's own.
ALONE: SearchRange = (FIXED - 1, 0, 1, -1, np.zeros(1))


def recourse(
    product: Product, forest: Forest, encoding: Encoding, values: Mapping[str, Value], ranges: Ranges | None
) -> Recourse:
    """Return the cheapest changes that reach a better band.

    `values` are validated values by factor. A factor that is absent or `None` is unknown and stays so. `ranges` are the
    (lowest, highest) that a new value may have: the training data's (`SeenRanges.ranges`). A factor without a range
    stays as it is; without any `ranges`, the constraints alone apply. Raises `ValueError` where a declared step is not
    above 0.
    """
    search = _Search(product, forest, encoding, values, ranges)
    singles = search.singles()
    pair = search.pair(singles[0].effort - MIN_SAVING if singles else np.inf)
    suggestions = (*([pair] if pair else []), *singles[:MAX_SINGLES])
    return Recourse(search.score, search.band, best=not search.better.any(), suggestions=suggestions)


def candidates(
    product: Product, forest: Forest, encoding: Encoding, values: Mapping[str, Value], ranges: Ranges | None
) -> list[Candidates]:
    """Return the candidates of each known factor that can change to another value, in the product's order.

    The arguments are those of `recourse`.
    """
    of_factors = (
        _candidates(factor, change, forest, encoding, own, ranges)
        for factor, change, own in _changeable(product, encoding, values)
        if ranges is None or factor.name in ranges
    )
    return [of_factor for of_factor in of_factors if len(of_factor.values) > 1]


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
    factor: Factor, change: Changeability, forest: Forest, encoding: Encoding, own: float, ranges: Ranges | None
) -> Candidates:
    column = int(encoding.positions(factor.name)[0])
    if isinstance(factor.constraint, Number):
        last = last_left(forest.threshold[forest.feature == column])
        low, high = _bounds(factor.constraint, factor, ranges)
        lower, higher = _nearest(Multiples.of(factor.constraint, change.step), last, own, low, high)
    else:
        low, high = (0.0, 1.0) if ranges is None else ranges[factor.name]
        lower, higher = (np.array([new] if new != own and low <= new <= high else []) for new in (0, 1))
    lower = lower[: 0 if change.direction is Direction.UP else None]
    higher = higher[: 0 if change.direction is Direction.DOWN else None]
    tried = np.concatenate([lower, [own], higher])
    return Candidates(factor, column, len(lower), tried, np.abs(tried - own) * change.effort)


def _bounds(constraint: Number, factor: Factor, ranges: Ranges | None) -> tuple[float, float]:
    low, high = (constraint.minimum, constraint.maximum) if ranges is None else ranges[factor.name]
    return max(low, constraint.minimum), min(high, constraint.maximum)


def _nearest(multiples: Multiples, last: Floats, own: float, low: float, high: float) -> tuple[Floats, Floats]:
    """Return the allowed value nearest to the customer's own in each cell below it, and in each cell above it, rising.

    `last` are the cells' last values.
    """
    below = multiples.at_most(np.minimum(last[last < own], high))
    above = multiples.at_least(np.maximum(np.nextafter(last[(own <= last) & (last < high)], np.inf), low))
    return np.unique(below[below >= low]), np.unique(above[above <= high])


def better_bands(product: Product, band: Band) -> Booleans:
    """Return for each of the product's bands whether its tone is better than that of `band`, (bands,)."""
    return np.array([TONE_RANKS[declared.tone] > TONE_RANKS[band.tone] for declared in product.bands])


def kernels() -> ModuleType | None:
    """Return the compiled search; `None` where Numba is missing or switched off.

    The first call in a process compiles it, or loads what an earlier process compiled. It should be made before a
    customer has to wait for it.
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
    workspace = (np.empty((2, 5), np.int64), np.empty((1, 4), np.int64), leaf.copy(), leaf.copy(), leaf.copy())
    compiled.cheapest(nodes, ALONE, ALONE, np.inf, (none, np.ones(1, np.bool_), 1.0, NEAR), workspace)


class _Search:
    """One customer's candidates, and the forest prepared for them."""

    def __init__(
        self,
        product: Product,
        forest: Forest,
        encoding: Encoding,
        values: Mapping[str, Value],
        ranges: Ranges | None,
    ) -> None:
        self.product = product
        self.forest = forest
        self.row = encoding.row(values)
        self.score = float(forest.score(self.row[None, :])[0])
        self.band = product.band(self.score)
        self.better = better_bands(product, self.band)
        self.candidates = candidates(product, forest, encoding, values, ranges) if self.better.any() else []
        self.nodes = _nodes(forest, self.row, self.candidates)
        self.bands: Bands = (np.array(product.cut_offs), self.better, 1 / (SCALE * len(forest.roots)), NEAR)
        self.kernels = kernels()
        self.workspace = self._workspace() if self.kernels else None

    def _workspace(self) -> Workspace:
        """Return arrays for the compiled search to write to, large enough for any pair.

        They are the stack, the leaves' spans and heights, and the nearest candidates of both factors' cells.
        """
        nodes, max_candidates = (
            len(self.forest.feature),
            max([len(tried.values) for tried in self.candidates], default=1),
        )
        stack = np.empty((self.forest.depth + 2, 5), dtype=np.int64)
        spans, heights = np.empty((nodes, 4), dtype=np.int64), np.empty(nodes, dtype=np.int64)
        return stack, spans, heights, np.empty(max_candidates, dtype=np.int64), np.empty(max_candidates, dtype=np.int64)

    def singles(self) -> list[Suggestion]:
        """Return the cheapest change of each factor that reaches a better band alone, cheapest first."""
        suggestions = []
        for number, of_factor in enumerate(self.candidates):
            effort, candidate, _ = self._cheapest(of_factor.search_range(number, np.inf), ALONE, np.inf)
            if candidate >= 0:
                suggestions.append(self._suggestion({number: candidate}, effort))
        return sorted(suggestions, key=lambda suggestion: suggestion.effort)

    def pair(self, max_effort: float) -> Suggestion | None:
        """Return the cheapest change of two factors that needs less than an effort; `None` where there is none."""
        suggestion: Suggestion | None = None
        for first, second in combinations(range(len(self.candidates)), 2):
            ranges = [self.candidates[number].search_range(number, max_effort) for number in (first, second)]
            if any(high - low < 2 for _, low, high, _, _ in ranges):
                continue
            effort, of_first, of_second = self._cheapest(ranges[0], ranges[1], max_effort)
            if of_first >= 0:
                suggestion = self._suggestion({first: of_first, second: of_second}, effort)
                max_effort = effort
        return suggestion

    def _cheapest(self, first: SearchRange, second: SearchRange, max_effort: float) -> Cheapest:
        if self.kernels is None:
            return cheapest(self.nodes, first, second, max_effort, self.bands)
        effort, of_first, of_second = self.kernels.cheapest(
            self.nodes, first, second, max_effort, self.bands, self.workspace
        )
        return float(effort), int(of_first), int(of_second)

    def _suggestion(self, chosen: Mapping[int, int], effort: float) -> Suggestion:
        """Return the suggestion of a candidate for each factor's number, scored with the forest itself."""
        row = self.row.copy()
        changes = []
        for number, candidate in chosen.items():
            of_factor = self.candidates[number]
            row[of_factor.column] = of_factor.values[candidate]
            changes.append(Replacement(of_factor.factor, of_factor.typed(of_factor.own), of_factor.typed(candidate)))
        score = float(self.forest.score(np.clip(row, -MAX_FLOAT32, MAX_FLOAT32)[None, :])[0])
        band = self.product.band(score)
        assert self.better[self.product.bands.index(band)], "a suggestion misses the band it promises"
        return Suggestion(tuple(changes), score, band, effort)


def _nodes(forest: Forest, row: Floats, of_factors: Sequence[Candidates]) -> Nodes:
    """Return the forest's arrays prepared for one customer; all are (nodes,) but the roots, (trees,).

    In order: what each node splits on (a position in `of_factors`, `FIXED`, or `LEAF`); left child; right child; the
    roots; value; value in whole numbers; whether the customer goes left; and how many of the candidates do.
    """
    kind = np.where(forest.feature == LEAF, LEAF, FIXED)
    code = np.zeros(len(kind), dtype=np.int64)
    for number, of_factor in enumerate(of_factors):
        nodes = np.flatnonzero(forest.feature == of_factor.column)
        rounded = np.clip(of_factor.values, -MAX_FLOAT32, MAX_FLOAT32).astype(np.float32).astype(np.float64)
        kind[nodes] = number
        code[nodes] = np.searchsorted(rounded, forest.threshold[nodes], side="right")
    units = np.rint(forest.value * SCALE).astype(np.int64)
    # Always writable: for read-only arrays Numba would compile the search a second time.
    left, right, roots, value = (
        np.require(array, requirements=["C", "W"]) for array in (forest.left, forest.right, forest.roots, forest.value)
    )
    return kind, left, right, roots, value, units, goes_left(forest, row), code


# ---- the search in NumPy, used where Numba is missing: the same answers as the compiled one, to the last bit ---------


def cheapest(nodes: Nodes, first: SearchRange, second: SearchRange, max_effort: float, bands: Bands) -> Cheapest:
    """Return the least effort below `max_effort` that reaches a better band, and both candidates; -1, -1 for none."""
    cuts, better, unit, near = bands
    spans, heights = _leaves(nodes, first, second)
    of_first = _cells(spans[:, :2], first)
    of_second = _cells(spans[:, 2:], second)
    change = np.zeros((len(of_first) + 1, len(of_second) + 1), dtype=np.int64)
    for row, column, sign in ((0, 2, 1), (1, 2, -1), (0, 3, -1), (1, 3, 1)):
        np.add.at(change, (spans[:, row], spans[:, column]), sign * heights)
    scores = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] * unit
    efforts = first[4][of_first][:, None] + second[4][of_second][None, :]
    allowed = (efforts < max_effort) & (of_first != first[3])[:, None] & (of_second != second[3])[None, :]
    low, high = (np.searchsorted(cuts, scores + distance, side="right") for distance in (-near, near))
    reaches = allowed & better[low]
    rows, columns = np.nonzero(allowed & (low != high))
    exact = _exact(nodes, first[0], of_first[rows], second[0], of_second[columns])
    reaches[rows, columns] = better[np.searchsorted(cuts, exact, side="right")]
    if not reaches.any():
        return max_effort, -1, -1
    best_row, best_column = np.unravel_index(np.where(reaches, efforts, np.inf).argmin(), reaches.shape)
    return float(efforts[best_row, best_column]), int(of_first[best_row]), int(of_second[best_column])


def _leaves(nodes: Nodes, first: SearchRange, second: SearchRange) -> tuple[Ints, Ints]:
    """Return the leaves that can be reached: their spans (leaves, 4) and heights (leaves,).

    A span is a range of candidates: start and end of the first factor's, start and end of the second's. A height is the
    leaf's value in whole numbers.
    """
    kind, left, right, roots, _, units, fixed, code = nodes
    node, spans = roots.astype(np.int64), np.tile(np.array([first[1], first[2], second[1], second[2]]), (len(roots), 1))
    leaf_nodes, leaf_spans = [], []
    while len(node):
        at_leaf = kind[node] == LEAF
        leaf_nodes.append(node[at_leaf])
        leaf_spans.append(spans[at_leaf])
        node, spans = node[~at_leaf], spans[~at_leaf]
        goes_right = spans.copy()
        to_left, to_right = fixed[node].astype(np.bool_), ~fixed[node].astype(np.bool_)
        for place, number in ((0, first[0]), (2, second[0])):
            splits = kind[node] == number
            middle = np.clip(code[node], spans[:, place], spans[:, place + 1])
            to_left = np.where(splits, spans[:, place] < middle, to_left)
            to_right = np.where(splits, middle < spans[:, place + 1], to_right)
            spans[splits, place + 1] = goes_right[splits, place] = middle[splits]
        node = np.concatenate([left[node[to_left]], right[node[to_right]]]).astype(np.int64)
        spans = np.concatenate([spans[to_left], goes_right[to_right]])
    return np.concatenate(leaf_spans), units[np.concatenate(leaf_nodes)].astype(np.int64)


def _cells(spans: Ints, search_range: SearchRange) -> Ints:
    """Combine candidates that no leaf separates into cells; return each cell's candidate nearest to the own value.

    In `spans` (leaves, 2) the numbers of cells take the place of the numbers of candidates.
    """
    _, _, high, own, _ = search_range
    starts = np.unique(spans[:, 0])
    ends = np.append(starts[1:], high)
    spans[:] = np.searchsorted(starts, spans)
    nearest: Ints = np.where(own < starts, starts, np.minimum(own, ends - 1))
    return nearest


def _exact(nodes: Nodes, first: int, of_first: Ints, second: int, of_second: Ints) -> Floats:
    """Return the scores (pairs,) at pairs of candidates, added as in `Forest.score`."""
    kind, left, right, roots, value, _, fixed, code = nodes
    node = np.broadcast_to(roots, (len(of_first), len(roots)))
    while (kind[node] != LEAF).any():
        to_left = np.where(kind[node] == first, of_first[:, None] < code[node], fixed[node])
        to_left = np.where(kind[node] == second, of_second[:, None] < code[node], to_left)
        node = np.where(kind[node] == LEAF, node, np.where(to_left, left[node], right[node]))
    total: Floats = np.add.accumulate(value[node], axis=1)[:, -1]
    return total / len(roots)
