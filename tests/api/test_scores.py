"""Scoring through the API, on both engines."""

import csv
import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from bankportal import answers
from bankportal.api.schemas import example
from bankportal.domain.constraints import Source
from bankportal.domain.schema import validate
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS

ROWS = 20


def score(engine, product, values, query="", **headers):
    return engine.client.post(f"/api/v1/{product.key}/score{query}", json=values, headers=headers)


def test_it_works(engine, product) -> None:
    response = score(engine, product, example(product))
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    answered = answers.Outcome.model_validate_json(response.content, extra="forbid")
    expected = engine.services.scoring.score(validate(product, example(product), Source.TYPED))
    assert (answered.score, answered.band, answered.base) == (expected.score, expected.band.name, expected.base)
    assert [reason.model_dump() for reason in answered.reasons] == [vars(reason) for reason in expected.reasons]
    assert (answered.limit is None) == (expected.limit is None)
    if expected.limit:
        assert answered.limit.model_dump() == vars(expected.limit)
    assert answered.model.version == "v1"
    assert answered.contributions is answered.recourse is None


def test_what_was_answered_was_recorded(engine, product) -> None:
    answered = score(engine, product, example(product), "?contributions=true").json()
    kept = engine.client.get(answered["decision"]["url"]).json()
    answers.Decision.model_validate_json(json.dumps(kept), extra="forbid")
    assert kept["outcome"] == answered
    assert kept["customer"]["carried"]["CustomerId"] == example(product)["CustomerId"]
    assert "Gender" not in json.dumps(kept["customer"])


def test_without_recording(engine, product) -> None:
    before = engine.services.decisions.latest(1)
    answered = score(engine, product, example(product), "?record=false").json()
    recorded = score(engine, product, example(product)).json()
    assert answered["decision"] is None
    assert answered | {"decision": recorded["decision"]} == recorded
    assert engine.services.decisions.latest(2)[1:] == before


def test_contributions_add_up(engine, product) -> None:
    answered = score(engine, product, example(product), "?contributions=true&record=false").json()
    assert set(answered["contributions"]) == {factor.name for factor in product.scored}
    total = answered["base"] + math.fsum(answered["contributions"].values())
    assert math.isclose(total, answered["score"], abs_tol=1e-6)


@pytest.mark.parametrize("record", ["true", "false"])
def test_recourse(engine, product, record) -> None:
    values = example(product) | {"CreditScore": 420, "Balance": 0.0}
    answered = score(engine, product, values, f"?recourse=true&record={record}").json()
    found = answers.Outcome.model_validate_json(json.dumps(answered), extra="forbid").recourse
    assert found.best or found.nothing or found.suggestions
    for suggestion in found.suggestions:
        changed = values | {change.factor: change.new for change in suggestion.changes}
        assert score(engine, product, changed, "?record=false").json()["score"] == suggestion.score


def rows(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row for row, _ in zip(csv.DictReader(file), range(ROWS), strict=False)]


def test_the_form_and_the_api_give_the_same_bits(engine, product, bank_files) -> None:
    names = {entry.factor.name for entry in product.factors}
    for row in rows(bank_files[product.key]):
        text = {name: value for name, value in row.items() if name in names}
        typed = validate(product, text, Source.TEXT).all_values()
        sent = score(engine, product, typed, "?contributions=true").json()
        assert engine.client.post(f"/{product.key}/", data=text).status_code == 303
        kept = engine.client.get("/api/v1/decisions/latest").json()["outcome"]
        assert kept["decision"]["id"] != sent["decision"]["id"]
        assert kept | {"decision": None} == sent | {"decision": None}


def test_many_at_once(engine, product) -> None:
    good, bad = example(product), example(product) | {"CreditScore": "many", "Colour": "red"}
    path = f"/api/v1/{product.key}/scores?contributions=true"
    response = engine.client.post(path, json={"items": [good, bad, 7, good]})
    assert response.status_code == 200
    found = answers.Scores.model_validate_json(response.content, extra="forbid")
    assert (found.scored, found.refused) == (2, 2)
    assert [item.index for item in found.items] == [0, 1, 2, 3]
    assert {error.field: error.code for error in found.items[1].errors} == {
        "CreditScore": "not-a-number",
        "Colour": "unknown-field",
    }
    assert found.items[2].errors[0].code == "not-an-object"
    assert found.items[0].outcome.decision.id != found.items[3].outcome.decision.id
    alone = score(engine, product, good, "?contributions=true&record=false").json()
    assert response.json()["items"][0]["outcome"] | {"decision": None} == alone


def test_a_thousand_at_once(engine) -> None:
    items = [example(CHURN) | {"CustomerId": str(number), "Age": 18 + number % 60} for number in range(1000)]
    before = engine.services.audit.verify().decisions
    response = engine.client.post("/api/v1/churn/scores", json={"items": items})
    assert response.json()["scored"] == 1000
    assert engine.services.audit.verify().decisions == before + 1000
    response = engine.client.post("/api/v1/churn/scores", json={"items": [*items, items[0]]})
    assert response.status_code == 422
    assert response.json()["errors"][0] | {"message": ""} == {
        "in": "body",
        "field": "items",
        "code": "too-many",
        "message": "",
        "found": "1001 customers",
    }


def test_many_are_recorded_together_or_not_at_all(engine, monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("the chain's turn comes last")

    before = engine.services.decisions.latest(1)
    monkeypatch.setattr("bankportal.store.decisions.add_decisions", fail)
    response = engine.client.post("/api/v1/churn/scores", json={"items": [example(CHURN)] * 5})
    assert response.status_code == 500
    assert engine.services.decisions.latest(1) == before


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], "not-an-object"),
        ({}, "required"),
        ({"items": []}, "not-a-list"),
        ({"items": {}}, "not-a-list"),
        ({"items": [{}], "record": False}, "unknown-field"),
    ],
)
def test_many_wrongly_asked(engine, body, code) -> None:
    response = engine.client.post("/api/v1/churn/scores", json=body)
    assert response.status_code == 422
    assert response.json()["errors"][0]["code"] == code


def test_the_same_key_gives_the_same_answer(engine, product) -> None:
    first = score(engine, product, example(product), "?recourse=true", **{"Idempotency-Key": f"one-{product.key}"})
    again = score(engine, product, example(product), "?recourse=true", **{"Idempotency-Key": f"one-{product.key}"})
    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    other = score(engine, product, example(product), "?recourse=true", **{"Idempotency-Key": f"two-{product.key}"})
    assert other.json()["decision"]["id"] != first.json()["decision"]["id"]


def test_without_a_key_every_call_is_new(engine) -> None:
    one, other = (score(engine, CHURN, example(CHURN)).json()["decision"]["id"] for _ in range(2))
    assert one != other


def test_a_key_is_not_for_two_requests(engine) -> None:
    key = {"Idempotency-Key": "used"}
    assert score(engine, CHURN, example(CHURN), **key).status_code == 200
    before = engine.services.decisions.latest(1)
    for response in (
        score(engine, CHURN, example(CHURN) | {"Age": 50}, **key),
        score(engine, CHURN, example(CHURN), "?contributions=true", **key),
        score(engine, ALLOWANCE, example(ALLOWANCE), **key),
        engine.client.post("/api/v1/churn/scores", json={"items": [example(CHURN)]}, headers=key),
    ):
        assert response.status_code == 422
        assert response.json()["type"].endswith(":key-reused")
        assert "Idempotency-Key" in response.json()["detail"]
    assert engine.services.decisions.latest(1) == before


def test_a_key_is_not_spent_on_a_refusal(engine) -> None:
    key = {"Idempotency-Key": "spent?"}
    assert score(engine, CHURN, example(CHURN) | {"Age": 5}, **key).status_code == 422
    assert score(engine, CHURN, example(CHURN), **key).status_code == 200


def test_many_with_a_key(engine) -> None:
    body = {"items": [example(CHURN), {"Age": 5}, example(CHURN)]}
    first, again = (
        engine.client.post("/api/v1/churn/scores", json=body, headers={"Idempotency-Key": "many"}) for _ in range(2)
    )
    assert first.json()["scored"] == 2
    assert first.content == again.content


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "tab\there"])
def test_bad_keys(engine, key) -> None:
    response = score(engine, CHURN, example(CHURN), **{"Idempotency-Key": key})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "Idempotency-Key"
    assert response.json()["errors"][0]["in"] == "header"


def test_fifty_at_once_are_one_decision(engine, product) -> None:
    before = {each.id for each in engine.services.decisions.latest(1000)}
    with ThreadPoolExecutor(50) as threads:
        asked = [
            threads.submit(score, engine, product, example(product), **{"Idempotency-Key": f"fifty-{product.key}"})
            for _ in range(50)
        ]
        answered = [each.result() for each in asked]
    assert {response.status_code for response in answered} == {200}
    assert len({response.content for response in answered}) == 1
    after = {each.id for each in engine.services.decisions.latest(1000)}
    assert after - before == {answered[0].json()["decision"]["id"]}


def test_every_product_has_its_operations(engine) -> None:
    for each in PRODUCTS.values():
        assert engine.client.get(f"/api/v1/{each.key}/score").status_code == 405
