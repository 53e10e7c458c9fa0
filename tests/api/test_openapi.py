"""The OpenAPI document: valid, the same everywhere, complete."""

import re
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from bankportal import answers
from bankportal.api import openapi
from bankportal.api.calls import MULTIPART
from bankportal.api.operations import operations_of
from bankportal.api.parameters import described
from bankportal.api.schemas import example
from bankportal.client import AT_WORK
from bankportal.domain.batch import State
from tests.shipped import CARD_LIMIT_POLICY, PRODUCTS

OPERATIONS, DOCUMENT = operations_of(PRODUCTS), openapi.document(PRODUCTS)
GOLDEN = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_it_is_valid() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_the_validator_finds_faults() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT | {"info": {}}).iter_errors())


@pytest.mark.parametrize("path", ["/openapi.json", "/api/v1/openapi.json"])
def test_every_engine_serves_the_golden_copy(engine, path) -> None:
    response = engine.client.get(path)
    assert response.headers["Content-Type"] == "application/json"
    assert response.text == GOLDEN.read_text(encoding="utf-8")


def test_every_operation_is_in_it_with_an_example() -> None:
    found = {
        (method.upper(), path): operation
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    }
    assert set(found) == {(operation.method, operation.path) for operation in OPERATIONS}
    for operation in found.values():
        if "requestBody" in operation:
            for content in operation["requestBody"]["content"].values():
                assert content["examples"]
        for parameter in operation.get("parameters", []):
            assert parameter["in"] != "path" or "example" in parameter


def test_every_example_runs(engine) -> None:
    for operation in OPERATIONS:
        path = operation.path
        for parameter in described(operation.parameters, PRODUCTS):
            path = path.replace(f"{{{parameter.name}}}", str(parameter.example))
        bodies = operation.body.examples.values() if operation.body else [None]
        for body in bodies:
            form = operation.body is not None and operation.body.media == MULTIPART
            response = engine.client.request(operation.method, path, **(_form(body) if form else {"json": body}))
            while engine.services.worker.step():
                pass
            assert response.status_code == operation.answers[0].status, operation.id


def _form(body: dict) -> dict:
    fields = {name: value for name, value in body.items() if name != "file"}
    return {"data": fields, "files": {"file": ("customers.csv", body["file"])}}


def test_the_example_of_a_file_is_scored_and_told_to_be_saved(engine) -> None:
    (create,) = [operation for operation in OPERATIONS if operation.id == "create-batch"]
    (body,) = create.body.examples.values()
    url = engine.client.post(create.path, **_form(body)).json()["url"]
    while engine.services.worker.step():
        pass
    assert engine.client.get(url).json()["summary"]["scored"] == 1
    assert f"```csv\n{body['file']}```" in create.help


def test_the_example_of_an_answer_is_like_an_answer(engine, product) -> None:
    path = f"/api/v1/{product.key}/score"
    operation = DOCUMENT["paths"][path]["post"]
    (shown,) = operation["responses"]["200"]["content"]["application/json"]["examples"].values()
    assert "not a forest's" in shown["description"]
    told = answers.Outcome.model_validate(shown["value"], extra="forbid")
    found = engine.client.post(path, json=example(product)).json()
    assert _shape(shown["value"]) == _shape(found)
    assert told.band == product.band(told.score).name
    assert told.base + sum(reason.contribution for reason in told.reasons) <= told.score + 1e-6
    assert len(told.reasons) in range(1, 5)
    assert (told.limit is None) == (product.policy is None)


def _shape(outcome: dict) -> dict:
    """Return which fields an outcome has, and those of what is in them."""
    inner = {name: set(value) for name, value in outcome.items() if isinstance(value, dict)}
    return dict.fromkeys(outcome) | inner | {"reasons": set(outcome["reasons"][0])}


def test_factors_show_unit_bounds_and_meaning() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for product in PRODUCTS.values():
        properties = schemas[f"{product.title}Customer"]["properties"]
        for entry in product.factors:
            told = properties[entry.factor.name]["description"]
            assert entry.factor.help in told
            assert entry.factor.unit in told
            assert entry.factor.constraint.describe()[1:] in told


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (answers.Batch.model_fields["state"], {state.value for state in State}),
        (answers.Limit.model_fields["rule"], set(CARD_LIMIT_POLICY.rules)),
    ],
    ids=["states of a batch", "rules of a limit"],
)
def test_descriptions_name_what_the_domain_declares(field, words) -> None:
    """The client contains the answers but not the domain, so that these words stand in both."""
    assert set(re.findall(r"[a-z-]+", field.description.rpartition(":")[2])) - {"or"} == words
    assert {state.value for state in State} >= AT_WORK
