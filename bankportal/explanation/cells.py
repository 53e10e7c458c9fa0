"""Between its thresholds a forest is constant: where one factor's cells end, and which nodes a customer can reach.

On the serving path: NumPy and the domain only.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from bankportal.domain.constraints import Number
from bankportal.model.forest import LEAF, Forest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


def goes_left(forest: Forest, row: Floats) -> Flags:
    """Say for each node whether it sends an encoded row (columns,) left, (nodes,); at a leaf it means nothing."""
    cell = row.astype(np.float32)[np.maximum(forest.feature, 0)]
    left: Flags = np.where(np.isnan(cell), forest.missing_left, cell.astype(np.float64) <= forest.threshold)
    return left


def last_left(thresholds: Floats) -> Floats:
    """Return the largest float64 that goes left at each threshold, rising and without repeats.

    A value is rounded to the nearest float32 (to the even one of two equally near) before it is compared, so that it
    goes left a little beyond the threshold itself, or not quite up to it. Minus infinity where none goes left;
    larger values than the encoding lets through do not count.
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
    """Return the inner nodes that split on `columns` and that the row can reach when only these columns change."""
    left = goes_left(forest, row)
    free = np.isin(forest.feature, columns)
    found, here = [], forest.roots[forest.feature[forest.roots] != LEAF].astype(np.intp)
    while len(here):
        splits = free[here]
        found.append(here[splits])
        go_left, go_right = here[splits | left[here]], here[splits | ~left[here]]
        here = np.concatenate([forest.left[go_left], forest.right[go_right]]).astype(np.intp)
        here = here[forest.feature[here] != LEAF]
    return np.concatenate([*found, np.empty(0, dtype=np.intp)])


@dataclass(frozen=True)
class Ladder:
    """The whole multiples of a step, as the floats nearest to them: 3 steps of 0.1 are 0.3."""

    numerator: int
    denominator: int

    @classmethod
    def of(cls, constraint: Number, step: float) -> "Ladder":
        """Return the multiples of `step`; for a whole number those of them that are whole.

        `ValueError` where the step is not above 0.
        """
        if not step > 0:
            raise ValueError("a step must be above 0")
        exact = Fraction(str(step))
        return cls(exact.numerator, 1 if constraint.whole else exact.denominator)

    def rungs(self, number: Floats) -> Floats:
        """Return the `number`-th multiples."""
        return number * self.numerator / self.denominator

    def at_most(self, values: Floats) -> Floats:
        """Return the largest multiple that is not above each value."""
        number = np.floor(values * (self.denominator / self.numerator))
        number = np.where(self.rungs(number) > values, number - 1, number)  # the division rounds
        return self.rungs(np.where(self.rungs(number + 1) <= values, number + 1, number)) + 0.0  # no -0.0

    def at_least(self, values: Floats) -> Floats:
        """Return the smallest multiple that is not below each value."""
        return 0.0 - self.at_most(-values)
