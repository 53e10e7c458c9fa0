"""The API's documentation works offline, under the portal's own content security policy."""


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
    answer.wait_for()
    assert answer.inner_text().startswith("200")
    assert '"band"' in operation.locator(".live-responses-table").inner_text()
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []


def test_factors_show_unit_bounds_and_meaning(shared_portal, new_page) -> None:
    page = new_page()
    page.goto(f"{shared_portal}/docs")
    operation = page.locator("#operations-Scoring-score-churn")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("tab", name="Schema").first.click()
    text = operation.locator(".opblock-section-request-body").inner_text()
    assert "From the credit bureau; higher is better. Unit: points." in text
    assert "300" in text
    assert "850" in text
