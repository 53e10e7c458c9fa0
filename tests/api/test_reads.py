"""What the API tells of products, decisions, models and itself, on both engines."""

import pytest
from sqlalchemy import update

from bankportal import answers
from bankportal.api.schemas import customer_schema, example
from bankportal.domain.constraints import Number
from bankportal.store.tables import decisions
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS


def decide(engine, product, **changes) -> str:
    response = engine.client.post(f"/api/v1/{product.key}/score", json=example(product) | changes)
    return response.json()["decision"]["id"]


def read(engine, path: str, model) -> dict:
    response = engine.client.get(path)
    assert response.status_code == 200
    model.model_validate_json(response.content, extra="forbid")
    return response.json()


def test_products(engine) -> None:
    found = read(engine, "/api/v1/products", answers.Products)["items"]
    assert [each["key"] for each in found] == list(PRODUCTS)
    assert [band["name"] for band in found[0]["bands"]] == ["Low", "Moderate", "Critical"]
    assert [band["end"] for band in found[0]["bands"]] == [0.4, 0.7, 1.0]
    assert found[1]["policy_version"] == ALLOWANCE.policy.version


def test_the_factors_as_json_schema(engine, product) -> None:
    found = engine.client.get(f"/api/v1/products/{product.key}/schema").json()
    assert found == {"$schema": found["$schema"], **customer_schema(product)}
    assert found["required"] == [entry.factor.name for entry in product.factors if entry.required]
    for entry in product.factors:
        factor, told = entry.factor, found["properties"][entry.factor.name]
        assert told["title"] == factor.label
        assert told["x-unit"] == factor.unit
        assert factor.help in told["description"]
        assert factor.constraint.describe()[1:] in told["description"]
        if isinstance(factor.constraint, Number):
            kind = told if entry.required else told["anyOf"][0]
            assert (kind["minimum"], kind["maximum"]) == (factor.constraint.minimum, factor.constraint.maximum)


def test_decisions_page_by_page(engine) -> None:
    made = [decide(engine, product) for product in (CHURN, ALLOWANCE, CHURN, CHURN)][::-1]
    first = read(engine, "/api/v1/decisions?size=3", answers.Decisions)
    assert [each["id"] for each in first["items"]] == made[:3]
    assert first["items"][0]["outcome"]["contributions"] is None
    following = read(engine, f"/api/v1/decisions?size=1&before={first['next']}", answers.Decisions)
    assert [each["id"] for each in following["items"]] == made[3:]
    churn = read(engine, "/api/v1/decisions?product=churn&size=3", answers.Decisions)["items"]
    assert [each["id"] for each in churn] == [made[0], made[1], made[3]]


def test_the_latest_decision(engine) -> None:
    made = decide(engine, CHURN)
    assert read(engine, "/api/v1/decisions/latest", answers.Decision)["id"] == made
    assert read(engine, f"/api/v1/decisions/{made}", answers.Decision)["id"] == made


def test_a_decision_is_verified(engine) -> None:
    decide(engine, CHURN)
    made = decide(engine, ALLOWANCE)
    found = read(engine, f"/api/v1/decisions/{made}/verify", answers.Verdict)
    at = engine.services.decisions.receipt(made)
    receipt = {"number": at.number, "digest": at.digest, "previous": at.previous}
    assert found == {"decision": made, "intact": True, "receipt": receipt, "fault": None}
    assert read(engine, "/api/v1/decisions/latest/verify", answers.Verdict) == found


@pytest.mark.parametrize("edited", [{"score": 0.123}, {"band": "Other"}, {"scored": []}, {"scored": {}}, {"at": None}])
def test_an_edited_decision_is_found_out(engine, edited) -> None:
    _, made, following = (decide(engine, CHURN, Age=age) for age in (76, 77, 78))
    if edited == {"at": None}:
        with engine.services.database.write() as connection:
            connection.exec_driver_sql(
                f"UPDATE receipts SET previous = '{'0' * 64}' WHERE number > 1 AND "
                f"number = (SELECT number FROM decisions WHERE id = '{made}')"
            )
    else:
        with engine.services.database.write() as connection:
            connection.execute(update(decisions).where(decisions.c.id == made).values(edited))
    found = read(engine, f"/api/v1/decisions/{made}/verify", answers.Verdict)
    assert found["intact"] is False
    assert found["receipt"] is None
    assert found["fault"]
    assert read(engine, f"/api/v1/decisions/{following}/verify", answers.Verdict)["intact"]


def test_models(engine, product) -> None:
    listed = read(engine, "/api/v1/models", answers.ModelVersions)["items"]
    assert {(each["product"], each["version"]) for each in listed} == {("churn", "v1"), ("allowance", "v1")}
    one = read(engine, f"/api/v1/models/{product.key}/v1", answers.ModelVersion)
    assert one in listed
    assert one["active"]
    assert read(engine, f"/api/v1/models/{product.key}/active", answers.ModelVersion) == one


def test_health(engine) -> None:
    found = read(engine, "/api/v1/health", answers.Health)
    assert found == engine.client.get("/healthz").json()
    assert found["status"] == "ok"
