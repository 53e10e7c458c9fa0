"""Files to score and files to write, at paths of this machine or at any location that fsspec knows.

The input is one file, or the files of a folder or a pattern one after the other. A file is cut into spans that can be
read on their own, here or on another machine: inputs hold plain values, so that they can be sent there.
"""

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from glob import glob
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote

from bankportal.data import blocks
from bankportal.data.blocks import Block, Layout
from bankportal.domain.batch import Span
from bankportal.domain.errors import DataRefused, NoRows, PortalError
from bankportal.domain.products import Product
from bankportal.files import replacing

ROWS = 5_000  # of a block: enough for the kernels' threads, and little memory
PARQUET = b"PAR1"
FIRST_LINE = 2  # the line of the first row in a CSV file, below the header
BOOLEANS = {True: "1", False: "0", None: ""}
EXTRA = "pip install bankportal[dask]"
READ_AHEAD = 1 << 20  # bytes
WILDCARDS = frozenset("*?[")  # they make a location a pattern for several files
FILE_COLUMN = "file"  # the column that names each row's file, where there are several
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"  # how Hive writes a missing value into a folder's name
OPENED_AT_ONCE = 8


def is_url(location: str) -> bool:
    """Say whether fsspec opens a location; others are paths on this machine."""
    return "://" in location


def absolute(location: str) -> str:
    """Return a location with the absolute path where it is one of this machine."""
    return location if is_url(location) else str(Path(location).absolute())


def file_name(location: str) -> str:
    """Return the last part of a location, by which messages name the file."""
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
def _refusals_for(location: str, what: str) -> Iterator[None]:
    """Raise `DataRefused` for whatever keeps a file from being read or written: each store raises its own classes."""
    try:
        yield
    except PortalError:
        raise
    except FileNotFoundError as error:
        raise DataRefused(f"{location} cannot be {what}: {error.strerror or 'it is not there'}.") from error
    except Exception as error:
        if not (is_url(location) or isinstance(error, OSError)):
            raise
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataRefused(f"{location} cannot be {what}: {' '.join(why.split()).rstrip('.')}.") from error


@contextmanager
def reading(location: str) -> Iterator[BinaryIO]:
    """Open a file at any location; `DataRefused` where that cannot be, or it fails while it is read."""
    with _refusals_for(location, "read"), _opened(location) as file:
        yield file


def _opened(location: str) -> BinaryIO:
    if not is_url(location):
        return Path(location).open("rb")
    system, path = file_system(location)
    # Each span is read on its own: fetch little more than its bytes.
    return system.open(path, "rb", block_size=READ_AHEAD)  # type: ignore[no-any-return]


@contextmanager
def writing(location: str) -> Iterator[Callable[[bytes], object]]:
    """Write a file at any location; it appears when the block ends without an error, not before.

    Raises `DataRefused` where it cannot be written, at the start of the block if the location is refused as a whole.
    """
    with ExitStack() as stack:
        with _refusals_for(location, "written"):
            write = stack.enter_context((_replacing_url if is_url(location) else _replacing_path)(location))

        def write_or_refuse(content: bytes) -> None:
            with _refusals_for(location, "written"):
                write(content)

        yield write_or_refuse  # errors of the caller's block pass as they are
        with _refusals_for(location, "written"):
            stack.close()


@contextmanager
def _replacing_path(location: str) -> Iterator[Callable[[bytes], object]]:
    path = Path(location).resolve()  # so that a symbolic link is kept
    if path.exists() and not path.is_file():
        raise DataRefused(f"{location} cannot be written: it is there already, and no ordinary file.")
    with replacing(path) as file:
        yield file.buffer.write


@contextmanager
def _replacing_url(location: str) -> Iterator[Callable[[bytes], object]]:
    """Write to another name and rename, as `files.replacing` does; fsspec copies where a store cannot rename."""
    system, path = file_system(location)
    folder, _, name = path.rpartition("/")
    aside = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
    try:
        system.pipe_file(aside, b"")  # a refusal shows now; with the content it would show only at the end
        with system.open(aside, "wb") as file:
            yield file.write
        system.mv(aside, path)
    finally:
        with suppress(Exception):  # an error that is being raised must not be replaced
            if system.exists(aside):
                system.rm(aside)


@dataclass(frozen=True)
class CsvInput:
    """A CSV file. Its spans are the bytes of whole records; `size` counts bytes."""

    location: str
    layout: Layout
    size: int
    added: tuple[str, ...] = ()  # cells that every row gets after the file's own

    def blocks(self) -> Iterator[Block]:
        """Yield the rows in order, `ROWS` at a time."""
        with reading(self.location) as file:
            for block in blocks.blocks_from(file, self.layout, ROWS, name=file_name(self.location)):
                yield _with(block, self.added)

    def spans(self) -> Iterator[Span]:
        """Yield the blocks' spans; the file is read for it, as line breaks within quotes end no record."""
        return (block.span for block in self.blocks())

    def block(self, span: Span) -> Block:
        """Read one span again."""
        with reading(self.location) as file:
            (block,) = blocks.blocks_from(file, self.layout, span.rows, span, file_name(self.location))
        return _with(block, self.added)


@dataclass(frozen=True)
class ParquetInput:
    """A Parquet file. Its cells become the text that a CSV file would hold (`_texts`).

    Spans are row groups, cut further where they are large; their `start` and `end` count rows, as does `size`. A row's
    line is the one it would have in a CSV file.
    """

    location: str
    layout: Layout
    groups: tuple[int, ...]  # the rows of each row group
    added: tuple[str, ...] = ()  # cells that every row gets after the file's own

    @property
    def size(self) -> int:
        """The number of rows."""
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
                yield _with(_block([batch], start), self.added)
                start += len(batch)

    def block(self, span: Span) -> Block:
        """Read one span; the rows before it in its row group are decoded and skipped."""
        group = max(number for number, start in enumerate(self._starts) if start <= span.start)
        here, pieces = self._starts[group], []
        for batch in self._batches(group):
            pieces.append(batch.slice(max(span.start - here, 0))[: span.end - max(span.start, here)])
            here += len(batch)
            if here >= span.end:
                break
        return _with(_block([piece for piece in pieces if len(piece)], span.start), self.added)

    @property
    def _starts(self) -> list[int]:
        return list(accumulate(self.groups, initial=0))[:-1]

    def _batches(self, group: int) -> Iterator[Any]:
        with reading(self.location) as file, _parquet(self.location, file) as parquet:
            yield from parquet.iter_batches(ROWS, row_groups=[group])


AnyInput = CsvInput | ParquetInput


@dataclass(frozen=True)
class Input:
    """The input of one run: a file, or several as one. `layout.header` names the files' columns and those added."""

    location: str
    layout: Layout
    parts: tuple[AnyInput, ...]

    @property
    def size(self) -> int:
        """The parts' sizes together."""
        return sum(part.size for part in self.parts)

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Yield the blocks in order, each with how much of `size` is read after it."""
        for part, before in zip(self.parts, self._starts, strict=True):
            for block in part.blocks():
                yield before + block.span.end, block

    def spans(self) -> Iterator[tuple[int, AnyInput, Span]]:
        """Yield the spans in order, each with its part and with how much of `size` is read after it."""
        for part, before in zip(self.parts, self._starts, strict=True):
            for span in part.spans():
                yield before + span.end, part, span

    @property
    def _starts(self) -> list[int]:
        return list(accumulate((part.size for part in self.parts), initial=0))[:-1]


def input_at(location: str, product: Product, *targets: str) -> Input:
    """Return the input at a location: a file, or all files of a folder or a pattern in the order of their names.

    Where there are several, each row gets a column that names its file, and one for each folder named like
    `Geography=Spain`. Names that begin with `.` or `_` and files without rows are skipped. Raises `DataRefused` where
    files have different columns, or one of `targets` would be among the files.
    """
    location = absolute(location)
    files = _files_of(location)
    if not files:
        source = source_at(location, product)
        return Input(location, source.layout, (source,))
    pattern = location if WILDCARDS.intersection(location) else f"{location.rstrip('/')}/*"
    for target in targets:
        if fnmatchcase(absolute(target), pattern):
            raise DataRefused(f"{target} would lie among the files of {location}: write it elsewhere.")
    with ThreadPoolExecutor(OPENED_AT_ONCE) as pool:
        parts = [part for part in pool.map(partial(_part, product), files, files.values()) if part]
    if not parts:
        raise NoRows(f"{location} has no rows.")
    _refuse_different_columns(location, parts)
    header = (*parts[0].layout.header, *_folder_columns(parts[0]), FILE_COLUMN)
    return Input(location, replace(parts[0].layout, header=header), tuple(parts))


def _files_of(location: str) -> dict[str, str]:
    """Return the files of a folder or a pattern: {name below the folder: location}; none for a single file."""
    with _refusals_for(location, "read"):
        files = _listed_urls(location) if is_url(location) else _listed_paths(location)
    return {file: files[file] for file in sorted(files) if not any(step[:1] in {".", "_"} for step in file.split("/"))}


def _listed_paths(location: str) -> dict[str, str]:
    path = Path(location)
    if path.is_dir():
        files = [str(file) for file in path.rglob("*") if file.is_file()]
    elif WILDCARDS.intersection(location) and not path.exists():
        files = [file for file in glob(location, recursive=True) if Path(file).is_file()]
    else:
        return {}
    return {file.removeprefix(_fixed_folder(location)): file for file in files}


def _listed_urls(location: str) -> dict[str, str]:
    system, path = file_system(location)
    if system.isfile(path):
        return {}
    if WILDCARDS.intersection(path):
        files = [file for file, facts in system.glob(path, detail=True).items() if facts["type"] == "file"]
    else:
        files = [file for file in system.find(path) if file.startswith(_fixed_folder(path))]
    _, chain, rest = location.partition("::")
    return {file.removeprefix(_fixed_folder(path)): f"{system.unstrip_protocol(file)}{chain}{rest}" for file in files}


def _fixed_folder(location: str) -> str:
    """Return the folder below which all files of a pattern lie; for a folder, itself."""
    places = [place for place, letter in enumerate(location) if letter in WILDCARDS]
    return location[: location.rfind("/", 0, places[0]) + 1] if places else f"{location.rstrip('/')}/"


def _part(product: Product, file: str, location: str) -> AnyInput | None:
    try:
        part = source_at(location, product)
    except NoRows:
        return None
    return replace(part, added=(*_folder_columns(part).values(), file))


def _folder_columns(part: AnyInput) -> dict[str, str]:
    """Return the columns that a file's folders name in Hive's way, but for those that the file has itself."""
    named = [step.partition("=") for step in PurePosixPath(part.location.partition("::")[0]).parts[:-1] if "=" in step]
    values = {unquote(column): "" if value == HIVE_NULL else unquote(value) for column, _, value in named}
    return {column: value for column, value in values.items() if column and column not in part.layout.header}


def _refuse_different_columns(location: str, parts: list[AnyInput]) -> None:
    first = parts[0]
    if len({type(part) for part in parts}) > 1:
        raise DataRefused(f"{location} has CSV and Parquet files: name those to score by a pattern such as *.csv.")
    wanted = (first.layout.header, list(_folder_columns(first)))
    for part in parts[1:]:
        if (part.layout.header, list(_folder_columns(part))) != wanted:
            raise DataRefused(f"{part.location} has other columns, or in another order, than {first.location}.")


def _with(block: Block, added: tuple[str, ...]) -> Block:
    if not added:
        return block
    ragged = [replace(record, added=added) for record in block.ragged]
    return replace(block, rows=[[*row, *added] for row in block.rows], ragged=ragged)


def source_at(location: str, product: Product) -> AnyInput:
    """Return the input of one file; `DataRefused` where it is neither CSV nor Parquet, or names no factor."""
    with reading(location) as file:
        if file.read(len(PARQUET)) == PARQUET:
            return _parquet_source(location, file, product)
        size = file.seek(0, 2)
        return CsvInput(location, blocks.layout_from(file, product, None, file_name(location)), size)


def _parquet_source(location: str, file: BinaryIO, product: Product) -> ParquetInput:
    with _parquet(location, file) as parquet:
        for field in parquet.schema_arrow:
            _refuse_type(field)
        header = tuple(column.strip() for column in parquet.schema_arrow.names)
        blocks.check_header(header, product, None)
        metadata = parquet.metadata
        groups = tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        if not sum(groups):
            raise NoRows("has no rows.")
        return ParquetInput(location, Layout(",", header, 0, FIRST_LINE), groups)


@contextmanager
def _parquet(location: str, file: BinaryIO) -> Iterator[Any]:
    """Open a Parquet file; what it is refused for begins with its name."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataRefused(f"{file_name(location)} is a Parquet file, which needs pyarrow: {EXTRA}") from None
    try:
        yield ParquetFile(file)
    except DataRefused as refused:
        raise type(refused)(f"{file_name(location)} {refused}") from None
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise DataRefused(f"{file_name(location)} cannot be read as Parquet: {why}.") from None


def _refuse_type(field: Any) -> None:
    from pyarrow import types

    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    if types.is_nested(kind):
        raise DataRefused(f"holds lists or structures in column {field.name} ({kind}); a cell must be one value.")
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        raise DataRefused(f"holds bytes in column {field.name} ({kind}); text must be declared as text.")


def _block(batches: list[Any], start: int) -> Block:
    """Return a block of text; a row's number stands for the byte at which it would start."""
    columns = [
        [text for batch in batches for text in _texts(batch.column(number))] for number in range(batches[0].num_columns)
    ]
    rows = [list(row) for row in zip(*columns, strict=True)]
    places = list(range(start, start + len(rows)))
    span = Span(start, start + len(rows), start + FIRST_LINE, start, len(rows))
    return Block(span, rows, places, [place + FIRST_LINE for place in places], places, [])


def _texts(column: Any) -> list[str]:
    """Return a column's cells as text: null and NaN blank, true 1, false 0, floats in the fewest digits that give them
    back.
    """
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
