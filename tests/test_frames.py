"""Data frames in and out: the arrays of the same data in a file, to the last bit, whatever types the columns have."""

import re
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bankportal.data.reading import Table, read, read_bytes
from bankportal.domain.errors import DataRefused
from bankportal.training import frames
from bankportal.training.export import export_model
from bankportal.training.frames import problems, read_file, read_frame, to_frame
from tests.conftest import plant_few_trees
from tests.shipped import CHURN, PRODUCTS

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks.md"


@pytest.fixture
def without_pyarrow(monkeypatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)


def bits_of(values):
    return values.tolist() if values.dtype == object else values.tobytes()


def assert_same(one: Table, other: Table) -> None:
    assert list(one.columns) == list(other.columns)
    for name, values in one.columns.items():
        assert bits_of(values) == bits_of(other.columns[name]), name
    assert bits_of(one.label) == bits_of(other.label)
    assert one.positions.tolist() == other.positions.tolist()
    assert (one.recognised, one.unknown, one.missing) == (other.recognised, other.unknown, other.missing)


@pytest.mark.parametrize("key", PRODUCTS)
def test_it_works(bank_files, key) -> None:
    """A file read by pandas, and written out and read back, is the file."""
    product, path = PRODUCTS[key], bank_files[key]
    table = read(path, product)
    frame = pd.read_csv(path, dtype={"CustomerId": str})
    assert_same(read_frame(frame, product), table)
    assert_same(read_frame(to_frame(table), product), table)


@pytest.mark.parametrize("key", PRODUCTS)
@pytest.mark.parametrize("suffix", ["parquet", "feather", "dta"])
def test_files_that_pandas_reads(bank_files, tmp_path, key, suffix) -> None:
    product, path = PRODUCTS[key], tmp_path / f"bank.{suffix}"
    table = read(bank_files[key], product)
    frame = to_frame(table).reset_index(drop=True)
    match suffix:
        case "parquet":
            frame.to_parquet(path)
        case "feather":
            frame.to_feather(path)
        case "dta":
            numbers = {name: "float64" for name, dtype in frame.dtypes.items() if dtype == "Int64"}
            frame.astype(numbers).to_stata(path, write_index=False, version=118)
    found = read_file(path, product)
    assert_same(found, table)
    assert found.name == path.name
    assert found.sha256 != read_frame(frame, product).sha256


def test_a_csv_file_stays_one(bank_files) -> None:
    assert read_file(bank_files["churn"], CHURN).sha256 == read(bank_files["churn"], CHURN).sha256


BASE = {"CreditScore": [650, 700, 610], "Age": [42, 30, 55], "Tenure": [5, 2, 9], "Balance": [0.1, 1e-5, 120_000.25]}


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        (pd.Series([1, None, 0]), ["1", "", "0"]),
        (pd.Series([True, False, True]), ["1", "0", "1"]),
        (pd.Series([True, None, False], dtype="boolean"), ["1", "", "0"]),
        (pd.Series([True, None, np.False_], dtype=object), ["1", "", "0"]),
        (pd.Series([1, None, 0], dtype="Int8"), ["1", "", "0"]),
        (pd.Series([1, None, 0], dtype="Float32"), ["1", "", "0"]),
        (pd.Series([1, None, 0], dtype="int8[pyarrow]"), ["1", "", "0"]),
        (pd.Series([None, float("nan"), pd.NA], dtype=object), ["", "", ""]),
        (pd.Series([pd.NaT, pd.NaT, pd.NaT]), ["", "", ""]),
        (pd.Series(["1", None, "0.0"]), ["1", "", "0"]),
        (pd.Series([1, None, 0]).astype("category"), ["1", "", "0"]),
        (pd.Series([Decimal("1"), None, Decimal("0.0")]), ["1", "", "0"]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_missing_is_blank_and_yes_is_one(column, cells) -> None:
    found = read_frame(pd.DataFrame(BASE | {"HasCrCard": column}), CHURN)
    assert found.problems == ()
    wanted = [float(cell or "nan") for cell in cells]
    np.testing.assert_array_equal(found.columns["HasCrCard"], wanted)


@pytest.mark.parametrize("dtype", ["float64", "Float64", "double[pyarrow]", "object", "str"])
def test_numbers_keep_every_bit(dtype) -> None:
    balances = np.random.default_rng(5).uniform(0, 250_000, 400) * 10.0 ** -np.arange(400).clip(max=9)
    frame = pd.DataFrame({name: np.resize(cells, 400) for name, cells in BASE.items()})
    frame["Balance"] = pd.Series(list(map(str, balances)) if dtype == "str" else balances, dtype=dtype)
    assert read_frame(frame, CHURN).columns["Balance"].tobytes() == balances.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "Float32", "float[pyarrow]"])
def test_single_precision_is_read_as_it_is_written(dtype) -> None:
    """As scoring a Parquet file reads it: 0.1 is 0.1, not 0.10000000149011612."""
    frame = pd.DataFrame(BASE).astype({"Balance": dtype})
    assert read_frame(frame, CHURN).columns["Balance"].tolist() == [0.1, 1e-5, 120_000.25]


def test_choices_text_and_identifiers() -> None:
    frame = pd.DataFrame(
        BASE | {"Geography": pd.Categorical(["Spain", None, "France"]), "Surname": ["O'Neil", None, "=x"]}
    )
    frame["CustomerId"] = pd.array([15634602, None, 7], dtype="Int64")
    found = read_frame(frame, CHURN)
    assert found.columns["Geography"].tolist() == ["Spain", None, "France"]
    assert found.columns["Surname"].tolist() == ["O'Neil", None, "=x"]
    assert found.columns["CustomerId"].tolist() == ["15634602", None, "7"]


def test_the_index_plays_no_part_and_places_are_the_frames() -> None:
    frame = pd.DataFrame(BASE | {"Churn": [1, 0, 1]}, index=[9, 9, 4])
    frame.loc[4, "Age"] = 7
    found = read_frame(frame, CHURN)
    assert found.positions.tolist() == [0, 1]
    assert frame.iloc[found.positions]["Age"].tolist() == found.columns["Age"].tolist()
    assert to_frame(found).index.tolist() == [0, 1]


def test_problems_are_a_frame() -> None:
    frame = pd.DataFrame(BASE | {"Churn": [1, 0, None]})
    frame["Age"] = [42, 7, np.inf]
    found = problems(read_frame(frame, CHURN))
    assert found["line"].tolist() == [3, 4, 4]
    assert found[["column", "code", "text"]].to_numpy().tolist() == [
        ["Age", "below", "7.0"],
        ["Age", "not-finite", "inf"],
        ["Churn", "no-label", ""],
    ]
    assert problems(read_frame(pd.DataFrame(BASE), CHURN)).empty


def test_a_frame_is_read_as_the_file_it_would_be() -> None:
    frame = pd.DataFrame(BASE | {"note": ['say "x", y', "two\nlines", "=x\r"], "Gender": ["Female", None, "?"]})
    written = read_bytes(frame.to_csv(index=False, lineterminator="\r\n").encode(), "frame.csv", CHURN)
    found = read_frame(frame, CHURN)
    assert (found.sha256, found.problems) == (written.sha256, written.problems)


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (pd.DataFrame(), "is empty"),
        (pd.DataFrame({"Age": []}), "has a header and no rows"),
        (pd.DataFrame({"shoes": [1]}), "names no column that churn knows"),
        (pd.DataFrame([[1, 2]], columns=["Age", "Age"]), "names a column twice: Age"),
        (pd.DataFrame({"fico": [1], "bureau score": [2]}), "two columns that mean CreditScore"),
        (pd.DataFrame({0: [1], 1: [2]}), "names no column that churn knows"),
    ],
)
def test_frames_that_are_refused(frame, says) -> None:
    with pytest.raises(DataRefused, match=says):
        read_frame(frame, CHURN)


@pytest.mark.parametrize("magic", frames.READERS)
def test_a_damaged_file_is_refused(tmp_path, magic) -> None:
    (tmp_path / "bank").write_bytes(magic + b"\x00" * 100)
    with pytest.raises(DataRefused, match=r"^bank cannot be read: "):
        read_file(tmp_path / "bank", CHURN)


def test_what_is_missing_to_read_a_file_is_named(tmp_path, without_pyarrow) -> None:
    (tmp_path / "bank.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataRefused, match=r"bank.parquet needs pyarrow to be read: pip install bankportal\[dask\]"):
        read_file(tmp_path / "bank.parquet", CHURN)


def test_the_examples_for_notebooks_run(services, bank_files, tmp_path, monkeypatch) -> None:
    pd.read_csv(bank_files["churn"]).to_parquet(tmp_path / "customers.parquet")
    export_model(CHURN, services.models.serving(CHURN), tmp_path / "churn-v1.joblib")
    monkeypatch.chdir(tmp_path)
    plant_few_trees(monkeypatch)
    text = NOTEBOOKS.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)  # the project's own document
    assert names["trained"].evaluation["auc"]["value"] > 0.7
