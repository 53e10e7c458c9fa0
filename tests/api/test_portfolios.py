"""A portal answers by its portfolio: a bank's own product, two portals in one process, changes while it runs."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
from fastapi.routing import APIRoute
from openapi_spec_validator import OpenAPIV31SpecValidator

from bankportal import answers, wiring
from bankportal.api.schemas import example
from bankportal.client import Portal
from bankportal.domain.declaration import Declaration, Kind
from bankportal.domain.portfolio import Portfolio, shipped_portfolio
from bankportal.domain.products import Product
from bankportal.resources import resource
from bankportal.services.declarations import NOTICED_WITHIN
from bankportal.store.declarations import Origin
from tests.api.conftest import ENGINES, Engine, address_of, running
from tests.home_equity import FILES, HOME_EQUITY, train_home_equity
from tests.shipped import ALLOWANCE, CHURN
from tests.test_web_declarations import declared_otherwise, with_roles

SCORE = "/api/v1/{}/score"
SHIPPED = resource("declarations")


@pytest.fixture(scope="module")
def home_equity_model(tmp_path_factory):
    """A forest of the bank's own product, of few trees."""
    return train_home_equity(tmp_path_factory.mktemp("home-equity"))


def put_in_force(engine: Engine, portfolio: Portfolio) -> None:
    """Record the declarations of a portfolio, so that decisions may stand on them, and let a portal have it at once."""
    store = engine.services.decisions.declarations
    products = [*portfolio.values(), *portfolio.withdrawn]
    declared = [Declaration(Kind.PRODUCT, product.key, product.text) for product in products]
    policies = [product.policy for product in products if product.policy]
    with store.changing() as connection:
        for each in (*declared, *(Declaration(Kind.POLICY, policy.key, policy.text) for policy in policies)):
            store.apply(connection, each, Origin.BANK, "system")
    let_have(engine, portfolio)


def let_have(engine: Engine, portfolio: Portfolio) -> None:
    """Let a portal have a portfolio whose declarations were recorded before."""
    engine.services.declarations.portfolio = lambda: portfolio


@pytest.fixture(params=ENGINES)
def portal(request, instance, home_equity_model) -> Iterator[Engine]:
    """A portal on each engine with the shipped products in force and models of the bank's own as well."""
    with running(request.param, instance()) as engine:
        engine.services.models.add(home_equity_model)
        yield engine


def get(engine: Engine, path: str, status: int = 200):
    response = engine.client.get(path)
    assert response.status_code == status, response.text
    return response.json()


def score(engine: Engine, product: Product, status: int = 200, **query) -> dict:
    response = engine.client.post(SCORE.format(product.key), json=example(product), params=query)
    assert response.status_code == status, response.text
    return response.json()


def routes(engine: Engine) -> set[str]:
    return {route.path for route in engine.asgi.routes if isinstance(route, APIRoute)}


def test_a_product_of_the_banks_own(portal) -> None:
    put_in_force(portal, Portfolio([*shipped_portfolio().values(), HOME_EQUITY]))
    answered = answers.Outcome.model_validate(score(portal, HOME_EQUITY, recourse="true", contributions="true"))
    assert answered.product == "home-equity"
    assert set(answered.contributions) == {factor.name for factor in HOME_EQUITY.scored}
    assert answered.limit.requested == 30000
    assert answered.policy_version == "2026-1"
    listed = get(portal, "/api/v1/products")["items"]
    assert [each["key"] for each in listed] == ["churn", "allowance", "home-equity"]
    assert listed[2]["model_version"] == "v1"
    assert get(portal, "/api/v1/products/home-equity/schema")["properties"]["Occupation"]
    assert get(portal, "/api/v1/health")["models"]["home-equity"] == "v1"
    assert list(OpenAPIV31SpecValidator(get(portal, "/openapi.json")).iter_errors()) == []


def test_a_new_product_answers_and_a_withdrawn_one_says_so(portal) -> None:
    assert score(portal, HOME_EQUITY, 404)["detail"] == "There is no such product."
    put_in_force(portal, Portfolio([CHURN, HOME_EQUITY], [ALLOWANCE]))
    assert score(portal, HOME_EQUITY)["product"] == "home-equity"
    for path in (SCORE.format("allowance"), "/api/v1/allowance/scores"):
        refused = portal.client.post(path, json=example(ALLOWANCE))
        assert refused.status_code == 404
        assert refused.headers["Content-Type"] == answers.PROBLEM_JSON
        assert refused.json()["detail"] == "Allowance was withdrawn, so nothing new is scored for it."
    assert "withdrawn" in get(portal, "/api/v1/products/allowance/schema", 404)["detail"]
    assert get(portal, "/api/v1/products/mortgage/schema", 404)["detail"] == "There is no such product."
    paths = set(get(portal, "/openapi.json")["paths"])
    assert {SCORE.format("home-equity"), SCORE.format("allowance")} & paths == {SCORE.format("home-equity")}
    if portal.asgi:
        assert routes(portal) == paths
        assert portal.asgi.openapi() == get(portal, "/openapi.json")
        assert portal.asgi.url_path_for("score-home-equity") == SCORE.format("home-equity")


def test_the_first_call_of_a_new_product_may_be_a_large_one(portal) -> None:
    get(portal, "/api/v1/products")
    put_in_force(portal, Portfolio([HOME_EQUITY]))
    items = [example(HOME_EQUITY) | {"CustomerId": "C" * 200}] * 1000
    content = (b" " * 1_200_000) + httpx.Request("POST", "http://x", json={"items": items}).content
    headers = {"Content-Type": answers.JSON}
    answered = portal.client.post("/api/v1/home-equity/scores", content=content, headers=headers)
    assert answered.status_code == 200
    assert answered.json()["refused"] == 1000


def test_what_a_withdrawn_product_left_is_read_as_before(portal) -> None:
    made, earlier = score(portal, ALLOWANCE), score(portal, CHURN)
    decision = get(portal, made["decision"]["url"])
    version = get(portal, "/api/v1/models/allowance/v1")
    form = {"product": "allowance"}, {"file": ("a.csv", file_of(ALLOWANCE), "text/csv")}
    url = portal.client.post("/api/v1/batches", data=form[0], files=form[1]).json()["url"]
    while portal.services.worker.step():
        pass
    batch, results = get(portal, url), portal.client.get(f"{url}/results").content

    put_in_force(portal, Portfolio([CHURN], [ALLOWANCE]))
    assert get(portal, made["decision"]["url"]) == decision
    assert get(portal, f"{made['decision']['url']}/verify")["intact"]
    assert [each["id"] for each in get(portal, "/api/v1/decisions")["items"]] == [
        earlier["decision"]["id"],
        decision["id"],
    ]
    assert [each["id"] for each in get(portal, "/api/v1/decisions?product=allowance")["items"]] == [decision["id"]]
    assert get(portal, "/api/v1/batches?product=allowance")["items"] == [batch]
    assert get(portal, url) == batch
    assert portal.client.get(f"{url}/results").content == results
    assert portal.client.get(f"{url}/rejects").status_code == 200
    assert get(portal, "/api/v1/models/allowance/v1") == version
    assert version in get(portal, "/api/v1/models")["items"]
    assert "withdrawn" in get(portal, "/api/v1/models/allowance/active", 404)["detail"]
    assert list(get(portal, "/api/v1/health")["models"]) == ["churn"]
    refused = portal.client.post("/api/v1/batches", data=form[0], files=form[1])
    assert refused.status_code == 422
    (problem,) = refused.json()["errors"]
    assert (problem["field"], problem["code"], problem["message"]) == ("product", "not-a-choice", "must be churn")


def test_what_an_earlier_declaration_left_is_read_in_its_own_words(portal) -> None:
    made = score(portal, CHURN)["decision"]["url"]
    decision = get(portal, made)
    moved = [band | {"start": band["start"] / 10} for band in renamed(CHURN)]
    put_in_force(portal, Portfolio([declared_otherwise(CHURN, bands=moved, title="Leaving"), ALLOWANCE]))
    assert get(portal, made) == decision
    assert get(portal, f"{made}/verify")["intact"]
    assert score(portal, CHURN)["band"].endswith(" (new)")
    newer, earlier = get(portal, "/api/v1/decisions?product=churn")["items"]
    assert earlier["outcome"]["band"] == decision["outcome"]["band"]
    assert newer["outcome"]["band"] != decision["outcome"]["band"]


def test_a_batch_ends_under_the_declaration_it_was_uploaded_under(portal) -> None:
    form = {"product": "churn", "start": "false"}, {"file": ("c.csv", file_of(CHURN), "text/csv")}
    urls = [portal.client.post("/api/v1/batches", data=form[0], files=form[1]).json()["url"] for _ in range(2)]
    portal.services.worker.step()
    put_in_force(portal, Portfolio([ALLOWANCE], [CHURN]))
    while portal.services.worker.step():
        pass
    for url in urls:
        started = portal.client.post(f"{url}/start")
        assert started.status_code in {200, 409}, started.text
        while portal.services.worker.step():
            pass
        batch = get(portal, url)
        assert batch["product"] == "churn"
        assert batch["state"] in {"checked", "done"}
        assert portal.client.post(f"{url}/cancel").status_code == 200
        assert set((batch["summary"] or {"bands": {}})["bands"]) <= {band.name for band in CHURN.bands}


def file_of(product: Product) -> str:
    values = {name: value for name, value in example(product).items() if value is not None}
    return f"{','.join(values)}\n{','.join(map(str, values.values()))}\n"


def test_two_portals_in_one_process_answer_each_by_its_own(instance, home_equity_model) -> None:
    """On both engines at the same time, call by call in turn."""
    own = Portfolio([HOME_EQUITY, declared_otherwise(CHURN, bands=renamed(CHURN))])
    with (
        running("flask", instance()) as flask_shipped,
        running("flask", instance()) as flask_own,
        running("fastapi", instance()) as fastapi_shipped,
        running("fastapi", instance()) as fastapi_own,
    ):
        for engine in (flask_own, fastapi_own):
            engine.services.models.add(home_equity_model)
            put_in_force(engine, own)
        for _ in range(3):
            for engine in (flask_shipped, flask_own, fastapi_shipped, fastapi_own):
                portfolio = own if engine in (flask_own, fastapi_own) else shipped_portfolio()
                assert [each["key"] for each in get(engine, "/api/v1/products")["items"]] == list(portfolio)
                assert list(get(engine, "/api/v1/health")["models"]) == list(portfolio)
                names = {band.name for band in portfolio["churn"].bands}
                assert score(engine, CHURN, record="false")["band"] in names
                score(engine, HOME_EQUITY, 200 if "home-equity" in portfolio else 404, record="false")
                score(engine, ALLOWANCE, 200 if "allowance" in portfolio else 404, record="false")
                paths = get(engine, "/openapi.json")["paths"]
                assert {path.split("/")[3] for path in paths if path.endswith("/score")} == set(portfolio)


def renamed(product: Product) -> list[dict]:
    """Return the bands of its declaration with other names."""
    return [band | {"name": f"{band['name']} (new)"} for band in json.loads(product.text)["bands"]]


def test_where_the_operations_cannot_be_made_those_before_go_on(portal, capsys) -> None:
    score(portal, CHURN)
    let_have(portal, Portfolio([CHURN, unfinished()]))
    for _ in range(3):
        assert score(portal, CHURN)["product"] == "churn"
        assert [each["key"] for each in get(portal, "/api/v1/products")["items"]] == ["churn", "allowance"]
    assert capsys.readouterr().out.count("operations on the new declarations cannot be made") == 1
    put_in_force(portal, Portfolio([CHURN, HOME_EQUITY]))
    assert score(portal, HOME_EQUITY)["product"] == "home-equity"


def unfinished() -> Product:
    """Return a product for which no operation can be made: its required factor has no example."""
    first, *others = HOME_EQUITY.required
    return replace(HOME_EQUITY, required=(replace(first, example=""), *others))


@pytest.mark.parametrize("query", ["", "?record=false"], ids=["in groups", "by itself"])
def test_changes_under_load_lose_no_call(portal, query) -> None:
    """Each call is answered wholly by one declaration: bands renamed and cut-offs moved go together."""
    moved = [band | {"start": band["start"] / 10} for band in renamed(CHURN)]
    other = declared_otherwise(CHURN, bands=moved, title="Leaving")
    variants = Portfolio([CHURN, HOME_EQUITY]), Portfolio([other, ALLOWANCE], [HOME_EQUITY])
    for portfolio in variants:
        put_in_force(portal, portfolio)
    bands = {product.title: {band.name for band in product.bands} for product in (CHURN, other)}
    stopping = threading.Event()

    def change() -> None:
        for portfolio in itertools.cycle(variants):
            let_have(portal, portfolio)
            if stopping.wait(0.01):
                return

    def call(number: int) -> str:
        values = example(CHURN) | {"Age": 20 + number % 50}
        answered = portal.client.post(f"/api/v1/churn/score{query}", json=values)
        assert answered.status_code == 200, answered.text
        outcome = answered.json()
        product = CHURN if outcome["band"] in bands["Churn"] else other
        assert outcome["band"] == product.band(outcome["score"]).name
        listed = {each["key"]: each for each in portal.client.get("/api/v1/products").json()["items"]}
        assert {band["name"] for band in listed["churn"]["bands"]} == bands[listed["churn"]["title"]]
        assert len(listed) == 2
        assert portal.client.post(SCORE.format("allowance"), json=example(ALLOWANCE)).status_code in {200, 404}
        return product.title

    changing = threading.Thread(target=change)
    changing.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            seen = set(pool.map(call, range(120)))
    finally:
        stopping.set()
        changing.join()
    assert seen == set(bands)


def test_the_client_scores_a_product_of_the_banks_own(portal) -> None:
    put_in_force(portal, Portfolio([HOME_EQUITY, CHURN]))
    with address_of(portal) as address, Portal(address) as client:
        answer = client.score("home-equity", example(HOME_EQUITY))
        assert (answer.product, answer.limit.requested) == ("home-equity", 30000)
        assert client.decision(answer.decision.id).outcome.score == answer.score
        assert [each.id for each in client.decisions("home-equity")] == [answer.decision.id]
        assert [each.key for each in client.products()] == ["home-equity", "churn"]


@pytest.mark.parametrize("name", ENGINES)
def test_the_older_systems_paths_are_of_products_that_are_in_force(name, instance) -> None:
    own = with_roles(CHURN, identifiers=["Surname"])
    with running(name, instance(legacy_api=True)) as older:
        put_in_force(older, Portfolio([own], [ALLOWANCE]))
        refused = older.client.post("/predict_allowance", json=example(ALLOWANCE))
        assert (refused.status_code, refused.headers["Content-Type"]) == (404, answers.PROBLEM_JSON)
        assert "withdrawn" in refused.json()["detail"]
        service = older.client.get("/", headers={"Accept": answers.JSON}).json()
        assert service["paths"] == ["/predict_churn"]
        answered = older.client.post("/predict_churn", json=example(own) | {"Surname": 77.0})
        assert answered.status_code == 200
        assert answered.json()["CustomerId"] == 77.0
        put_in_force(older, Portfolio([HOME_EQUITY]))
        assert older.client.post("/predict_churn", json={}).json()["detail"] == "There is no such product."
        assert older.client.get("/predict_churn").status_code == 404


def test_a_running_portal_follows_what_another_process_applies(portal, home_equity_model) -> None:
    """API, document and pages, within a second; what was decided before stays readable."""
    other = wiring.build(portal.services.config)
    made = score(portal, ALLOWANCE)["decision"]["url"]
    decision = get(portal, made)
    other.declarations.apply({path.name: path.read_bytes() for path in FILES}, without_model=True)
    await_status(portal, "/api/v1/products/home-equity/schema", 200)
    assert portal.client.get("/home-equity/").status_code == 200
    answer = score(portal, HOME_EQUITY)
    assert SCORE.format("home-equity") in get(portal, "/openapi.json")["paths"]

    changed = (SHIPPED / "churn.toml").read_bytes().replace(b'"Moderate"', b'"Wavering"').replace(b"0.4", b"0.0001")
    other.declarations.apply({"churn.toml": changed})
    other.declarations.withdraw("allowance")
    other.declarations.withdraw("home-equity")
    await_status(portal, "/api/v1/products/home-equity/schema", 404)
    assert "withdrawn" in score(portal, ALLOWANCE, 404)["detail"]
    assert score(portal, CHURN)["band"] in {"Low", "Wavering", "Critical"}
    assert [band["name"] for band in get(portal, "/api/v1/products")["items"][0]["bands"]][1] == "Wavering"
    for path in (made, answer["decision"]["url"]):
        assert get(portal, f"{path}/verify")["intact"]
    assert get(portal, made) == decision
    if portal.asgi:
        assert SCORE.format("home-equity") not in routes(portal)
    portal.services.audit.verify()
    other.database.close()


def await_status(engine: Engine, path: str, status: int) -> None:
    """Wait until a path answers with a status, which must be within a second or little more."""
    until = time.monotonic() + NOTICED_WITHIN + 0.5
    while engine.client.get(path).status_code != status:
        assert time.monotonic() < until, f"{path} does not answer {status}"
        time.sleep(0.02)
