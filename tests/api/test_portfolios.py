"""A portal answers by its portfolio: a bank's own product, two portals in one process, changes while it runs."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType

import httpx
import numpy as np
import pytest
from fastapi.routing import APIRoute
from openapi_spec_validator import OpenAPIV31SpecValidator

from bankportal import answers
from bankportal.api.schemas import example
from bankportal.client import Portal
from bankportal.domain.constraints import Choice, Number, Text, YesNo
from bankportal.domain.factors import Changeability, Direction, Factor, Group, Phrase
from bankportal.domain.policy import LimitPolicy
from bankportal.domain.portfolio import Portfolio, shipped_portfolio
from bankportal.domain.products import Band, Label, Product, Reference, Tone, Verb
from tests.api.conftest import ENGINES, Engine, address_of, running
from tests.conftest import plant_few_trees, write_csv
from tests.shipped import ALLOWANCE, CHURN

SCORE = "/api/v1/{}/score"


def _number(name: str, minimum: float, maximum: float, example: str, **more) -> Factor:
    return Factor(
        name=name,
        label=name,
        group=Group.PROFILE,
        constraint=Number(minimum=minimum, maximum=maximum),
        help=f"{name}.",
        example=example,
        phrase=Phrase(many=f"{name} of {{value}}", unknown=f"{name} unknown"),
        **more,
    )


INCOME = _number("YearlyIncome", 0, 1e8, "84000", unit="CHF a year")
DEBTS = _number("MonthlyDebts", 0, 1e7, "900", unit="CHF a month")
LOAN_TO_VALUE = _number(
    "LoanToValue", 0, 500, "64", change=Changeability(direction=Direction.DOWN, effort=1 / 5, step=1)
)
WISH = Factor(
    name="Wish",
    label="Wish",
    group=Group.PROFILE,
    constraint=Number(minimum=5000, maximum=1e8),
    help="What is wished for.",
    example="50000",
)
REGION = Factor(
    name="Region",
    label="Region",
    group=Group.PROFILE,
    constraint=Choice(options=("North", "South")),
    help="Where it stands.",
    example="South",
    phrase=Phrase(many="A house in the {value}", unknown="An unknown region"),
)
OWNER = Factor(
    name="Owner",
    label="Owner",
    group=Group.PROFILE,
    constraint=YesNo(),
    help="Owns a house already.",
    example="1",
    phrase=Phrase(one="Owning a house", zero="Owning no house", unknown="Not knowing of a house"),
)
CONTRACT = Factor(
    name="Contract",
    label="Contract",
    group=Group.PROFILE,
    constraint=Text(longest=20),
    help="Its number.",
    example="C-7",
)
POLICY = LimitPolicy(
    key="mortgage-limit",
    version="1",
    band_months=MappingProxyType({"No": 0.0, "Yes": 20.0}),
    living_share=0.5,
    unknown_obligations_share=0.2,
    minimum_payment=0.01,
    payment_share=0.5,
    step=1000,
    smallest=5000,
    salary="YearlyIncome",
    obligations="MonthlyDebts",
    requested="Wish",
)
HOME_EQUITY = Product(
    key="home-equity",
    title="Home equity",
    question="How much can this house carry?",
    quantity="the likelihood of repaying",
    decides_credit=True,
    required=(LOAN_TO_VALUE, INCOME),
    optional=(DEBTS, REGION, OWNER),
    policy_factors=(WISH,),
    protected=(),
    identifiers=(CONTRACT,),
    label=Label(name="Paid", meaning="it was paid back"),
    bands=(
        Band(name="No", start=0.0, tone=Tone.BAD, meaning="Too uncertain."),
        Band(name="Yes", start=0.5, tone=Tone.GOOD, meaning="Likely to repay."),
    ),
    raises=Verb("speaks for repaying", "speak for repaying"),
    lowers=Verb("speaks against repaying", "speak against repaying"),
    reference=Reference("all customers of the training data"),
    policy=POLICY,
    currency="CHF",
)


@pytest.fixture(scope="module")
def home_equity_model(tmp_path_factory):
    """A forest of the bank's own product, of few trees."""
    from bankportal.data.reading import read
    from bankportal.training.training import train

    rows, generator = 800, np.random.default_rng(5)
    ltv, income = generator.uniform(20, 120, rows).round(1), generator.uniform(2e4, 2e5, rows).round()
    chance = 1 / (1 + np.exp((ltv - 75) / 25 - (income - 1e5) / 5e4))
    columns = {
        "LoanToValue": ltv,
        "YearlyIncome": income,
        "MonthlyDebts": generator.uniform(0, 3000, rows).round(),
        "Region": np.where(generator.random(rows) < 0.5, "North", "South"),
        "Owner": generator.integers(0, 2, rows),
        "Paid": (generator.random(rows) < chance).astype(int),
    }
    path = write_csv(tmp_path_factory.mktemp("data") / "home-equity.csv", columns)
    with pytest.MonkeyPatch.context() as patch:
        plant_few_trees(patch)
        return train(read(path, HOME_EQUITY), seed=1)


def put_in_force(engine: Engine, portfolio: Portfolio) -> None:
    """Let a portal have another portfolio, at once."""
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
    assert answered.limit.requested == 50000
    assert answered.policy_version == "1"
    listed = get(portal, "/api/v1/products")["items"]
    assert [each["key"] for each in listed] == ["churn", "allowance", "home-equity"]
    assert listed[2]["model_version"] == "v1"
    assert get(portal, "/api/v1/products/home-equity/schema")["properties"]["Region"]
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
    items = [example(HOME_EQUITY) | {"Contract": "C" * 200}] * 1000
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


def file_of(product: Product) -> str:
    values = {name: value for name, value in example(product).items() if value is not None}
    return f"{','.join(values)}\n{','.join(map(str, values.values()))}\n"


def test_two_portals_in_one_process_answer_each_by_its_own(instance, home_equity_model) -> None:
    """On both engines at the same time, call by call in turn."""
    own = Portfolio([HOME_EQUITY, replace(CHURN, bands=renamed(CHURN))])
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


def renamed(product: Product) -> tuple[Band, ...]:
    return tuple(replace(band, name=f"{band.name} (new)") for band in product.bands)


@pytest.mark.parametrize("query", ["", "?record=false"], ids=["in groups", "by itself"])
def test_changes_under_load_lose_no_call(portal, query) -> None:
    """Each call is answered wholly by one declaration: bands renamed and cut-offs moved go together."""
    moved = [band if not band.start else replace(band, start=band.start / 10) for band in renamed(CHURN)]
    other = replace(CHURN, bands=tuple(moved), title="Leaving")
    variants = Portfolio([CHURN, HOME_EQUITY]), Portfolio([other, ALLOWANCE], [HOME_EQUITY])
    bands = {product.title: {band.name for band in product.bands} for product in (CHURN, other)}
    stopping = threading.Event()

    def change() -> None:
        for portfolio in itertools.cycle(variants):
            put_in_force(portal, portfolio)
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
        assert (answer.product, answer.limit.requested) == ("home-equity", 50000)
        assert [each.key for each in client.products()] == ["home-equity", "churn"]


@pytest.mark.parametrize("name", ENGINES)
def test_the_older_systems_paths_are_of_products_that_are_in_force(name, instance) -> None:
    own = replace(CHURN, identifiers=(CONTRACT,), protected=())
    with running(name, instance(legacy_api=True)) as older:
        put_in_force(older, Portfolio([own], [ALLOWANCE]))
        refused = older.client.post("/predict_allowance", json=example(ALLOWANCE))
        assert (refused.status_code, refused.headers["Content-Type"]) == (404, answers.PROBLEM_JSON)
        assert "withdrawn" in refused.json()["detail"]
        service = older.client.get("/", headers={"Accept": answers.JSON}).json()
        assert service["paths"] == ["/predict_churn"]
        answered = older.client.post("/predict_churn", json=example(own) | {"Contract": 77.0})
        assert answered.status_code == 200
        assert answered.json()["CustomerId"] == 77.0
        put_in_force(older, Portfolio([HOME_EQUITY]))
        assert older.client.post("/predict_churn", json={}).json()["detail"] == "There is no such product."
        assert older.client.get("/predict_churn").status_code == 404
