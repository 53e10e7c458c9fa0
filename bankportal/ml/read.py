"""Read a CSV data file for training: as text, then every cell through the constraint that also checks the form.

No cell is guessed at: `007`, `NA` and `1_000` get the verdict the form gives them, a row with a bad cell is rejected
and named by its line, and a row with too many or too few fields never shifts a column. A bad cell in a column that is
never scored is named as well, but counts as unknown: nothing is learned from it, so the row is kept.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.domain import constraints
from bankportal.domain.constraints import Broken, Choice, Door, Text
from bankportal.domain.errors import DataRefused
from bankportal.domain.factors import squeeze
from bankportal.domain.policy import Value
from bankportal.domain.products import Entry, Product, Role
from bankportal.domain.schema import LONGEST_FOUND, is_blank

DELIMITERS = (",", ";", "\t")
UTF8_MARK = b"\xef\xbb\xbf"
# How files begin that people take for CSV.
FOREIGN = (
    (b"PK\x03\x04", "is an Excel workbook or a ZIP archive"),
    (b"PK\x05\x06", "is a ZIP archive"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook"),
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"BZh", "is compressed with bzip2"),
    (b"\xfd7zXZ\x00", "is compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd"),
    (b"PAR1", "is a Parquet file"),
    (b"%PDF", "is a PDF document"),
    (b"SQLite format 3\x00", "is a SQLite database"),
    (b"\xff\xfe", "is written in UTF-16"),
    (b"\xfe\xff", "is written in UTF-16"),
)
SAVE_AS = 'Save it as "CSV UTF-8" and try again.'
LABEL = constraints.Flag()


@dataclass(frozen=True)
class CellProblem:
    """Why a row was rejected: one bad cell, or the whole row (`column` is empty).

    `line` counts from 1, the header's; `column` is the file's own name; `message` has no subject; `text` is what stood
    there, cut short.
    """

    line: int
    column: str
    factor: str
    code: str
    message: str
    text: str = ""

    def __str__(self) -> str:
        found = f" (found: {self.text})" if self.text else ""
        return f"line {self.line}: {self.column or 'the row'} {self.message}{found}"


@dataclass(frozen=True, eq=False)
class Table:
    """A data file's good rows, column by column.

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
        """Return the table of some rows, given by number or by a boolean mask (rows,)."""
        return replace(
            self,
            columns={name: values[rows] for name, values in self.columns.items()},
            label=None if self.label is None else self.label[rows],
            lines=self.lines[rows],
            positions=self.positions[rows],
        )


@dataclass(frozen=True)
class Rows:
    """A file's rows as text, all as wide as the header.

    `recognised` maps columns to factor names (or the label's); `lines` and `positions` are those of the rows kept, as
    in `Table`; `problems` are the ragged rows.
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

    Raises `DataRefused` where the file is not CSV in UTF-8 with a usable header and at least one row. Single bad rows
    are left out of the table and stand in its `problems`; a blank or bad label rejects its row.
    """
    path = Path(path)
    return read_bytes(_content(path), path.name, product)


def read_bytes(content: bytes, name: str, product: Product) -> Table:
    """Do what `read` does for a file's content; `name` is used in messages."""
    rows = _read_rows(content, name, product)
    return _table(rows, product, name, hashlib.sha256(content).hexdigest())


def read_rows(path: str | Path, product: Product) -> Rows:
    """Read a data file as text, its cells not judged; raises `DataRefused` as `read` does."""
    path = Path(path)
    return _read_rows(_content(path), path.name, product)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataRefused(f"{path.name} cannot be read: {error.strerror}.") from None


def _read_rows(content: bytes, name: str, product: Product) -> Rows:
    try:
        text = _without_hint(_decoded(content))
        return _rows(text, _delimiter(text, product), product)
    except DataRefused as refused:
        raise DataRefused(f"{name} {refused}") from None


def _decoded(content: bytes) -> str:
    if not content.removeprefix(UTF8_MARK).strip():
        raise DataRefused("is empty.")
    for start, what in FOREIGN:
        if content.startswith(start):
            raise DataRefused(f"{what}, not CSV. {SAVE_AS}")
    if b"\x00" in content:
        line = content.count(b"\n", 0, content.index(b"\x00")) + 1
        raise DataRefused(f"holds a NUL byte in line {line}: it is not CSV, or written in UTF-16. {SAVE_AS}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataRefused(f"is not UTF-8 from line {line} on; it may be Windows-1252 or Latin-1. {SAVE_AS}") from None


def _without_hint(text: str) -> str:
    """Drop the line `sep=;` with which spreadsheets name the delimiter; it keeps its place in the count of lines."""
    return re.sub(r"\Asep=[,;\t]\r?\n", "\n", text)


def _delimiter(text: str, product: Product) -> str:
    """Return the delimiter under which the header names the most known columns, then the most columns."""

    def found(delimiter: str) -> tuple[int, int]:
        try:
            header = next(_records(text, delimiter))[1]
        except DataRefused:
            return 0, 0
        return sum(_meanings(name, product) != [] for name in header), len(header)

    return max(DELIMITERS, key=found)


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not an empty line, with the line it starts on."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error:
        raise DataRefused(
            f"has a quotation mark out of place in the row that starts on line {line}: it is never closed, or text "
            'stands around it. A quotation mark within a quoted field is written twice ("").'
        ) from None


def _rows(text: str, delimiter: str, product: Product) -> Rows:
    records = _records(text, delimiter)
    _, header = next(records)
    header = [name.strip() for name in header]
    _check_header(header)
    raw = Rows(header, recognise(header, product), [], [], [], [], 0)
    position = -1
    for position, (line, fields) in enumerate(records):
        if len(fields) == len(header):
            raw.rows.append(fields)
            raw.lines.append(line)
            raw.positions.append(position)
        else:
            message = f"has {len(fields)} fields where the header has {len(header)}"
            raw.problems.append(CellProblem(line, "", "", "ragged", message, _cut(delimiter.join(fields))))
    if position < 0:
        raise DataRefused("has a header and no rows.")
    return replace(raw, rows_in_file=position + 1)


def _check_header(header: list[str]) -> None:
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise DataRefused(f"names a column twice: {', '.join(twice)}. Keep one of each.")


@cache
def _names(product: Product) -> dict[str, tuple[int, str]]:
    """Return for each squeezed name its rank (0 exact, 1 alias) and the factor or label it means."""
    known = [(entry.factor.name, entry.factor.aliases) for entry in product.entries]
    known.append((product.label.name, product.label.aliases))
    names = {squeeze(alias): (1, name) for name, aliases in known for alias in aliases}
    return names | {squeeze(name): (0, name) for name, _ in known}


def _meanings(column: str, product: Product) -> list[tuple[int, str]]:
    meaning = _names(product).get(squeeze(column))
    return [meaning] if meaning else []


def recognise(header: list[str], product: Product) -> dict[str, str]:
    """Match a file's columns to the product's factors and label: {column: factor or label name}.

    Case, spaces, `_` and `-` never matter; a factor's own name wins over its aliases. `DataRefused` where two columns
    mean the same, or none means anything.
    """
    claims: dict[str, list[tuple[int, str]]] = {}
    for column in header:
        for rank, name in _meanings(column, product):
            claims.setdefault(name, []).append((rank, column))
    if not claims:
        names = ", ".join(factor.name for factor in product.scored[:4])
        raise DataRefused(
            f"names no column that {product.key} knows in its first line ({names}, …): is the header missing?"
        )
    for name, claim in claims.items():
        best = [column for rank, column in claim if rank == min(claim)[0]]
        if len(best) > 1:
            raise DataRefused(f"has two columns that mean {name}: {' and '.join(best)}. Keep one.")
    chosen = {min(claim)[1]: name for name, claim in claims.items()}
    return {column: chosen[column] for column in header if column in chosen}


def _table(raw: Rows, product: Product, name: str, sha256: str) -> Table:
    recognised = raw.recognised
    entries = {entry.factor.name: entry for entry in product.entries}
    beside = {name for name, entry in entries.items() if entry.role in {Role.CARRIED, Role.APART}}
    texts = dict(zip(raw.header, zip(*raw.rows, strict=True), strict=True)) if raw.rows else {}
    problems = list(raw.problems)
    columns: dict[str, NDArray[Any]] = {}
    good = np.ones(len(raw.rows), dtype=np.bool_)
    for column, meaning in recognised.items():
        judge, dtype = _judge(entries.get(meaning))
        values, broken = _column(texts.get(column, ()), judge, dtype)
        columns[meaning] = values
        if meaning not in beside:
            good[list(broken)] = False
        problems += [
            CellProblem(raw.lines[row], column, meaning, error.code, error.message, _cut(texts[column][row]))
            for row, error in broken.items()
        ]
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
        problems=tuple(sorted(problems, key=lambda problem: problem.line)),
        rows_in_file=raw.rows_in_file,
    )
    return table if good.all() else table.take(good)


def _unknown(header: list[str], recognised: Mapping[str, str]) -> tuple[str, ...]:
    named = (column or f"(column {number} has no name)" for number, column in enumerate(header, start=1))
    return tuple(column for column in named if column not in recognised)


def _missing(product: Product, columns: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    wanted = product.scored + product.policy_factors
    return tuple(factor.name for factor in wanted if factor.name not in columns)


def _judge(entry: Entry | None) -> tuple[Callable[[str], Value], type]:
    """Return what gives a text its value, or raises `Broken`, and the type of the column; no entry: the label."""
    if entry is None:
        return _label, np.float64
    constraint, required = entry.factor.constraint, entry.required

    def judge(text: str) -> Value:
        if not is_blank(text):
            return constraint.validate(text, Door.TEXT)  # type: ignore[no-any-return]
        if required:
            raise Broken("required", "is required")
        return None

    return judge, object if isinstance(constraint, Choice | Text) else np.float64


def _label(text: str) -> Value:
    if is_blank(text):
        raise Broken("no-label", "is blank: the row has no label to learn from")
    return LABEL.validate(text, Door.TEXT)


def _column(
    texts: tuple[str, ...], judge: Callable[[str], Value], dtype: type
) -> tuple[NDArray[Any], dict[int, Broken]]:
    """Judge each distinct text once; return the column, and by row what is wrong with it."""
    verdicts = {text: _verdict(text, judge) for text in set(texts)}
    found = [verdicts[text] for text in texts]
    broken = {row: verdict for row, verdict in enumerate(found) if isinstance(verdict, Broken)}
    values = [None if isinstance(verdict, Broken) else verdict for verdict in found]
    return np.array(values, dtype=dtype), broken


def _verdict(text: str, judge: Callable[[str], Value]) -> Value | Broken:
    try:
        return judge(text)
    except Broken as broken:
        return broken


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_FOUND else f"{text[:LONGEST_FOUND]}…"
