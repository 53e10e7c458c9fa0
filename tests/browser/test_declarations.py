"""A form that is open in a browser while the declarations change."""

import re

from playwright.sync_api import expect

from tests.shipped import ALLOWANCE, CHURN
from tests.test_web_declarations import FEWER, in_force, product_declaration, record  # noqa: F401  # a fixture


def test_a_form_that_is_open_during_a_change(in_force, csrf_app, portal, new_page, recorded) -> None:  # noqa: F811
    page = new_page()
    page.goto(f"{portal}/churn/?example=1")
    record(csrf_app, product_declaration(FEWER))
    in_force(FEWER, ALLOWANCE)
    page.locator("#Balance").fill("81000")
    expect(page.locator("[data-preview]")).to_contain_text("has changed since you opened the form")
    page.get_by_role("button", name="Score and record").first.click()
    expect(page.get_by_role("alert")).to_contain_text("No longer asked for: Surname: Hargrave.")
    expect(page.locator("#Balance")).to_have_value("81000")
    assert recorded() == 0
    page.get_by_role("button", name="Score and record").first.click()
    expect(page).to_have_url(re.compile("/decisions/"))
    assert recorded() == 1


def test_a_product_withdrawn_while_its_form_is_open(in_force, portal, new_page, recorded) -> None:  # noqa: F811
    page = new_page()
    page.goto(f"{portal}/allowance/?example=1")
    in_force(CHURN, withdrawn=[ALLOWANCE])
    page.locator("#Balance").fill("81000")
    expect(page.locator("[data-status]")).to_contain_text("Allowance was withdrawn")
    page.get_by_role("button", name="Score and record").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Withdrawn")
    expect(page.get_by_role("row", name="Balance 81000")).to_be_visible()
    assert recorded() == 0
