"""Simulated files of customers or applicants, and the true probability of each row's label.

The same number of rows and seed give the same columns to the last byte. One generator draws each column for all rows
before the next one, in this order: `customers.draw_base`, latent state, label, behaviours (for applicants: behaviours,
request, label). So a file of more rows has other customers, not some more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np

from bankportal.data.measures import area_under_curve, brier
from bankportal.domain.products import Product
from bankportal.simulation import applicants, customers
from bankportal.simulation.likelihoods import Column, Columns, Floats, as_floats, draw_all

MAX_ROWS = 1_000_000


@dataclass(frozen=True)
class Ceiling:
    """How good probabilities are: their ROC AUC, NaN where all labels are equal, and their Brier score."""

    auc: float
    brier: float


@dataclass(frozen=True)
class Simulated:
    """A simulated file.

    `columns` are by name in the file's order, each (rows,), NaN where blank; `label` is the label column's name and
    `product` the product's key. `truth` (rows,) is the probability of label 1 given a row's factors and latent state;
    `achievable` the one given the scored factors alone, which no model can better on average.
    """

    product: str
    label: str
    columns: Mapping[str, Column]
    truth: Floats

    @property
    def labels(self) -> Floats:
        """The labels as floats, 1 or 0."""
        return as_floats(self.columns[self.label])

    @cached_property
    def achievable(self) -> Floats:
        """Bayes-optimal probabilities, (rows,); computed on first use, which takes longer than simulating."""
        return BEST[self.product](self.columns)

    def true_ceiling(self) -> Ceiling:
        """AUC and Brier score of `truth`: how good a model could be that knew the latent state."""
        return ceiling(self.labels, self.truth)

    def achievable_ceiling(self) -> Ceiling:
        """AUC and Brier score of `achievable`: how good a model can be."""
        return ceiling(self.labels, self.achievable)


BEST: Mapping[str, Callable[[Columns], Floats]] = MappingProxyType(
    {customers.PRODUCT: customers.best_chance_of_leaving, applicants.PRODUCT: applicants.best_chance_of_repaying}
)


def ceiling(labels: Floats, chances: Floats) -> Ceiling:
    """Return ROC AUC (ties count half) and Brier score of probabilities against labels 1 or 0, both (rows,)."""
    return Ceiling(area_under_curve(chances, labels), brier(chances, labels))


def churn(rows: int, seed: int) -> Simulated:
    """Simulate customers with all factors and the label `Churn`.

    Raises `ValueError` where `rows` is not from 1 to 1,000,000.
    """
    columns, state, truth, generator = _leavers(rows, seed, customers.LABEL)
    complete = draw_all(customers.BEHAVIOURS, columns, state, generator)
    return Simulated(customers.PRODUCT, customers.LABEL, complete, truth)


def base(rows: int, seed: int) -> Simulated:
    """Simulate a base file as the public one: RowNumber first, no behaviours, the label `Exited`.

    Its customers are those of `churn` with the same rows and seed. Raises `ValueError` as `churn` does.
    """
    columns, _, truth, _ = _leavers(rows, seed, customers.BASE_LABEL)
    numbered = {"RowNumber": np.arange(1, rows + 1)} | columns
    return Simulated(customers.PRODUCT, customers.BASE_LABEL, numbered, truth)


def _leavers(rows: int, seed: int, label: str) -> tuple[dict[str, Column], Floats, Floats, np.random.Generator]:
    """Return base factors with the label, latent states, true probabilities, and the generator to go on with."""
    generator = _generator(rows, seed)
    columns = customers.draw_base(rows, generator)
    state = customers.draw_state(rows, generator)
    truth = customers.chance_of_leaving(columns, state)
    left = (generator.random(rows) < truth).astype(np.int64)
    return columns | {label: left}, state, truth, generator


def allowance(rows: int, seed: int) -> Simulated:
    """Simulate applicants with all factors, protected ones included, and the label `Repaid`.

    Raises `ValueError` where `rows` is not from 1 to 1,000,000.
    """
    generator = _generator(rows, seed)
    columns = customers.draw_base(rows, generator)
    state = applicants.draw_state(rows, generator)
    columns = draw_all(applicants.BEHAVIOURS, columns, state, generator)
    columns["RequestedLimit"] = applicants.draw_request(columns, generator)
    truth = applicants.chance_of_repaying(columns, state)
    columns[applicants.LABEL] = (generator.random(rows) < truth).astype(np.int64)
    return Simulated(applicants.PRODUCT, applicants.LABEL, columns, truth)


def _generator(rows: int, seed: int) -> np.random.Generator:
    if not 1 <= rows <= MAX_ROWS:
        raise ValueError(f"rows must be from 1 to {MAX_ROWS:,}")
    return np.random.default_rng(seed)


SIMULATORS: Mapping[str, Callable[[int, int], Simulated]] = MappingProxyType(
    {customers.PRODUCT: churn, applicants.PRODUCT: allowance}
)


def simulates(product: Product) -> bool:
    """Return whether a simulator's files have all that a product requires: its factors, and its label by some name."""
    if product.key not in SIMULATORS:
        return False
    one = SIMULATORS[product.key](1, 0)
    return product.label.matches(one.label) and {factor.name for factor in product.required} <= set(one.columns)
