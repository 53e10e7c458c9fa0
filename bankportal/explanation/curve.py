"""What-if curves: a customer's score at every value of one factor, as a step function.

The forest scores once in each cell between the thresholds that the customer can reach. So a step's score has the same
bits as `Forest.score` for every value in it.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from bankportal.domain.constraints import Choice, Number, YesNo
from bankportal.domain.factors import Factor
from bankportal.domain.policy import Value
from bankportal.domain.products import Product
from bankportal.explanation.cells import Floats, last_left, reachable
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest
from bankportal.model.seen_ranges import SeenRanges


@dataclass(frozen=True)
class Step:
    """A range of a number with the same score, or one value of a yes/no factor or choice (`start` equals `end`).

    A number's step includes its `end` but not its `start`; only the first step includes both. `end` is the largest
    float64 with this score. For a whole number both are whole.
    """

    start: float | str
    end: float | str
    score: float


@dataclass(frozen=True)
class Curve:
    """The score as a function of one factor over its declared range; all other factors are the customer's.

    `steps` are in the order of the range or of the options, without gaps; neighbouring steps of a number have different
    scores. `own` and `score` are the customer's value and score. `score_unknown` is the score if the factor were blank,
    `None` where it is required. `seen` is the training data's (lowest, highest) or its options, where known.
    """

    factor: Factor
    steps: tuple[Step, ...]
    own: Value
    score: float
    score_unknown: float | None
    seen: tuple[float, float] | tuple[str, ...] | None

    def step_at(self, value: float | str) -> Step:
        """Return the step that holds a value of the factor's range; `ValueError` where it is outside."""
        if isinstance(self.factor.constraint, Number):
            if not isinstance(value, str) and self.factor.constraint.minimum <= value <= self.factor.constraint.maximum:
                return self.steps[bisect_left(self.steps, value, key=_end)]
        else:
            for step in self.steps:
                if step.end == value:
                    return step
        raise ValueError(f"{value!r} is not in the range of {self.factor.name}")


def curve(
    product: Product,
    forest: Forest,
    encoding: Encoding,
    values: Mapping[str, Value],
    factor: str,
    seen: SeenRanges | None = None,
) -> Curve:
    """Return a customer's exact what-if curve of one factor.

    `values` are validated values by factor; absent or `None` is unknown. Raises `KeyError` where the product does not
    score the factor.
    """
    declared = {scored.name: scored for scored in product.scored}[factor]
    ends = _ends(forest, encoding, values, declared)
    own = values.get(factor)
    rows = _rows(encoding, values, declared, [*ends, own, None])
    *scores, score, unknown = forest.score(rows).tolist()
    return Curve(
        factor=declared,
        steps=tuple(_steps(declared, ends, scores)),
        own=own,
        score=score,
        score_unknown=None if declared in product.required else unknown,
        seen=_seen(seen, factor),
    )


def _ends(forest: Forest, encoding: Encoding, values: Mapping[str, Value], factor: Factor) -> Sequence[float | str]:
    """Return the last value of each cell, or each value of a yes/no factor or choice."""
    if isinstance(factor.constraint, YesNo):
        return (0, 1)
    if isinstance(factor.constraint, Choice):
        return factor.constraint.options
    assert isinstance(factor.constraint, Number)
    nodes = reachable(forest, encoding.row(values), encoding.positions(factor.name))
    ends = _within(last_left(forest.threshold[nodes]), factor.constraint)
    return [int(end) for end in ends] if factor.constraint.whole else ends


def _within(ends: Floats, number: Number) -> list[float]:
    """Return the ends within a number's range, whole for a whole number, and the end of the range."""
    if number.whole:
        ends = np.unique(np.floor(ends))
    ends = ends[(ends >= number.minimum) & (ends < number.maximum)]
    all_ends: list[float] = [*ends.tolist(), number.maximum]
    return all_ends


def _rows(encoding: Encoding, values: Mapping[str, Value], factor: Factor, changed: Iterable[Value]) -> Floats:
    """Encode the customer once for each value of one factor, shape (values, columns)."""
    columns = encoding.positions(factor.name)
    choice = isinstance(factor.constraint, Choice)
    blank, dtype = (None, np.object_) if choice else (math.nan, np.float64)
    column = np.array([blank if value is None else value for value in changed], dtype=dtype)
    rows = np.repeat(encoding.row(values)[None, :], len(column), axis=0)
    rows[:, columns] = encoding.matrix({factor.name: column})[:, columns]
    return rows


def _steps(factor: Factor, ends: Sequence[float | str], scores: Sequence[float]) -> Iterator[Step]:
    if not isinstance(factor.constraint, Number):
        yield from (Step(end, end, score) for end, score in zip(ends, scores, strict=True))
        return
    start: float | str = factor.constraint.minimum
    for score, cells in groupby(zip(ends, scores, strict=True), key=lambda cell: cell[1]):
        *_, (end, _) = cells
        yield Step(start, end, score)
        start = end


def _seen(seen: SeenRanges | None, factor: str) -> tuple[float, float] | tuple[str, ...] | None:
    if seen is None:
        return None
    return seen.ranges.get(factor) or seen.options.get(factor)


def _end(step: Step) -> float:
    assert not isinstance(step.end, str)
    return step.end
