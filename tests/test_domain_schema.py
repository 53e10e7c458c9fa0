import math
from dataclasses import replace

import pytest

from bankportal.domain.constraints import Number, Source
from bankportal.domain.errors import InvalidInput
from bankportal.domain.products import Role
from bankportal.domain.schema import schema, validate
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS

EXAMPLES = {
    product.key: {product_factor.factor.name: product_factor.factor.example for product_factor in product.factors}
    for product in PRODUCTS.values()
}
REQUIRED = [
    (product, product_factor)
    for product in PRODUCTS.values()
    for product_factor in product.factors
    if product_factor.required
]


def problems(product, raw, source=Source.TYPED):
    with pytest.raises(InvalidInput) as caught:
        validate(product, raw, source)
    return {problem.field: problem.code for problem in caught.value.problems}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.get)
def test_it_works(product) -> None:
    customer = validate(product, EXAMPLES[product.key], Source.TEXT)
    assert set(customer.all_values()) == {product_factor.factor.name for product_factor in product.factors}
    assert list(customer.scored) == [factor.name for factor in product.scored]


def test_both_sources_give_the_same_customer() -> None:
    text = validate(CHURN, EXAMPLES["churn"], Source.TEXT)
    typed = validate(CHURN, text.all_values(), Source.TYPED)
    assert typed == text
    assert {name: type(value) for name, value in typed.scored.items()} == {
        name: type(value) for name, value in text.scored.items()
    }


@pytest.mark.parametrize(("product", "product_factor"), REQUIRED, ids=[f"{p.key}-{e.factor.name}" for p, e in REQUIRED])
@pytest.mark.parametrize("blank", ["", "  ", None, "absent"])
def test_required_factors(product, product_factor, blank) -> None:
    raw = EXAMPLES[product.key] | {product_factor.factor.name: blank}
    if blank == "absent":
        del raw[product_factor.factor.name]
    assert problems(product, raw, Source.TEXT) == {product_factor.factor.name: "required"}


def test_all_else_may_be_blank() -> None:
    for product in PRODUCTS.values():
        raw = {
            product_factor.factor.name: product_factor.factor.example if product_factor.required else ""
            for product_factor in product.factors
        }
        customer = validate(product, raw, Source.TEXT)
        assert {name for name, value in customer.all_values().items() if value is not None} == {
            product_factor.factor.name for product_factor in product.factors if product_factor.required
        }


def test_white_space_is_no_typed_number() -> None:
    typed = validate(CHURN, EXAMPLES["churn"], Source.TEXT).all_values()
    assert problems(CHURN, typed | {"HasLoan": "", "Balance": " ", "Geography": ""}) == {
        "HasLoan": "not-a-flag",
        "Balance": "not-a-number",
        "Geography": "not-a-choice",
    }
    assert validate(CHURN, typed | {"Surname": " "}, Source.TYPED).identifiers["Surname"] is None
    assert problems(CHURN, typed | {"Surname": "\n", "CustomerId": 7}) == {
        "Surname": "not-text",
        "CustomerId": "not-text",
    }


def test_unknown_fields_are_named() -> None:
    values = validate(CHURN, EXAMPLES["churn"], Source.TEXT).all_values()
    assert problems(CHURN, values | {"Colour": "red"}) == {"Colour": "unknown-field"}


@pytest.mark.parametrize(
    ("sent", "quoted"),
    [
        (True, "true"),
        ([1, None], "[1, null]"),
        ({"a": "ä"}, '{"a": "ä"}'),
        (1e400, "Infinity"),
        ("42 ", "42 "),
        (None, ""),
    ],
    ids=repr,
)
def test_a_problem_quotes_the_value_as_it_was_sent(sent, quoted) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(CHURN, {"Unheard": sent}, Source.TYPED)
    assert [problem.value for problem in caught.value.problems if problem.field == "Unheard"] == [quoted]


def test_all_problems_come_at_once() -> None:
    raw = EXAMPLES["churn"] | {"Age": "old", "CreditScore": "9999", "HasLoan": "maybe"}
    assert problems(CHURN, raw, Source.TEXT) == {"CreditScore": "above", "Age": "not-a-number", "HasLoan": "not-a-flag"}


def cells(product_factor):
    """Return values of every kind for a factor."""
    constraint, example = product_factor.factor.constraint, product_factor.factor.example
    ends = [constraint.minimum, constraint.maximum] if isinstance(constraint, Number) else []
    typed = [*ends, *map(float, ends), *(end + step for end in ends for step in (-1, 1, 0.5)), 0, 1, 1.0, -0.0, True]
    odd = [None, "", " ", 10**400, 2**53 + 1, math.nan, math.inf, [], {"a": 1}, "\ud800", Spelling("1")]
    texts = [example, f" {example}\t", *map(str, ends), *(text for text, _ in constraint.bad_values())]
    return [*typed, *odd, *texts]


def answer(product, raw, source):
    try:
        customer = validate(product, raw, source)
    except InvalidInput as error:
        return error.problems
    return [[(name, type(value), repr(value)) for name, value in values.items()] for values in by_role(customer)]


def by_role(customer):
    return customer.identifiers, customer.scored, customer.policy, customer.protected


class Spelling(str):
    """A text of another class."""


def changed(product, source):
    """Yield a valid customer's values with one value changed, left out or added at a time."""
    texts = EXAMPLES[product.key]
    whole = texts if source is Source.TEXT else validate(product, texts, Source.TEXT).all_values()
    yield from (whole | added for added in ({}, {"Unknown": 1}, {7: 1}, {"factor_Age": 40}))
    for product_factor in product.factors:
        name = product_factor.factor.name
        yield {other: value for other, value in whole.items() if other != name}
        yield from (whole | {name: value} for value in cells(product_factor))


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_the_short_way_gives_what_pydantic_gives(product, source, monkeypatch) -> None:
    customers = list(changed(product, source))
    answers = [answer(product, raw, source) for raw in customers]
    monkeypatch.setattr("bankportal.domain.schema._valid", lambda *arguments: None)
    assert answers == [answer(product, raw, source) for raw in customers]


@pytest.mark.parametrize("raw", [None, [], "x", 7, [("Age", 1)]])
def test_not_an_object(raw) -> None:
    assert problems(CHURN, raw) == {"": "not-an-object"}


def test_protected_values_are_kept_apart() -> None:
    customer = validate(ALLOWANCE, EXAMPLES["allowance"], Source.TEXT)
    assert set(customer.protected) == {"Gender", "Age", "Geography"}
    assert not set(customer.protected) & set(customer.scored)


def test_json_schema_has_the_bounds() -> None:
    for product in PRODUCTS.values():
        properties = schema(product).model_json_schema()["properties"]
        for product_factor in product.factors:
            property_ = properties[product_factor.factor.name]
            declared = product_factor.factor.constraint.json_schema().items()
            assert declared <= (property_ if product_factor.required else property_["anyOf"][0]).items()
            assert property_["title"] == product_factor.factor.label


def test_roles_cover_all_factors() -> None:
    assert {product_factor.role for product_factor in ALLOWANCE.factors} == set(Role)


@pytest.mark.parametrize("name", ["json", "copy", "model_config", "model_fields", "schema", "validate", "dict"])
def test_a_factor_may_have_a_name_that_pydantic_uses_itself(name) -> None:
    first, *others = CHURN.required
    product = replace(CHURN, required=(replace(first, name=name), *others))
    raw = EXAMPLES["churn"] | {name: first.example}
    del raw[first.name]
    assert validate(product, raw, Source.TEXT).scored[name] == 650
    assert name in schema(product).model_json_schema()["properties"]
    assert problems(product, raw | {name: "many"}, Source.TEXT) == {name: "not-a-number"}
