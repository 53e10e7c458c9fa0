"""Declarations: the shipped ones as they always were, the products that they make, and what needs a new model."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from bankportal.domain.canonical import canonical
from bankportal.domain.constraints import Choice, ConstraintViolation, Number, YesNo
from bankportal.domain.declaration import Declaration, Kind, needs_new_model, policy_from, product_from
from bankportal.domain.declarations.files import read, shipped
from bankportal.domain.factors import Phrase
from bankportal.domain.portfolio import portfolio_from, shipped_portfolio
from bankportal.domain.products import Label, ReasonThresholds, Verb

ROOT = Path(__file__).parents[1]
RELEASE_0_1_0 = ROOT / "migrations_data" / "declarations-0.1.0"
FIXTURES = Path(__file__).parent / "fixtures" / "declarations"
OWN = {path.name: path.read_bytes() for path in FIXTURES.glob("*.toml")}


def test_it_works() -> None:
    portfolio = portfolio_from([*read(OWN), *shipped()])
    assert list(portfolio) == ["churn", "allowance", "home-equity"]
    product = portfolio["home-equity"]
    assert [factor.name for factor in product.required] == ["CreditScore", "EstimatedSalary", "HomeValue"]
    assert product.policy is not None
    assert product.policy.suggest("Full", {"EstimatedSalary": 60_000.0, "MonthlyObligations": 500.0}, None).amount > 0


@pytest.mark.parametrize("name", ["product-churn", "product-allowance", "policy-card-limit"])
def test_the_shipped_ones_are_those_of_release_0_1_0(name: str) -> None:
    texts = {f"{each.kind.value}-{each.key}": each.text for each in shipped()}
    assert texts[name] == (RELEASE_0_1_0 / f"{name}.json").read_text(encoding="utf-8")


def test_a_text_makes_the_same_product_again() -> None:
    for product in shipped_portfolio().values():
        assert product_from(product.text, product.policy) is product
        assert product.policy is None or policy_from(product.policy.text) is product.policy


def test_a_text_says_all_of_a_product() -> None:
    for declaration in read(OWN):
        assert canonical(dict(declaration.content)) == declaration.text


def test_another_policy_makes_another_product() -> None:
    allowance = shipped_portfolio()["allowance"]
    assert allowance.policy is not None
    stricter = replace(allowance.policy, payment_share=0.2)
    product = product_from(allowance.text, stricter)
    assert product.policy is stricter
    same = {field.name for field in fields(product)} - {"policy"}
    assert all(getattr(product, name) == getattr(allowance, name) for name in same)


def test_the_currency_is_written_into_the_words() -> None:
    texts = {declaration.key: declaration.text for declaration in read(OWN)}
    assert "{currency}" not in texts["home-equity"]
    assert "A salary of USD {value} a year" in texts["home-equity"]
    assert "A salary of EUR {value} a year" in shipped_portfolio()["allowance"].text


def test_the_label_is_read_as_it_is_declared() -> None:
    product = portfolio_from(read(OWN))["home-equity"]
    assert [product.label.validate(text) for text in ("0", "paid", "1", " defaulted ", "0.0")] == [1, 1, 0, 0, 1]
    with pytest.raises(ConstraintViolation, match="must be 0 or paid or 1 or defaulted"):
        product.label.validate("yes")


def test_a_factor_of_its_own_stands_in_place_of_the_shared_one() -> None:
    text = OWN["home-equity.toml"].decode()
    own = text + '\n[factors.CreditScore]\nlabel = "Bureau score"\ngroup = "Profile"\nhelp = "Ours."\nexample = "71"\n'
    own += 'constraint = { kind = "number", minimum = 0, maximum = 100 }\n'
    own += 'phrase = { many = "A score of {value}", unknown = "No score" }\n'
    product = portfolio_from(read(OWN | {"home-equity.toml": own.encode()}))["home-equity"]
    assert product.required[0].label == "Bureau score"


def test_a_change_of_shared_factors_changes_the_products_that_share_them() -> None:
    factors = (ROOT / "bankportal" / "declarations" / "factors.toml").read_text(encoding="utf-8")
    changed = factors.replace('label = "Credit score"', 'label = "Bureau score"').encode()
    in_force = [*shipped(), *read(OWN)]
    declarations = read({"ours.toml": changed}, in_force)
    assert [(each.kind, each.key) for each in declarations] == [
        (Kind.FACTORS, "factors"),
        (Kind.PRODUCT, "allowance"),
        (Kind.PRODUCT, "churn"),
        (Kind.PRODUCT, "home-equity"),
    ]
    after = {each.key: each.text for each in declarations}
    before = {each.key: each.text for each in in_force}
    for key in ("allowance", "churn", "home-equity"):
        assert after[key] == before[key].replace('"label":"Credit score"', '"label":"Bureau score"')


def test_what_is_in_force_goes_before_what_is_shipped() -> None:
    factors = (ROOT / "bankportal" / "declarations" / "factors.toml").read_text(encoding="utf-8")
    ours = read({"factors.toml": factors.replace('label = "Tenure"', 'label = "Years here"').encode()})
    churn = (ROOT / "bankportal" / "declarations" / "churn.toml").read_bytes()
    (declaration,) = read({"churn.toml": churn}, [Declaration(Kind.FACTORS, "factors", ours[0].text)])
    assert '"label":"Years here"' in declaration.text


def changed(product, name: str, **changes):
    """Return a product with other values of one of its scored factors."""
    return replace(
        product,
        **{
            role: tuple(
                replace(factor, **changes) if factor.name == name else factor for factor in getattr(product, role)
            )
            for role in ("required", "optional")
        },
    )


SERVED = {
    "words": lambda churn: changed(churn, "Age", label="Years", help="Whole.", aliases=("years",), unit="y"),
    "bounds": lambda churn: changed(churn, "Age", constraint=Number(minimum=0, maximum=150, whole=True)),
    "phrase": lambda churn: changed(churn, "Age", phrase=Phrase(many="{value} years", unknown="No age")),
    "order of choices": lambda churn: changed(
        churn, "Geography", constraint=Choice(options=("Spain", "France", "Germany"))
    ),
    "bands": lambda churn: replace(churn, bands=(replace(churn.bands[0], name="Loyal"), *churn.bands[1:])),
    "thresholds": lambda churn: replace(churn, thresholds=ReasonThresholds(0.1, 0.5)),
    "verbs": lambda churn: replace(churn, raises=Verb("adds", "add"), title="Leaving", question="Who leaves?"),
    "label's aliases": lambda churn: replace(churn, label=replace(churn.label, aliases=("gone",))),
    "required or optional": lambda churn: replace(churn, required=churn.scored, optional=()),
}
NOT_SERVED = {
    "fewer factors": (lambda churn: replace(churn, optional=churn.optional[1:]), ["Geography is not scored any more"]),
    "more factors": (
        lambda churn: replace(churn, optional=(*churn.optional, replace(churn.scored[0], name="Other", aliases=()))),
        ["Other is scored now"],
    ),
    "choices": (
        lambda churn: changed(churn, "Geography", constraint=Choice(options=("France", "Spain"))),
        ["Geography is France or Spain now, and was France, Germany or Spain"],
    ),
    "kind": (lambda churn: changed(churn, "Tenure", constraint=YesNo()), ["Tenure is 1 (yes) or 0 (no) now"]),
    "whole numbers": (
        lambda churn: changed(churn, "Tenure", constraint=Number(minimum=0, maximum=80, whole=True)),
        ["Tenure is a whole number now, and was a number"],
    ),
    "label": (
        lambda churn: replace(churn, label=Label(name="Left", meaning="gone", positive=("y",), negative=("n",))),
        ["the label is called “Left”", "the label means “gone”", "the label says yes by “y”", "the label says no by"],
    ),
}


@pytest.mark.parametrize("change", SERVED.values(), ids=SERVED)
def test_a_model_serves_a_product_whose_factors_it_can_read(change) -> None:
    churn = shipped_portfolio()["churn"]
    assert needs_new_model(churn, change(churn)) == []


@pytest.mark.parametrize(("change", "reasons"), NOT_SERVED.values(), ids=NOT_SERVED)
def test_what_needs_a_new_model_is_said(change, reasons) -> None:
    churn = shipped_portfolio()["churn"]
    said = needs_new_model(churn, change(churn))
    assert [any(one.startswith(reason) for one in said) for reason in reasons] == [True] * len(reasons), said
    assert len(said) == len(reasons)
