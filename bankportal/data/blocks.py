"""Read a CSV file of any size in blocks of rows: as text, never guessing, never holding more than a block.

Every record is either a row as wide as the header or a ragged one, named with its line. A block can be read again by
its span alone, so that many workers read one file. What a file's beginning does not show is found where it stands.
"""

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

from bankportal.domain.batch import Span
from bankportal.domain.errors import DataRefused, NoRows, TooLarge
from bankportal.domain.factors import normalised_name
from bankportal.domain.products import Product

DELIMITERS = (",", ";", "\t")
UTF8_MARK = b"\xef\xbb\xbf"
# The line with which spreadsheets name the delimiter, in quotes where they write all cells so.
HINT = re.compile(rb'(?i:sep=[,;\t]|"sep=[,;\t]")(?:\r\n|\r|\n)')
# How files begin that people take for CSV.
FOREIGN = (
    (b"PK\x03\x04", "is an Excel workbook or a ZIP archive"),
    (b"PK\x05\x06", "is a ZIP archive"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel workbook"),
    (b"\x1f\x8b", "is compressed with gzip"),
    (b"BZh", "is compressed with bzip2"),
    (b"\xfd7zXZ\x00", "is compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd"),
    (b"\x04\x22\x4d\x18", "is compressed with lz4"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive"),
    (b"Rar!\x1a\x07", "is a RAR archive"),
    (b"PAR1", "is a Parquet file"),
    (b"ARROW1", "is an Arrow file"),
    (b"Obj\x01", "is an Avro file"),
    (b"%PDF", "is a PDF document"),
    (b"{\\rtf", "is an RTF document"),
    (b"SQLite format 3\x00", "is a SQLite database"),
    (b"\xff\xfe\x00\x00", "is written in UTF-32"),
    (b"\x00\x00\xfe\xff", "is written in UTF-32"),
    (b"\xff\xfe", "is written in UTF-16"),
    (b"\xfe\xff", "is written in UTF-16"),
)
SAVE_AS = 'Save it as "CSV UTF-8" and try again.'
MAX_RECORD_BYTES = 1 << 20  # bytes, line breaks within quotes included
MAX_BLOCK_BYTES = 8 << 20  # bytes: a block ends where it holds more, so that wide rows do not cost more memory
PIECE = 256 << 10  # bytes read at once
FIRST_ROWS = 1_000  # read along with the header, so that most faults are named before a file is kept


@dataclass(frozen=True)
class Layout:
    """What a file's beginning says: its delimiter, its columns' names, where and on which line the first row starts."""

    delimiter: str
    header: tuple[str, ...]
    start: int
    line: int

    def to_json(self) -> dict[str, Any]:
        """Return what is stored with a job."""
        return {"delimiter": self.delimiter, "header": list(self.header), "start": self.start, "line": self.line}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Layout":
        """Read what `to_json` wrote."""
        return cls(content["delimiter"], tuple(content["header"]), content["start"], content["line"])


@dataclass(frozen=True)
class Ragged:
    """A record with another number of fields than the header: kept as it stood, never pressed into columns.

    `added` are the cells of the last columns, where those were not in the file: they are known all the same.
    """

    position: int
    line: int
    fields: list[str]
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Consecutive records.

    `rows[i]` is as wide as the header, stands at `positions[i]` among all records (from 0), on line `lines[i]`, and
    starts at byte `offsets[i]`. `span` covers rows and ragged ones alike.
    """

    span: Span
    rows: list[list[str]]
    positions: list[int]
    lines: list[int]
    offsets: list[int]
    ragged: list[Ragged]


def layout(
    path: Path, product: Product, most_columns: int, name: str = "The file", mapped: Collection[str] = ()
) -> Layout:
    """Read a file's beginning; `DataRefused` where it is no CSV in UTF-8 with a header, `TooLarge` where too wide.

    `name` is what messages call the file; `mapped` are columns that are known by a mapping, whatever their names.
    """
    with _opened(path, name) as file:
        return layout_from(file, product, most_columns, name, mapped)


def blocks(path: Path, layout: Layout, size: int, span: Span | None = None, name: str = "The file") -> Iterator[Block]:
    """Yield blocks of up to `size` records, of the whole file or of one span; `DataRefused` names the line at fault.

    A block of more than `MAX_BLOCK_BYTES` bytes ends early; read again by its span it is the same block.
    """
    with _opened(path, name) as file:
        yield from blocks_from(file, layout, size, span, name)


def layout_from(
    file: BinaryIO,
    product: Product,
    most_columns: int | None,
    name: str = "The file",
    mapped: Collection[str] = (),
) -> Layout:
    """Do what `layout` does for an open file that can seek; `None` columns: as many as there are."""
    with _named(name):
        start, line = _begin(file)
        delimiter = _delimiter(file, _names(product).keys() | set(map(normalised_name, mapped)), start, line)
        records = _Records(file, delimiter, start, line)
        rows = iter(records)
        _, _, names = next(rows)
        header = tuple(column.strip() for column in names)
        found = Layout(delimiter, header, records.offset, records.line)
        check_header(header, product, most_columns, mapped)
        if not sum(1 for _ in islice(rows, FIRST_ROWS)):
            raise NoRows("has a header and no rows.")
        return found


def blocks_from(
    file: BinaryIO, layout: Layout, size: int, span: Span | None = None, name: str = "The file"
) -> Iterator[Block]:
    """Do what `blocks` does for an open file that can seek."""
    where = span or Span(layout.start, 0, layout.line, 0, 0)
    with _named(name):
        records = _Records(file, layout.delimiter, where.start, where.line, span.end if span else None)
        rows = iter(records)
        position = where.position
        while block := _block(records, rows, layout, size, position):
            yield block
            position += block.span.rows
        if not span and position == 0:
            raise NoRows("has a header and no rows.")
        if span and position != span.position + span.rows:
            raise DataRefused("is not what it was when it was checked.")


def claims(header: tuple[str, ...] | list[str], product: Product) -> dict[str, list[tuple[int, str]]]:
    """Return which columns could be which factor (or the label): {its name: [(0 its own name or 1 an alias, column)]}.

    Case, spaces, `_` and `-` never matter. `DataRefused` where no column means anything.
    """
    known = _names(product)
    found: dict[str, list[tuple[int, str]]] = {}
    for column in header:
        if meaning := known.get(normalised_name(column)):
            found.setdefault(meaning[1], []).append((meaning[0], column))
    if not found:
        names = ", ".join(factor.name for factor in product.scored[:4])
        raise DataRefused(
            f"names no column that {product.key} knows in its first line ({names}, …): is the header missing? "
            "Columns are separated by commas, semicolons or tabs."
        )
    return found


@cache
def _names(product: Product) -> dict[str, tuple[int, str]]:
    """Return for each squeezed name its rank (0 exact, 1 alias) and the factor or label it means."""
    known = [(entry.factor.name, entry.factor.aliases) for entry in product.factors]
    known.append((product.label.name, product.label.aliases))
    names = {normalised_name(alias): (1, name) for name, aliases in known for alias in aliases}
    return names | {normalised_name(name): (0, name) for name, _ in known}


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataRefused(f"{name} cannot be read: {error.strerror}.") from None
    with file:
        yield file


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the file's name before what is said of it."""
    try:
        yield
    except (DataRefused, TooLarge) as refused:
        raise type(refused)(f"{name} {refused}") from None


def _begin(file: BinaryIO) -> tuple[int, int]:
    """Refuse what is not CSV; return the byte and line at which the header is to be looked for."""
    file.seek(0)
    beginning = file.read(MAX_RECORD_BYTES)
    for magic, what in FOREIGN:
        if beginning.startswith(magic):
            raise DataRefused(f"{what}, not CSV. {SAVE_AS}")
    mark = len(UTF8_MARK) if beginning.startswith(UTF8_MARK) else 0
    hint = HINT.match(beginning, mark)
    start, line = (hint.end(), 2) if hint else (mark, 1)
    if not beginning[start:].strip():
        much = f"holds nothing but white space in its first {MAX_RECORD_BYTES:,} bytes."
        raise DataRefused(much) if len(beginning) == MAX_RECORD_BYTES else NoRows("is empty.")
    return start, line


def _delimiter(file: BinaryIO, known: Collection[str], start: int, line: int) -> str:
    """Return the delimiter under which the header names the most known columns, then the most columns."""
    found: dict[str, tuple[int, int]] = {}
    refused: list[DataRefused] = []
    for delimiter in DELIMITERS:
        try:
            _, _, header = next(iter(_Records(file, delimiter, start, line)))
            found[delimiter] = sum(normalised_name(name) in known for name in header), len(header)
        except DataRefused as reason:
            refused.append(reason)
    if refused and not any(names for names, _ in found.values()):
        raise refused[0]
    return max(found, key=lambda delimiter: found[delimiter])


def check_header(
    header: tuple[str, ...], product: Product, most_columns: int | None, mapped: Collection[str] = ()
) -> None:
    """Refuse a header that is too wide, names a column twice, or none that the product or `mapped` knows."""
    if most_columns is not None and len(header) > most_columns:
        raise TooLarge(
            f"has {len(header):,} columns; at most {most_columns:,} are allowed (setting BANKPORTAL_UPLOAD_COLUMNS)."
        )
    twice = [name for name, times in Counter(header).items() if name and times > 1]
    if twice:
        raise DataRefused(f"names a column twice: {', '.join(twice)}. Keep one of each.")
    if not set(mapped).intersection(header):
        claims(header, product)


class _Records:
    """The records of an open file from one byte on, empty lines passed over: (byte, line, fields) of each.

    Between records, `offset` and `line` say where the last one ended.
    """

    def __init__(self, file: BinaryIO, delimiter: str, start: int, line: int, end: int | None = None):
        self.offset, self.line = start, line
        self._file, self._end = file, end
        self._handed = start  # the byte after the last line that the reader was given
        self._first = line
        self._reader = csv.reader(self._lines(), delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[tuple[int, int, list[str]]]:
        reader, first = self._reader, self._first
        try:
            for fields in reader:
                offset, line = self.offset, self.line
                if self._handed - offset > MAX_RECORD_BYTES:
                    raise self._too_long()
                self.offset, self.line = self._handed, first + reader.line_num
                if fields:
                    yield offset, line, fields
        except csv.Error as error:
            raise self._out_of_place(str(error)) from None

    def _lines(self) -> Iterator[str]:
        """Yield lines with their ends; csv asks for no more of them than the record it is at needs."""
        self._file.seek(self._handed)
        rest = b""
        while piece := self._file.read(self._most()):
            lines = (rest + piece).splitlines(keepends=True)
            rest = lines.pop()  # goes on in the next piece, or is CR with its LF still to come
            yield from self._texts(lines)
            if self._handed + len(rest) - self.offset > MAX_RECORD_BYTES:
                raise self._too_long()
        if rest:
            yield from self._texts([rest])

    def _most(self) -> int:
        return PIECE if self._end is None else min(PIECE, self._end - self._file.tell())

    def _texts(self, lines: list[bytes]) -> Iterator[str]:
        try:
            for line, text in zip(lines, map(bytes.decode, lines), strict=True):
                if "\x00" in text:
                    raise DataRefused(
                        f"holds a NUL byte in line {self._given}: it is not CSV, or written in UTF-16. {SAVE_AS}"
                    )
                self._handed += len(line)
                yield text
        except UnicodeDecodeError:
            raise DataRefused(
                f"is not UTF-8 from line {self._given} on; it may be Windows-1252 or Latin-1. {SAVE_AS}"
            ) from None

    @property
    def _given(self) -> int:
        """The line that the reader is about to be given."""
        return self._first + self._reader.line_num

    def _too_long(self) -> DataRefused:
        return DataRefused(
            f"has more than {MAX_RECORD_BYTES:,} bytes in the row that starts on line {self.line}: "
            "it has no line ends, or a quotation mark is never closed."
        )

    def _out_of_place(self, error: str) -> DataRefused:
        if "field limit" in error:
            return DataRefused(
                f"has a field of more than {csv.field_size_limit():,} characters in the row that starts on line "
                f"{self.line}: is a quotation mark never closed?"
            )
        return DataRefused(
            f"has a quotation mark out of place in the row that starts on line {self.line}: it is never closed, or "
            'text stands around it. A quotation mark within a quoted field is written twice ("").'
        )


def _block(
    records: _Records, rows: Iterator[tuple[int, int, list[str]]], layout: Layout, size: int, position: int
) -> Block | None:
    start, line = records.offset, records.line
    width = len(layout.header)
    block = Block(Span(start, start, line, position, 0), [], [], [], [], [])
    place = position - 1
    for place, (at, on, fields) in zip(count(position), islice(rows, size), strict=False):
        if len(fields) == width:
            block.rows.append(fields)
            block.positions.append(place)
            block.lines.append(on)
            block.offsets.append(at)
        else:
            block.ragged.append(Ragged(place, on, fields))
        if records.offset - start >= MAX_BLOCK_BYTES:
            break
    span = Span(start, records.offset, line, position, place + 1 - position)
    return Block(span, block.rows, block.positions, block.lines, block.offsets, block.ragged) if span.rows else None
