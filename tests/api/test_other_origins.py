"""Requests that a browser sends for pages of other origins: refused on both engines, by the API and by the pages."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bankportal.api.operations import operations_of
from bankportal.api.schemas import example
from bankportal.origins import SAFE_METHODS
from tests.api.conftest import ENGINES, Engine, running
from tests.api.test_legacy import BODIES, CHURN_BODY, CRM
from tests.api.test_refusals import problem
from tests.shipped import CHURN, PRODUCTS

EVIL = "https://evil.example"
FOREIGN = [
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "same-origin", "Origin": EVIL},
    {"Sec-Fetch-Site": "none", "Origin": "null"},
]
FORM = {"CreditScore": "650", "Age": "42", "Tenure": "5", "Balance": "48200"}
CSV = b"CreditScore,Age,Tenure,Balance\n650,42,5,48200\n"


def own_origin(engine: Engine) -> str:
    return str(engine.client.base_url).rstrip("/")


def acts(engine: Engine) -> tuple[int, int]:
    """Count what was recorded: decisions and batches."""
    return len(engine.services.decisions.latest(1000)), len(engine.services.batches.page(None, None, 1000).items)


def score(engine: Engine, headers: Mapping[str, str]) -> Any:
    return engine.client.post("/api/v1/churn/score", json=example(CHURN), headers=headers)


def upload(engine: Engine, headers: Mapping[str, str]) -> Any:
    files = {"file": ("a.csv", CSV)}
    return engine.client.post("/api/v1/batches", data={"product": "churn"}, files=files, headers=headers)


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize("act", [score, upload])
def test_it_works(engine, act, headers) -> None:
    before = acts(engine)
    refused = problem(act(engine, headers), 403, "foreign-origin")
    assert own_origin(engine) in refused.detail
    assert acts(engine) == before


@pytest.mark.parametrize("act", [score, upload])
@pytest.mark.parametrize("site", ["", "same-origin", "none"])
@pytest.mark.parametrize("origin", [False, True])
def test_programs_and_own_pages_are_let_in(engine, act, site, origin) -> None:
    headers = ({"Sec-Fetch-Site": site} if site else {}) | ({"Origin": own_origin(engine)} if origin else {})
    assert act(engine, headers).status_code in {200, 202}


@pytest.mark.parametrize(
    "operation", [each for each in operations_of(PRODUCTS) if each.method not in SAFE_METHODS], ids=lambda o: o.id
)
def test_no_operation_that_acts_is_forgotten(engine, operation) -> None:
    path = operation.path.replace("{id}", "latest")
    problem(engine.client.request(operation.method, path, headers={"Origin": EVIL}), 403, "foreign-origin")
    assert 403 in operation.errors


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1/products", "/openapi.json"])
def test_nothing_is_said_of_what_there_is(engine, path) -> None:
    problem(engine.client.post(path, headers={"Origin": EVIL}), 403, "foreign-origin")


@pytest.mark.parametrize("path", ["/churn/", "/churn/preview", "/batches/", "/batches/0/start", "/nothing", "/healthz"])
@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_pages_refuse_by_the_same_rule(engine, path, headers) -> None:
    before = acts(engine)
    response = engine.client.post(path, data=FORM, headers=headers)
    assert (response.status_code, response.headers["Content-Type"]) == (403, "text/html; charset=utf-8")
    assert "Not for pages of another origin" in response.text
    assert acts(engine) == before


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}], ids=str)
def test_own_forms_are_let_in(engine, headers) -> None:
    for more in ({}, {"Origin": own_origin(engine)}):
        assert engine.client.post("/churn/preview", data=FORM, headers={**headers, **more}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/churn/", "/api/v1/products", "/docs", "/healthz"])
def test_everybody_may_look(engine, path) -> None:
    headers = {"Origin": EVIL, "Sec-Fetch-Site": "cross-site", "Accept": "text/html"}
    assert engine.client.get(path, headers=headers).status_code == 200


@pytest.fixture(scope="module", params=ENGINES)
def older(request, instance) -> Iterator[Engine]:
    """One portal on each engine that keeps the older paths, for one page and for pages opened from a file."""
    with running(request.param, instance(legacy_api=True, cors_origins=(CRM, "null"))) as found:
        yield found


@pytest.mark.parametrize("origin", [CRM, "null"])
@pytest.mark.parametrize("path", BODIES)
def test_the_older_paths_are_open_to_declared_origins(older, path, origin) -> None:
    headers = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
    response = older.client.post(path, json=BODIES[path], headers=headers)
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize(
    "headers", [*FOREIGN[3:5], {"Origin": EVIL}, {"Origin": CRM.upper()}, {"Origin": f"{CRM}:443"}]
)
def test_the_older_paths_are_open_to_no_other_page(older, headers) -> None:
    before = acts(older)
    response = older.client.post("/predict_churn", json=CHURN_BODY, headers=headers)
    problem(response, 403, "foreign-origin")
    assert "Access-Control-Allow-Origin" not in response.headers
    assert acts(older) == before


@pytest.mark.parametrize("path", ["/api/v1/churn/score", "/api/v1/batches", "/churn/", "/", "/predict_churn/"])
def test_declared_origins_may_use_nothing_else(older, path) -> None:
    assert older.client.post(path, json={}, headers={"Origin": CRM}).status_code == 403


@pytest.mark.parametrize("engine_name", ENGINES)
def test_declared_origins_without_the_older_paths_may_use_nothing(engine_name, instance) -> None:
    with running(engine_name, instance(cors_origins=(CRM,))) as engine:
        assert engine.client.post("/predict_churn", json={}, headers={"Origin": CRM}).status_code == 403
