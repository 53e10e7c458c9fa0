"""The older file of a bank's own words for reasons."""

import json

import pytest

from bankportal.domain.canonical import canonical
from bankportal.domain.declaration import policy_from, product_from
from bankportal.domain.errors import SettingsRefused
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.reasons import Attribution, reasons, sentence
from bankportal.domain.reasons_file import to_toml, with_words
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS


def test_a_bank_edits_its_words() -> None:
    edited = with_words(PRODUCTS, '[ComplaintsFiled]\nmany = "{value} grievances"\nplural = true\n')
    assert sentence(edited["churn"], "ComplaintsFiled", 3, raises=True) == "3 grievances raise the risk"
    assert sentence(edited["churn"], "ComplaintsFiled", 1, raises=True) == "1 complaint in 12 months raises the risk"
    assert sentence(CHURN, "ComplaintsFiled", 3, raises=True) == "3 complaints in 12 months raise the risk"


def test_every_product_that_scores_a_factor_says_it_so() -> None:
    edited = with_words(PRODUCTS, '[Balance]\nmany = "{value} on all accounts"\n')
    for product in edited.values():
        assert sentence(product, "Balance", 7, raises=True).startswith("7 on all accounts ")


def test_a_bank_edits_the_rules() -> None:
    product = with_words(PRODUCTS, '[rules]\nability-to-pay = "No more than {ceiling} fits the budget"\n')["allowance"]
    values = {"EstimatedSalary": 60_000.0, "MonthlyObligations": 1_000.0}
    limit = product.policy.suggest("Elite", values, 50_000.0)
    (only,) = reasons(product, product.bands[-1], {}, Attribution({"Balance": 0.3}, {"Balance": 0.3}), limit)
    assert only.sentence == "No more than EUR 8,333 fits the budget"


def test_a_bank_words_a_factor_that_has_no_words() -> None:
    content = json.loads(CHURN.text)
    content["factors"]["Age"]["phrase"] = None
    portfolio = Portfolio([product_from(canonical(content), None)])
    edited = with_words(portfolio, '[Age]\nmany = "{value} years"\nunknown = "No age"\n')
    assert sentence(edited["churn"], "Age", 41, raises=True) == "41 years raises the risk"
    with pytest.raises(SettingsRefused, match="needs under Age an unknown, for a blank value"):
        with_words(portfolio, '[Age]\nmany = "{value} years"\n')


def test_the_text_of_the_declaration_has_the_words() -> None:
    words = '[CardUtilisation]\nunknown = "A card never seen"\n[rules]\nband = "At most {amount}"\n'
    edited = with_words(PRODUCTS, words)
    assert edited["churn"] is CHURN, "it scores no CardUtilisation and has no policy"
    product = edited["allowance"]
    assert product is product_from(product.text, policy_from(product.policy.text))
    assert "A card never seen" in product.text
    assert "At most {amount}" in product.policy.text
    assert product.digest != ALLOWANCE.digest
    assert product.policy.digest != ALLOWANCE.policy.digest


def test_without_own_words_the_products_are_the_same_and_withdrawn_ones_stay_so() -> None:
    edited = with_words(Portfolio([ALLOWANCE], withdrawn=[CHURN]), "")
    assert (edited["allowance"], edited.withdrawn) == (ALLOWANCE, (CHURN,))


def test_all_words_can_be_written_and_read() -> None:
    edited = with_words(PRODUCTS, '[Age]\nmany = "{value} years"\n[rules]\nband = "At most {amount}"\n')
    assert to_toml(with_words(PRODUCTS, to_toml(edited))) == to_toml(edited) != to_toml(PRODUCTS)
    assert 'band = "At most {amount}"' in to_toml(edited)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[Colour]\nmany = "{value}"', "names Colour, which no product scores."),
        ("[Age]\nmany = 3", "has under Age a many of the wrong type."),
        ('[Age]\nplural = "yes"', "has under Age a plural of the wrong type."),
        ('[Age]\nsome = "x"\nall = "x"', "has under Age: all, some."),
        ("Age = 3", "has under Age: no table."),
        ('[Age]\nmany = "x"', "needs {value} in Age's many."),
        ("rules = 3", "needs a table of sentences under rules."),
        ("[rules]\nband = 3", "needs a table of sentences under rules."),
        ('[rules]\nmood = "x"\nhaste = "x"', "has under rules: haste, mood."),
        ('[rules]\nband = "{age}"', "has a name in braces in band that means nothing."),
    ],
)
def test_what_has_no_meaning_is_named(text, says) -> None:
    with pytest.raises(SettingsRefused) as refused:
        with_words(PRODUCTS, text)
    assert str(refused.value) == f"The catalogue of reasons {says}"


def test_what_is_not_toml_is_said() -> None:
    with pytest.raises(SettingsRefused, match=r"^The catalogue of reasons is not TOML: .* line 1"):
        with_words(PRODUCTS, "no toml")
