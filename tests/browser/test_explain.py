"""The decision page's curve under keyboard and pointer, the folded reasons, the printed letter."""

import json

import pytest

from bankportal.web import forms
from tests.shipped import BY_PAGE, PRODUCTS

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
POOR = {"CreditScore": "420", "CardUtilisation": "190", "LatePayments": "8", "RequestedLimit": "6000"}


@pytest.fixture
def decide(csrf_app, portal):
    """Record a decision and return the address of its page."""
    services = csrf_app.extensions["bankportal"]

    def record(key: str, **changes: str) -> str:
        from bankportal.domain.constraints import Source
        from bankportal.domain.schema import validate

        product = PRODUCTS[key]
        customer = validate(product, {**forms.example_values(product), **changes}, Source.TEXT)
        return f"{portal}/decisions/{services.scoring.decide(customer, repr(changes), BY_PAGE).id}"

    return record


def test_it_works(new_page, decide) -> None:
    page = new_page()
    page.goto(decide("allowance", **POOR) + "?what-if=CardUtilisation")
    slider = page.get_by_role("slider", name="Card utilisation")
    stops = json.loads(page.locator("[data-curve]").get_attribute("data-curve"))
    own = int(slider.get_attribute("aria-valuenow"))
    assert stops[own - 1]["typed"] == "190"
    slider.focus()
    for key, place in (("ArrowLeft", own - 1), ("ArrowRight", own), ("Home", 1), ("ArrowLeft", 1), ("End", len(stops))):
        page.keyboard.press(key)
        stop = stops[place - 1]
        expect(slider).to_have_attribute("aria-valuenow", str(place))
        expect(slider).to_have_attribute("aria-valuetext", stop["words"])
        expect(page.locator("#CardUtilisation")).to_have_value(stop["typed"])
        expect(page.locator("[data-score-text]")).to_have_text(stop["score"])
        expect(page.locator("[data-verdict]")).to_have_text(stop["verdict"])


def test_the_curve_says_what_the_comparison_says(new_page, decide) -> None:
    page = new_page()
    page.goto(decide("churn") + "?what-if=Age")
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuenow", "1")
    score = page.locator("[data-score-text]").inner_text()
    page.get_by_role("button", name="Compare before and after").click()
    page.wait_for_url("**/compare?*")
    expect(page.locator(".gauge-value").nth(1)).to_have_text(score)


def test_a_pointer_moves_the_marker(new_page, decide) -> None:
    page = new_page()
    page.goto(decide("churn") + "?what-if=Balance")
    slider = page.get_by_role("slider")
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] - 4, "y": box["height"] / 2})
    expect(slider).to_have_attribute("aria-valuenow", slider.get_attribute("aria-valuemax"))


@pytest.mark.parametrize("factor", ["Geography", "HasLoan"])
def test_options_move_too(new_page, decide, factor) -> None:
    page = new_page()
    page.goto(decide("churn") + f"?what-if={factor}")
    page.get_by_role("slider").focus()
    page.keyboard.press("End")
    stops = json.loads(page.locator("[data-curve]").get_attribute("data-curve"))
    expect(page.locator(f"#{factor}")).to_have_value(stops[-1]["typed"])


def test_without_script(new_page, decide) -> None:
    page = new_page(java_script_enabled=False)
    page.goto(decide("churn"))
    expect(page.get_by_role("slider")).to_have_count(0)
    page.select_option("#factor", "Balance")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url("**what-if=Balance#what-if")
    page.fill("#Balance", "1")
    page.get_by_role("button", name="Compare before and after").click()
    page.wait_for_url("**/compare?Balance=1")
    expect(page.locator(".gauge-value")).to_have_count(2)


@pytest.mark.parametrize("factor", ["AvgTransactionAmount", "MonthlyObligations", "HasLoan"])
def test_on_a_phone_the_curves_table_shows_every_column(new_page, decide, factor) -> None:
    page = new_page(viewport={"width": 320, "height": 844})
    page.goto(f"{decide('allowance', **POOR)}?what-if={factor}")
    page.get_by_text("The curve as a table").click()
    table = page.get_by_role("region", name="Steps of the curve")
    expect(table.get_by_role("columnheader", name="Band by the score")).to_be_visible()
    assert table.evaluate("region => region.scrollWidth <= region.clientWidth")


def test_trying_a_suggestion(new_page, decide) -> None:
    page = new_page()
    page.goto(decide("churn", Age="60", NumOfProducts="4", IsActiveMember="0", ComplaintsFiled="3"))
    promised = page.locator(".advice-leads .strong").first.inner_text()
    page.get_by_role("link", name="Try it").first.click()
    page.wait_for_url("**/churn/?*")
    expect(page.locator(".gauge-value")).to_have_text(promised)


def test_reasons_follow_and_fold_on_a_phone(portal, new_page) -> None:
    wide = new_page()
    wide.goto(f"{portal}/churn/?example=1")
    expect(wide.locator(".preview-reasons li").first).to_be_visible()
    wide.locator(".preview-reasons summary").click()
    wide.fill("#Age", "64")
    expect(wide.locator(".preview-reasons")).to_contain_text("An age of 64")
    expect(wide.locator(".preview-reasons li").first).to_be_hidden()
    narrow = new_page(viewport={"width": 390, "height": 844})
    narrow.goto(f"{portal}/churn/?example=1")
    expect(narrow.locator(".preview-reasons summary")).to_be_visible()
    expect(narrow.locator(".preview-reasons li").first).to_be_hidden()


def test_the_letter_on_paper(new_page, decide) -> None:
    page = new_page()
    page.goto(decide("allowance", **POOR) + "/letter")
    expect(page.get_by_role("button", name="Print")).to_be_visible()
    page.emulate_media(media="print")
    for gone in (".page-head", ".top", ".foot"):
        expect(page.locator(gone)).to_be_hidden()
    expect(page.locator(".letter")).to_be_visible()
    without = new_page(java_script_enabled=False)
    without.goto(page.url)
    expect(without.get_by_role("button", name="Print")).to_have_count(0)
