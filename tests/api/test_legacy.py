"""The older system's paths: off unless switched on; its spellings of values, its answers, its browsers."""

import pytest

from bankportal.api import legacy
from bankportal.api.calls import MAX_BODY_BYTES
from bankportal.config import ORIGIN, PREFIX, load
from bankportal.domain.constraints import Source
from bankportal.domain.errors import SettingsRefused
from bankportal.domain.outcome import Outcome
from bankportal.domain.policy import Limit
from bankportal.domain.products import Product
from bankportal.domain.schema import validate
from tests.api.conftest import ENGINES, running
from tests.shipped import ALLOWANCE, CHURN

CRM = "https://crm.bank.example"
SCORE = "/api/v1/churn/score"
CHURN_BODY = {
    "CustomerId": 15634602.0,
    "Age": 42.0,
    "CreditScore": 619.0,
    "Tenure": 2.0,
    "TransactionFrequency": 12.0,
    "AvgTransactionAmount": 88.5,
    "ComplaintsFiled": 1.0,
    "CustomerSatisfaction": 2.0,
    "HasLoan": True,
    "Balance": 125000.0,
}
ALLOWANCE_BODY = {
    "CreditScore": 720.0,
    "Gender": "Female",
    "Age": 42.0,
    "Tenure": 5.0,
    "Balance": 60000.0,
    "NumOfProducts": 2.0,
    "HasCrCard": True,
    "IsActiveMember": True,
    "EstimatedSalary": 90000.0,
}
BODIES = {"/predict_churn": CHURN_BODY, "/predict_allowance": ALLOWANCE_BODY}


@pytest.fixture(scope="module", params=ENGINES)
def older(request, instance):
    """One portal on each engine that keeps the older paths."""
    with running(request.param, instance(legacy_api=True, cors_origins=(CRM,))) as found:
        yield found


def test_it_works(older) -> None:
    response = older.client.post("/predict_churn", json=CHURN_BODY)
    assert response.status_code == 200
    values = CHURN_BODY | {"CustomerId": "15634602", "HasLoan": 1}
    expected = older.services.scoring.score(validate(CHURN, values, Source.TYPED))
    assert response.json() == {
        "CustomerId": 15634602.0,
        "probability": round(expected.score * 100, 2),
        "risk_level": expected.band.name,
        "prediction": "High chance of churn" if expected.score >= 0.5 else "Low chance of churn",
    }
    recorded = older.services.decisions.latest(1)[0]
    assert recorded.outcome.score == expected.score
    assert recorded.customer.identifiers["CustomerId"] == "15634602"


def test_allowance(older) -> None:
    response = older.client.post("/predict_allowance", json=ALLOWANCE_BODY)
    assert response.status_code == 200
    values = ALLOWANCE_BODY | {"HasCrCard": 1, "IsActiveMember": 1}
    expected = older.services.scoring.score(validate(ALLOWANCE, values, Source.TYPED))
    granted = expected.limit.amount > 0
    assert response.json() == {
        "prediction": "Allowance Approved" if granted else "Allowance Not Approved",
        "probability": round(expected.score * 100, 2),
        "status": expected.band.name if granted else "Ineligible",
    }


@pytest.mark.parametrize(
    ("score", "prediction", "band"),
    [
        (0.0, "Low chance of churn", "Low"),
        (0.4, "Low chance of churn", "Moderate"),
        (0.4999, "Low chance of churn", "Moderate"),
        (0.5, "High chance of churn", "Moderate"),
        (1.0, "High chance of churn", "Critical"),
    ],
)
def test_churn_in_the_older_systems_words(score, prediction, band) -> None:
    words = legacy.churn_answer({"CustomerId": 7}, outcome(CHURN, score))
    assert words == {
        "CustomerId": 7,
        "probability": round(score * 100, 2),
        "risk_level": band,
        "prediction": prediction,
    }


@pytest.mark.parametrize(
    ("score", "amount", "prediction", "status"),
    [
        (0.1, 0.0, "Allowance Not Approved", "Ineligible"),
        (0.85, 0.0, "Allowance Not Approved", "Ineligible"),
        (0.95, 0.0, "Allowance Not Approved", "Ineligible"),
        (0.85, 500.0, "Allowance Approved", "Standard"),
        (0.95, 500.0, "Allowance Approved", "Elite"),
    ],
)
def test_allowance_in_the_older_systems_words(score, amount, prediction, status) -> None:
    limit = Limit(amount, 5000.0, "band", None, counteroffer=False, obligations_assumed=False)
    words = legacy.allowance_answer(outcome(ALLOWANCE, score, limit))
    assert words == {"prediction": prediction, "probability": round(score * 100, 2), "status": status}


def outcome(product: Product, score: float, limit: Limit | None = None) -> Outcome:
    return Outcome(product, score, product.band(score), limit, (), score, {}, (), "v1", "0" * 64, None)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("HasLoan", 2, "not-a-flag"),
        ("HasLoan", "true", "not-a-flag"),
        ("Age", 42.5, "not-whole"),
        ("Age", True, "not-a-number"),
        ("Age", "42", "not-a-number"),
        ("CustomerId", 1.5, "not-text"),
        ("CustomerId", True, "not-text"),
        ("CustomerId", 1e300, "not-text"),
        ("customer_satisfaction", 1, "unknown-field"),
    ],
)
def test_the_same_refusals(older, name, value, code) -> None:
    response = older.client.post("/predict_churn", json=CHURN_BODY | {name: value})
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert [(error["field"], error["code"]) for error in response.json()["errors"]] == [(name, code)]


def test_keys_are_honoured(older) -> None:
    first, again = (
        older.client.post("/predict_churn", json=CHURN_BODY, headers={"Idempotency-Key": "older"}) for _ in range(2)
    )
    assert first.content == again.content
    other = older.client.post("/predict_churn", json=CHURN_BODY | {"Age": 43.0}, headers={"Idempotency-Key": "older"})
    assert other.status_code == 422


@pytest.mark.parametrize("accept", ["application/json", "*/*"])
def test_the_first_page_answers_as_a_service(older, accept) -> None:
    response = older.client.get("/", headers={"Accept": accept})
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["status"] == "running"
    assert response.json()["paths"] == list(BODIES)
    assert response.json()["message"] == "Elite Financial Intelligence Portal is running"
    assert older.client.get(response.json()["docs"]).status_code == 200


def test_browsers_still_get_the_first_page(older) -> None:
    response = older.client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert response.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("path", BODIES)
def test_pages_of_declared_origins_may_call(older, path) -> None:
    asks = {"Origin": CRM, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = older.client.options(path, headers=asks)
    assert preflight.status_code == 204
    assert {"content-length", "content-type"}.isdisjoint(preflight.headers)
    assert preflight.headers["Access-Control-Allow-Origin"] == CRM
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in preflight.headers["Access-Control-Allow-Headers"]
    for body, status in ((BODIES[path], 200), ({}, 422)):
        response = older.client.post(path, json=body, headers={"Origin": CRM})
        assert response.status_code == status
        assert response.headers["Access-Control-Allow-Origin"] == CRM
        assert response.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in response.headers


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b" " * (MAX_BODY_BYTES + 1), {}, 413),
        (b"{}", {"Host": "evil.example"}, 400),
        (b"{}", {"Content-Type": "a/b"}, 415),
    ],
)
def test_pages_of_declared_origins_can_read_every_refusal(older, content, headers, status) -> None:
    sent = {"Content-Type": "application/json", "Origin": CRM, **headers}
    response = older.client.post("/predict_churn", content=content, headers=sent)
    assert response.status_code == status
    assert response.headers["Access-Control-Allow-Origin"] == CRM
    assert "Access-Control-Allow-Origin" not in older.client.post(SCORE, content=content, headers=sent).headers


@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{CRM}.evil.example", CRM.upper()])
def test_pages_of_other_origins_may_not(older, origin) -> None:
    for response in (
        older.client.options("/predict_churn", headers={"Origin": origin}),
        older.client.post("/predict_churn", json=CHURN_BODY, headers={"Origin": origin}),
    ):
        assert "Access-Control-Allow-Origin" not in response.headers


def test_the_api_itself_is_shared_with_no_origin(older) -> None:
    response = older.client.get("/api/v1/products", headers={"Origin": CRM})
    assert "Access-Control-Allow-Origin" not in response.headers


def test_off_unless_switched_on(engine) -> None:
    for path, body in BODIES.items():
        assert engine.client.post(path, json=body).status_code == 404
    response = engine.client.get("/", headers={"Accept": "application/json"})
    assert response.headers["Content-Type"].startswith("text/html")


def test_settings(tmp_path) -> None:
    given = {f"{PREFIX}INSTANCE": str(tmp_path)}
    assert load(given).legacy_api is False
    assert load(given).cors_origins == ()
    origins = (CRM, "http://localhost:3000", "http://[::1]:3000", "null")
    given |= {f"{PREFIX}LEGACY_API": "1", f"{PREFIX}CORS_ORIGINS": ", ".join(origins)}
    assert load(given).legacy_api is True
    assert load(given).cors_origins == origins


@pytest.mark.parametrize(
    "origin", ["*", "NULL", "https://null/", "crm.bank.example", f"{CRM}/", "https://*.example", "ftp://a.example"]
)
def test_no_wide_origins(tmp_path, origin) -> None:
    assert not ORIGIN.fullmatch(origin)
    with pytest.raises(SettingsRefused, match="CORS_ORIGINS"):
        load({f"{PREFIX}INSTANCE": str(tmp_path), f"{PREFIX}CORS_ORIGINS": origin})
