"""The API's documentation works offline, under the portal's own content security policy."""

import re

import pytest

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


def test_an_example_runs_from_the_page(shared_portal, new_page) -> None:
    page = new_page()
    outside = []
    page.on("request", lambda request: request.url.startswith(shared_portal) or outside.append(request.url))
    page.goto(f"{shared_portal}/docs")
    operation = page.locator("#operations-Scoring-score-churn")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table tbody .response-col_status").first
    expect(answer).to_have_text(re.compile("^200"))
    expect(operation.locator(".live-responses-table")).to_contain_text('"band"')
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []


def test_factors_show_unit_bounds_and_meaning(shared_portal, new_page) -> None:
    page = new_page()
    page.goto(f"{shared_portal}/docs")
    operation = page.locator("#operations-Scoring-score-churn")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("tab", name="Schema").first.click()
    described = operation.locator(".opblock-section-request-body")
    for text in ("From the credit bureau; higher is better. Unit: points.", "300", "850"):
        expect(described).to_contain_text(text)


def test_answers_have_the_width_of_a_phone(shared_portal, new_page) -> None:
    page = new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{shared_portal}/docs")
    operation = page.locator("#operations-Scoring-score-churn")
    operation.locator(".opblock-summary-control").click()
    described = operation.locator(".response .response-col_description").first
    expect(described).to_be_visible()
    assert described.bounding_box()["width"] > 390 * 0.7
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_portals_navigation_leads_there_and_back(shared_portal, new_page) -> None:
    page = new_page(color_scheme="dark")
    page.goto(f"{shared_portal}/")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="API").click()
    expect(page.locator("#operations-Scoring-score-churn")).to_be_visible()
    expect(page.locator("html")).to_have_class("dark-mode")
    page.get_by_role("button", name="Dark theme").click()
    expect(page.locator("html")).not_to_have_class("dark-mode")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Overview").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_without_a_script_the_document_is_linked(shared_portal, new_page) -> None:
    page = new_page(java_script_enabled=False)
    page.goto(f"{shared_portal}/docs")
    expect(page.locator(".operations").get_by_role("link", name="The OpenAPI document")).to_be_visible()
