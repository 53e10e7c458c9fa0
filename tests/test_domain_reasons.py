import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankportal.domain.constraints import YesNo
from bankportal.domain.outcome import Outcome, Reason
from bankportal.domain.products import Verb
from bankportal.domain.reasons import (
    MAX_REASONS,
    NOTHING_ALONE,
    Attribution,
    Omission,
    omissions,
    reasons,
    rule_reason,
    sentence,
    spoken,
    without_words,
)
from tests.shipped import ALLOWANCE, CARD_LIMIT_POLICY, CHURN, PRODUCTS


def attribution(**shares: float) -> Attribution:
    """Contributions whose effects agree with them."""
    return Attribution(shares, shares)


def of_churn(values, found: Attribution):
    return reasons(CHURN, CHURN.bands[-1], values, found, None)


def test_it_works() -> None:
    found = of_churn({"ComplaintsFiled": 3}, attribution(ComplaintsFiled=0.2))
    assert [reason.sentence for reason in found] == ["3 complaints in 12 months raise the risk"]


@pytest.mark.parametrize(
    ("factor", "value", "raises", "words"),
    [
        ("ComplaintsFiled", 1, True, "1 complaint in 12 months raises the risk"),
        ("ComplaintsFiled", 0, False, "No complaints in 12 months lower the risk"),
        ("ComplaintsFiled", None, True, "Not knowing of complaints raises the risk"),
        ("Balance", 121_400.5, True, "A balance of EUR 121,400.50 raises the risk"),
        ("IsActiveMember", 0, True, "No account use in the last quarter raises the risk"),
        ("Geography", "Germany", True, "Banking in Germany raises the risk"),
        ("CustomerSatisfaction", 4.5, False, "A satisfaction of 4.5 lowers the risk"),
    ],
)
def test_sentences(factor, value, raises, words) -> None:
    assert sentence(CHURN, factor, value, raises=raises) == words


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.get)
def test_every_scored_factor_has_words_for_every_value(product) -> None:
    assert without_words(product) == []
    for factor in product.scored:
        flag = isinstance(factor.constraint, YesNo)
        for value in (None, 0, 1) if flag else (None, 0, 1, 7, 2.5, "Spain"):
            words = sentence(product, factor.name, value, raises=True)
            assert words[0].isupper() or words[0].isdigit()
            assert "{" not in words


def test_one_to_four_in_order_of_weight() -> None:
    names = [factor.name for factor in CHURN.scored]
    found = of_churn({}, attribution(**{name: 0.01 * number for number, name in enumerate(names)}))
    assert [reason.factor for reason in found] == names[: -MAX_REASONS - 1 : -1]


def test_a_reason_has_its_contribution() -> None:
    (found,) = of_churn({"Age": 41}, attribution(Age=-0.25))
    assert found == Reason("Age", None, -0.25, "An age of 41 lowers the risk")


def test_equal_weights_are_named_in_the_order_of_their_names() -> None:
    assert [reason.factor for reason in of_churn({}, attribution(Tenure=-0.1, Age=0.1))] == ["Age", "Tenure"]


def test_what_weighs_just_enough_is_named() -> None:
    assert [reason.factor for reason in of_churn({}, attribution(Age=0.05, Tenure=0.005))] == ["Age", "Tenure"]
    assert [reason.factor for reason in of_churn({}, attribution(Age=0.05, Tenure=0.004999))] == ["Age"]


def test_a_reason_that_does_not_hold_by_itself_is_not_printed() -> None:
    shares = {"Age": 0.3, "Balance": 0.2, "Tenure": -0.1}
    effects = {"Age": -0.01, "Balance": 0.1, "Tenure": 0.0}
    assert [reason.factor for reason in of_churn({}, Attribution(shares, effects))] == ["Balance"]


def test_where_nothing_stands_out_that_is_said() -> None:
    (only,) = of_churn({}, attribution(Age=0.0))
    assert only == Reason(None, None, 0.0, NOTHING_ALONE)


def test_without_a_policy_or_a_limit_no_rule_is_named() -> None:
    cut = limit("Standard", 60_000, 0, 50_000)
    assert rule_reason(ALLOWANCE, ALLOWANCE.band_named("Standard"), cut) is not None
    assert rule_reason(ALLOWANCE, ALLOWANCE.band_named("Standard"), None) is None
    assert rule_reason(CHURN, CHURN.bands[0], cut) is None


def limit(band: str, salary: float, obligations: float, requested: float | None = None):
    return CARD_LIMIT_POLICY.suggest(
        band, {"EstimatedSalary": float(salary), "MonthlyObligations": float(obligations)}, requested
    )


def of_allowance(band, found: Attribution, allowed):
    return reasons(ALLOWANCE, ALLOWANCE.band_named(band), {"LatePayments": 2}, found, allowed)


def test_a_refused_score_gives_what_pulls_below_those_who_passed() -> None:
    found = of_allowance(
        "Ineligible",
        attribution(LatePayments=-0.2, CreditScore=-0.1, Balance=0.3),
        limit("Ineligible", 60_000, 0, 5_000),
    )
    assert [reason.factor for reason in found] == ["LatePayments", "CreditScore"]
    assert found[0].sentence == "2 late payments in 12 months speak against repaying"


def test_the_ability_to_pay_is_named_and_stands_alone() -> None:
    found = of_allowance("Elite", attribution(LatePayments=-0.2), limit("Elite", 60_000, 2_000, 5_000))
    assert [reason.rule for reason in found] == ["ability-to-pay"]
    assert "no limit above EUR 0" in found[0].sentence


def test_no_salary_is_no_ability_to_pay() -> None:
    found = of_allowance("Standard", attribution(LatePayments=0.1, Balance=0.3), limit("Standard", 0, 100, 2_000))
    assert [reason.rule for reason in found] == ["ability-to-pay"]
    assert "none is granted" in found[0].sentence


def test_a_limit_too_small_to_grant_is_named() -> None:
    found = of_allowance("Standard", attribution(LatePayments=-0.1, Balance=0.3), limit("Standard", 3_000, 0, 2_000))
    assert [(reason.rule, reason.factor) for reason in found] == [("band", None), (None, "LatePayments")]
    assert found[0].sentence.startswith("The salary together with the score leads to less than EUR 500")


def test_what_weighs_next_to_nothing_is_no_principal_reason() -> None:
    names = [
        reason.factor for reason in of_churn({}, attribution(Age=0.3, Balance=0.016, Tenure=0.014, HasLoan=-0.001))
    ]
    assert names == ["Age", "Balance"]
    assert len(of_churn({}, attribution(Age=0.0001))) == 1, "the weightiest is named, however little it weighs"


def test_a_counteroffer_by_the_band_names_the_rule_and_what_pulls_below() -> None:
    allowed = limit("Standard", 60_000, 0, 50_000)
    assert allowed.counteroffer
    found = of_allowance("Standard", attribution(LatePayments=-0.2, Balance=0.3), allowed)
    assert [(reason.rule, reason.factor) for reason in found] == [("band", None), (None, "LatePayments")]


def test_a_rule_and_what_pulls_below_are_four_at_most() -> None:
    names = [factor.name for factor in ALLOWANCE.scored[:6]]
    found = of_allowance("Standard", attribution(**dict.fromkeys(names, -0.1)), limit("Standard", 60_000, 0, 50_000))
    assert (found[0].rule, found[0].contribution) == ("band", 0.0)
    assert [reason.factor for reason in found[1:]] == sorted(names)[: MAX_REASONS - 1]


def test_a_granted_limit_is_explained_either_way() -> None:
    found = of_allowance("Elite", attribution(LatePayments=-0.1, Balance=0.3), limit("Elite", 60_000, 0, 1_000))
    assert [reason.factor for reason in found] == ["Balance", "LatePayments"]


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_a_reason_of_any_value_has_the_sentence_of_that_value(product) -> None:
    """The sentences that are kept do not mix factors, values, products or directions."""
    changed = replace(product, raises=Verb("lifts", "lift"), lowers=Verb("sinks", "sink"))
    for one, share, value in itertools.product((product, changed), (0.3, -0.3), (0, 1, 1.0, 2, 2.5, "1", None)):
        for factor in one.scored:
            parts = Attribution({factor.name: share}, {factor.name: share})
            (reason,) = reasons(one, one.bands[0], {factor.name: value}, parts, None)
            if reason.factor:  # a refusal has no reason that speaks for the customer
                assert reason.sentence == sentence(one, factor.name, value, raises=share > 0)


@pytest.mark.parametrize(("value", "text"), [(0.1 + 0.2, "0.3"), (-0.001, "0"), (1e6, "1,000,000"), (None, "")])
def test_values_are_spoken(value, text) -> None:
    assert spoken(value) == text


# --- why a contribution is no reason --------------------------------------------------------------------------------


def outcome_with(product, band, shares, effects, allowed=None) -> Outcome:
    chosen = reasons(product, product.band_named(band), {}, Attribution(shares, effects), allowed)
    return SimpleNamespace(product=product, band=product.band_named(band), contributions=shares, reasons=chosen)


def test_a_large_contribution_that_does_not_hold_by_itself() -> None:
    shares = {"Age": 0.3, "Balance": 0.2, "Tenure": -0.1, "HasLoan": 0.001}
    effects = {"Age": -0.01, "Balance": 0.1, "Tenure": 0.0, "HasLoan": 0.1}
    assert omissions(outcome_with(CHURN, "Critical", shares, effects)) == {
        "Age": Omission.NOT_BY_ITSELF,
        "Tenure": Omission.NOT_BY_ITSELF,
        "HasLoan": Omission.TOO_SMALL,
    }


def test_a_refusal_leaves_out_what_speaks_for_the_customer() -> None:
    shares = {"LatePayments": -0.2, "Balance": 0.3, "Tenure": -0.1}
    effects = {"LatePayments": -0.2, "Balance": 0.3, "Tenure": 0.1}
    outcome = outcome_with(ALLOWANCE, "Ineligible", shares, effects, limit("Ineligible", 60_000, 0, 5_000))
    assert omissions(outcome) == {"Balance": Omission.SPEAKS_FOR, "Tenure": Omission.NOT_BY_ITSELF}
    granted = outcome_with(ALLOWANCE, "Elite", shares, effects, limit("Elite", 60_000, 0, 1_000))
    assert omissions(granted) == {"Tenure": Omission.NOT_BY_ITSELF}


def test_a_rule_that_decided_alone_leaves_out_all() -> None:
    outcome = outcome_with(ALLOWANCE, "Elite", {"Balance": 0.2}, {"Balance": 0.2}, limit("Elite", 60_000, 2_000, 5_000))
    assert omissions(outcome) == {"Balance": Omission.RULE_ALONE}


@given(
    parts=st.lists(st.tuples(st.floats(-0.5, 0.5), st.sampled_from([-1.0, 0.0, 1.0])), min_size=1, max_size=13),
    band=st.sampled_from([band.name for band in ALLOWANCE.bands]),
    allowed=st.sampled_from([limit("Elite", 60_000, 0, 1_000), limit("Standard", 3_000, 0, 2_000)]),
)
def test_what_is_said_of_an_omission_is_so(parts, band, allowed) -> None:
    names = [factor.name for factor in ALLOWANCE.scored[: len(parts)]]
    shares = dict(zip(names, (share for share, _ in parts), strict=True))
    effects = dict(zip(names, (effect for _, effect in parts), strict=True))
    outcome = outcome_with(ALLOWANCE, band, shares, effects, allowed)
    weights = {reason.factor: abs(reason.contribution) for reason in outcome.reasons if reason.factor}
    omitted = omissions(outcome)
    assert set(omitted) == set(shares) - set(weights)
    for name, omission in omitted.items():
        share = shares[name]
        assert {
            Omission.SPEAKS_FOR: share > 0 and all(shares[factor] < 0 for factor in weights),
            Omission.NOT_BY_ITSELF: share * effects[name] <= 0,
            Omission.TOO_SMALL: bool(weights) and abs(share) < max(0.005, 0.05 * max(weights.values(), default=0)),
            Omission.TOO_MANY: len(outcome.reasons) == MAX_REASONS and abs(share) <= min(weights.values(), default=0),
        }[omission], (name, omission)
