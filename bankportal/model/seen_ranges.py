"""What a forest has seen of each factor in training, and which values of a customer are unlike all of it.

On the serving path: NumPy and the domain only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.data.columns import blank
from bankportal.domain.constraints import Choice, Constraint, YesNo
from bankportal.domain.factors import Factor
from bankportal.domain.outcome import UnseenValue
from bankportal.domain.policy import Value
from bankportal.domain.products import Product
from bankportal.model.encoding import Columns


@dataclass(frozen=True)
class SeenRanges:
    """What a forest saw of each scored factor while it was trained.

    `ranges` holds (lowest, highest) for numbers and flags, `options` the options of choices; a factor in neither had
    no value at all.
    """

    product: Product
    ranges: Mapping[str, tuple[float, float]]
    options: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, product: Product, columns: Columns) -> "SeenRanges":
        """Take note of a training table's columns, arrays as for `Encoding.matrix`."""
        ranges: dict[str, tuple[float, float]] = {}
        options: dict[str, tuple[str, ...]] = {}
        for factor in product.scored:
            known = _known(columns.get(factor.name))
            if isinstance(factor.constraint, Choice):
                found = set(known.tolist())
                options[factor.name] = tuple(option for option in factor.constraint.options if option in found)
            elif len(known):
                ranges[factor.name] = (float(known.min()), float(known.max()))
        return cls(product, ranges, {name: found for name, found in options.items() if found})

    def flags(self, values: Mapping[str, Value]) -> tuple[UnseenValue, ...]:
        """Say in a sentence each which of a customer's values are unlike all the forest has seen."""
        return tuple(
            UnseenValue(factor.name, message)
            for factor in self.product.scored
            if (value := values.get(factor.name)) is not None and (message := self._message(factor, value))
        )

    def flags_of_rows(self, columns: Columns) -> dict[int, tuple[UnseenValue, ...]]:
        """Return what `flags` says of many customers, by row, of those with a flag; arrays as for `Encoding.matrix`."""
        found: dict[int, tuple[UnseenValue, ...]] = {}
        for factor in self.product.scored:
            for row in self._unlike(factor, columns[factor.name]) if factor.name in columns else ():
                message = self._message(factor, columns[factor.name][row])
                found[row] = (*found.get(row, ()), UnseenValue(factor.name, message))
        return found

    def _unlike(self, factor: Factor, values: NDArray[Any]) -> list[int]:
        """Return the rows whose value is known and unlike all the forest has seen."""
        unlike = ~blank(values)
        if isinstance(factor.constraint, Choice):
            unlike &= ~np.isin(values, self.options.get(factor.name, ()))
        elif factor.name in self.ranges:
            lowest, highest = self.ranges[factor.name]
            unlike &= (values < lowest) | (values > highest)
        return np.flatnonzero(unlike).tolist()

    def _message(self, factor: Factor, value: int | float | str) -> str:
        if isinstance(value, str):
            return self._about_option(factor, value)
        if factor.name not in self.ranges:
            return _unused(factor)
        lowest, highest = self.ranges[factor.name]
        if lowest <= value <= highest:
            return ""
        if isinstance(factor.constraint, YesNo):
            only = "1 (yes)" if lowest else "0 (no)"
            return f"{factor.label} is {only} for every customer the model has seen."
        if value > highest:
            return f"{factor.label} is above every customer the model has seen (highest {_grouped(highest)})."
        return f"{factor.label} is below every customer the model has seen (lowest {_grouped(lowest)})."

    def _about_option(self, factor: Factor, value: str) -> str:
        known = self.options.get(factor.name, ())
        if not known:
            return _unused(factor)
        return "" if value in known else f"{value} is a {factor.label.lower()} the model has not seen."

    def to_json(self) -> dict[str, list[float] | list[str] | None]:
        """Return what the manifest keeps: [lowest, highest], or the options, or `None` where there was no value."""
        content: dict[str, list[float] | list[str] | None] = {factor.name: None for factor in self.product.scored}
        content.update({name: list(ends) for name, ends in self.ranges.items()})
        content.update({name: list(found) for name, found in self.options.items()})
        return content

    @classmethod
    def from_json(cls, content: object, product: Product) -> "SeenRanges":
        """Read what `to_json` wrote; `ValueError` where it does not fit the product's declaration."""
        if not isinstance(content, dict):
            raise ValueError("what was seen in training is not an object of factors")
        scored = {factor.name: factor.constraint for factor in product.scored}
        if unknown := sorted(str(name) for name in set(content) - set(scored)):
            raise ValueError(f"{product.key} does not score {', '.join(unknown)}")
        given = {name: found for name, found in content.items() if found is not None}
        choices = {name for name in given if isinstance(scored[name], Choice)}
        ranges = {name: _range_from(name, found) for name, found in given.items() if name not in choices}
        options = {name: _options_from(name, found, scored[name]) for name, found in given.items() if name in choices}
        return cls(product, ranges, options)


def _known(values: NDArray[Any] | None) -> NDArray[Any]:
    return np.empty(0) if values is None else values[~blank(values)]


def _unused(factor: Factor) -> str:
    return f"{factor.label} is not used by this model: its training data had none."


def _grouped(number: float) -> str:
    """Write a number for a sentence: thousands grouped, cents where there are any."""
    return f"{number:,.2f}".removesuffix(".00")


def _range_from(name: str, found: object) -> tuple[float, float]:
    numbers = found if isinstance(found, list) else []
    fine = [number for number in numbers if isinstance(number, int | float) and not isinstance(number, bool)]
    if len(numbers) != 2 or len(fine) != 2 or not -math.inf < fine[0] <= fine[1] < math.inf:
        raise ValueError(f"{name} needs its lowest and highest number")
    return float(fine[0]), float(fine[1])


def _options_from(name: str, found: object, constraint: Constraint) -> tuple[str, ...]:
    known = constraint.options if isinstance(constraint, Choice) else ()
    if not isinstance(found, list) or not found or not all(option in known for option in found):
        raise ValueError(f"{name} needs options it declares")
    return tuple(found)
