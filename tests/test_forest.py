import io
import zipfile
from dataclasses import fields, replace

import numpy as np
import pytest

from bankportal.model.forest import DTYPES, Forest

NAN = float("nan")


def stump(**changes) -> Forest:
    """Two trees: one splits column 0 at 1.5 (blank left), one is a leaf."""
    arrays = {
        "feature": [0, -1, -1, -1],
        "threshold": [1.5, 0.0, 0.0, 0.0],
        "left": [1, -1, -1, -1],
        "right": [2, -1, -1, -1],
        "missing_left": [True, False, False, False],
        "value": [0.5, 0.1, 0.9, 0.3],
        "roots": [0, 3],
    } | changes
    return Forest(**{name: np.array(values, dtype=DTYPES[name]) for name, values in arrays.items()})


def test_it_works() -> None:
    score = stump().score(np.array([[1.5], [1.6], [NAN]]))
    assert score.tolist() == [(0.1 + 0.3) / 2, (0.9 + 0.3) / 2, (0.1 + 0.3) / 2]


def test_values_are_rounded_to_float32_before_they_are_compared() -> None:
    just_above = np.nextafter(1.5, 2)
    assert just_above > 1.5
    assert stump().score(np.array([[just_above]])) == stump().score(np.array([[1.5]]))


def test_no_rows_no_scores() -> None:
    assert stump().score(np.empty((0, 1))).shape == (0,)


def test_bytes_there_and_back() -> None:
    content = stump().to_bytes()
    assert content == stump().to_bytes()
    again = Forest.from_bytes(content, columns=1)
    assert all(np.array_equal(getattr(again, field.name), getattr(stump(), field.name)) for field in fields(Forest))


BROKEN = {
    "child out of range": {"left": [9, -1, -1, -1]},
    "child before its parent": {"left": [0, -1, -1, -1]},
    "child in another tree": {"right": [3, -1, -1, -1]},
    "two children the same": {"left": [2, -1, -1, -1]},
    "an orphan": {"feature": [-1, -1, -1, -1], "left": [-1] * 4, "right": [-1] * 4},
    "feature out of range": {"feature": [1, -1, -1, -1]},
    "feature below a leaf's": {"feature": [-2, -1, -1, -1]},
    "threshold not finite": {"threshold": [float("inf"), 0.0, 0.0, 0.0]},
    "threshold NaN": {"threshold": [NAN, 0.0, 0.0, 0.0]},
    "value above 1": {"value": [0.5, 1.1, 0.9, 0.3]},
    "value NaN": {"value": [0.5, NAN, 0.9, 0.3]},
    "leaf with a child": {"left": [1, 2, -1, -1]},
    "roots not from 0": {"roots": [1, 3]},
    "roots not rising": {"roots": [0, 0]},
    "root out of range": {"roots": [0, 4]},
    "no trees": {"roots": []},
    "arrays of different lengths": {"value": [0.5, 0.1, 0.9]},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
def test_broken_arrays_are_refused(changes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Forest.from_bytes(stump(**changes).to_bytes(), columns=1)


def test_other_types_are_refused() -> None:
    forest = replace(stump(), value=stump().value.astype(np.float32))
    with pytest.raises(ValueError, match="value has the wrong type"):
        Forest.from_bytes(forest.to_bytes(), columns=1)


def test_pickled_objects_are_refused() -> None:
    buffer = io.BytesIO()
    arrays = {field.name: getattr(stump(), field.name) for field in fields(Forest)}
    np.savez(buffer, **(arrays | {"value": np.array([object()] * 4, dtype=object)}))
    with pytest.raises(ValueError, match="allow_pickle"):
        Forest.from_bytes(buffer.getvalue(), columns=1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"x" * 1000])
def test_other_files_are_refused(content) -> None:
    with pytest.raises(ValueError, match=r"."):
        Forest.from_bytes(content, columns=1)


def test_more_arrays_are_refused() -> None:
    buffer = io.BytesIO(stump().to_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("extra.npy", b"")
    with pytest.raises(ValueError, match="not those of a forest"):
        Forest.from_bytes(buffer.getvalue(), columns=1)


def test_random_corruptions_raise_or_score() -> None:
    """No byte changed in the arrays can make a walk leave them or never end."""
    original = stump().to_bytes()
    draws = np.random.default_rng(0)
    refused = 0
    for _ in range(1000):
        content = bytearray(original)
        content[draws.integers(len(content))] ^= 1 << draws.integers(8)
        try:
            forest = Forest.from_bytes(bytes(content), columns=1)
        except ValueError:
            refused += 1
        else:
            assert np.isfinite(forest.score(np.array([[1.0], [NAN]]))).all()
    assert refused > 500
