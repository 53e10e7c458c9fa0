"""The encoding: from customers' values to the forest's columns."""

import math
from collections.abc import Iterator, Mapping, Sequence
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
class EncodedColumn:
    """A column of the forest: a number or yes/no factor (`option` is `None`), or one option of a choice."""

    factor: str
    option: str | None = None


@dataclass(frozen=True)
class _ChoiceCells:
    """The cells (columns,) of a choice's columns for each option and for blank, and for any other value."""

    by_option: dict[object, list[float]]
    other: list[float]


@dataclass(frozen=True)
class Encoding:
    """The forest's columns in order.

    A choice has one column for each option (1 or 0); a number or yes/no factor has one column. Blank is NaN in every
    column of its factor. Every scored factor of a product has its columns, whether or not the training data had it.
    Raises `ValueError` where there are no columns, where one is there twice, or where a factor's columns are not
    adjacent.
    """

    columns: tuple[EncodedColumn, ...]

    def __post_init__(self) -> None:
        factors = [name for name, _ in groupby(column.factor for column in self.columns)]
        if not factors or len(set(factors)) != len(factors) or len(set(self.columns)) != len(self.columns):
            raise ValueError("the encoding's columns must be there, once each, and together for each factor")

    @classmethod
    def of(cls, product: Product) -> "Encoding":
        """Return the columns of all factors that a product scores, in the product's order."""
        return cls(tuple(column for factor in product.scored for column in _columns_of(factor)))

    @cached_property
    def factors(self) -> tuple[str, ...]:
        """The encoded factors' names in order."""
        return tuple(name for name, _ in groupby(column.factor for column in self.columns))

    def positions(self, *factors: str) -> NDArray[np.intp]:
        """Return the positions of the factors' columns, rising, (positions,)."""
        return np.array(
            [number for number, column in enumerate(self.columns) if column.factor in factors], dtype=np.intp
        )

    @cached_property
    def _cells_by_factor(self) -> tuple[tuple[str, _ChoiceCells | None], ...]:
        return tuple(
            (name, _choice_cells([column.option for column in columns]))
            for name, columns in groupby(self.columns, key=lambda column: column.factor)
        )

    def row(self, values: Mapping[str, Value]) -> NDArray[np.float64]:
        """Encode one customer, shape (columns,), from validated values by factor; absent or `None` is unknown."""
        row: NDArray[np.float64] = self.rows([values])[0]
        return row

    def rows(self, customers: Sequence[Mapping[str, Value]]) -> NDArray[np.float64]:
        """Encode some customers, shape (customers, columns), with the same bits as `row` for each."""
        cells: list[Any] = []
        for values in customers:
            for name, choice in self._cells_by_factor:
                value = values.get(name)
                if choice is not None:
                    cells += choice.by_option.get(value, choice.other)
                else:
                    cells.append(math.nan if value is None else value)
        return _clipped(np.array(cells, dtype=np.float64).reshape(len(customers), len(self.columns)))

    def matrix(self, columns: Columns) -> NDArray[np.float64]:
        """Encode many customers, shape (rows, columns), with the same bits as `row` for each.

        `columns` has an array (rows,) for each factor: float64 with NaN for blank, or objects with `None` for a blank
        choice. A factor that is absent is unknown for all. Raises `ValueError` where there is no factor at all.
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
        """Return the columns as the manifest keeps them."""
        return [{"factor": column.factor, "option": column.option} for column in self.columns]

    @classmethod
    def from_json(cls, content: object, product: Product) -> "Encoding":
        """Read what `to_json` wrote; `ValueError` where the columns are not those of the product's scored factors."""
        if not isinstance(content, list):
            raise ValueError("the encoding is not a list of columns")
        encoding = cls(tuple(_column_from(item, product) for item in content))
        for column in cls.of(product).columns:
            if column not in encoding.columns:
                option = f" {column.option}" if column.option else ""
                raise ValueError(f"it was trained without {column.factor}{option}, which {product.key} scores")
        return encoding


def _columns_of(factor: Factor) -> Iterator[EncodedColumn]:
    options = factor.constraint.options if isinstance(factor.constraint, Choice) else (None,)
    return (EncodedColumn(factor.name, option) for option in options)


def _column_from(item: object, product: Product) -> EncodedColumn:
    if not isinstance(item, dict) or set(item) != {"factor", "option"}:
        raise ValueError("a column of the encoding needs a factor and an option, and nothing else")
    scored = {factor.name: factor for factor in product.scored}
    factor = scored.get(item["factor"]) if isinstance(item["factor"], str) else None
    if factor is None:
        raise ValueError(f"{product.key} does not score {item['factor']!r}")
    if item["option"] not in [column.option for column in _columns_of(factor)]:
        raise ValueError(f"{factor.name} has no option {item['option']!r}")
    return EncodedColumn(factor.name, item["option"])


def _choice_cells(options: list[str | None]) -> _ChoiceCells | None:
    if options == [None]:
        return None
    by_option: dict[object, list[float]] = {
        option: [1.0 if column == option else 0.0 for column in options] for option in options
    }
    by_option[None] = [math.nan] * len(options)
    return _ChoiceCells(by_option, [0.0] * len(options))


def _encoded(values: NDArray[Any], option: str | None) -> NDArray[np.float64]:
    if option is None:
        return values.astype(np.float64)
    return np.where(blank(values), np.nan, values == option).astype(np.float64)


def _clipped(encoded: NDArray[np.float64]) -> NDArray[np.float64]:
    np.maximum(encoded, -MAX_FLOAT32, out=encoded)
    np.minimum(encoded, MAX_FLOAT32, out=encoded)
    return encoded
