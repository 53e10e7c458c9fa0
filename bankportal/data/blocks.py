"""Read a CSV file of any size as text, in blocks of rows, with memory for one block.

Every record is either a row as wide as the header, or ragged and named by its line. A block can be read again by its
span alone, so that several workers can share a file. Faults beyond a file's beginning are raised where they occur.
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
# The first line in which some spreadsheets name the delimiter; in quotes where they quote every cell.
HINT = re.compile(rb'(?i:sep=[,;\t]|"sep=[,;\t]")(?:\r\n|\r|\n)')
# The first bytes of files that are sometimes uploaded as CSV.
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
MAX_RECORD_BYTES = 1 << 20  # line breaks within quotes included
MAX_BLOCK_BYTES = 8 << 20  # a block ends where it holds more, so that wide rows do not cost more memory
PIECE = 256 << 10  # bytes read at once
FIRST_ROWS = 1_000  # read along with the header, so that most faults are named before a file is kept


@dataclass(frozen=True)
class Layout:
    """How a file is laid out: delimiter, column names, and the byte and the line at which its first row starts."""

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
    """A record with another number of fields than the header, as it stood in the file.

    `added` are the cells of columns that are not the file's own but known from its folders, the last of the header.
    """

    position: int
    line: int
    fields: list[str]
    added: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """Consecutive records of a file.

    `rows[i]` is as wide as the header; it is number `positions[i]` of all records, counted from 0, stands on line
    `lines[i]`, and starts at byte `offsets[i]`. `span` covers the rows and the ragged records.
    """

    span: Span
    rows: list[list[str]]
    positions: list[int]
    lines: list[int]
    offsets: list[int]
    ragged: list[Ragged]


def layout(
    path: Path, product: Product, max_columns: int, name: str = "The file", mapped: Collection[str] = ()
) -> Layout:
    """Read how a file is laid out.

    `mapped` are columns that a mapping names: they are known whatever they are called. Messages call the file `name`.
    Raises `DataRefused` where the file is not CSV in UTF-8 with a header and a row, `TooLarge` where it has more than
    `max_columns` columns.
    """
    with _opened(path, name) as file:
        return layout_from(file, product, max_columns, name, mapped)


def blocks(path: Path, layout: Layout, size: int, span: Span | None = None, name: str = "The file") -> Iterator[Block]:
    """Yield blocks of up to `size` records, of the whole file or of one span; `DataRefused` names the line at fault.

    A block of more than `MAX_BLOCK_BYTES` bytes ends early; read again by its span it is the same block.
    """
    with _opened(path, name) as file:
        yield from blocks_from(file, layout, size, span, name)


def layout_from(
    file: BinaryIO,
    product: Product,
    max_columns: int | None,
    name: str = "The file",
    mapped: Collection[str] = (),
) -> Layout:
    """Read the layout of an open, seekable file as `layout` does; no limit where `max_columns` is `None`."""
    with _named(name):
        start, line = _begin(file)
        delimiter = _delimiter(file, _names(product).keys() | set(map(normalised_name, mapped)), start, line)
        records = _Records(file, delimiter, start, line)
        rows = iter(records)
        _, _, names = next(rows)
        header = tuple(column.strip() for column in names)
        layout = Layout(delimiter, header, records.offset, records.line)
        check_header(header, product, max_columns, mapped)
        if not sum(1 for _ in islice(rows, FIRST_ROWS)):
            raise NoRows("has a header and no rows.")
        return layout


def blocks_from(
    file: BinaryIO, layout: Layout, size: int, span: Span | None = None, name: str = "The file"
) -> Iterator[Block]:
    """Yield the blocks of an open, seekable file as `blocks` does."""
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
    """Return the columns that match each factor or the label by name: {factor: [(0 for its own name or 1 for an alias,
    column)]}.

    Case, spaces, `_` and `-` never matter. Raises `DataRefused` where no column matches.
    """
    known = _names(product)
    matches: dict[str, list[tuple[int, str]]] = {}
    for column in header:
        if meaning := known.get(normalised_name(column)):
            matches.setdefault(meaning[1], []).append((meaning[0], column))
    if not matches:
        names = ", ".join(factor.name for factor in product.scored[:4])
        raise DataRefused(
            f"names no column that {product.key} knows in its first line ({names}, …): is the header missing? "
            "Columns are separated by commas, semicolons or tabs."
        )
    return matches


@cache
def _names(product: Product) -> dict[str, tuple[int, str]]:
    """Return for each normalised name its rank (0 a factor's own, 1 an alias) and the factor or label it means."""
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
    """Put the file's name before the message of what is raised."""
    try:
        yield
    except (DataRefused, TooLarge) as refused:
        raise type(refused)(f"{name} {refused}") from None


def _begin(file: BinaryIO) -> tuple[int, int]:
    """Refuse a file that is not CSV; return the byte and the line at which its header starts."""
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
    """Return the delimiter with which the header has the most known columns; of equal ones, the most columns."""
    counts: dict[str, tuple[int, int]] = {}
    refused: list[DataRefused] = []
    for delimiter in DELIMITERS:
        try:
            _, _, header = next(iter(_Records(file, delimiter, start, line)))
            counts[delimiter] = sum(normalised_name(name) in known for name in header), len(header)
        except DataRefused as reason:
            refused.append(reason)
    if refused and not any(names for names, _ in counts.values()):
        raise refused[0]
    return max(counts, key=lambda delimiter: counts[delimiter])


def check_header(
    header: tuple[str, ...], product: Product, max_columns: int | None, mapped: Collection[str] = ()
) -> None:
    """Refuse a header with too many columns, with a name twice, or without any column known by name or `mapped`."""
    if max_columns is not None and len(header) > max_columns:
        raise TooLarge(
            f"has {len(header):,} columns; at most {max_columns:,} are allowed (setting BANKPORTAL_UPLOAD_COLUMNS)."
        )
    twice = [name for name, times in Counter(header).items() if name and times > 1]
    if twice:
        raise DataRefused(f"names a column twice: {', '.join(twice)}. Keep one of each.")
    if not set(mapped).intersection(header):
        claims(header, product)


class _Records:
    """Iterates over the records of an open file from a byte on: (byte, line, fields) of each. Empty lines are skipped.

    Between two records, `offset` and `line` say where the last one ended.
    """

    def __init__(self, file: BinaryIO, delimiter: str, start: int, line: int, end: int | None = None):
        self.offset, self.line = start, line
        self._file, self._end = file, end
        self._read_to = start  # the byte after the last line that the csv reader has taken
        self._first = line
        self._reader = csv.reader(self._lines(), delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[tuple[int, int, list[str]]]:
        reader, first = self._reader, self._first
        try:
            for fields in reader:
                offset, line = self.offset, self.line
                if self._read_to - offset > MAX_RECORD_BYTES:
                    raise self._too_long()
                self.offset, self.line = self._read_to, first + reader.line_num
                if fields:
                    yield offset, line, fields
        except csv.Error as error:
            raise self._out_of_place(str(error)) from None

    def _lines(self) -> Iterator[str]:
        """Yield lines with their ends. The csv reader takes only as many as the record it reads needs."""
        self._file.seek(self._read_to)
        rest = b""
        while piece := self._file.read(self._next_size()):
            lines = (rest + piece).splitlines(keepends=True)
            rest = lines.pop()  # it may go on in the next piece, or be a CR whose LF is still to come
            yield from self._texts(lines)
            if self._read_to + len(rest) - self.offset > MAX_RECORD_BYTES:
                raise self._too_long()
        if rest:
            yield from self._texts([rest])

    def _next_size(self) -> int:
        return PIECE if self._end is None else min(PIECE, self._end - self._file.tell())

    def _texts(self, lines: list[bytes]) -> Iterator[str]:
        try:
            for line, text in zip(lines, map(bytes.decode, lines), strict=True):
                if "\x00" in text:
                    raise DataRefused(
                        f"holds a NUL byte in line {self._next_line}: it is not CSV, or written in UTF-16. {SAVE_AS}"
                    )
                self._read_to += len(line)
                yield text
        except UnicodeDecodeError:
            raise DataRefused(
                f"is not UTF-8 from line {self._next_line} on; it may be Windows-1252 or Latin-1. {SAVE_AS}"
            ) from None

    @property
    def _next_line(self) -> int:
        """The line that the csv reader takes next."""
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
