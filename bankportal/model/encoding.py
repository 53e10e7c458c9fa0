"""From a customer's values to the forest's columns.

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

from bankportal.data.columns import blank
from bankportal.domain.constraints import Choice
from bankportal.domain.factors import Factor
from bankportal.domain.policy import Value
from bankportal.domain.products import Product

# The forest compares in float32; a larger number would become infinite there.
MAX_FLOAT32 = float(np.finfo(np.float32).max)
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
    np.maximum(encoded, -MAX_FLOAT32, out=encoded)
    np.minimum(encoded, MAX_FLOAT32, out=encoded)
    return encoded
