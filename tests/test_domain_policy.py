from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankportal.domain.constraints import Number
from bankportal.domain.policy import Limit
from tests.shipped import CARD_LIMIT_POLICY, REQUESTED_LIMIT

POLICY = CARD_LIMIT_POLICY
money = st.floats(0, 1e7)
bands = st.sampled_from(list(POLICY.band_months))


def suggest(band="Elite", salary=60_000.0, obligations=None, requested=None):
    return POLICY.suggest(band, {"EstimatedSalary": salary, "MonthlyObligations": obligations}, requested)


def test_it_works() -> None:
    assert suggest(obligations=500.0).amount == 12_500
    assert suggest(obligations=500.0).rule == "ability-to-pay"


def test_a_request_below_the_offer_is_granted_as_asked() -> None:
    limit = suggest(obligations=500.0, requested=1234.0)
    assert (limit.amount, limit.rule, limit.counteroffer) == (1234.0, "requested", False)


def test_a_request_for_the_very_offer_is_granted_as_asked() -> None:
    limit = suggest(obligations=500.0, requested=12_500.0)
    assert (limit.amount, limit.rule, limit.counteroffer, limit.cut) == (12_500.0, "requested", False, False)


def test_a_request_above_the_offer_is_countered() -> None:
    limit = suggest(obligations=500.0, requested=50_000.0)
    assert limit.counteroffer
    assert limit.amount == 12_500


def test_the_bands_share_of_the_salary_sets_the_limit() -> None:
    limit = suggest(band="Standard", salary=48_000.0, obligations=0.0, requested=9_000.0)
    assert (limit.amount, limit.rule, limit.requested, limit.counteroffer) == (6_000.0, "band", 9_000.0, True)


def test_the_smallest_limit_is_granted() -> None:
    limit = suggest(band="Standard", salary=4_000.0, obligations=0.0)
    assert (limit.amount, limit.rule, limit.requested) == (500.0, "band", None)


def test_a_policy_of_the_smallest_steps() -> None:
    """Of one euro, none is granted to the ineligible, and it is a counteroffer to those who asked for more."""
    policy = replace(POLICY, step=1, smallest=1)
    factors = {"EstimatedSalary": 8.0, "MonthlyObligations": 0.0}
    assert policy.suggest("Ineligible", factors, None).amount == 0.0
    assert policy.suggest("Standard", factors, 5.0) == Limit(1.0, pytest.approx(20 / 9), "band", 5.0, True, False)


def test_no_limit_for_the_ineligible_whatever_they_earn() -> None:
    limit = suggest(band="Ineligible", salary=1e7, obligations=0.0, requested=100.0)
    assert (limit.amount, limit.rule, limit.counteroffer) == (0.0, "ineligible", False)


def test_no_income_left_no_limit() -> None:
    limit = suggest(salary=60_000.0, obligations=2_000.0, requested=100.0)
    assert (limit.amount, limit.rule) == (0.0, "ability-to-pay")


def test_without_a_salary_the_ability_to_pay_refuses_and_not_the_band() -> None:
    limit = suggest(salary=0.0, obligations=100.0, requested=2_000.0)
    assert (limit.amount, limit.rule, limit.declined, limit.cut) == (0.0, "ability-to-pay", True, True)


@given(
    limit=st.integers(10, 2_000).map(lambda steps: 50.0 * steps), salary=st.floats(1_000, 1e6), bound=st.floats(0, 1e5)
)
def test_what_carries_a_limit_is_worked_back(limit, salary, bound) -> None:
    assert POLICY.ceiling(salary, POLICY.obligations_for(limit, salary)) == pytest.approx(limit)
    assert POLICY.ceiling(POLICY.salary_for(limit, bound), bound) == pytest.approx(limit)
    assert POLICY.ceiling(POLICY.salary_for(limit, None), None) == pytest.approx(limit)


def test_no_salary_carries_a_limit_where_nothing_is_left_of_it() -> None:
    harsh = replace(POLICY, unknown_obligations_share=1 - POLICY.living_share)
    assert harsh.salary_for(500.0, None) is None
    assert harsh.ceiling(60_000.0, None) == pytest.approx(0.0)
    assert harsh.salary_for(500.0, 100.0) == POLICY.salary_for(500.0, 100.0)


def test_unknown_obligations_are_assumed_and_said() -> None:
    limit = suggest()
    assert limit.obligations_assumed
    assert 0 < limit.amount < suggest(obligations=0.0).amount


def test_below_the_smallest_limit_none_is_granted() -> None:
    assert suggest(salary=60_000.0, obligations=1_950.0).ceiling == pytest.approx(416.67, abs=0.01)
    for requested in (None, float(POLICY.smallest), 1e6):
        limit = suggest(salary=60_000.0, obligations=1_950.0, requested=requested)
        assert (limit.amount, limit.counteroffer) == (0.0, False)
    smallest = REQUESTED_LIMIT.constraint
    assert isinstance(smallest, Number)
    assert smallest.minimum == POLICY.smallest, "less cannot be asked for"


@given(band=bands, salary=money, obligations=st.none() | money, requested=st.none() | st.floats(500, 1e8))
def test_never_more_than_the_residual_income_carries(band, salary, obligations, requested) -> None:
    limit = suggest(band, salary, obligations, requested)
    assert limit.amount == 0 or POLICY.smallest <= limit.amount <= limit.ceiling
    assert requested is None or limit.amount <= requested
    assert limit.counteroffer == (requested is not None and 0 < limit.amount < requested)
    assert limit.rule in POLICY.rules


@given(band=bands, salary=money, obligations=money, more=money)
def test_more_obligations_never_raise_the_limit(band, salary, obligations, more) -> None:
    assert suggest(band, salary, obligations + more).amount <= suggest(band, salary, obligations).amount
