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
programming over look-ups and bytes (`Shape.grouped`), from the forest alone, so that nothing that came with a file ever
serves as an index: the tables are numbers.

Measured with `python benchmarks/explain.py`; the figures stand in `benchmarks/results.md`.
"""

from types import ModuleType
from typing import Any

import numpy as np

from bankportal.explanation.plan import Floats, checked_matrix, plan, table_rows
from bankportal.explanation.tables import Tables
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest

# Rows at once on the NumPy path.
BLOCK = 128
# Up to so many rows the compiled kernels take one after the other: faster for so few than side by side.
FEW_ROWS = 32


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
        matrix = checked_matrix(matrix, self._encoding)
        out = np.empty((len(matrix), self._plan.factors))
        compiled = _kernels()
        if compiled is None:
            for start in range(0, len(matrix), BLOCK):
                out[start : start + BLOCK] = self._add_up(matrix[start : start + BLOCK])
        elif len(matrix) <= FEW_ROWS:
            self._call(compiled.explain_each, matrix, out)
        elif len(matrix):
            compiled.run_in_parallel(
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
        cells = table_rows(self._plan, matrix)
        out = np.zeros((len(matrix), self._plan.factors))
        for factor, lane, groups in self._plan.runs:
            parts = self._tables.values[cells[groups], lane].astype(np.float64)
            out[:, factor] += np.add.accumulate(parts, axis=0)[-1]
        return out


def _kernels() -> ModuleType | None:
    """Return the compiled kernels, imported when first needed; `None` where there are none."""
    from bankportal.explanation import kernels

    return kernels if kernels.available() else None
