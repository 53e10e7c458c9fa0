"""The operations and the document of any portfolio: of one product, of three, of none; withdrawn ones; currencies."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from bankportal.api import examples
from bankportal.api.calls import Operation
from bankportal.api.schemas import example
from bankportal.api.table import OperationTable
from bankportal.domain.constraints import Choice, Source, Text, YesNo
from bankportal.domain.declarations.files import read
from bankportal.domain.errors import DeclarationRefused, InvalidInput, NotFound
from bankportal.domain.factors import Factor, Group
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product
from bankportal.domain.schema import validate
from tests.shipped import ALLOWANCE, CHURN

OWN = Path(__file__).parents[1] / "fixtures" / "declarations"
# A bank's own, with the title of another product.
HOME_EQUITY = replace(ALLOWANCE, key="home-equity", title="Churn", currency="CHF")
THREE = Portfolio([CHURN, ALLOWANCE, HOME_EQUITY])


def table(portfolio: Portfolio) -> OperationTable:
    return OperationTable(portfolio, with_legacy=False)


def operation(made: OperationTable, id_: str) -> Operation:
    return next(each for each in made.operations if each.id == id_)


@pytest.mark.parametrize(
    "portfolio",
    [THREE, Portfolio([HOME_EQUITY]), Portfolio([]), Portfolio([CHURN], [ALLOWANCE, HOME_EQUITY])],
    ids=["three", "one", "none", "withdrawn"],
)
def test_the_document_is_valid(portfolio) -> None:
    document = table(portfolio).document
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    scoring = {path for path in document["paths"] if path.endswith("/score")}
    assert scoring == {f"/api/v1/{key}/score" for key in portfolio}


def test_products_are_told_apart_by_their_keys_alone() -> None:
    schemas = table(THREE).document["components"]["schemas"]
    assert {"ChurnCustomer", "ChurnCustomers", "AllowanceCustomer", "HomeEquityCustomer", "HomeEquityCustomers"} <= set(
        schemas
    )
    assert "RequestedLimit" in schemas["HomeEquityCustomer"]["properties"]
    assert "RequestedLimit" not in schemas["ChurnCustomer"]["properties"]


def test_names_of_keys_that_differ_by_a_hyphen_differ() -> None:
    keys = ("home1", "home-1", "h-ome1", "homeequity", "home-equity")
    products = [replace(CHURN, key=key) for key in keys]
    assert len({product.component_name for product in products}) == len(keys)
    assert list(OpenAPIV31SpecValidator(table(Portfolio(products)).document).iter_errors()) == []


def test_one_currency_is_named_once_several_by_their_products() -> None:
    def amounts(portfolio: Portfolio) -> tuple[str, str]:
        document = table(portfolio).document
        about = next(line for line in document["info"]["description"].splitlines() if "**Amounts**" in line)
        return about, document["components"]["schemas"]["Limit"]["description"]

    about, limit = amounts(Portfolio([HOME_EQUITY]))
    assert "are in CHF, moments" in about
    assert limit.endswith("amounts in CHF.")
    several = "the product's currency (EUR for churn, EUR for allowance, CHF for home-equity)"
    for text in amounts(THREE):
        assert several in text
    assert "CHF for home-equity" in amounts(Portfolio([CHURN], [HOME_EQUITY]))[1]


def test_examples_are_of_the_first_product() -> None:
    made = table(Portfolio([HOME_EQUITY, CHURN]))
    (body,) = operation(made, "create-batch").body.examples.values()
    assert body["product"] == "home-equity"
    assert 'portal.score("home-equity"' in made.document["info"]["description"]


def test_without_a_product_there_is_nothing_to_try() -> None:
    made = table(Portfolio([]))
    assert operation(made, "create-batch").body.examples == {}
    assert "customers.csv" not in operation(made, "create-batch").help
    assert "portal.score" not in made.document["info"]["description"]


@pytest.mark.parametrize("constraint", [YesNo(), Choice(options=("a", "b")), Text(longest=5)])
def test_the_second_example_of_many_is_refused_whatever_the_factors(constraint) -> None:
    """Also where no factor is a number, and where nothing is required."""
    factor = Factor(name="One", label="One", group=Group.PROFILE, constraint=constraint, help="", example="")
    product = replace(CHURN, key="other", identifiers=(), required=(), optional=(factor,), protected=())
    assert refused_fields(product) == ["One"]


def test_the_second_example_of_many_is_another_customer() -> None:
    assert refused_fields(CHURN) == ["CreditScore"]
    assert examples.refused(CHURN)["CustomerId"] != example(CHURN)["CustomerId"]


def refused_fields(product: Product) -> list[str]:
    with pytest.raises(InvalidInput) as refused:
        validate(product, examples.refused(product), Source.TYPED)
    return [problem.field for problem in refused.value.problems]


def test_a_product_of_one_band_without_required_factors_has_an_example() -> None:
    product = replace(CHURN, key="other", bands=CHURN.bands[:1], required=(), optional=CHURN.optional[:2])
    shown = examples.outcome(product)
    assert shown["band"] == product.bands[0].name


def test_paths_of_a_withdrawn_product_say_so() -> None:
    made = OperationTable(Portfolio([ALLOWANCE], [CHURN]), with_legacy=True)
    for path in ("/api/v1/churn/score", "/api/v1/churn/scores", "/predict_churn"):
        assert not made.knows(path)
        with pytest.raises(NotFound, match="Churn was withdrawn"):
            made.find("POST", path)
    with pytest.raises(NotFound, match="There is no such product"):
        made.find("POST", "/api/v1/mortgage/score")
    assert made.find("POST", "/predict_allowance")


def test_lists_are_of_withdrawn_products_too_and_new_batches_are_not() -> None:
    document = table(Portfolio([CHURN], [ALLOWANCE])).document

    def keys(path: str) -> list[str]:
        parameters = document["paths"][path]["get"]["parameters"]
        return next(each for each in parameters if each["name"] == "product")["schema"]["enum"]

    assert keys("/api/v1/decisions") == keys("/api/v1/batches") == ["churn", "allowance"]
    assert keys("/api/v1/models/{product}/{version}") == ["churn", "allowance"]
    assert keys("/api/v1/models/{product}/active") == keys("/api/v1/products/{product}/schema") == ["churn"]
    assert document["components"]["schemas"]["NewBatch"]["properties"]["product"]["enum"] == ["churn"]


def test_two_tables_know_nothing_of_each_other() -> None:
    one, other = table(Portfolio([CHURN])), table(Portfolio([ALLOWANCE]))
    before = json.dumps(one.document)
    assert (one.knows("/api/v1/allowance/score"), other.knows("/api/v1/allowance/score")) == (False, True)
    assert json.dumps(table(Portfolio([CHURN])).document) == before


@pytest.mark.parametrize("name", ["model_config", "model_dump", "copy", "schema", "json", "model_validate_strings"])
def test_a_factor_may_be_named_as_pydantics_own_names_are(name) -> None:
    factor = replace(CHURN.required[0], name=name, aliases=())
    product = replace(CHURN, key="other", required=(factor, *CHURN.required[1:]))
    schema = table(Portfolio([product])).document["components"]["schemas"]["OtherCustomer"]
    assert name in schema["required"]
    assert schema["properties"][name]["title"] == factor.label


def test_no_product_has_a_key_by_which_operations_would_have_the_same_id() -> None:
    files = own_files()
    files["home-equity.toml"] = files["home-equity.toml"].replace(b'"home-equity"', b'"many-churn"')
    with pytest.raises(DeclarationRefused, match=r"many-churn.*take another key"):
        read(files)


def own_files() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in OWN.glob("*.toml")}
