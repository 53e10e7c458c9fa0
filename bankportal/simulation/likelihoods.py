"""Behaviours given a customer and a latent state: how they are drawn, and how likely a value was.

Every behaviour is declared once (`Behaviour`): a family of distributions whose location is
`location(columns) + slope * state`. Simulation draws from the declaration, and the best achievable probability uses
its likelihood.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Column = NDArray[Any]
Columns = Mapping[str, Column]
OfCustomer = Callable[[Columns], Column]

# What an unknown base factor counts as: the median or the most frequent value of the public file.
TYPICAL: dict[str, float] = {
    "CreditScore": 652,
    "Age": 37,
    "Tenure": 5,
    "Balance": 97_000,
    "NumOfProducts": 1,
    "HasCrCard": 1,
    "IsActiveMember": 1,
    "EstimatedSalary": 100_000,
}


def sigmoid(logits: Floats) -> Floats:
    """Turn log odds into probabilities, any shape, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def rows_of(columns: Columns) -> int:
    """Count the rows of equally long columns; 0 without columns."""
    return len(next(iter(columns.values()), ()))


def number(columns: Columns, name: str) -> Floats:
    """Return a factor as floats (rows,), blanks and an absent column filled with the typical customer's value."""
    if name not in columns:
        return np.full(rows_of(columns), TYPICAL[name])
    values = as_floats(columns[name])
    return np.where(np.isnan(values), TYPICAL[name], values)


def as_floats(values: Column) -> Floats:
    """Return numbers as float64 in the same shape, `None` as NaN."""
    return np.asarray(values, dtype=np.float64)


class Family(Protocol):
    """A family of distributions with one location a row. Arrays are (rows,) float64, or broadcast to it."""

    def draw(self, location: Floats, generator: np.random.Generator) -> Floats:
        """Draw one value a row; `location` has shape (rows,)."""

    def log_likelihood(self, values: Floats, location: Floats) -> Floats:
        """Return log p(values | location) up to a constant free of the location; the shapes broadcast."""


@dataclass(frozen=True)
class Bernoulli:
    """1 with the log odds `location`, else 0."""

    def draw(self, location: Floats, generator: np.random.Generator) -> Floats:
        """Draw flags, shape (rows,)."""
        return (generator.random(len(location)) < sigmoid(location)).astype(np.float64)

    def log_likelihood(self, values: Floats, location: Floats) -> Floats:
        """Return the log likelihood of flags."""
        return values * location - np.logaddexp(0.0, location)


@dataclass(frozen=True)
class Count:
    """Negative binomial: mean exp(`location`), variance mean + mean² / `shape`."""

    shape: float

    def draw(self, location: Floats, generator: np.random.Generator) -> Floats:
        """Draw counts, shape (rows,), as a Poisson whose rate is gamma distributed."""
        rate = generator.gamma(self.shape, np.exp(location) / self.shape)
        return generator.poisson(rate).astype(np.float64)

    def log_likelihood(self, values: Floats, location: Floats) -> Floats:
        """Return the log likelihood of counts."""
        return values * location - (values + self.shape) * np.log(self.shape + np.exp(location))


@dataclass(frozen=True)
class Ordinal:
    """Steps 1 to len(cuts) + 1; P(step ≤ k) = sigmoid(cuts[k - 1] - location)."""

    cuts: tuple[float, ...]

    def draw(self, location: Floats, generator: np.random.Generator) -> Floats:
        """Draw steps, shape (rows,)."""
        chance = generator.random(len(location))
        passed = [chance > sigmoid(cut - location) for cut in self.cuts]
        return np.asarray(1.0 + np.sum(passed, axis=0), dtype=np.float64)

    def log_likelihood(self, values: Floats, location: Floats) -> Floats:
        """Return the log likelihood of steps."""
        edges = np.array([-np.inf, *self.cuts, np.inf])
        step = np.nan_to_num(values, nan=1.0).astype(np.int64)
        return np.log(sigmoid(edges[step] - location) - sigmoid(edges[step - 1] - location))


@dataclass(frozen=True)
class Normal:
    """Normal around `location`, rounded to `decimals`; its likelihood ignores the rounding, which is fine enough."""

    deviation: float
    decimals: int

    def draw(self, location: Floats, generator: np.random.Generator) -> Floats:
        """Draw values, shape (rows,)."""
        return np.round(generator.normal(location, self.deviation), self.decimals)

    def log_likelihood(self, values: Floats, location: Floats) -> Floats:
        """Return the log likelihood of values."""
        return -0.5 * ((values - location) / self.deviation) ** 2


@dataclass(frozen=True)
class LogNormal:
    """Positive: its logarithm is normal around `location`; rounded to `decimals`, and at least one unit of the last."""

    deviation: float
    decimals: int

    def draw(self, location: Floats, generator: np.random.Generator) -> Floats:
        """Draw positive values, shape (rows,)."""
        values = np.round(np.exp(generator.normal(location, self.deviation)), self.decimals)
        return np.maximum(values, 10.0**-self.decimals)

    def log_likelihood(self, values: Floats, location: Floats) -> Floats:
        """Return the log likelihood of positive values."""
        return -0.5 * ((np.log(values) - location) / self.deviation) ** 2


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How the behavioural factor `name` depends on the customer and the latent state.

    The distribution's location is `location(columns)` plus `slope` times the latent state's coordinate `axis`;
    `location` may use behaviours that are declared before. `origin(columns)` is added to what was drawn, and the sum is
    kept within `bounds`, which a flag has not. Where `known(columns)` is false the value is blank.
    """

    name: str
    family: Family
    axis: int
    slope: float
    location: OfCustomer
    bounds: tuple[float, float] | None = None
    origin: OfCustomer | None = None
    known: OfCustomer | None = None

    def draw(self, columns: Columns, state: Floats, generator: np.random.Generator) -> Floats:
        """Draw the factor for customers with the latent state (rows, axes); NaN where it is blank."""
        values = self.family.draw(self.location(columns) + self.slope * state[:, self.axis], generator)
        if self.origin:
            values = values + self.origin(columns)
        if self.bounds:
            values = np.clip(values, *self.bounds)
        return np.where(self.known(columns), values, np.nan) if self.known else values

    def log_likelihood(self, columns: Columns, points: Floats) -> Floats:
        """Return (rows, points) log likelihoods of the factor's values at points of its axis; 0 where it is blank."""
        if self.name not in columns:
            return np.zeros((rows_of(columns), len(points)))
        values = as_floats(columns[self.name])
        if self.origin:
            values = values - self.origin(columns)
        location = self.location(columns)[:, None] + self.slope * points
        return np.where(np.isnan(values)[:, None], 0.0, self.family.log_likelihood(values[:, None], location))


def draw_all(
    behaviours: tuple[Behaviour, ...], columns: Columns, state: Floats, generator: np.random.Generator
) -> dict[str, Column]:
    """Return `columns` and, after them, the behaviours they lack; each is drawn for all rows before the next one."""
    complete = dict(columns)
    for behaviour in behaviours:
        if behaviour.name not in complete:
            complete[behaviour.name] = behaviour.draw(complete, state, generator)
    return complete


def log_likelihoods(behaviours: tuple[Behaviour, ...], axis: int, columns: Columns, points: Floats) -> Floats:
    """Return the summed log likelihoods of the behaviours on one axis, (rows, points); each row's largest is 0."""
    total = np.zeros((rows_of(columns), len(points)))
    for behaviour in behaviours:
        if behaviour.axis == axis:
            total += behaviour.log_likelihood(columns, points)
    return np.asarray(total - total.max(axis=1, keepdims=True), dtype=np.float64)
