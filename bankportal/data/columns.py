"""Judge whole columns of text at once: the verdicts and values of the single-row model, from the same constraints.

Where a column has few different texts, each is judged once. Where it has many, its texts are joined, and one search
says that all of them are plain: written so that the constraint's own pattern takes them. Whatever is not plain, or not
within the bounds, goes through the constraint by itself, so that only the constraint ever says what is wrong.
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

# A number or nothing in each line. Possessive: a line that was taken is never tried another way.
PLAIN_NUMBERS = re.compile(rf"(?:(?:{NUMBER.pattern})?+\n)*+(?:{NUMBER.pattern})?+")
FEW_VALUES = 1 / 8  # different texts, as a share of all


@dataclass(frozen=True)
class CellProblem:
    """Why a row was rejected: one bad cell, or the whole row (`column` and `factor` are empty).

    `line` counts from 1, the header's; `column` is the file's own name, empty where the file has no column for the
    factor; `message` has no subject; `text` is what stood there, cut short.
    """

    line: int
    column: str
    factor: str
    code: str
    message: str
    text: str = ""

    def __str__(self) -> str:
        found = f" (found: {self.text})" if self.text else ""
        return f"line {self.line}: {self.column or self.factor or 'the row'} {self.message}{found}"


@dataclass(frozen=True)
class ValidatedColumn:
    """A column: `values` as `Table.columns` holds them (NaN or `None` where unknown or bad), what is broken, by row."""

    values: NDArray[Any]
    broken: Mapping[int, ConstraintViolation]


@dataclass(frozen=True)
class ValidatedBlock:
    """A block judged. `columns` maps a factor's name to its values, (rows of the block,): every factor of the product,
    unknown throughout where the mapping has no column for it. `good` (rows,) says which rows can be scored. `problems`
    are those of the others and of the ragged ones, in the file's order: what the single-row model says of each.
    """

    block: Block
    columns: Mapping[str, NDArray[Any]]
    good: NDArray[np.bool_]
    problems: tuple[CellProblem, ...]


def validate_block(product: Product, layout: Layout, mapping: Mapping[str, str], block: Block) -> ValidatedBlock:
    """Judge a block's rows; `mapping` maps the file's columns to factors, others are not looked at.

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
        judged = validate_column(entry, cells) if column else _unknown(entry, len(cells))
        columns[factor] = judged.values
        good[list(judged.broken)] = False
        problems += cell_problems(judged, column, factor, cells, block.lines)
    return ValidatedBlock(block, columns, good, in_order(problems))


def validate_column(entry: ProductFactor, texts: Sequence[str]) -> ValidatedColumn:
    """Judge the cells of one factor's column."""
    constraint = entry.factor.constraint
    different = set(texts)
    if len(different) > FEW_VALUES * len(texts):
        if isinstance(constraint, Number):
            return _validate_numbers(entry, constraint, texts)
        if isinstance(constraint, Text):
            return _validate_texts(entry, constraint, texts)
    return validate_each(texts, different, verdict_of(entry), _dtype(entry))


def validate_each(
    texts: Sequence[str], different: set[str], validate: Callable[[str], Value], dtype: type
) -> ValidatedColumn:
    """Judge each different text once, by a function that returns its value or raises `ConstraintViolation`."""
    verdicts = {text: _verdict(text, validate) for text in different}
    bad = {text: verdict for text, verdict in verdicts.items() if isinstance(verdict, ConstraintViolation)}
    values: NDArray[Any] = np.array([None if text in bad else verdicts[text] for text in verdicts], dtype=dtype)
    value_of = dict(zip(verdicts, values.tolist(), strict=True)).__getitem__
    broken = {row: bad[text] for row, text in enumerate(texts) if text in bad} if bad else {}
    return ValidatedColumn(np.fromiter(map(value_of, texts), dtype=dtype, count=len(texts)), broken)


def verdict_of(entry: ProductFactor) -> Callable[[str], Value]:
    """Return what gives one text its value as the single-row model does, or raises `ConstraintViolation`."""
    constraint, required = entry.factor.constraint, entry.required

    def validate(text: str) -> Value:
        if not is_blank(text):
            return constraint.validate(text, Source.TEXT)  # type: ignore[no-any-return]
        if required:
            raise ConstraintViolation("required", "is required")
        return None

    return validate


def by_column(header: Sequence[str], rows: Sequence[list[str]]) -> dict[str, tuple[str, ...]]:
    """Return the cells under each of the header's names."""
    cells = zip(*rows, strict=True) if rows else ((),) * len(header)
    return dict(zip(header, cells, strict=True))


def cell_problems(
    judged: ValidatedColumn, column: str, factor: str, texts: Sequence[str], lines: Sequence[int]
) -> Iterator[CellProblem]:
    """Name each broken cell of a column."""
    for row, broken in judged.broken.items():
        yield CellProblem(lines[row], column, factor, broken.code, broken.message, cut(texts[row]))


def ragged_problem(layout: Layout, ragged: Ragged) -> CellProblem:
    """Say what is wrong with a ragged record."""
    width = len(layout.header) - len(ragged.added)
    message = f"has {len(ragged.fields)} fields where the header has {width}"
    if len(ragged.fields) > width and not any(map(str.strip, ragged.fields[width:])):
        message += ", those beyond it blank: is there a delimiter too many at its end?"
    return CellProblem(ragged.line, "", "", "ragged", message, cut(layout.delimiter.join(ragged.fields)))


def in_order(problems: list[CellProblem]) -> tuple[CellProblem, ...]:
    """Sort by line; those of one line stay as they are."""
    return tuple(sorted(problems, key=lambda problem: problem.line))


def cut(text: str) -> str:
    """Cut a found text short."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


def _dtype(entry: ProductFactor) -> type:
    return object if isinstance(entry.factor.constraint, Choice | Text) else np.float64


def _unknown(entry: ProductFactor, rows: int) -> ValidatedColumn:
    """Return the column of a factor that the file does not have."""
    missing = dict.fromkeys(range(rows), ConstraintViolation("required", "is required")) if entry.required else {}
    return ValidatedColumn(np.full(rows, None, dtype=_dtype(entry)), missing)


def _validate_numbers(entry: ProductFactor, constraint: Number, texts: Sequence[str]) -> ValidatedColumn:
    rest = _not_plain(texts, _plain_numbers)
    plain = list(texts)
    for row in rest:
        plain[row] = ""
    values = np.fromiter(map(float, [text or "nan" for text in plain]), dtype=np.float64, count=len(plain))
    values += 0.0  # -0.0 becomes 0.0
    outside = (values < constraint.minimum) | (values > constraint.maximum)
    if constraint.whole:
        outside |= (values != np.trunc(values)) & ~np.isnan(values)
    if entry.required:
        outside |= np.isnan(values)
    rest = sorted({*rest, *np.flatnonzero(outside).tolist()})
    return _with_rest(values, rest, texts, entry)


def _validate_texts(entry: ProductFactor, constraint: Text, texts: Sequence[str]) -> ValidatedColumn:
    stripped = [text.strip() for text in texts]
    rest = set(_not_plain(stripped, lambda some: _plain_texts(some, constraint.longest)))
    if entry.required:
        rest |= {row for row, text in enumerate(stripped) if not text}
    return _with_rest(np.array([text or None for text in stripped], dtype=object), sorted(rest), texts, entry)


def _with_rest(values: NDArray[Any], rest: list[int], texts: Sequence[str], entry: ProductFactor) -> ValidatedColumn:
    """Put into a column the values of the cells that the constraint has to validate_block by itself."""
    odd = [texts[row] for row in rest]
    judged = validate_each(odd, set(odd), verdict_of(entry), _dtype(entry))
    values[rest] = judged.values
    return ValidatedColumn(values, {rest[place]: broken for place, broken in judged.broken.items()})


def _plain_numbers(texts: Sequence[str]) -> bool:
    joined = "\n".join(texts)
    return (
        max(map(len, texts)) <= MAX_NUMBER_LENGTH
        and joined.count("\n") == len(texts) - 1  # a line break within a cell would make two numbers of one
        and PLAIN_NUMBERS.fullmatch(joined) is not None
    )


def _plain_texts(texts: Sequence[str], longest: int) -> bool:
    return max(map(len, texts)) <= longest and not INVISIBLE.search("".join(texts))


def _not_plain(texts: Sequence[str], plain: Callable[[Sequence[str]], bool], first: int = 0) -> list[int]:
    """Return the rows, counted from `first`, of the texts that are not plain, by halving what holds some."""
    if not texts or plain(texts):
        return []
    if len(texts) == 1:
        return [first]
    half = len(texts) // 2
    return _not_plain(texts[:half], plain, first) + _not_plain(texts[half:], plain, first + half)


def _verdict(text: str, validate: Callable[[str], Value]) -> Value | ConstraintViolation:
    try:
        return validate(text)
    except ConstraintViolation as broken:
        return broken.with_traceback(None)  # which would keep every text alive that was in sight


def blank(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Say for each of a factor's values whether it is unknown: `None` among objects, NaN among numbers."""
    unknown = values == np.array(None) if values.dtype == object else np.isnan(values)
    return np.asarray(unknown, dtype=np.bool_)
