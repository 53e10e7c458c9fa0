"""What a receipt fixes, written out by hand: what was recorded once must come out the same for ever."""

import json
from collections import OrderedDict, defaultdict
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from enum import IntEnum
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankportal.domain.batch import CheckResult, ProblemExample, ProblemGroup, Summary
from bankportal.domain.canonical import canonical
from bankportal.domain.outcome import Outcome, Reason, UnseenValue
from bankportal.domain.policy import Limit
from bankportal.domain.receipt import Kind, Receipt, content, receipt
from tests.shipped import ALLOWANCE

AT = datetime(2026, 5, 4, 3, 2, 1, 9, UTC)
HALF = timezone(timedelta(hours=5, minutes=30))

DECISION = {
    "number": 3,
    "id": "one",
    "submission": "submitted",
    "at": AT,
    "product": "allowance",
    "carried": {"Surname": "Müller"},
    "scored": {"Balance": 0.1 + 0.2, "Tenure": None},
    "policy": {"RequestedLimit": 900.0},
    "score": 0.7,
    "band": "Standard",
    "limit": {
        "amount": 900.0,
        "ceiling": 1200.5,
        "rule": "requested",
        "requested": 900.0,
        "counteroffer": False,
        "obligations_assumed": True,
    },
    "flags": [{"factor": "Balance", "message": "is high"}],
    "base": 0.5,
    "contributions": {"Tenure": -0.05, "Balance": 0.25},
    "reasons": [
        {"factor": "Balance", "rule": None, "contribution": 0.25, "sentence": "A balance speaks for repaying"},
        {"factor": None, "rule": "band", "contribution": 0.0, "sentence": "The band"},
    ],
    "model_version": "v3",
    "model_digest": "m" * 64,
    "policy_version": "2026-11",
    "protected": {"Age": 41},
    "salt": "salt",
}
OF_DECISION = (
    '{"at":"2026-05-04T03:02:01.000009+00:00","band":"Standard","base":0.5,'
    '"contributions":{"Balance":0.25,"Tenure":-0.05},"flags":[{"factor":"Balance","message":"is high"}],"format":1,'
    '"id":"one","input":{"carried":{"Surname":"Müller"},"policy":{"RequestedLimit":900.0},'
    '"scored":{"Balance":0.30000000000000004,"Tenure":null}},'
    '"limit":{"amount":900.0,"ceiling":1200.5,"counteroffer":false,"obligations_assumed":true,"requested":900.0,'
    '"rule":"requested"},"model":{"digest":"' + "m" * 64 + '","version":"v3"},"number":12,"policy_version":"2026-11",'
    '"previous":"before","product":"allowance","protected":"' + sha256(b'salt{"Age":41}').hexdigest() + '",'
    '"reasons":[{"contribution":0.25,"factor":"Balance","rule":null,"sentence":"A balance speaks for repaying"},'
    '{"contribution":0.0,"factor":null,"rule":"band","sentence":"The band"}],"score":0.7,"submission":"submitted"}'
)

GROUP = {
    "column": "a",
    "factor": "Age",
    "code": "too-low",
    "message": "must be 18 or more",
    "rows": 1,
    "examples": [{"line": 3, "text": "7"}],
}
CHECKED_TEXT = (
    '{"good":2,"groups":[{"code":"too-low","column":"a","examples":[{"line":3,"text":"7"}],"factor":"Age",'
    '"message":"must be 18 or more","rows":1}],"more":4,"rejected":1,"rows":3}'
)
BATCH = {
    "number": 5,
    "id": "two",
    "key": None,
    "product": "churn",
    "state": "done",
    "at": AT,
    "file_name": "May.csv",
    "input_digest": "i" * 64,
    "input_bytes": 99,
    "header_digest": "h" * 64,
    "layout": {"delimiter": ","},
    "mapping": {"a": "Age"},
    "start_when_checked": True,
    "message": "",
    "checked": {"rows": 3, "good": 2, "rejected": 1, "groups": [GROUP], "more": 4},
    "model_version": "v1",
    "model_digest": "m" * 64,
    "policy_version": None,
    "started_at": AT + timedelta(minutes=1),
    "finished_at": AT + timedelta(minutes=2),
    "summary": {"scored": 2, "rejected": 1, "quarantined": 0, "bands": {"Loyal": 2}, "mean_score": 0.25},
    "files": {"scored.csv": "s" * 64},
}
OF_BATCH = (
    '{"at":"2026-05-04T03:02:01.000009+00:00","checked":"' + sha256(CHECKED_TEXT.encode()).hexdigest() + '",'
    '"files":{"scored.csv":"' + "s" * 64 + '"},"finished_at":"2026-05-04T03:04:01.000009+00:00","format":1,"id":"two",'
    '"input":{"bytes":99,"digest":"' + "i" * 64 + '","header":"' + "h" * 64 + '","layout":{"delimiter":","},'
    '"mapping":{"a":"Age"},"name":"May.csv"},"kind":"batch","model":{"digest":"' + "m" * 64 + '","version":"v1"},'
    '"number":12,"policy_version":null,"previous":"before","product":"churn","rows":3,'
    '"started_at":"2026-05-04T03:03:01.000009+00:00","state":"done",'
    '"summary":{"bands":{"Loyal":2},"mean_score":0.25,"quarantined":0,"rejected":1,"scored":2}}'
)


# What stands beside the columns of format 1, and the texts of format 2.
PROVENANCE = {"actor": "somebody", "door": "api", "declarations": {"product": "d" * 64, "policy": None}}
BESIDE = '"declarations":{"policy":null,"product":"' + "d" * 64 + '"},"door":"api",'
OF_DECISION_2 = '{"actor":"somebody",' + OF_DECISION[1:].replace('"flags"', BESIDE + '"flags"').replace(
    '"format":1', '"format":2'
)
OF_BATCH_2 = '{"actor":"somebody",' + OF_BATCH[1:].replace('"files"', BESIDE + '"files"').replace(
    '"format":1', '"format":2'
)
EVENT = {
    "number": 9,
    "kind": "model-activated",
    "subject": "model churn v1",
    "actor": "somebody",
    "at": AT,
    "content": {"version": "v1", "number": 3},
}
OF_EVENT = (
    '{"actor":"somebody","at":"2026-05-04T03:02:01.000009+00:00","content":{"number":3,"version":"v1"},'
    '"event":"model-activated","format":2,"kind":"event","number":12,"previous":"before","subject":"model churn v1"}'
)

ALL = pytest.mark.parametrize(
    ("kind", "record", "text"),
    [
        (Kind.DECISION, DECISION | PROVENANCE, OF_DECISION_2),
        (Kind.BATCH, BATCH | PROVENANCE, OF_BATCH_2),
        (Kind.EVENT, EVENT, OF_EVENT),
    ],
    ids=["decision", "batch", "event"],
)
BOTH = pytest.mark.parametrize(
    ("kind", "record", "text"),
    [(Kind.DECISION, DECISION, OF_DECISION), (Kind.BATCH, BATCH, OF_BATCH)],
    ids=["decision", "batch"],
)


def written(kind, record) -> dict:
    """Return what a receipt of format 1 fixes of a record."""
    return json.loads(content(kind, record, 1, "", 1))


@ALL
def test_it_works(kind, record, text) -> None:
    assert content(kind, record, 12, "before", 2) == text
    assert receipt(kind, record, Receipt(11, "before", "", 1)) == Receipt(
        12, sha256(text.encode()).hexdigest(), "before", 2
    )


@BOTH
def test_what_was_written_in_format_1_stays_as_it_is(kind, record, text) -> None:
    assert content(kind, record, 12, "before", 1) == text


@ALL
def test_the_first_receipt_follows_zeros(kind, record, text) -> None:
    first = text.replace('"number":12', '"number":1').replace('"before"', f'"{"0" * 64}"')
    assert receipt(kind, record, None) == Receipt(1, sha256(first.encode()).hexdigest(), "0" * 64, 2)


@BOTH
@pytest.mark.parametrize("name", ["product_declaration", "policy_declaration", "actor", "door"])
def test_nothing_stands_beside_what_format_1_fixes(kind, record, text, name) -> None:
    with pytest.raises(ValueError, match="format 1 knows neither declarations nor provenance"):
        content(kind, record | {name: 1}, 12, "before", 1)
    assert content(kind, record | {name: None}, 12, "before", 1) == text


@ALL
def test_a_column_that_format_2_fixes_cannot_be_missing(kind, record, text) -> None:
    unproven = {"number", "key", "start_when_checked", "message"}
    for name in set(record) - unproven:
        with pytest.raises(KeyError, match=name):
            content(kind, {key: value for key, value in record.items() if key != name}, 12, "before", 2)


def test_format_1_knows_no_events() -> None:
    with pytest.raises(KeyError):
        content(Kind.EVENT, EVENT | {"actor": None}, 12, "before", 1)


@BOTH
def test_a_column_of_a_later_release_is_not_in_format_1(kind, record, text) -> None:
    assert content(kind, record | {"decided_by": "somebody"}, 12, "before", 1) == text


@BOTH
def test_a_column_that_is_fixed_cannot_be_missing(kind, record, text) -> None:
    read: set[str] = set()

    class Read(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

    content(kind, Read(record), 12, "before", 1)
    unproven = {"number"} if kind is Kind.DECISION else {"number", "key", "start_when_checked", "message"}
    assert read == set(record) - unproven
    for name in read:
        with pytest.raises(KeyError, match=name):
            content(kind, {key: value for key, value in record.items() if key != name}, 12, "before", 1)


PARTS = {
    "limit": (Kind.DECISION, DECISION, ("limit",)),
    "flag": (Kind.DECISION, DECISION, ("flags", 0)),
    "reason": (Kind.DECISION, DECISION, ("reasons", 1)),
    "check": (Kind.BATCH, BATCH, ("checked",)),
    "group": (Kind.BATCH, BATCH, ("checked", "groups", 0)),
    "example": (Kind.BATCH, BATCH, ("checked", "groups", 0, "examples", 0)),
    "summary": (Kind.BATCH, BATCH, ("summary",)),
}


@pytest.mark.parametrize(("kind", "record", "path"), PARTS.values(), ids=PARTS)
def test_format_1_takes_no_key_more_or_less(kind, record, path) -> None:
    for change in (lambda part: part.update(more_of_it=1), lambda part: part.popitem()):
        changed = deepcopy(record)
        part = changed
        for step in path:
            part = part[step]
        change(part)
        with pytest.raises(ValueError, match="format 1 holds"):
            content(kind, changed, 12, "before", 1)


@dataclass(frozen=True)
class WiderReason(Reason):
    """A reason as a later release may have it."""

    strength: str = "strong"


@dataclass(frozen=True)
class WiderLimit(Limit):
    """A limit as a later release may have it."""

    currency: str = "CHF"


@dataclass(frozen=True)
class WiderSummary(Summary):
    """A summary as a later release may have it."""

    median_score: float = 0.5


def test_a_field_more_in_the_code_changes_neither_what_is_stored_nor_format_1() -> None:
    outcome = Outcome(
        product=ALLOWANCE,
        score=0.7,
        band=ALLOWANCE.bands[1],
        limit=WiderLimit(900.0, 1200.5, "requested", 900.0, False, True),
        flags=(UnseenValue("Balance", "is high"),),
        base=0.5,
        contributions={"Tenure": -0.05, "Balance": 0.25},
        reasons=(
            WiderReason("Balance", None, 0.25, "A balance speaks for repaying"),
            WiderReason(None, "band", 0.0, "The band"),
        ),
        model_version="v3",
        model_digest="m" * 64,
        policy_version="2026-11",
    )
    group = ProblemGroup("a", "Age", "too-low", "must be 18 or more", 1, (ProblemExample(3, "7"),))
    stored = {
        "checked": CheckResult(3, 2, 1, (group,), 4).to_record(),
        "summary": WiderSummary(2, 1, 0, {"Loyal": 2}, 0.25).to_record(),
    }
    assert content(Kind.DECISION, DECISION | outcome.to_record(), 12, "before", 1) == OF_DECISION
    assert content(Kind.BATCH, BATCH | stored, 12, "before", 1) == OF_BATCH


def test_what_a_batch_does_not_know_yet_is_null() -> None:
    unknown = dict.fromkeys(
        ("mapping", "checked", "model_version", "model_digest", "started_at", "finished_at", "summary", "files")
    )
    fixed = written(Kind.BATCH, BATCH | unknown)
    assert {name for name, value in fixed.items() if value is None} == {
        "checked",
        "started_at",
        "finished_at",
        "policy_version",
        "rows",
        "summary",
        "files",
    }
    assert fixed["model"] == {"digest": None, "version": None}


def test_a_product_without_a_policy_has_no_limit() -> None:
    fixed = written(Kind.DECISION, DECISION | {"limit": None, "policy_version": None})
    assert fixed["limit"] is fixed["policy_version"] is None


def test_times_are_written_to_the_microsecond_with_their_zone() -> None:
    fixed = written(Kind.BATCH, BATCH | {"at": AT.astimezone(HALF).replace(microsecond=0)})
    assert fixed["at"] == "2026-05-04T08:32:01.000000+05:30"


def test_protected_values_are_fixed_without_being_said() -> None:
    fixed = written(Kind.DECISION, DECISION)
    assert "41" not in OF_DECISION.replace(fixed["protected"], "")
    for edited in ({"protected": {"Age": 42}}, {"salt": "other"}):
        assert written(Kind.DECISION, DECISION | edited)["protected"] != fixed["protected"]


def test_what_json_has_no_words_for_is_refused() -> None:
    assert canonical({"b": 1, "a": ["é", None]}) == '{"a":["é",null],"b":1}'
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not finite"):
            canonical({"score": number})


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.floats(-1e-3, 1e-3)
    | st.sampled_from([1e-4, 9.9e-5, 1e-5, 1e-6, 1.5e-7, 1e15, 1e16, 1e21, 5e-324])
    | st.text(),
    lambda inside: st.lists(inside, max_size=5) | st.dictionaries(st.text(max_size=5), inside, max_size=5),
    max_leaves=20,
)


@settings(max_examples=2000)
@given(PLAIN)
def test_plain_data_is_written_as_the_standard_library_writes_it(content: Any) -> None:
    assert canonical(content) == json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Word(str):
    """A text of a type of its own."""

    __slots__ = ()


class Amount(float):
    """A float of a type of its own, as NumPy's are."""

    __slots__ = ()
    __repr__ = float.__repr__


class Number(IntEnum):
    """A whole number of a type of its own."""

    ONE = 1


class Amounts(NamedTuple):
    """A tuple of a type of its own."""

    first: float
    second: float


@pytest.mark.parametrize(
    "content",
    [
        *(OrderedDict(a=1e-7), {"a": OrderedDict(b=1e-5)}, defaultdict(float, a=1e22), Amounts(1e-7, 1e-4)),
        *(Amount(1e-7), Word("é"), {Word("b"): [Word("é")]}, [Number.ONE], {1: 1e-7}, (1e-7, (1e22,))),
    ],
    ids=repr,
)
def test_types_that_are_derived_are_written_as_the_standard_library_writes_them(content: Any) -> None:
    assert canonical(content) == json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize("content", [OrderedDict(a=float("nan")), {"a": OrderedDict(b=float("inf"))}], ids=repr)
def test_what_is_not_finite_is_refused_in_types_that_are_derived(content: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(content)


@pytest.mark.parametrize(
    "content",
    [{"at": AT}, {"set": {1}}, [AT], Kind.DECISION, [UUID(int=1)], b"x"],
    ids=["time", "set", "in a list", "enum", "uuid", "bytes"],
)
def test_what_is_no_plain_data_is_refused(content: Any) -> None:
    with pytest.raises(TypeError):
        canonical(content)
