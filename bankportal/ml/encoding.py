"""From a customer's values to the forest's columns, and what the forest has seen of each factor.

On the serving path: NumPy and the domain only.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.domain.constraints import Choice, Constraint, Flag
from bankportal.domain.factors import Factor
from bankportal.domain.outcome import Flag as SeenFlag
from bankportal.domain.policy import Value
from bankportal.domain.products import Product

# The forest compares in float32; a larger number would become infinite there.
LARGEST = float(np.finfo(np.float32).max)
Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Column:
    """One column of the forest: a number or flag (`option` is `None`), or one option of a choice."""

    factor: str
    option: str | None = None


@dataclass(frozen=True)
class _Choice:
    """One choice factor's columns: ready-made for each option, for none of them, and for blank."""

    by_option: dict[object, list[float]]
    other: list[float]


@dataclass(frozen=True)
class Encoding:
    """The forest's columns in order.

    A choice has one column an option, 1 or 0; a number or flag is one column as it is. Blank is NaN in every column of
    its factor. All scored factors of a product have their columns, whether or not a data file knew them. `ValueError`
    where there are no columns or a factor's columns do not stand together.
    """

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        together = [name for name, _ in groupby(column.factor for column in self.columns)]
        if not together or len(set(together)) != len(together) or len(set(self.columns)) != len(self.columns):
            raise ValueError("the encoding's columns must be there, once each, and together for each factor")

    @classmethod
    def of(cls, product: Product) -> "Encoding":
        """Return the columns of all factors a product scores, in its order."""
        return cls(tuple(column for factor in product.scored for column in _columns_of(factor)))

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """The encoded factors' names in order."""
        return tuple(name for name, _ in groupby(column.factor for column in self.columns))

    def positions(self, *factors: str) -> NDArray[np.intp]:
        """Return the numbers of the columns that hold the factors, in the columns' order."""
        return np.array(
            [number for number, column in enumerate(self.columns) if column.factor in factors], dtype=np.intp
        )

    @cached_property
    def _plan(self) -> tuple[tuple[str, _Choice | None], ...]:
        return tuple(
            (name, _ready_made([column.option for column in columns]))
            for name, columns in groupby(self.columns, key=lambda column: column.factor)
        )

    def row(self, values: Mapping[str, Value]) -> NDArray[np.float64]:
        """Encode one customer's validated values by factor name; absent or `None` is unknown. Shape (columns,)."""
        cells: list[Any] = []
        for name, choice in self._plan:
            value = values.get(name)
            if choice is not None:
                cells += choice.by_option.get(value, choice.other)
            else:
                cells.append(math.nan if value is None else value)
        return _clipped(np.array(cells, dtype=np.float64))

    def matrix(self, columns: Columns) -> NDArray[np.float64]:
        """Encode many customers, shape (rows, columns): the bits `row` gives for each.

        `columns` holds an array (rows,) a factor: float64 with NaN for numbers and flags, objects with `None` for
        choices. A factor that is absent is unknown for all; `ValueError` where there is no factor at all.
        """
        if not columns:
            raise ValueError("there is no factor to encode")
        rows = len(next(iter(columns.values())))
        matrix = np.full((rows, len(self.columns)), np.nan)
        for number, column in enumerate(self.columns):
            if column.factor in columns:
                matrix[:, number] = _encoded(columns[column.factor], column.option)
        return _clipped(matrix)

    def to_json(self) -> list[dict[str, str | None]]:
        """Return what the manifest keeps."""
        return [{"factor": column.factor, "option": column.option} for column in self.columns]

    @classmethod
    def from_json(cls, content: object, product: Product) -> "Encoding":
        """Read what `to_json` wrote; `ValueError` where it does not fit the product's declaration."""
        if not isinstance(content, list):
            raise ValueError("the encoding is not a list of columns")
        return cls(tuple(_column_from(item, product) for item in content))


def _columns_of(factor: Factor) -> Iterator[Column]:
    options = factor.constraint.options if isinstance(factor.constraint, Choice) else (None,)
    return (Column(factor.name, option) for option in options)


def _column_from(item: object, product: Product) -> Column:
    if not isinstance(item, dict) or set(item) != {"factor", "option"}:
        raise ValueError("a column of the encoding needs a factor and an option, and nothing else")
    scored = {factor.name: factor for factor in product.scored}
    factor = scored.get(item["factor"]) if isinstance(item["factor"], str) else None
    if factor is None:
        raise ValueError(f"{product.key} does not score {item['factor']!r}")
    if item["option"] not in [column.option for column in _columns_of(factor)]:
        raise ValueError(f"{factor.name} has no option {item['option']!r}")
    return Column(factor.name, item["option"])


def _ready_made(options: list[str | None]) -> _Choice | None:
    if options == [None]:
        return None
    by_option: dict[object, list[float]] = {
        option: [1.0 if other == option else 0.0 for other in options] for option in options
    }
    by_option[None] = [math.nan] * len(options)
    return _Choice(by_option, [0.0] * len(options))


def _encoded(values: NDArray[Any], option: str | None) -> NDArray[np.float64]:
    if option is None:
        return values.astype(np.float64)
    return np.where(blank(values), np.nan, values == option).astype(np.float64)


def _clipped(encoded: NDArray[np.float64]) -> NDArray[np.float64]:
    np.maximum(encoded, -LARGEST, out=encoded)
    np.minimum(encoded, LARGEST, out=encoded)
    return encoded


@dataclass(frozen=True)
class Seen:
    """What a forest saw of each scored factor while it was trained.

    `ranges` holds (lowest, highest) for numbers and flags, `options` the options of choices; a factor in neither had
    no value at all.
    """

    product: Product
    ranges: Mapping[str, tuple[float, float]]
    options: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, product: Product, columns: Columns) -> "Seen":
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

    def flags(self, values: Mapping[str, Value]) -> tuple[SeenFlag, ...]:
        """Say in a sentence each which of a customer's values are unlike all the forest has seen."""
        return tuple(
            SeenFlag(factor.name, message)
            for factor in self.product.scored
            if (value := values.get(factor.name)) is not None and (message := self._message(factor, value))
        )

    def flags_of_rows(self, columns: Columns) -> dict[int, tuple[SeenFlag, ...]]:
        """Return what `flags` says of many customers, by row, of those with a flag; arrays as for `Encoding.matrix`."""
        found: dict[int, tuple[SeenFlag, ...]] = {}
        for factor in self.product.scored:
            for row in self._unlike(factor, columns[factor.name]) if factor.name in columns else ():
                message = self._message(factor, columns[factor.name][row])
                found[row] = (*found.get(row, ()), SeenFlag(factor.name, message))
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
        if isinstance(factor.constraint, Flag):
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
    def from_json(cls, content: object, product: Product) -> "Seen":
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


def blank(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Say for each of a factor's values whether it is unknown: `None` among objects, NaN among numbers."""
    unknown = values == np.array(None) if values.dtype == object else np.isnan(values)
    return np.asarray(unknown, dtype=np.bool_)


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
