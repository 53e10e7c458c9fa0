"""Parameters: read and described by one declaration, and the fingerprint that a key is bound to."""

import io
import json

import pytest

from bankportal.answers import KEY
from bankportal.api.calls import Call, Operation
from bankportal.api.operations import operations_of
from bankportal.api.parameters import Keyed, OfVersion, Page, ScoreOne, declared, described
from bankportal.api.problems import Refused
from bankportal.api.reading import parse
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS

OPERATIONS = operations_of(PRODUCTS)
SCORE = next(operation for operation in OPERATIONS if operation.id == "score-churn")
LIST = next(operation for operation in OPERATIONS if operation.id == "list-decisions")


def call(operation: Operation, query: str = "", **headers: str) -> Call:
    content = io.BytesIO(b'{"Age": 50}')
    sent = {"content-type": "application/json"} | {name.replace("_", "-"): text for name, text in headers.items()}
    return Call(operation.method, operation.path, query, sent, content)


def test_it_works() -> None:
    read = parse(LIST, PRODUCTS, {}, call(LIST, "product=allowance&size=7")).parameters
    assert read == Page.model_validate({"product": ALLOWANCE.key, "size": "7"}, context=PRODUCTS)
    assert (read.product, read.before, read.size) == (ALLOWANCE, None, 7)
    defaults = parse(SCORE, PRODUCTS, {}, call(SCORE)).parameters
    assert (defaults.record, defaults.contributions, defaults.recourse, defaults.key) == (True, False, False, None)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_the_path_names_the_parameters_of_the_path(operation) -> None:
    named = {parameter.name for parameter in declared(operation.parameters) if parameter.place == "path"}
    assert named == {part.strip("{}") for part in operation.path.split("/") if part.startswith("{")}


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_each_parameter_is_refused_in_the_words_that_describe_it(operation) -> None:
    wrong = "\x00"  # no parameter may be that
    taken = described(operation.parameters, PRODUCTS)
    path, query, header = (
        {parameter.name: parameter for parameter in taken if parameter.place == place}
        for place in ("path", "query", "header")
    )
    headers = {name.lower().replace("-", "_"): wrong for name in header}
    if not taken:
        return
    sent = call(operation, "&".join(f"{n}=%00" for n in query), **headers)
    with pytest.raises(Refused) as refused:
        parse(operation, PRODUCTS, dict.fromkeys(path, wrong), sent)
    assert refused.value.code == ("not-found" if path else "invalid-parameter")
    told = {problem.field: (problem.place, problem.message) for problem in refused.value.problems}
    assert told == {each.name: (each.place, f"must be {each.schema['description']}") for each in taken}


def test_no_parameter_can_be_null() -> None:
    for operation in OPERATIONS:
        for parameter in described(operation.parameters, PRODUCTS):
            assert "null" not in json.dumps(parameter.schema)


def test_a_parameter_of_another_place_is_unknown() -> None:
    with pytest.raises(Refused) as refused:
        parse(SCORE, PRODUCTS, {}, call(SCORE, f"{KEY}=one"))
    assert [(each.field, each.code) for each in refused.value.problems] == [(KEY, "unknown-parameter")]


def test_the_path_knows_its_product() -> None:
    version = OfVersion.model_validate({"product": "churn", "version": "v1"}, context=PRODUCTS)
    assert version.product is CHURN


def test_a_key_is_bound_to_the_same_bytes_as_ever() -> None:
    """Keys never expire: those of earlier releases must fit the same request."""
    request = parse(SCORE, PRODUCTS, {}, call(SCORE, "contributions=true", idempotency_key="one"))
    assert request.parameters == ScoreOne.model_validate({KEY: "one", "contributions": "true"})
    assert request.fingerprint("POST /api/v1/churn/score") == (
        b'POST /api/v1/churn/score\n{"contributions":true,"record":true,"recourse":false}\n{"Age": 50}'
    )
    assert Keyed.model_validate({KEY: "one"}).model_dump(exclude={"key"}) == {}
