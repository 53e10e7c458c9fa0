"""Cells: the intervals between a factor's thresholds, in which a forest's score is constant."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from bankportal.domain.constraints import Number
from bankportal.model.forest import LEAF, Forest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Booleans = NDArray[np.bool_]


def goes_left(forest: Forest, row: Floats) -> Booleans:
    """Return for each node whether it sends an encoded row (columns,) left, (nodes,); meaningless at a leaf."""
    cell = row.astype(np.float32)[np.maximum(forest.feature, 0)]
    left: Booleans = np.where(np.isnan(cell), forest.missing_left, cell.astype(np.float64) <= forest.threshold)
    return left


def last_left(thresholds: Floats) -> Floats:
    """Return the largest float64 that goes left at each threshold, rising and without repeats.

    A value is rounded to the nearest float32 (ties to even) before it is compared. So the largest value that goes left
    can be a little above or below the threshold itself. It is minus infinity where no value goes left.
    """
    with np.errstate(over="ignore"):
        lower = thresholds.astype(np.float32)
        lower = np.where(lower.astype(np.float64) > thresholds, np.nextafter(lower, np.float32(-np.inf)), lower)
        lower = np.unique(lower)
        upper = np.nextafter(lower, np.float32(np.inf))
        middle = lower.astype(np.float64) / 2 + upper.astype(np.float64) / 2
        rounds_up = middle.astype(np.float32) > lower
    last: Floats = np.where(rounds_up, np.nextafter(middle, -np.inf), middle)
    return last


def reachable(forest: Forest, row: Floats, columns: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the inner nodes that split on `columns` and that a row can reach when only these columns change.

    `row` (columns of the encoding,) with NaN for unknown; `columns` (columns,) are positions in it. Nodes
    are returned as positions in the forest's arrays, (nodes,).
    """
    left = goes_left(forest, row)
    free = np.isin(forest.feature, columns)
    reached, here = [], forest.roots[forest.feature[forest.roots] != LEAF].astype(np.intp)
    while len(here):
        splits = free[here]
        reached.append(here[splits])
        go_left, go_right = here[splits | left[here]], here[splits | ~left[here]]
        here = np.concatenate([forest.left[go_left], forest.right[go_right]]).astype(np.intp)
        here = here[forest.feature[here] != LEAF]
    return np.concatenate([*reached, np.empty(0, dtype=np.intp)])


@dataclass(frozen=True)
class Multiples:
    """The whole multiples of a step, each as the nearest float: 3 steps of 0.1 are 0.3."""

    numerator: int
    denominator: int

    @classmethod
    def of(cls, constraint: Number, step: float) -> "Multiples":
        """Return the multiples of `step`; for a whole number, only those that are whole.

        Raises `ValueError` where the step is not above 0.
        """
        if not step > 0:
            raise ValueError("a step must be above 0")
        exact = Fraction(str(step))
        return cls(exact.numerator, 1 if constraint.whole else exact.denominator)

    def times(self, number: Floats) -> Floats:
        """Return the step times each number, in any shape."""
        return number * self.numerator / self.denominator

    def at_most(self, values: Floats) -> Floats:
        """Return the largest multiple that is not above each value, in any shape."""
        number = np.floor(values * (self.denominator / self.numerator))
        number = np.where(self.times(number) > values, number - 1, number)  # the division rounds
        return self.times(np.where(self.times(number + 1) <= values, number + 1, number)) + 0.0  # no -0.0

    def at_least(self, values: Floats) -> Floats:
        """Return the smallest multiple that is not below each value, in any shape."""
        return 0.0 - self.at_most(-values)
