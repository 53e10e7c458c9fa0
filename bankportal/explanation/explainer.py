"""Exact Shapley values of a forest's score over the business factors, by look-up in tables made in training.

A contribution is an interventional Shapley value (Lundberg et al. 2020, "From local explanations to global
understanding with explainable AI for trees", Nature Machine Intelligence 2): the players are the business factors, so
that the columns of one choice are one player. The value of a coalition is the mean score over the reference population
with the coalition's factors taken from the customer. Base value + contributions = score.

**Why tables suffice.** Take one leaf. P are the factors whose conditions on the leaf's path the customer meets, Q those
whose conditions a reference row meets. A coalition reaches the leaf if every factor of the path is in P or Q and the
coalition contains all of A = P without Q and none of B = Q without P. The Shapley values of this game have a closed
form: value (|A|-1)! |B|! / (|A|+|B|)! for a factor in A, and -value |A|! (|B|-1)! / (|A|+|B|)! for a factor in B. So
all that matters of the reference is how often each Q occurs in it, and all that matters of the customer is P. This is
the observation of the WOODELF algorithm (Nadel and Wettenstein, "From Decision Trees to Boolean Logic: A Fast and
Unified SHAP Algorithm", AAAI 2026).

**What is different here.** A table serves a whole small subtree (a "group") instead of a leaf. Its index has one bit
for each factor on the path to the subtree (a condition fails) and one bit for each node inside (the customer goes
right). So two sibling leaves need no more space than one, and a customer needs one look-up for each group. Dynamic
programming over look-ups and bytes chooses the groups (`Shape.grouped`) from the forest alone. So no number that came
with a file is ever used as an index; the tables contain values only.

Measured with `python benchmarks/explain.py`; the figures are in `benchmarks/results.md`.
"""

from functools import cached_property
from types import ModuleType

import numpy as np

from bankportal.explanation.plan import Floats, checked_matrix, plan, table_rows
from bankportal.explanation.tables import Tables
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest

# Rows explained at once without compiled kernels.
BLOCK_ROWS = 128
# Up to so many rows, the compiled kernels are fastest one row after the other; up to so many, sixteen at once.
ROW_BY_ROW, FEW_ROWS = 2, 128


class Explainer:
    """The contributions of a forest's scores. Safe for threads.

    Raises `ValueError` where the tables do not belong to the forest. Compiled kernels and NumPy give the same bits, and
    so do `explain` and `explain_row`: all add in the order of `Plan.runs`.
    """

    def __init__(self, forest: Forest, encoding: Encoding, tables: Tables) -> None:
        tables.check(forest, encoding)
        self._encoding = encoding
        self._tables = tables
        self._plan = plan(forest, encoding)

    @cached_property
    def base(self) -> float:
        """The mean score of the reference population."""
        return float(self._tables.base[0])

    @cached_property
    def tolerance(self) -> float:
        """The largest difference between base + contributions and the score."""
        return self._tables.tolerance

    def explain(self, matrix: Floats) -> Floats:
        """Return the contributions (rows, factors) of a (rows, columns) float64 matrix, factors as `encoding.factors`.

        NaN is unknown. Raises `ValueError` where the matrix does not have the encoding's columns.
        """
        matrix = checked_matrix(matrix, self._encoding)
        out = np.empty((len(matrix), self._plan.factors))
        compiled = _kernels()
        if compiled is None:
            for start in range(0, len(matrix), BLOCK_ROWS):
                out[start : start + BLOCK_ROWS] = self._add_up(matrix[start : start + BLOCK_ROWS])
        elif len(matrix) <= FEW_ROWS and self._plan.steps is not None:
            self._explain_few(compiled, matrix, out)
        elif len(matrix):
            compiled.run_in_parallel(
                lambda start, end: self._explain_many(compiled, matrix[start:end], out[start:end]), len(matrix)
            )
        return out

    def explain_row(self, row: Floats) -> Floats:
        """Return the contributions (factors,) of one row (columns,), with the same bits as `explain`."""
        contributions: Floats = self.explain(row[None, :])[0]
        return contributions

    def warm_up(self) -> None:
        """Compile the kernels, or load the compiled ones, so that the first request does not wait."""
        blank = np.full((FEW_ROWS + 1, self._plan.columns), np.nan)
        for rows in (len(blank), ROW_BY_ROW + 1, 1):
            self.explain(blank[:rows])

    def _explain_few(self, compiled: ModuleType, matrix: Floats, out: Floats) -> None:
        lookup = self._plan
        one_by_one = len(matrix) <= ROW_BY_ROW
        kernel, rows = (compiled.explain_one, 1) if one_by_one else (compiled.explain_few, compiled.ROWS_AT_ONCE)
        for start in range(0, len(matrix), rows):
            part = slice(start, start + rows)
            values = self._tables.values
            kernel(matrix[part], out[part], lookup.cells, lookup.steps, lookup.groups, lookup.handovers, values)

    def _explain_many(self, compiled: ModuleType, matrix: Floats, out: Floats) -> None:
        lookup = self._plan
        compiled.explain_rows(
            matrix, out, lookup.cells, lookup.visits, lookup.groups, lookup.inner, self._tables.values
        )

    def _add_up(self, matrix: Floats) -> Floats:
        cells = table_rows(self._plan, matrix)
        out = np.zeros((len(matrix), self._plan.factors))
        for factor, lane, groups in self._plan.runs:
            parts = self._tables.values[cells[groups], lane].astype(np.float64)
            out[:, factor] += np.add.accumulate(parts, axis=0)[-1]
        return out


def _kernels() -> ModuleType | None:
    """Return the compiled kernels, imported when first needed; `None` where kernels cannot be compiled."""
    from bankportal.explanation import kernels

    return kernels if kernels.available() else None
