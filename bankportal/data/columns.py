"""Validate whole columns of text at once: the values and errors that `domain.schema` gives a single row.

Where a column has few different texts, each is validated once. Where it has many, all of them are first matched
against the constraint's own pattern in one search. Only a text that does not match, or whose number is out of bounds,
is validated by the constraint itself: every error comes from there.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.data.blocks import Block, Layout, Ragged
from bankportal.domain.constraints import (
    INVISIBLE,
    MAX_NUMBER_LENGTH,
    NUMBER,
    Choice,
    ConstraintViolation,
    Number,
    Source,
    Text,
)
from bankportal.domain.policy import Value
from bankportal.domain.products import Product, ProductFactor
from bankportal.domain.schema import MAX_QUOTED, is_blank

# A number or nothing in each line. Possessive quantifiers: a line that matched is never tried another way.
PLAIN_NUMBERS = re.compile(rf"(?:(?:{NUMBER.pattern})?+\n)*+(?:{NUMBER.pattern})?+")
FEW_VALUES = 1 / 8  # the share of different texts up to which each is validated once


@dataclass(frozen=True)
class CellProblem:
    """Why a row was rejected: one bad cell, or the whole row, with `column` and `factor` empty.

    `line` is the line in the file, counted from 1; `column` is the file's own name for the factor, empty where it has
    no such column; `message` is a sentence without its subject; `text` is the cell's text, shortened.
    """

    line: int
    column: str
    factor: str
    code: str
    message: str
    text: str = ""

    def __str__(self) -> str:
        quoted = f" (found: {self.text})" if self.text else ""
        return f"line {self.line}: {self.column or self.factor or 'the row'} {self.message}{quoted}"


@dataclass(frozen=True)
class ValidatedColumn:
    """A column's `values` (rows,) as `Table.columns` holds them, NaN or `None` where unknown or bad; errors by row."""

    values: NDArray[Any]
    violations: Mapping[int, ConstraintViolation]


@dataclass(frozen=True)
class ValidatedBlock:
    """A block with its values.

    `columns` maps the name of every factor of the product to its values (rows,), all unknown where the mapping has no
    column for it. `good` (rows,) says which rows can be scored. `problems` are those of the other rows and of ragged
    records, in the file's order.
    """

    block: Block
    columns: Mapping[str, NDArray[Any]]
    good: NDArray[np.bool_]
    problems: tuple[CellProblem, ...]


def validate_block(product: Product, layout: Layout, mapping: Mapping[str, str], block: Block) -> ValidatedBlock:
    """Validate a block's rows; `mapping` maps columns of the file to factors, other columns are ignored.

    A required factor without a column rejects every row. Raises `KeyError` where the file lacks a mapped column.
    """
    texts = by_column(layout.header, block.rows)
    column_of = {factor: column for column, factor in mapping.items()}
    columns: dict[str, NDArray[Any]] = {}
    good = np.ones(len(block.rows), dtype=np.bool_)
    problems = [ragged_problem(layout, ragged) for ragged in block.ragged]
    for entry in product.factors:
        factor = entry.factor.name
        column = column_of.get(factor, "")
        cells = texts[column] if column else ("",) * len(block.rows)
        validated = validate_column(entry, cells) if column else _absent_column(entry, len(cells))
        columns[factor] = validated.values
        good[list(validated.violations)] = False
        problems += cell_problems(validated, column, factor, cells, block.lines)
    return ValidatedBlock(block, columns, good, by_line(problems))


def validate_column(entry: ProductFactor, texts: Sequence[str]) -> ValidatedColumn:
    """Validate the cells of one factor's column."""
    constraint = entry.factor.constraint
    different = set(texts)
    if len(different) > FEW_VALUES * len(texts):
        if isinstance(constraint, Number):
            return _validate_numbers(entry, constraint, texts)
        if isinstance(constraint, Text):
            return _validate_texts(entry, constraint, texts)
    return validate_each(texts, different, validator_of(entry), _dtype(entry))


def validate_each(
    texts: Sequence[str], different: set[str], validate: Callable[[str], Value], dtype: type
) -> ValidatedColumn:
    """Validate each different text once, by a function that returns its value or raises `ConstraintViolation`."""
    results = {text: _value_or_violation(text, validate) for text in different}
    bad = {text: result for text, result in results.items() if isinstance(result, ConstraintViolation)}
    values: NDArray[Any] = np.array([None if text in bad else results[text] for text in results], dtype=dtype)
    value_of = dict(zip(results, values.tolist(), strict=True)).__getitem__
    violations = {row: bad[text] for row, text in enumerate(texts) if text in bad} if bad else {}
    return ValidatedColumn(np.fromiter(map(value_of, texts), dtype=dtype, count=len(texts)), violations)


def validator_of(entry: ProductFactor) -> Callable[[str], Value]:
    """Return a function of a cell's text: it returns the value, or raises `ConstraintViolation`."""
    constraint, required = entry.factor.constraint, entry.required

    def validate(text: str) -> Value:
        if not is_blank(text):
            return constraint.validate(text, Source.TEXT)  # type: ignore[no-any-return]
        if required:
            raise ConstraintViolation("required", "is required")
        return None

    return validate


def by_column(header: Sequence[str], rows: Sequence[list[str]]) -> dict[str, tuple[str, ...]]:
    """Return the cells of each column, (rows,), by its name in the header."""
    cells = zip(*rows, strict=True) if rows else ((),) * len(header)
    return dict(zip(header, cells, strict=True))


def cell_problems(
    validated: ValidatedColumn, column: str, factor: str, texts: Sequence[str], lines: Sequence[int]
) -> Iterator[CellProblem]:
    """Yield the problem of each bad cell of a column."""
    for row, violation in validated.violations.items():
        yield CellProblem(lines[row], column, factor, violation.code, violation.message, shortened(texts[row]))


def ragged_problem(layout: Layout, ragged: Ragged) -> CellProblem:
    """Say what is wrong with a ragged record."""
    width = len(layout.header) - len(ragged.added)
    message = f"has {len(ragged.fields)} fields where the header has {width}"
    if len(ragged.fields) > width and not any(map(str.strip, ragged.fields[width:])):
        message += ", those beyond it blank: is there a delimiter too many at its end?"
    return CellProblem(ragged.line, "", "", "ragged", message, shortened(layout.delimiter.join(ragged.fields)))


def by_line(problems: list[CellProblem]) -> tuple[CellProblem, ...]:
    """Sort by line; problems of one line keep their order."""
    return tuple(sorted(problems, key=lambda problem: problem.line))


def shortened(text: str) -> str:
    """Cut a text to the length that messages quote."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


def _dtype(entry: ProductFactor) -> type:
    return object if isinstance(entry.factor.constraint, Choice | Text) else np.float64


def _absent_column(entry: ProductFactor, rows: int) -> ValidatedColumn:
    """Return the column of a factor for which the file has none."""
    missing = dict.fromkeys(range(rows), ConstraintViolation("required", "is required")) if entry.required else {}
    return ValidatedColumn(np.full(rows, None, dtype=_dtype(entry)), missing)


def _validate_numbers(entry: ProductFactor, constraint: Number, texts: Sequence[str]) -> ValidatedColumn:
    unmatched = _unmatched(texts, _all_plain_numbers)
    matched = list(texts)
    for row in unmatched:
        matched[row] = ""
    values = np.fromiter(map(float, [text or "nan" for text in matched]), dtype=np.float64, count=len(matched))
    values += 0.0  # -0.0 becomes 0.0
    outside = (values < constraint.minimum) | (values > constraint.maximum)
    if constraint.whole:
        outside |= (values != np.trunc(values)) & ~np.isnan(values)
    if entry.required:
        outside |= np.isnan(values)
    singly = sorted({*unmatched, *np.flatnonzero(outside).tolist()})
    return _validate_singly(values, singly, texts, entry)


def _validate_texts(entry: ProductFactor, constraint: Text, texts: Sequence[str]) -> ValidatedColumn:
    stripped = [text.strip() for text in texts]
    singly = set(_unmatched(stripped, lambda some: _all_plain_texts(some, constraint.longest)))
    if entry.required:
        singly |= {row for row, text in enumerate(stripped) if not text}
    values = np.array([text or None for text in stripped], dtype=object)
    return _validate_singly(values, sorted(singly), texts, entry)


def _validate_singly(
    values: NDArray[Any], rows: list[int], texts: Sequence[str], entry: ProductFactor
) -> ValidatedColumn:
    """Validate the cells of some rows by the constraint itself, and put their values into the column."""
    cells = [texts[row] for row in rows]
    validated = validate_each(cells, set(cells), validator_of(entry), _dtype(entry))
    values[rows] = validated.values
    return ValidatedColumn(values, {rows[place]: error for place, error in validated.violations.items()})


def _all_plain_numbers(texts: Sequence[str]) -> bool:
    joined = "\n".join(texts)
    return (
        max(map(len, texts)) <= MAX_NUMBER_LENGTH
        and joined.count("\n") == len(texts) - 1  # a line break within a cell would make two numbers of one
        and PLAIN_NUMBERS.fullmatch(joined) is not None
    )


def _all_plain_texts(texts: Sequence[str], longest: int) -> bool:
    return max(map(len, texts)) <= longest and not INVISIBLE.search("".join(texts))


def _unmatched(texts: Sequence[str], all_match: Callable[[Sequence[str]], bool], first: int = 0) -> list[int]:
    """Return the rows, counted from `first`, of the texts that do not match: halves that hold one are halved again."""
    if not texts or all_match(texts):
        return []
    if len(texts) == 1:
        return [first]
    half = len(texts) // 2
    return _unmatched(texts[:half], all_match, first) + _unmatched(texts[half:], all_match, first + half)


def _value_or_violation(text: str, validate: Callable[[str], Value]) -> Value | ConstraintViolation:
    try:
        return validate(text)
    except ConstraintViolation as violation:
        return violation.with_traceback(None)  # a traceback would keep all texts of the column in memory


def blank(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which of a factor's values (rows,) are unknown: `None` among objects, NaN among numbers."""
    unknown = values == np.array(None) if values.dtype == object else np.isnan(values)
    return np.asarray(unknown, dtype=np.bool_)
