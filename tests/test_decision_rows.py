"""A decision as a compact row and back: the same record to the last bit, and no edit reads as another."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from bankportal.domain.receipt import Kind, content
from bankportal.store.chain import UNREADABLE
from bankportal.store.decision_rows import COLUMNS, FLAG, context_of, read_context, record_of, row_of
from bankportal.store.tables import CompactJSON, decision_contexts, parsed, written

ODD = [
    *(2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**64), 10**40),
    *(1e-7, 1e-5, 0.1 + 0.2, -0.0, 0.0, 1e16, 1e22, 1.7976931348623157e308, 5e-324, 1.0, 1),
    *(True, False, None, "", "null", " ", "Nuñez-Örn", "👤", "\u0000", "\u2028", 'a"b\\c', "1", "[]"),
]
PRESENT = {"amount": 0.0, "ceiling": 1e-7, "rule": "requested", "requested": None, "counteroffer": False}
RECORD = {
    "id": "a" * 26,
    "submission": "s" * 64,
    "at": datetime(2026, 1, 1, 10, 0, 0, 1, UTC),
    "product": "churn",
    "carried": {"Surname": "Nuñez-Örn"},
    "scored": {"CreditScore": 650, "Balance": 1e-7, "HasLoan": None},
    "policy": {},
    "score": 0.1 + 0.2,
    "band": "Low",
    "limit": None,
    "flags": [],
    "base": 0.25,
    "contributions": {"CreditScore": 0.1, "Balance": -0.0, "HasLoan": 1e-7},
    "reasons": [],
    "model_version": "v1",
    "model_digest": "m" * 64,
    "policy_version": None,
    "product_declaration": 1,
    "policy_declaration": None,
    "actor": None,
    "door": "page",
}
SENTENCE = "Weil die Bonität – 650 – so ist."


def reason(factor=None, rule=None, contribution=0.0, sentence=SENTENCE):
    return {"factor": factor, "rule": rule, "contribution": contribution, "sentence": sentence}


def stored(record) -> list:
    """Return the row of a record as the database holds it: its JSON is text."""
    return [
        written(value) if value is not None and isinstance(column.type, CompactJSON) else value
        for column, value in zip(COLUMNS, row_of(record, 7, 3), strict=True)
    ]


def read(row, context):
    """Return the record of a row as the database holds it."""
    values = [
        parsed(value) if isinstance(column.type, CompactJSON) else value
        for column, value in zip(COLUMNS, row, strict=True)
    ]
    return record_of(values, context)


def again(record):
    """Write a record as a row and read it."""
    return read(stored(record), context_of(record))


def exact(value) -> str:
    """Return plain data as text that tells 1 from 1.0, 0.0 from -0.0 and one order from another."""
    return repr(value)


def assert_comes_back(record) -> None:
    expected = {**record, "number": 7, "context_number": 3}
    assert exact(dict(sorted(again(record).items()))) == exact(dict(sorted(expected.items())))


def test_it_works() -> None:
    assert_comes_back(RECORD)


@pytest.mark.parametrize("value", ODD, ids=map(repr, ODD))
def test_odd_values_come_back(value) -> None:
    assert_comes_back(
        RECORD
        | {"carried": {"a": value, "b": [value]}, "scored": {"c": value}, "policy": {"d": value, "größe": value}}
        | {"limit": PRESENT | {"obligations_assumed": True, "requested": value}}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"carried": {}, "scored": {}, "policy": {}, "contributions": {}},
        {"limit": PRESENT | {"obligations_assumed": False}},
        {"flags": [{"factor": "Balance", "message": "größer als alles"}, {"factor": None, "message": ""}]},
        {"reasons": [reason("CreditScore", None, 0.1), reason("HasLoan", None, 1e-7)]},
        {"reasons": [reason(None, "ability-to-pay", 0.0)]},
        {"reasons": [reason()]},
        {"reasons": [reason("Balance", None, -0.0)]},
        {"reasons": [reason("Balance", None, 0.0)]},
        {"reasons": [reason("CreditScore", "ability-to-pay", 0.1)]},
        {"reasons": [reason("CreditScore", None, 0.2)]},
        {"reasons": [reason("Another", None, 0.1)]},
        {"reasons": [reason("CreditScore", None, 0.1, ""), reason("CreditScore", None, 0.1)]},
        {"reasons": [reason("CreditScore", None, 0.1, None)]},
        {"actor": "größe", "door": None, "policy_version": "2026-11", "policy_declaration": 3},
        {"submission": None},
        {"base": -0.0},
    ],
    ids=str,
)
def test_odd_answers_come_back(changes) -> None:
    assert_comes_back(RECORD | changes)


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    carried=st.dictionaries(st.text(), plain, max_size=4),
    scored=st.dictionaries(st.text(), plain | st.lists(plain, max_size=3), max_size=4),
    contributions=st.dictionaries(st.sampled_from("abcdef"), numbers, max_size=6),
    reasons=st.lists(
        st.builds(reason, st.none() | st.sampled_from("abcdefg"), st.none() | st.text(), numbers, st.text()), max_size=4
    ),
    by_factor=st.lists(st.integers(0, 5), max_size=3),
    flags=st.lists(st.builds(lambda *values: dict(zip(FLAG, values, strict=True)), st.text(), st.text()), max_size=3),
)
def test_whatever_is_recorded_comes_back(carried, scored, contributions, reasons, by_factor, flags) -> None:
    for place in by_factor:
        if place < len(contributions):
            factor = list(contributions)[place]
            reasons = [*reasons, reason(factor, None, contributions[factor])]
    assert_comes_back(
        RECORD
        | {"carried": carried, "scored": scored, "contributions": contributions, "reasons": reasons, "flags": flags}
    )


ANSWERED = RECORD | {
    "limit": PRESENT | {"obligations_assumed": True},
    "flags": [{"factor": "Balance", "message": "größer als alles"}],
    "reasons": [reason("CreditScore", None, 0.1), reason(None, "ability-to-pay", 0.0)],
}
NO_JSON = ["not json", "", "[", "[NaN]", " [Infinity", "[" * 100_000, " " + "[" * 100_000, "[1,]", '["\\ud800"]']
NO_LISTS_OF_THESE = {
    "carried": ["[]", "[1,2]"],
    "scored": ["[]", "[650,1e-7]", "[650,1e-7,null,null]"],
    "policy": ["[null]", "[1]"],
    "limit": ["[]", "[0.0]", '[0.0,1e-7,"requested",null,false,true,null]'],
    "flags": ["{}", '""', "null", "7", "true", '"ab"', '{"a":1}', "[[]]", '[["Balance"]]', '[["Balance","x",null]]'],
    "contributions": ["[]", "[0.1]", "[0.1,0.0,1e-7,0.2]", "{}", "7", '{"CreditScore":0.1}'],
    "reasons": [
        *("{}", '""', "null", "7", "true", '"ab"', '{"a":1}', "[[]]", "[[0]]", '[[0,"x",null]]'),
        *('[[3,"x"]]', '[[-1,"x"]]', '[[0.0,"x"]]', '[[true,"x"]]', '[[null,"x"]]', '[["CreditScore","x"]]'),
        *('[[1,"x"]]', '[["CreditScore",null,0.1,"x",null]]'),  # a contribution of 0 is no reason by its place
    ],
}
UNREADABLE_TEXTS = [(column, each) for column, own in NO_LISTS_OF_THESE.items() for each in (*NO_JSON, *own)]
PLACES = {column.name: place for place, column in enumerate(COLUMNS)}


@pytest.mark.parametrize(
    ("column", "edited"), UNREADABLE_TEXTS, ids=[f"{one}-{two[:40]}" for one, two in UNREADABLE_TEXTS]
)
def test_what_has_another_shape_is_unreadable(column, edited) -> None:
    row, context = stored(ANSWERED), context_of(ANSWERED)
    assert exact(read(row, context)) == exact(again(ANSWERED))
    row[PLACES[column]] = edited
    with pytest.raises(UNREADABLE):
        read(row, context)


OTHER = {
    "carried": ['"Nuñez-Örn"', "7", '["Nunez-Orn"]', '[" Nuñez-Örn"]'],
    "scored": ["[650.0,1e-7,null]", "[650,1e-7,0]", "[650,0.0000001000000001,null]", "[1e-7,650,null]"],
    "policy": ['"x"', "7"],
    "limit": ["null", '[0,1e-7,"requested",null,false,true]', '"x"', "{}"],
    "flags": ["[]", '[["Balance","x"]]', "[null]", '["ab"]'],
    "contributions": ["[0.1,0.0,1e-7]", "[0.1,0,1e-7]", '[0.1,"x",1e-7]', "[0.30000000000000004,-0.0,1e-7]", '"abc"'],
    "reasons": ["[]", '[[2,"x"],[0,"y"]]', '[["CreditScore",null,0.1,"x"]]', "[null]", '["ab"]'],
}


@pytest.mark.parametrize(("column", "edited"), [(column, each) for column, own in OTHER.items() for each in own])
def test_what_says_something_else_has_another_receipt(column, edited) -> None:
    proved = {"protected": {}, "salt": "", "declarations": {"product": "p" * 64, "policy": None}}
    before = content(Kind.DECISION, ANSWERED | proved, 7, "0" * 64, 2)
    row, context = stored(ANSWERED), context_of(ANSWERED)
    row[PLACES[column]] = edited
    after = None
    with suppress(*UNREADABLE):
        after = content(Kind.DECISION, read(row, context) | proved, 7, "0" * 64, 2)
    assert after != before


def test_a_context_with_a_name_twice_is_unreadable(portal) -> None:
    """A second value under one name would stand in the row, and in no receipt."""
    doubled = context_of(ANSWERED)._replace(
        product_declaration=None, policy_declaration=None, names=(("a", "a"), (), (), ())
    )
    with portal.database.write() as connection:
        row = doubled._asdict() | {"digest": doubled.digest}
        query = insert(decision_contexts).values(row).returning(decision_contexts.c.number)
        number = connection.execute(query).scalar_one()
        with pytest.raises(ValueError, match="is not what was recorded"):
            read_context(connection, number)
