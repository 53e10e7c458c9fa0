"""What a receipt fixes, written out by hand: what was recorded once must come out the same for ever."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256

import pytest

from bankportal.domain.batch import CheckResult, Job, ProblemExample, ProblemGroup, State, Summary
from bankportal.domain.outcome import Decision, Outcome, Reason, UnseenValue
from bankportal.domain.policy import Limit
from bankportal.domain.products import ALLOWANCE, CHURN
from bankportal.domain.receipt import Receipt, RecordedDecision, canonical, content, protected_digest, receipt
from bankportal.domain.schema import Customer

AT = datetime(2026, 5, 4, 3, 2, 1, 9, UTC)
HALF = timezone(timedelta(hours=5, minutes=30))

CUSTOMER = Customer(
    ALLOWANCE, {"Surname": "Müller"}, {"Balance": 0.1 + 0.2, "Tenure": None}, {"RequestedLimit": 900.0}, {"Age": 41}
)
OUTCOME = Outcome(
    product=ALLOWANCE,
    score=0.7,
    band=ALLOWANCE.bands[1],
    limit=Limit(900.0, 1200.5, "requested", 900.0, False, True),
    flags=(UnseenValue("Balance", "is high"),),
    base=0.5,
    contributions={"Tenure": -0.05, "Balance": 0.25},
    reasons=(Reason("Balance", None, 0.25, "A balance speaks for repaying"), Reason(None, "band", 0.0, "The band")),
    model_version="v3",
    model_digest="m" * 64,
    policy_version="2026-11",
)
RECORDED = RecordedDecision(Decision("one", AT, CUSTOMER, OUTCOME), "submitted", "salt")
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

CHECKED = CheckResult(
    3, 2, 1, (ProblemGroup("a", "Age", "too-low", "must be 18 or more", 1, (ProblemExample(3, "7"),)),), 4
)
CHECKED_TEXT = (
    '{"good":2,"groups":[{"code":"too-low","column":"a","examples":[{"line":3,"text":"7"}],"factor":"Age",'
    '"message":"must be 18 or more","rows":1}],"more":4,"rejected":1,"rows":3}'
)
JOB = Job(
    id="two",
    number=5,
    product=CHURN,
    state=State.DONE,
    at=AT,
    file_name="May.csv",
    input_digest="i" * 64,
    input_bytes=99,
    header_digest="h" * 64,
    layout={"delimiter": ","},
    mapping={"a": "Age"},
    start_when_checked=True,
    message="",
    checked=CHECKED,
    model_version="v1",
    model_digest="m" * 64,
    policy_version=None,
    started_at=AT + timedelta(minutes=1),
    finished_at=AT + timedelta(minutes=2),
    summary=Summary(2, 1, 0, {"Loyal": 2}, 0.25),
    files={"scored.csv": "s" * 64},
    rows_done=3,
)
OF_BATCH = (
    '{"at":"2026-05-04T03:02:01.000009+00:00","checked":"' + sha256(CHECKED_TEXT.encode()).hexdigest() + '",'
    '"files":{"scored.csv":"' + "s" * 64 + '"},"finished_at":"2026-05-04T03:04:01.000009+00:00","format":1,"id":"two",'
    '"input":{"bytes":99,"digest":"' + "i" * 64 + '","header":"' + "h" * 64 + '","layout":{"delimiter":","},'
    '"mapping":{"a":"Age"},"name":"May.csv"},"kind":"batch","model":{"digest":"' + "m" * 64 + '","version":"v1"},'
    '"number":12,"policy_version":null,"previous":"before","product":"churn","rows":3,'
    '"started_at":"2026-05-04T03:03:01.000009+00:00","state":"done",'
    '"summary":{"bands":{"Loyal":2},"mean_score":0.25,"quarantined":0,"rejected":1,"scored":2}}'
)


@pytest.mark.parametrize(("entry", "text"), [(RECORDED, OF_DECISION), (JOB, OF_BATCH)], ids=["decision", "batch"])
def test_it_works(entry, text) -> None:
    assert content(entry, 12, "before") == text
    assert receipt(entry, Receipt(11, "before", "")) == Receipt(12, sha256(text.encode()).hexdigest(), "before")


@pytest.mark.parametrize(("entry", "text"), [(RECORDED, OF_DECISION), (JOB, OF_BATCH)], ids=["decision", "batch"])
def test_the_first_receipt_follows_zeros(entry, text) -> None:
    first = text.replace('"number":12', '"number":1').replace('"before"', f'"{"0" * 64}"')
    assert receipt(entry, None) == Receipt(1, sha256(first.encode()).hexdigest(), "0" * 64)


def test_what_a_batch_does_not_know_yet_is_null() -> None:
    unknown = dict.fromkeys(
        ("mapping", "checked", "model_version", "model_digest", "started_at", "finished_at", "summary", "files")
    )
    fixed = json.loads(content(replace(JOB, **unknown), 1, ""))
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
    decision = replace(RECORDED.decision, outcome=replace(OUTCOME, limit=None, policy_version=None))
    fixed = json.loads(content(replace(RECORDED, decision=decision), 1, ""))
    assert fixed["limit"] is fixed["policy_version"] is None


def test_times_are_written_to_the_microsecond_with_their_zone() -> None:
    at = AT.astimezone(HALF).replace(microsecond=0)
    fixed = json.loads(content(replace(JOB, at=at), 1, ""))
    assert fixed["at"] == "2026-05-04T08:32:01.000000+05:30"


def test_protected_values_are_fixed_without_being_said() -> None:
    assert "41" not in OF_DECISION.replace(protected_digest("salt", {"Age": 41}), "")
    assert protected_digest("salt", {"Age": 41}) != protected_digest("salt", {"Age": 42})
    assert protected_digest("salt", {"Age": 41}) != protected_digest("other", {"Age": 41})


def test_what_json_has_no_words_for_is_refused() -> None:
    assert canonical({"b": 1, "a": ["é", None]}) == '{"a":["é",null],"b":1}'
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical({"score": number})
