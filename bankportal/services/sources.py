"""Files to score and files to write, wherever they lie: on this machine, or at any location that fsspec knows.

A source is cut into spans, each read by itself, here or on another machine. Plain values, so that it travels.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from bankportal.domain.batch import Span
from bankportal.domain.errors import DataRefused
from bankportal.domain.products import Product
from bankportal.files import replacing
from bankportal.ml import stream
from bankportal.ml.stream import Block, Layout

ROWS = 5_000  # of a block: enough for the kernels' threads, little to hold
PARQUET = b"PAR1"
FIRST_LINE = 2  # of a table's rows in a file whose header is one line
BOOLEANS = {True: "1", False: "0", None: ""}
EXTRA = "pip install bankportal[dask]"


def is_url(location: str) -> bool:
    """Say whether a location is fsspec's to open; others are paths on this machine."""
    return "://" in location


def absolute(location: str) -> str:
    """Return a location that means the same whoever opens it: a file of this machine by its whole path."""
    return location if is_url(location) else str(Path(location).absolute())


def name(location: str) -> str:
    """Return what messages call a file: its last part."""
    return location.rpartition("/")[2]


def file_system(location: str) -> tuple[Any, str]:
    """Return fsspec's file system for a location, and the location's path there."""
    try:
        import fsspec
    except ImportError:
        raise DataRefused(f"{location} needs fsspec: {EXTRA}") from None
    try:
        return fsspec.core.url_to_fs(location)  # type: ignore[no-any-return]
    except (ValueError, ImportError) as error:  # an unknown scheme, or one whose package is missing
        raise DataRefused(f"{location} cannot be opened: {error}") from None


@contextmanager
def reading(location: str) -> Iterator[BinaryIO]:
    """Open a file at any location; `DataRefused` where that cannot be."""
    try:
        if is_url(location):
            system, path = file_system(location)
            file = system.open(path, "rb")
        else:
            file = Path(location).open("rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise DataRefused(f"{location} cannot be read: {error.strerror or 'it is not there'}.") from None
    with file:
        yield file


@contextmanager
def writing(location: str) -> Iterator[Callable[[bytes], object]]:
    """Write a file at any location, seen when the block ends well and not before; `DataRefused` where that fails."""
    made = _replacing_url if is_url(location) else _replacing_path
    try:
        with made(location) as write:
            yield write
    except OSError as error:
        raise DataRefused(f"{location} cannot be written: {error.strerror or error}.") from None


@contextmanager
def _replacing_path(location: str) -> Iterator[Callable[[bytes], object]]:
    with replacing(Path(location)) as file:
        yield file.buffer.write


@contextmanager
def _replacing_url(location: str) -> Iterator[Callable[[bytes], object]]:
    """Write aside and rename, as `files.replacing` does; where a store has no renaming, fsspec copies there."""
    system, path = file_system(location)
    folder, _, name = path.rpartition("/")
    aside = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
    try:
        with system.open(aside, "wb") as file:
            yield file.write
        system.mv(aside, path)
    finally:
        if system.exists(aside):
            system.rm(aside)


@dataclass(frozen=True)
class CsvSource:
    """A CSV file. Its spans are the bytes of whole records; `size` counts bytes."""

    location: str
    layout: Layout
    size: int

    def blocks(self) -> Iterator[Block]:
        """Yield the rows in order, `ROWS` at a time."""
        with reading(self.location) as file:
            yield from stream.blocks_from(file, self.layout, ROWS, name=name(self.location))

    def spans(self) -> Iterator[Span]:
        """Yield where blocks begin and end: only reading tells a line's end from a line break within quotes."""
        return (block.span for block in self.blocks())

    def block(self, span: Span) -> Block:
        """Read one span again."""
        with reading(self.location) as file:
            (block,) = stream.blocks_from(file, self.layout, span.rows, span, name(self.location))
        return block


@dataclass(frozen=True)
class ParquetSource:
    """A Parquet file, its cells as the text that a CSV file would hold (`_texts`).

    Its row groups are the partitions, large ones cut further; a span's `start` and `end` count rows, as does `size`.
    A row's line is the one it would have in a CSV file of one line a row: its position from 0, and 2.
    """

    location: str
    layout: Layout
    groups: tuple[int, ...]  # the rows of each row group

    @property
    def size(self) -> int:
        """Rows of the file."""
        return sum(self.groups)

    def spans(self) -> Iterator[Span]:
        """Yield the row groups in pieces of up to `ROWS`."""
        for first, rows in zip(self._starts, self.groups, strict=True):
            for start in range(first, first + rows, ROWS):
                end = min(start + ROWS, first + rows)
                yield Span(start, end, start + FIRST_LINE, start, end - start)

    def blocks(self) -> Iterator[Block]:
        """Yield the rows in order, up to `ROWS` at a time."""
        for group, start in enumerate(self._starts):
            for batch in self._batches(group):
                yield _block([batch], start)
                start += len(batch)

    def block(self, span: Span) -> Block:
        """Read one span; what stands before it in its row group is decoded and passed over."""
        group = max(number for number, start in enumerate(self._starts) if start <= span.start)
        here, pieces = self._starts[group], []
        for batch in self._batches(group):
            pieces.append(batch.slice(max(span.start - here, 0))[: span.end - max(span.start, here)])
            here += len(batch)
            if here >= span.end:
                break
        return _block([piece for piece in pieces if len(piece)], span.start)

    @property
    def _starts(self) -> list[int]:
        return list(accumulate(self.groups, initial=0))[:-1]

    def _batches(self, group: int) -> Iterator[Any]:
        with reading(self.location) as file, _parquet(self.location, file) as parquet:
            yield from parquet.iter_batches(ROWS, row_groups=[group])


Source = CsvSource | ParquetSource


def source_at(location: str, product: Product) -> Source:
    """Look at a file's beginning; `DataRefused` where it is neither CSV nor Parquet, or names no factor."""
    with reading(location) as file:
        if file.read(len(PARQUET)) == PARQUET:
            return _parquet_source(location, file, product)
        size = file.seek(0, 2)
        return CsvSource(location, stream.layout_from(file, product, None, name(location)), size)


def _parquet_source(location: str, file: BinaryIO, product: Product) -> ParquetSource:
    with _parquet(location, file) as parquet:
        for field in parquet.schema_arrow:
            _refuse_unfit(field)
        header = tuple(column.strip() for column in parquet.schema_arrow.names)
        stream.check_header(header, product, None)
        metadata = parquet.metadata
        groups = tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        if not sum(groups):
            raise DataRefused("has no rows.")
        return ParquetSource(location, Layout(",", header, 0, FIRST_LINE), groups)


@contextmanager
def _parquet(location: str, file: BinaryIO) -> Iterator[Any]:
    """Open a Parquet file, and put its name before what is wrong with it."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataRefused(f"{name(location)} is a Parquet file, which needs pyarrow: {EXTRA}") from None
    try:
        yield ParquetFile(file)
    except DataRefused as refused:
        raise DataRefused(f"{name(location)} {refused}") from None
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataRefused(f"{name(location)} cannot be read as Parquet: {error}.") from None


def _refuse_unfit(field: Any) -> None:
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    if types.is_nested(kind):
        raise DataRefused(f"holds lists or structures in column {field.name} ({kind}); a cell must be one value.")
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        raise DataRefused(f"holds bytes in column {field.name} ({kind}); text must be declared as text.")


def _block(batches: list[Any], start: int) -> Block:
    """Return rows of text; a row's place stands for the byte that it would start at."""
    columns = [
        [text for batch in batches for text in _texts(batch.column(number))] for number in range(batches[0].num_columns)
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    places = list(range(start, start + len(rows)))
    span = Span(start, start + len(rows), start + FIRST_LINE, start, len(rows))
    return Block(span, rows, places, [place + FIRST_LINE for place in places], places, [])


def _texts(column: Any) -> list[str]:
    """Write a column's values: nothing and NaN blank, yes 1 and no 0, numbers with the digits that tell them apart."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if types.is_boolean(kind):
        return [BOOLEANS[value] for value in column.to_pylist()]
    if types.is_floating(kind):
        floats = column.to_numpy(zero_copy_only=False)
        return ["" if value != value else str(value) for value in (floats.tolist() if kind.bit_width == 64 else floats)]
    if types.is_decimal(kind):
        return ["" if value is None else f"{value:f}" for value in column.to_pylist()]
    if types.is_temporal(kind):
        column = column.cast(pyarrow.string())
    return ["" if value is None else str(value) for value in column.to_pylist()]
