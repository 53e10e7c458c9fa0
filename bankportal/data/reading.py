"""Read a CSV data file for training: as text, each cell then validated by the constraint that also checks the form.

Nothing is guessed: `007`, `NA` and `1_000` are refused as the form refuses them. A row with a bad cell is rejected and
named by its line, and a row with too many or too few fields never shifts a column. A bad cell in a column that is never
scored is named as well, but the row is kept and the cell counts as unknown, since nothing is learned from it.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.data.blocks import blocks_from, claims, layout_from
from bankportal.data.columns import CellProblem as CellProblem  # part of what this module offers
from bankportal.data.columns import by_column, by_line, cell_problems, ragged_problem, validate_column, validate_each
from bankportal.domain.constraints import ConstraintViolation
from bankportal.domain.errors import DataRefused
from bankportal.domain.policy import Value
from bankportal.domain.products import Product, Role
from bankportal.domain.schema import is_blank

BLOCK = 50_000  # rows split at once


@dataclass(frozen=True, eq=False)
class Table:
    """A data file's good rows by column.

    `columns` maps a factor's name to an array (rows,): float64 with NaN for numbers and flags, objects (`str` or
    `None`) for choices and text. `label` (rows,) is 0.0 or 1.0, `None` where the file has no label column. `lines`
    (rows,) is each row's line in the file, `positions` (rows,) its number among the file's rows from 0. `recognised`
    maps the file's column names to factor names (or the label's); `missing` names the scored and policy factors without
    a column. `rows_in_file` counts the rejected rows as well. `sha256` is the file's digest.
    """

    product: Product
    name: str
    sha256: str
    columns: Mapping[str, NDArray[Any]]
    label: NDArray[np.float64] | None
    lines: NDArray[np.int64]
    positions: NDArray[np.int64]
    recognised: Mapping[str, str]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]
    problems: tuple[CellProblem, ...]
    rows_in_file: int

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def rejected(self) -> int:
        """How many of the file's rows are not in the table."""
        return self.rows_in_file - len(self)

    def take(self, rows: NDArray[Any]) -> "Table":
        """Return the table of some rows, by their numbers or by a boolean mask (rows,)."""
        return replace(
            self,
            columns={name: values[rows] for name, values in self.columns.items()},
            label=None if self.label is None else self.label[rows],
            lines=self.lines[rows],
            positions=self.positions[rows],
        )


@dataclass(frozen=True)
class TextRows:
    """A file's rows as text, all as wide as the header.

    `recognised` maps columns to factor names (or the label's); `lines` and `positions` are those of the rows, as in
    `Table`; `problems` are those of the ragged records, which are not among the rows.
    """

    header: list[str]
    recognised: Mapping[str, str]
    rows: list[list[str]]
    lines: list[int]
    positions: list[int]
    problems: list[CellProblem]
    rows_in_file: int


def read(path: str | Path, product: Product) -> Table:
    """Read a data file for a product.

    Raises `DataRefused` where the file is not CSV in UTF-8 with a usable header and at least one row. Bad rows are left
    out of the table and named in its `problems`; a row with a blank or bad label is a bad row.
    """
    path = Path(path)
    return read_bytes(_content(path), path.name, product)


def read_bytes(content: bytes, name: str, product: Product) -> Table:
    """Read a file's content as `read` does; messages call the file `name`."""
    rows = _read_rows(content, name, product)
    return _table(rows, product, name, hashlib.sha256(content).hexdigest())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataRefused(f"{path.name} cannot be read: {error.strerror}.") from None


def _read_rows(content: bytes, name: str, product: Product) -> TextRows:
    file = io.BytesIO(content)
    layout = layout_from(file, product, max_columns=None, name=name)
    header = list(layout.header)
    try:
        recognised = recognise(header, product)
    except DataRefused as refused:
        raise DataRefused(f"{name} {refused}") from None
    raw = TextRows(header, recognised, [], [], [], [], 0)
    for block in blocks_from(file, layout, BLOCK, name=name):
        raw.rows.extend(block.rows)
        raw.lines.extend(block.lines)
        raw.positions.extend(block.positions)
        raw.problems.extend(ragged_problem(layout, ragged) for ragged in block.ragged)
        raw = replace(raw, rows_in_file=block.span.position + block.span.rows)
    return raw


def recognise(header: list[str], product: Product) -> dict[str, str]:
    """Match a file's columns to the product's factors and label: {column: factor or label name}.

    Case, spaces, `_` and `-` never matter; a factor's own name wins over its aliases. `DataRefused` where two columns
    mean the same, or none means anything.
    """
    claimed = claims(header, product)
    for name, claim in claimed.items():
        best = [column for rank, column in claim if rank == min(claim)[0]]
        if len(best) > 1:
            raise DataRefused(f"has two columns that mean {name}: {' and '.join(best)}. Keep one.")
    chosen = {min(claim)[1]: name for name, claim in claimed.items()}
    return {column: chosen[column] for column in header if column in chosen}


def _table(raw: TextRows, product: Product, name: str, sha256: str) -> Table:
    recognised = raw.recognised
    entries = {entry.factor.name: entry for entry in product.factors}
    never_scored = {name for name, entry in entries.items() if entry.role in {Role.IDENTIFIER, Role.PROTECTED}}
    texts = by_column(raw.header, raw.rows)

    def label_of(text: str) -> Value:
        if is_blank(text):
            raise ConstraintViolation("no-label", "is blank: the row has no label to learn from")
        return product.label.validate(text)

    problems = list(raw.problems)
    columns: dict[str, NDArray[Any]] = {}
    good = np.ones(len(raw.rows), dtype=np.bool_)
    for column, meaning in recognised.items():
        cells = texts[column]
        entry = entries.get(meaning)
        validated = validate_column(entry, cells) if entry else validate_each(cells, set(cells), label_of, np.float64)
        columns[meaning] = validated.values
        if meaning not in never_scored:
            good[list(validated.violations)] = False
        problems += cell_problems(validated, column, meaning, cells, raw.lines)
    label = columns.pop(product.label.name, None)
    table = Table(
        product=product,
        name=name,
        sha256=sha256,
        columns=columns,
        label=label,
        lines=np.array(raw.lines, dtype=np.int64),
        positions=np.array(raw.positions, dtype=np.int64),
        recognised=recognised,
        unknown=_unknown(raw.header, recognised),
        missing=_missing(product, columns),
        problems=by_line(problems),
        rows_in_file=raw.rows_in_file,
    )
    return table if good.all() else table.take(good)


def _unknown(header: list[str], recognised: Mapping[str, str]) -> tuple[str, ...]:
    named = (column or f"(column {number} has no name)" for number, column in enumerate(header, start=1))
    return tuple(column for column in named if column not in recognised)


def _missing(product: Product, columns: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    wanted = product.scored + product.policy_factors
    return tuple(factor.name for factor in wanted if factor.name not in columns)
