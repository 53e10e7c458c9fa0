import json
import math
from dataclasses import replace

import numpy as np
import pytest

from bankportal.domain.constraints import Choice, Source
from bankportal.domain.outcome import UnseenValue
from bankportal.domain.products import Product
from bankportal.domain.schema import validate
from bankportal.model.encoding import MAX_FLOAT32, EncodedColumn, Encoding
from bankportal.model.seen_ranges import SeenRanges
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS

EVERY_PRODUCT = pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.keys())


def examples(product: Product) -> dict[str, object]:
    return {**validate(product, {e.factor.name: e.factor.example for e in product.factors}, Source.TEXT).scored}


def as_columns(product: Product, customers: list[dict[str, object]]) -> dict[str, np.ndarray]:
    return {
        factor.name: np.array(
            [customer.get(factor.name) for customer in customers],
            dtype=object if isinstance(factor.constraint, Choice) else float,
        )
        for factor in product.scored
    }


def test_it_works():
    encoding = Encoding.of(CHURN)
    row = encoding.row({"Age": 42, "Geography": "Spain", "Balance": 10.5})
    by_column = dict(zip(encoding.columns, row, strict=True))
    assert by_column[EncodedColumn("Age")] == 42
    assert [by_column[EncodedColumn("Geography", option)] for option in ("France", "Germany", "Spain")] == [0, 0, 1]
    assert math.isnan(by_column[EncodedColumn("HasLoan")])


@EVERY_PRODUCT
def test_every_scored_factor_has_its_columns_and_no_other_has(product):
    assert Encoding.of(product).factors == tuple(factor.name for factor in product.scored)


@EVERY_PRODUCT
def test_row_and_matrix_give_the_same_bits(product):
    full = examples(product)
    customers = [full, {}, *({**full, name: None} for name in full)]
    customers += [{**full, "Geography": option} for option in ("France", "Germany", "Spain")]
    encoding = Encoding.of(product)
    alone = np.array([encoding.row(customer) for customer in customers])
    assert alone.dtype == np.float64
    assert alone.tobytes() == encoding.matrix(as_columns(product, customers)).tobytes()
    assert alone.tobytes() == encoding.rows(customers).tobytes()
    assert encoding.rows([]).shape == (0, len(encoding.columns))


def test_blank_choice_is_blank_in_each_of_its_columns():
    encoding = Encoding.of(CHURN)
    assert np.isnan(encoding.row({"Geography": None})[encoding.positions("Geography")]).all()


def test_an_option_the_encoding_does_not_know_is_none_of_the_others():
    encoding = Encoding((EncodedColumn("Geography", "France"), EncodedColumn("Geography", "Spain")))
    assert encoding.row({"Geography": "Germany"}).tolist() == [0, 0]
    assert encoding.matrix({"Geography": np.array(["Germany"], dtype=object)}).tolist() == [[0, 0]]


def test_huge_values_stay_finite_in_float32():
    encoding = Encoding((EncodedColumn("Balance"),))
    assert encoding.row({"Balance": 1e300})[0] == MAX_FLOAT32
    assert encoding.row({"Balance": -1e300}).astype(np.float32)[0] == -MAX_FLOAT32
    assert encoding.matrix({"Balance": np.array([1e300])})[0, 0] == MAX_FLOAT32


def test_absent_factors_are_unknown_and_no_factor_is_an_error():
    matrix = Encoding.of(CHURN).matrix({"Age": np.array([30.0, 40.0])})
    assert matrix.shape == (2, len(Encoding.of(CHURN).columns))
    assert np.isnan(matrix).sum() == matrix.size - 2
    with pytest.raises(ValueError, match="no factor"):
        Encoding.of(CHURN).matrix({})


@EVERY_PRODUCT
def test_the_manifest_keeps_it(product):
    encoding = Encoding.of(product)
    assert Encoding.from_json(json.loads(json.dumps(encoding.to_json())), product) == encoding


@pytest.mark.parametrize(
    "content",
    [
        None,
        [],
        ["Age"],
        [{"factor": "Age"}],
        [{"factor": "Shoes", "option": None}],
        [{"factor": ["Age"], "option": None}],
        [{"factor": "Gender", "option": "Female"}],
        [{"factor": "Age", "option": "France"}],
        [{"factor": "Geography", "option": "Atlantis"}],
        [{"factor": "Geography", "option": None}],
        [{"factor": "Age", "option": None}, {"factor": "Age", "option": None}],
        [
            {"factor": "Geography", "option": "France"},
            {"factor": "Age", "option": None},
            {"factor": "Geography", "option": "Spain"},
        ],
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(content):
    with pytest.raises(ValueError, match=r"^(?!it was trained without).+"):
        Encoding.from_json(content, CHURN)


def test_a_factor_or_an_option_that_the_version_was_trained_without_is_named() -> None:
    columns = Encoding.of(CHURN).to_json()
    without_age = [column for column in columns if column["factor"] != "Age"]
    with pytest.raises(ValueError, match="it was trained without Age, which churn scores"):
        Encoding.from_json(without_age, CHURN)
    with pytest.raises(ValueError, match="it was trained without Geography Spain, which churn scores"):
        Encoding.from_json([column for column in columns if column["option"] != "Spain"], CHURN)
    required = tuple(factor for factor in CHURN.required if factor.name != "Age")
    fewer = replace(CHURN, required=required)
    assert Encoding.from_json(without_age, fewer).to_json() == without_age
    with pytest.raises(ValueError, match="churn does not score 'Age'"):
        Encoding.from_json(columns, fewer)


def test_protected_factors_are_refused_from_a_manifest():
    with pytest.raises(ValueError, match="allowance does not score 'Age'"):
        Encoding.from_json([{"factor": "Age", "option": None}], ALLOWANCE)


@pytest.fixture
def seen() -> SeenRanges:
    return SeenRanges.of(
        CHURN,
        {
            "Balance": np.array([0.0, 250898.09, math.nan]),
            "Age": np.array([18.0, 92.0]),
            "HasCrCard": np.array([0.0, 0.0]),
            "Geography": np.array(["Spain", None, "France"], dtype=object),
            "HasLoan": np.array([math.nan, math.nan]),
        },
    )


@pytest.mark.parametrize(
    ("factor", "value", "message"),
    [
        ("Balance", 300000.0, "Balance is above every customer the model has seen (highest 250,898.09)."),
        ("Balance", -1.0, "Balance is below every customer the model has seen (lowest 0)."),
        ("Age", 93, "Age is above every customer the model has seen (highest 92)."),
        ("Geography", "Germany", "Germany is a country the model has not seen."),
        ("HasCrCard", 1, "Has a credit card is 0 (no) for every customer the model has seen."),
        ("HasLoan", 1, "Has a loan is not used by this model: its training data had none."),
        ("LatePayments", 0, "Late payments is not used by this model: its training data had none."),
    ],
)
def test_values_the_forest_has_not_seen_are_flagged(seen, factor, value, message):
    assert seen.flags(CHURN, {factor: value}) == (UnseenValue(factor, message),)


def test_values_within_what_was_seen_and_blanks_are_not_flagged(seen):
    inside = {"Balance": 250898.09, "Age": 18, "Geography": "Spain", "HasCrCard": 0, "HasLoan": None}
    assert seen.flags(CHURN, inside) == ()


def test_what_was_seen_is_kept(seen):
    content = json.loads(json.dumps(seen.to_json(CHURN)))
    assert content["Balance"] == [0.0, 250898.09]
    assert content["Geography"] == ["France", "Spain"]
    assert content["HasLoan"] is None
    assert SeenRanges.from_json(content, CHURN) == seen


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"Shoes": [1, 2]},
        {"Age": [2, 1]},
        {"Age": [1]},
        {"Age": [True, 2]},
        {"Age": [math.nan, 2]},
        {"Age": [1, math.inf]},
        {"Age": ["a", "b"]},
        {"Geography": [1, 2]},
        {"Geography": ["Atlantis"]},
        {"Geography": []},
        {"Geography": "France"},
    ],
)
def test_what_was_seen_is_checked_on_reading(content):
    with pytest.raises(ValueError, match=r".+"):
        SeenRanges.from_json(content, CHURN)
