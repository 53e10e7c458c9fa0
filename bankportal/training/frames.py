"""Tables as pandas data frames: what a notebook hands to training, and what it gets back.

A frame is read as the CSV file it would be written to. So its cells meet the same constraints as those of a file, and
the same data give the same arrays to the last bit, whatever they came in.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import astuple, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from bankportal.data import reading
from bankportal.data.columns import CellProblem
from bankportal.data.locations import EXTRA
from bankportal.data.reading import Table
from bankportal.domain.constraints import Choice, Constraint, Number, YesNo
from bankportal.domain.errors import DataRefused
from bankportal.domain.products import Product

# How files begin that pandas reads with the types of their columns, and what reads them.
READERS: Mapping[bytes, Callable[[Path], pd.DataFrame]] = MappingProxyType(
    {
        b"PAR1": lambda path: pd.read_parquet(path, dtype_backend="numpy_nullable"),
        b"ARROW1": lambda path: pd.read_feather(path, dtype_backend="numpy_nullable"),
        b"<stata_dta>": pd.read_stata,
    }
)


def read_file(path: str | Path, product: Product) -> Table:
    """Read a data file for a product: CSV as `data.reading.read` does, or Parquet, Feather or Stata by pandas.

    Raises `DataRefused` where the file cannot be read, has no usable header, or has no row.
    """
    path = Path(path)
    reader = next((reader for magic, reader in READERS.items() if _begins_with(path, magic)), None)
    if reader is None:
        return reading.read(path, product)
    try:
        frame = reader(path)
    except ImportError:
        raise DataRefused(f"{path.name} needs pyarrow to be read: {EXTRA}") from None
    except Exception as error:  # pandas and pyarrow raise many kinds on damaged files
        raise DataRefused(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    return replace(read_frame(frame, product, path.name), sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def read_frame(frame: pd.DataFrame, product: Product, name: str = "The data frame") -> Table:
    """Read a data frame for a product as `data.reading.read` does a file; `name` is used in messages.

    Columns are known by their names and aliases; the index plays no part. Missing values of any kind are blank, `True`
    and `False` are 1 and 0, numbers keep every digit. The table's `positions` are the rows' numbers in the frame, from
    0, its `sha256` that of the frame as CSV. Raises `DataRefused` where no column is known, two mean the same factor,
    or there is no row; single bad rows stand in the table's `problems`.
    """
    texts = pd.DataFrame({place: _texts(frame.iloc[:, place]) for place in range(frame.shape[1])}, dtype=object)
    texts.columns = frame.columns.map(str)
    return reading.read_bytes(texts.to_csv(index=False, lineterminator="\r\n").encode(errors="replace"), name, product)


def to_frame(table: Table) -> pd.DataFrame:
    """Return a table's good rows as a data frame: a column for each factor that the file has, then the label.

    The index is each row's number in its file, from 0. Numbers are float64, whole ones and flags Int64, choices are
    categories, and text is text. `read_frame` gives the same values again, to the last bit.
    """
    dtypes = {entry.factor.name: _dtype(entry.factor.constraint) for entry in table.product.factors}
    columns = dict(table.columns)
    if table.label is not None:
        columns[table.product.label.name] = table.label
    frame = pd.DataFrame(columns, index=pd.Index(table.positions, name="row"))
    return frame.astype({name: dtypes.get(name, "Int64") for name in columns})


def problems(table: Table) -> pd.DataFrame:
    """Return every bad cell and ragged row of a table's file: line, column, factor, code, message, and what stood."""
    names = [field.name for field in fields(CellProblem)]
    return pd.DataFrame([astuple(problem) for problem in table.problems], columns=names)


def _dtype(constraint: Constraint) -> Any:
    match constraint:
        case Choice(options=options):
            return pd.CategoricalDtype(list(options))
        case YesNo() | Number(whole=True):
            return "Int64"
        case Number():
            return "float64"
        case _:
            return "str"


def _texts(column: "pd.Series[Any]") -> list[str]:
    """Return a column's cells as text: blank where missing, floats in the fewest digits that tell them apart."""
    if pd.api.types.is_float_dtype(column.dtype):
        dtype: Any = getattr(column.dtype, "numpy_dtype", column.dtype)
        return ["" if number != number else str(number) for number in column.to_numpy(dtype=dtype, na_value=np.nan)]
    return ["" if missing else _text(value) for value, missing in zip(column, column.isna(), strict=True)]


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool | np.bool_) else str(value)
