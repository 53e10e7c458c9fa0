"""The range of each factor in the training data, and a customer's values outside it."""

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
    """The range of each scored factor in the training data.

    `ranges` has (lowest, highest) for numbers and yes/no factors, `options` the options of choices. A factor in neither
    had no value at all.
    """

    ranges: Mapping[str, tuple[float, float]]
    options: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, product: Product, columns: Columns) -> "SeenRanges":
        """Return the ranges of a training table's columns, arrays as for `Encoding.matrix`."""
        ranges: dict[str, tuple[float, float]] = {}
        options: dict[str, tuple[str, ...]] = {}
        for factor in product.scored:
            known = _known(columns.get(factor.name))
            if isinstance(factor.constraint, Choice):
                seen = set(known.tolist())
                if in_order := tuple(option for option in factor.constraint.options if option in seen):
                    options[factor.name] = in_order
            elif len(known):
                ranges[factor.name] = (float(known.min()), float(known.max()))
        return cls(ranges, options)

    def flags(self, product: Product, values: Mapping[str, Value]) -> tuple[UnseenValue, ...]:
        """Return a flag, with its sentence in the product's words, for each of a customer's values out of range."""
        ranges, flags = self.ranges, []
        for factor in product.scored:
            name = factor.name
            value = values.get(name)
            if value is None:
                continue
            # Nearly every value is a number inside its range: no message is asked for.
            if not isinstance(value, str) and name in ranges and ranges[name][0] <= value <= ranges[name][1]:
                continue
            if message := self._message(factor, value):
                flags.append(UnseenValue(name, message))
        return tuple(flags)

    def flags_of_rows(self, product: Product, columns: Columns) -> dict[int, tuple[UnseenValue, ...]]:
        """Return the flags of many customers by row, for the rows that have any; arrays as for `Encoding.matrix`."""
        flags: dict[int, tuple[UnseenValue, ...]] = {}
        for factor in product.scored:
            for row in self._outside(factor, columns[factor.name]) if factor.name in columns else ():
                message = self._message(factor, columns[factor.name][row])
                flags[row] = (*flags.get(row, ()), UnseenValue(factor.name, message))
        return flags

    def _outside(self, factor: Factor, values: NDArray[Any]) -> list[int]:
        """Return the rows whose value is known and outside the range."""
        outside = ~blank(values)
        if isinstance(factor.constraint, Choice):
            outside &= ~np.isin(values, self.options.get(factor.name, ()))
        elif factor.name in self.ranges:
            lowest, highest = self.ranges[factor.name]
            outside &= (values < lowest) | (values > highest)
        return np.flatnonzero(outside).tolist()

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

    def to_json(self, product: Product) -> dict[str, list[float] | list[str] | None]:
        """Return what the manifest keeps by factor: [lowest, highest], the options, or `None` where all is blank."""
        content: dict[str, list[float] | list[str] | None] = {factor.name: None for factor in product.scored}
        content.update({name: list(ends) for name, ends in self.ranges.items()})
        content.update({name: list(options) for name, options in self.options.items()})
        return content

    @classmethod
    def from_json(cls, content: object, product: Product) -> "SeenRanges":
        """Read what `to_json` wrote; `ValueError` where it does not match the product's declaration."""
        if not isinstance(content, dict):
            raise ValueError("what was seen in training is not an object of factors")
        scored = {factor.name: factor.constraint for factor in product.scored}
        if unknown := sorted(str(name) for name in set(content) - set(scored)):
            raise ValueError(f"{product.key} does not score {', '.join(unknown)}")
        seen = {name: item for name, item in content.items() if item is not None}
        choices = {name for name in seen if isinstance(scored[name], Choice)}
        ranges = {name: _range_from(name, item) for name, item in seen.items() if name not in choices}
        options = {name: _options_from(name, item, scored[name]) for name, item in seen.items() if name in choices}
        return cls(ranges, options)


def _known(values: NDArray[Any] | None) -> NDArray[Any]:
    return np.empty(0) if values is None else values[~blank(values)]


def _unused(factor: Factor) -> str:
    return f"{factor.label} is not used by this model: its training data had none."


def _grouped(number: float) -> str:
    """Return a number as text for a sentence: thousands grouped, with cents only where there are any."""
    return f"{number:,.2f}".removesuffix(".00")


def _range_from(name: str, item: object) -> tuple[float, float]:
    ends = item if isinstance(item, list) else []
    numbers = [end for end in ends if isinstance(end, int | float) and not isinstance(end, bool)]
    if len(ends) != 2 or len(numbers) != 2 or not -math.inf < numbers[0] <= numbers[1] < math.inf:
        raise ValueError(f"{name} needs its lowest and highest number")
    return float(numbers[0]), float(numbers[1])


def _options_from(name: str, item: object, constraint: Constraint) -> tuple[str, ...]:
    declared = constraint.options if isinstance(constraint, Choice) else ()
    if not isinstance(item, list) or not item or not all(option in declared for option in item):
        raise ValueError(f"{name} needs options it declares")
    return tuple(item)
