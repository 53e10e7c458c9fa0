"""Five thousand customers, as typed into the form, sent to the API on both engines and read from a file: equal bits."""

import csv
from typing import Any

import numpy as np
import pytest

from bankportal import wiring
from bankportal.cli.score import score_file
from bankportal.domain.batch import SCORED, State
from bankportal.domain.constraints import Source
from bankportal.domain.outcome import Outcome
from bankportal.domain.schema import Customer, validate
from bankportal.services.batches.chunks import REASONS
from bankportal.services.scoring import outcome_of
from bankportal.simulation.simulate import SIMULATORS
from tests.conftest import write_csv
from tests.shipped import BY_PAGE, PRODUCTS

ROWS = 2500  # of each product
AT_ONCE = 1000
ALONE = 150
SEED = 20
BLANK = 0.1
Found = tuple[Any, ...]


@pytest.fixture(scope="module")
def services(instance):
    """A portal with the models that all engines of this module have."""
    built = wiring.build(instance())
    yield built
    built.database.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file for each product: simulated customers, some of what may be left out blank."""
    folder = tmp_path_factory.mktemp("files")
    return {product.key: write_csv(folder / f"{product.key}.csv", columns(product)) for product in PRODUCTS.values()}


def columns(product) -> dict[str, list[Any]]:
    draw = np.random.default_rng(SEED)
    simulated = SIMULATORS[product.key](ROWS, SEED).columns
    required = {factor.name for factor in product.required}
    known = {
        entry.factor.name: simulated[entry.factor.name] for entry in product.factors if entry.factor.name in simulated
    }
    return {
        name: [
            None if name not in required and blank else value
            for value, blank in zip(values.tolist(), draw.random(ROWS) < BLANK, strict=True)
        ]
        for name, values in known.items()
    }


def read(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def form(services, files) -> dict[str, tuple[list[Customer], list[Outcome]]]:
    """What the form's service makes of each row, one at a time: the customer, and the outcome."""
    made = {}
    for product in PRODUCTS.values():
        model = services.models.serving(product)
        customers = [validate(product, row, Source.TEXT) for row in read(files[product.key])]
        outcomes = [outcome_of(customer, model) for customer in customers]
        made[product.key] = customers, outcomes
    return made


def test_the_customers_are_not_all_alike(form, product) -> None:
    """Else the comparisons below would prove less than they seem to."""
    customers, outcomes = form[product.key]
    assert len(outcomes) == ROWS
    assert {outcome.band for outcome in outcomes} == set(product.bands)
    assert len({outcome.score for outcome in outcomes}) > ROWS / 2
    assert any(None in customer.scored.values() for customer in customers)
    assert len({reason.sentence for outcome in outcomes for reason in outcome.reasons}) > 100
    if product.policy:
        assert len({outcome.limit.rule for outcome in outcomes if outcome.limit}) > 2


def expected(outcome: Outcome) -> Found:
    limit = vars(outcome.limit) if outcome.limit else None
    return outcome.score, outcome.band.name, limit, [vars(reason) for reason in outcome.reasons]


def told(outcome: dict[str, Any]) -> Found:
    return outcome["score"], outcome["band"], outcome["limit"], outcome["reasons"]


@pytest.mark.parametrize("record", ["true", "false"])
def test_the_api_many_at_once(engine, form, product, record) -> None:
    customers, outcomes = form[product.key]
    found = []
    for start in range(0, ROWS, AT_ONCE):
        items = [customer.all_values() for customer in customers[start : start + AT_ONCE]]
        path = f"/api/v1/{product.key}/scores?record={record}"
        response = engine.client.post(path, json={"items": items})
        assert response.status_code == 200, response.text
        found += [told(item["outcome"]) for item in response.json()["items"]]
    assert found == [expected(outcome) for outcome in outcomes]


@pytest.mark.parametrize("query", ["", "?record=false"])
def test_the_api_one_by_one(engine, form, product, query) -> None:
    customers, outcomes = form[product.key]
    for customer, outcome in list(zip(customers, outcomes, strict=True))[:: ROWS // ALONE]:
        response = engine.client.post(f"/api/v1/{product.key}/score{query}", json=customer.all_values())
        assert told(response.json()) == expected(outcome)


def test_a_file_through_the_worker(services, files, form, product) -> None:
    with files[product.key].open("rb") as file:
        job = services.batches.receive(product, "customers.csv", file, provenance=BY_PAGE)
    services.batches.check(job, services.batches.suggestion(job).mapping, start=True)
    while services.worker.step():
        pass
    job = services.batches.get(job.id)
    assert job.state is State.DONE
    assert_equal(read(services.batches.file(job, SCORED)), form[product.key][1])


def test_a_file_through_the_command(services, files, form, product, tmp_path) -> None:
    target = tmp_path / "scored.csv"
    assert score_file(services, product, str(files[product.key]), str(target), None) == (ROWS, 0)
    assert_equal(read(target), form[product.key][1])


def assert_equal(lines: list[dict[str, str]], outcomes: list[Outcome]) -> None:
    found = [
        (float(line["score"]), line["band"], _limit(line), [line[n] for n in REASONS if line[n]]) for line in lines
    ]
    assert found == [
        (
            outcome.score,
            outcome.band.name,
            (outcome.limit.amount, outcome.limit.rule) if outcome.limit else None,
            [reason.sentence for reason in outcome.reasons],
        )
        for outcome in outcomes
    ]


def _limit(line: dict[str, str]) -> tuple[float, str] | None:
    return (float(line["limit"]), line["limit_rule"]) if "limit" in line else None
