import pytest

from bankportal.domain.errors import NotFound
from bankportal.domain.portfolio import Portfolio
from tests.shipped import ALLOWANCE, CHURN


def test_it_holds_the_products_in_their_order() -> None:
    portfolio = Portfolio([ALLOWANCE, CHURN])
    assert list(portfolio) == ["allowance", "churn"]
    assert portfolio.product("churn") is portfolio["churn"] is CHURN


def test_a_withdrawn_product_is_not_in_force_and_still_known() -> None:
    portfolio = Portfolio([CHURN], withdrawn=[ALLOWANCE])
    assert "allowance" not in portfolio
    assert portfolio.ever("allowance") is ALLOWANCE
    assert portfolio.ever("churn") is CHURN
    with pytest.raises(NotFound, match="Allowance was withdrawn"):
        portfolio.product("allowance")


def test_a_product_that_never_was_is_not_found() -> None:
    portfolio = Portfolio([CHURN], withdrawn=[ALLOWANCE])
    for find in (portfolio.product, portfolio.ever):
        with pytest.raises(NotFound, match="There is no such product"):
            find("mortgage")
