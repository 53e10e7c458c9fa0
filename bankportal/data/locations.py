"""Files to score and files to write, wherever they lie: on this machine, or at any location that fsspec knows.

What is scored is one file, or the parts of a folder or a pattern, one after the other. A file is cut into spans, each
read by itself, here or on another machine. Plain values, so that it travels.
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

ROWS = 5_000  # of a block: enough for the kernels' threads, little to hold
PARQUET = b"PAR1"
FIRST_LINE = 2  # of a table's rows in a file whose header is one line
BOOLEANS = {True: "1", False: "0", None: ""}
EXTRA = "pip install bankportal[dask]"
READ_AHEAD = 1 << 20  # bytes
MAGIC = frozenset("*?[")  # in the name of many files
FILE = "file"  # the column that tells of which part a row is
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"  # in a folder's name
LOOKS_AT_ONCE = 8


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
def _worded(location: str, what: str) -> Iterator[None]:
    """Word whatever keeps a file from being read or written; stores' packages raise classes of their own."""
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
    with _worded(location, "read"), _opened(location) as file:
        yield file


def _opened(location: str) -> BinaryIO:
    if not is_url(location):
        return Path(location).open("rb")
    system, path = file_system(location)
    # A span is read by itself: no more than its bytes and a little.
    return system.open(path, "rb", block_size=READ_AHEAD)  # type: ignore[no-any-return]


@contextmanager
def writing(location: str) -> Iterator[Callable[[bytes], object]]:
    """Write a file at any location, seen when the block ends well and not before; `DataRefused` where that fails.

    That a location cannot be written at all is found at once.
    """
    with ExitStack() as stack:
        with _worded(location, "written"):
            write = stack.enter_context((_replacing_url if is_url(location) else _replacing_path)(location))

        def worded(content: bytes) -> None:
            with _worded(location, "written"):
                write(content)

        yield worded  # what goes wrong in the block is not this file's fault, and stays as it is
        with _worded(location, "written"):
            stack.close()


@contextmanager
def _replacing_path(location: str) -> Iterator[Callable[[bytes], object]]:
    path = Path(location).resolve()  # a link stays one
    if path.exists() and not path.is_file():
        raise DataRefused(f"{location} cannot be written: it is there already, and no ordinary file.")
    with replacing(path) as file:
        yield file.buffer.write


@contextmanager
def _replacing_url(location: str) -> Iterator[Callable[[bytes], object]]:
    """Write aside and rename, as `files.replacing` does; where a store has no renaming, fsspec copies there."""
    system, path = file_system(location)
    folder, _, name = path.rpartition("/")
    aside = f"{folder}/.{name}.{secrets.token_hex(4)}.part"
    try:
        system.pipe_file(aside, b"")  # stores tell only with the last byte what they refuse
        with system.open(aside, "wb") as file:
            yield file.write
        system.mv(aside, path)
    finally:
        with suppress(Exception):  # what went wrong before is what matters
            if system.exists(aside):
                system.rm(aside)


@dataclass(frozen=True)
class CsvInput:
    """A CSV file. Its spans are the bytes of whole records; `size` counts bytes."""

    location: str
    layout: Layout
    size: int
    added: tuple[str, ...] = ()  # cells of every row, beside the file's own

    def blocks(self) -> Iterator[Block]:
        """Yield the rows in order, `ROWS` at a time."""
        with reading(self.location) as file:
            for block in blocks.blocks_from(file, self.layout, ROWS, name=name(self.location)):
                yield _with(block, self.added)

    def spans(self) -> Iterator[Span]:
        """Yield where blocks begin and end: only reading tells a line's end from a line break within quotes."""
        return (block.span for block in self.blocks())

    def block(self, span: Span) -> Block:
        """Read one span again."""
        with reading(self.location) as file:
            (block,) = blocks.blocks_from(file, self.layout, span.rows, span, name(self.location))
        return _with(block, self.added)


@dataclass(frozen=True)
class ParquetInput:
    """A Parquet file, its cells as the text that a CSV file would hold (`_texts`).

    Its row groups are the partitions, large ones cut further; a span's `start` and `end` count rows, as does `size`.
    A row's line is the one it would have in a CSV file of one line a row: its position from 0, and 2.
    """

    location: str
    layout: Layout
    groups: tuple[int, ...]  # the rows of each row group
    added: tuple[str, ...] = ()  # cells of every row, beside the file's own

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
                yield _with(_block([batch], start), self.added)
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
    """What is scored: a file, or many as one. `layout.header` names their columns and those added."""

    location: str
    layout: Layout
    parts: tuple[AnyInput, ...]

    @property
    def size(self) -> int:
        """Of all parts."""
        return sum(part.size for part in self.parts)

    def blocks(self) -> Iterator[tuple[int, Block]]:
        """Yield the rows in order, each block with how much of `size` is read."""
        for part, before in zip(self.parts, self._starts, strict=True):
            for block in part.blocks():
                yield before + block.span.end, block

    def spans(self) -> Iterator[tuple[int, AnyInput, Span]]:
        """Yield where blocks begin and end, and of which part, each with how much of `size` is read."""
        for part, before in zip(self.parts, self._starts, strict=True):
            for span in part.spans():
                yield before + span.end, part, span

    @property
    def _starts(self) -> list[int]:
        return list(accumulate((part.size for part in self.parts), initial=0))[:-1]


def input_at(location: str, product: Product, *targets: str) -> Input:
    """Look at a file, or at all files of a folder or a pattern, in the order of their names.

    Of many, each row gets a column that tells its file, and one for each folder named like `Geography=Spain`. Names
    that begin with `.` or `_` and files without rows are passed over. `DataRefused` where files do not fit
    together, or one of `targets` would be among them.
    """
    location = absolute(location)
    found = _many(location)
    if not found:
        source = source_at(location, product)
        return Input(location, source.layout, (source,))
    pattern = location if MAGIC.intersection(location) else f"{location.rstrip('/')}/*"
    for target in targets:
        if fnmatchcase(absolute(target), pattern):
            raise DataRefused(f"{target} would lie among the files of {location}: write it elsewhere.")
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
        parts = [part for part in pool.map(partial(_part_of_many, product), found, found.values()) if part]
    if not parts:
        raise NoRows(f"{location} has no rows.")
    _refuse_unlike(location, parts)
    header = (*parts[0].layout.header, *_folder_columns(parts[0]), FILE)
    return Input(location, replace(parts[0].layout, header=header), tuple(parts))


def _many(location: str) -> dict[str, str]:
    """Return a folder's or a pattern's files: {name below the folder: location}; none for a file's own location."""
    with _worded(location, "read"):
        found = _listed_urls(location) if is_url(location) else _listed_paths(location)
    return {file: found[file] for file in sorted(found) if not any(step[:1] in {".", "_"} for step in file.split("/"))}


def _listed_paths(location: str) -> dict[str, str]:
    path = Path(location)
    if path.is_dir():
        files = [str(file) for file in path.rglob("*") if file.is_file()]
    elif MAGIC.intersection(location) and not path.exists():
        files = [file for file in glob(location, recursive=True) if Path(file).is_file()]
    else:
        return {}
    return {file.removeprefix(_fixed(location)): file for file in files}


def _listed_urls(location: str) -> dict[str, str]:
    system, path = file_system(location)
    if system.isfile(path):
        return {}
    if MAGIC.intersection(path):
        files = [file for file, facts in system.glob(path, detail=True).items() if facts["type"] == "file"]
    else:
        files = [file for file in system.find(path) if file.startswith(_fixed(path))]
    _, chain, rest = location.partition("::")
    return {file.removeprefix(_fixed(path)): f"{system.unstrip_protocol(file)}{chain}{rest}" for file in files}


def _fixed(location: str) -> str:
    """Return the folder that all files of a pattern lie below; a folder itself."""
    places = [place for place, letter in enumerate(location) if letter in MAGIC]
    return location[: location.rfind("/", 0, places[0]) + 1] if places else f"{location.rstrip('/')}/"


def _part_of_many(product: Product, file: str, location: str) -> AnyInput | None:
    try:
        part = source_at(location, product)
    except NoRows:
        return None
    return replace(part, added=(*_folder_columns(part).values(), file))


def _folder_columns(part: AnyInput) -> dict[str, str]:
    """Return the columns that a file's folders name, as Hive writes them; the file's own come first."""
    named = [step.partition("=") for step in PurePosixPath(part.location.partition("::")[0]).parts[:-1] if "=" in step]
    found = {unquote(column): "" if value == NO_VALUE else unquote(value) for column, _, value in named}
    return {column: value for column, value in found.items() if column and column not in part.layout.header}


def _refuse_unlike(location: str, parts: list[AnyInput]) -> None:
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
    """Look at a file's beginning; `DataRefused` where it is neither CSV nor Parquet, or names no factor."""
    with reading(location) as file:
        if file.read(len(PARQUET)) == PARQUET:
            return _parquet_source(location, file, product)
        size = file.seek(0, 2)
        return CsvInput(location, blocks.layout_from(file, product, None, name(location)), size)


def _parquet_source(location: str, file: BinaryIO, product: Product) -> ParquetInput:
    with _parquet(location, file) as parquet:
        for field in parquet.schema_arrow:
            _refuse_unfit(field)
        header = tuple(column.strip() for column in parquet.schema_arrow.names)
        blocks.check_header(header, product, None)
        metadata = parquet.metadata
        groups = tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
        if not sum(groups):
            raise NoRows("has no rows.")
        return ParquetInput(location, Layout(",", header, 0, FIRST_LINE), groups)


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
        raise type(refused)(f"{name(location)} {refused}") from None
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        why = " ".join(str(error).split()).rstrip(".")
        raise DataRefused(f"{name(location)} cannot be read as Parquet: {why}.") from None


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
