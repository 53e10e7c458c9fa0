"""JSON in and out: the quick ways say the same as the strict ones."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as some

from bankportal import answers
from bankportal.api import reading
from bankportal.api.calls import written
from bankportal.api.problems import Refused

TEXTS = some.text(max_size=5) | some.sampled_from([":", '"', "\\ud800", "a:b", "{}", "NaN"])
NUMBERS = some.integers() | some.floats() | some.sampled_from([2**53, 2**64, -(2**70), -0.0, 1e300])
SCALARS = NUMBERS | TEXTS | some.none() | some.booleans()
VALUES = SCALARS | some.lists(SCALARS, max_size=2) | some.dictionaries(TEXTS, SCALARS, max_size=2)
ODD = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b'{"a":1,"a":1}',
    b'{"a":1,"\\u0061":2}',
    b'{"a":{"b":1,"b":2}}',
    b'{"a":1e400}',
    b'{"a":-0}',
    b'{"a":12345678901234567890123}',
    b'{"a":9007199254740993.0}',
    b'{"a":NaN}',
    b'{"a":-Infinity}',
    b'{"a":"\\ud800"}',
    b'{"a":"\\ud83d\\ude00"}',
    b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}',
    b'\xef\xbb\xbf{"a":1}',
    b'{"a":"\x01"}',
    b'{"a":1}x',
    b'{"a":1,}',
    b'{"a":01}',
    b'{"a":.5}',
    b"{'a':1}",
    b'{"a":' + b"[" * 30 + b"]" * 30 + b"}",
    b'{"a":' + b"9" * 5000 + b"}",
]


def told(content: bytes) -> str:
    """Return what reading says, types and signs included."""
    try:
        return repr(reading.from_json(content))
    except Refused as refused:
        return f"{refused.code}: {refused}"


def both(content: bytes) -> None:
    quick = told(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_plain_object", lambda content: None)
        assert quick == told(content)


@given(some.lists(some.tuples(TEXTS, VALUES), max_size=4), some.booleans())
def test_quick_reading_says_the_same(pairs, ascii_only) -> None:
    fields = (f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=ascii_only)}" for name, value in pairs)
    both(f"{{{', '.join(fields)}}}".encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("content", ODD)
def test_quick_reading_says_the_same_of_odd_bodies(content) -> None:
    both(content)


def test_customers_are_read_the_quick_way() -> None:
    assert reading._plain_object(b'{"Age": 36, "Balance": 0.5, "Geography": "Spain", "Tenure": null}') is not None


def limit(**amounts: float) -> answers.Limit:
    values = {"amount": 1.0, "ceiling": 1e-7, "rule": "band", "requested": None} | amounts
    return answers.Limit(**values, counteroffer=False, obligations_assumed=False)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_an_error(number) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        written(limit(amount=number))
    data = {"version": "v1", "evaluation": {"auc": [number]}}
    with pytest.raises(ValueError, match="not JSON compliant"):
        written(answers.ModelVersion.model_construct(**data))


def test_words_that_look_like_such_numbers_are_words() -> None:
    reason = answers.Reason(factor="NaN", rule=None, contribution=0.1, sentence="Infinity & NaN")
    assert json.loads(written(reason)) == reason.model_dump()


@given(some.floats(allow_nan=False, allow_infinity=False))
def test_floats_keep_every_digit(number) -> None:
    read = json.loads(written(limit(amount=number)))["amount"]
    assert (read, math.copysign(1, read)) == (number, math.copysign(1, number))
