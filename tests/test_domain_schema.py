import pytest

from bankportal.domain.constraints import Source
from bankportal.domain.errors import InvalidInput
from bankportal.domain.products import ALLOWANCE, CHURN, PRODUCTS, Role
from bankportal.domain.schema import schema, validate

EXAMPLES = {
    product.key: {entry.factor.name: entry.factor.example for entry in product.factors} for product in PRODUCTS.values()
}
REQUIRED = [(product, entry) for product in PRODUCTS.values() for entry in product.factors if entry.required]


def problems(product, raw, source=Source.TYPED):
    with pytest.raises(InvalidInput) as caught:
        validate(product, raw, source)
    return {problem.field: problem.code for problem in caught.value.problems}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.get)
def test_it_works(product) -> None:
    customer = validate(product, EXAMPLES[product.key], Source.TEXT)
    assert set(customer.all_values()) == {entry.factor.name for entry in product.factors}
    assert list(customer.scored) == [factor.name for factor in product.scored]


def test_both_doors_give_the_same_customer() -> None:
    text = validate(CHURN, EXAMPLES["churn"], Source.TEXT)
    typed = validate(CHURN, text.all_values(), Source.TYPED)
    assert typed == text
    assert {name: type(value) for name, value in typed.scored.items()} == {
        name: type(value) for name, value in text.scored.items()
    }


@pytest.mark.parametrize(("product", "entry"), REQUIRED, ids=[f"{p.key}-{e.factor.name}" for p, e in REQUIRED])
@pytest.mark.parametrize("blank", ["", "  ", None, "absent"])
def test_required_factors(product, entry, blank) -> None:
    raw = EXAMPLES[product.key] | {entry.factor.name: blank}
    if blank == "absent":
        del raw[entry.factor.name]
    assert problems(product, raw, Source.TEXT) == {entry.factor.name: "required"}


def test_all_else_may_be_blank() -> None:
    for product in PRODUCTS.values():
        raw = {entry.factor.name: entry.factor.example if entry.required else "" for entry in product.factors}
        customer = validate(product, raw, Source.TEXT)
        assert {name for name, value in customer.all_values().items() if value is not None} == {
            entry.factor.name for entry in product.factors if entry.required
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
    ("sent", "found"),
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
def test_what_was_found_is_told_as_it_was_sent(sent, found) -> None:
    with pytest.raises(InvalidInput) as caught:
        validate(CHURN, {"Unheard": sent}, Source.TYPED)
    assert [problem.found for problem in caught.value.problems if problem.field == "Unheard"] == [found]


def test_all_problems_come_at_once() -> None:
    raw = EXAMPLES["churn"] | {"Age": "old", "CreditScore": "9999", "HasLoan": "maybe"}
    assert problems(CHURN, raw, Source.TEXT) == {"CreditScore": "above", "Age": "not-a-number", "HasLoan": "not-a-flag"}


@pytest.mark.parametrize("raw", [None, [], "x", 7, [("Age", 1)]])
def test_not_an_object(raw) -> None:
    assert problems(CHURN, raw) == {"": "not-an-object"}


def test_protected_values_are_kept_apart() -> None:
    customer = validate(ALLOWANCE, EXAMPLES["allowance"], Source.TEXT)
    assert set(customer.protected) == {"Gender", "Age", "Geography"}
    assert not set(customer.protected) & set(customer.scored)


def test_json_schema_says_the_bounds() -> None:
    for product in PRODUCTS.values():
        properties = schema(product).model_json_schema()["properties"]
        for entry in product.factors:
            said = properties[entry.factor.name]
            declared = entry.factor.constraint.json_schema().items()
            assert declared <= (said if entry.required else said["anyOf"][0]).items()
            assert said["title"] == entry.factor.label


def test_roles_cover_all_entries() -> None:
    assert {entry.role for entry in ALLOWANCE.factors} == set(Role)
