"""Both forms in a real browser, with and without JavaScript."""

import re

import pytest

from bankportal.domain.constraints import Number, Source, Text
from bankportal.domain.outcome import percent
from bankportal.domain.schema import validate
from tests.shipped import PRODUCTS

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
ALL = list(PRODUCTS.values())
MAX_STOPS = 60  # of the Tab key on a form's page
EACH_PRODUCT = pytest.mark.parametrize("product", ALL, ids=lambda product: product.key)


def fill(page, product, values) -> None:
    constraints = {entry.factor.name: entry.factor.constraint for entry in product.factors}
    for name, value in values.items():
        if isinstance(constraints[name], Number | Text):
            page.fill(f"#{name}", value)
        else:
            page.select_option(f"#{name}", value)


def expected(app, product, values) -> str:
    outcome = app.extensions["bankportal"].scoring.score(validate(product, values, Source.TEXT))
    return percent(product, outcome.score)


def wait_for_gauge(page, text) -> None:
    expect(page.locator(".gauge-value")).to_have_text(text)


@EACH_PRODUCT
@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_it_works(portal, new_page, csrf_app, product, examples, recorded, script) -> None:
    page = new_page(java_script_enabled=script)
    page.goto(f"{portal}/{product.key}/")
    fill(page, product, examples[product.key])
    assert recorded() == 0
    page.get_by_role("button", name="Score and record").first.click()
    page.wait_for_url("**/decisions/*")
    wait_for_gauge(page, expected(csrf_app, product, examples[product.key]))
    assert recorded() == 1


@EACH_PRODUCT
def test_the_gauge_follows_and_nothing_is_recorded(portal, new_page, csrf_app, product, examples, recorded) -> None:
    page = new_page()
    page.goto(f"{portal}/{product.key}/")
    wait_for_gauge(page, "–")
    required = {factor.name: examples[product.key][factor.name] for factor in product.required}
    fill(page, product, required)
    wait_for_gauge(page, expected(csrf_app, product, required))
    changed = {**required, "CreditScore": "390", "LatePayments": "9", "Tenure": "0", "Balance": "0"}
    fill(page, product, changed)
    wait_for_gauge(page, expected(csrf_app, product, changed))
    expect(page.get_by_role("meter")).to_have_attribute("aria-valuetext", re.compile("^On a scale from 0% to 100%"))
    expect(page.locator("[data-announce]")).not_to_be_empty()
    assert recorded() == 0


def test_the_needle_moves_from_where_it_stood(portal, new_page) -> None:
    page = new_page(reduced_motion="no-preference")
    page.goto(f"{portal}/churn/?example=1")
    page.locator(".gauge-needle").evaluate("""async (needle) => {
        await Promise.all(needle.getAnimations().map((each) => each.finished));  // it swings up once the page is there
        needle.addEventListener('transitionrun', () => { document.title = 'moved'; });
    }""")
    page.fill("#Age", "61")
    expect(page).to_have_title("moved")


def test_preview_without_script_records_nothing(portal, new_page, csrf_app, examples, recorded) -> None:
    page = new_page(java_script_enabled=False)
    page.goto(f"{portal}/churn/?example=1")
    page.fill("#Age", "57")
    page.get_by_role("button", name="Preview without recording").click()
    wait_for_gauge(page, expected(csrf_app, PRODUCTS["churn"], {**examples["churn"], "Age": "57"}))
    expect(page.locator("#Age")).to_have_value("57")
    assert recorded() == 0
    expect(page.locator("[data-theme-switch]")).to_be_hidden()


def test_problems_show_once_a_field_is_left_and_go_when_repaired(portal, new_page) -> None:
    page = new_page()
    page.goto(f"{portal}/churn/")
    error = page.locator("#CreditScore-error")
    with page.expect_response("**/preview"):
        page.fill("#CreditScore", "9999")
    expect(error).to_be_empty()
    page.keyboard.press("Tab")
    expect(error).to_have_text("Credit score must be 850 or less.")
    expect(page.locator("#CreditScore")).to_have_attribute("aria-invalid", "true")
    page.fill("#CreditScore", "700")
    expect(error).to_be_empty()
    expect(page.locator("#CreditScore[aria-invalid]")).to_have_count(0)
    expect(page.locator(".field.wrong")).to_have_count(0)  # the blank required ones are no mistakes yet


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_the_error_summary_takes_focus_and_leads_to_the_field(portal, new_page, recorded, script) -> None:
    page = new_page(java_script_enabled=script)
    page.goto(f"{portal}/allowance/?example=1")
    page.fill("#CreditScore", "12")
    page.get_by_role("button", name="Score and record").first.click()
    expect(page.locator(".summary")).to_be_focused()
    expect(page).to_have_title(re.compile("^Error: "))
    page.wait_for_load_state()  # until then, the script may call the focus back
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/#CreditScore") if not script else expect(page.locator("#CreditScore")).to_be_focused()
    expect(page.locator("#CreditScore")).to_have_value("12")
    assert recorded() == 0


def test_keyboard_alone(portal, new_page, examples, recorded) -> None:
    page = new_page()
    page.goto(f"{portal}/churn/")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/#main")
    wanted = {factor.name: examples["churn"][factor.name] for factor in PRODUCTS["churn"].required}
    for _ in range(MAX_STOPS):
        page.keyboard.press("Tab")
        if (name := page.evaluate("document.activeElement.id")) in wanted:
            page.keyboard.type(wanted.pop(name))
        if not wanted:
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/decisions/*")
    assert recorded() == 1


def test_arrow_keys_step_within_the_bounds(shared_portal, new_page) -> None:
    page = new_page()
    page.goto(f"{shared_portal}/churn/")
    field = page.locator("#CreditScore")
    field.fill("849")
    for _ in range(3):
        field.press("ArrowUp")
    expect(field).to_have_value("850")
    field.press("Shift+ArrowDown")
    expect(field).to_have_value("840")
    field.fill("abc")
    field.press("ArrowUp")
    expect(field).to_have_value("abc")


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_a_double_click_is_one_decision(portal, new_page, recorded, script) -> None:
    page = new_page(java_script_enabled=script)
    page.goto(f"{portal}/churn/?example=1")
    page.get_by_role("button", name="Score and record").first.dblclick()
    page.wait_for_url("**/decisions/*")
    assert recorded() == 1


def test_a_lost_connection_is_said_and_recovers(shared_portal, new_page) -> None:
    page = new_page()
    page.goto(f"{shared_portal}/churn/?example=1")
    status = page.locator("[data-status]")
    expect(status).to_be_hidden()
    page.context.set_offline(True)
    page.fill("#Age", "50")
    expect(status).to_be_visible()
    expect(status).to_contain_text("Live preview paused")
    page.context.set_offline(False)
    page.fill("#Age", "51")
    expect(status).to_be_hidden()


def test_change_and_score_again(portal, new_page, recorded) -> None:
    page = new_page()
    page.goto(f"{portal}/allowance/?example=1")
    page.get_by_role("button", name="Score and record").first.click()
    page.get_by_role("link", name="Change and score again").click()
    page.wait_for_url("**/allowance/?*")
    wait_for_gauge(page, re.compile(r"^\d+(\.\d+)?%$"))
    page.fill("#LatePayments", "4")
    page.get_by_role("button", name="Score and record").first.click()
    page.wait_for_url("**/decisions/*")
    assert recorded() == 2


def test_a_required_value_stays_named_until_it_is_given(portal, new_page) -> None:
    page = new_page()
    page.goto(f"{portal}/churn/?example=1")
    page.fill("#Tenure", "")
    page.get_by_role("button", name="Score and record").first.click()
    expect(page.locator(".summary")).to_be_visible()
    page.wait_for_load_state()  # before its scripts are there, no preview follows
    with page.expect_response("**/preview"):
        page.fill("#Age", "44")
    page.keyboard.press("Tab")
    expect(page.locator("#Tenure-error")).to_have_text("Tenure is required.")
    page.fill("#Tenure", "3")
    expect(page.locator("#Tenure-error")).to_be_empty()


def test_on_a_phone_the_form_has_the_full_width_and_the_gauge_stays_in_sight(shared_portal, new_page) -> None:
    page = new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{shared_portal}/allowance/?example=1")
    assert page.locator("#CreditScore").bounding_box()["width"] > 300
    page.evaluate("scrollTo(0, 1500)")
    expect(page.locator(".gauge-value")).to_be_in_viewport()


# Says what lies over the middle or the top of what has the focus; blank where nothing does.
COVERING = """async () => {
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    const focused = document.activeElement;
    const box = focused.getBoundingClientRect();
    const covers = (x, y) => {
        const top = document.elementFromPoint(x, y);
        if (top === null) return "outside the window";
        return focused.contains(top) || top.contains(focused) ? "" : top.outerHTML;
    };
    return covers(box.left + box.width / 2, box.top + 2) || covers(box.left + box.width / 2, box.top + box.height / 2);
}"""


@pytest.mark.parametrize("width", [390, 820, 1440])
@EACH_PRODUCT
def test_no_field_is_under_the_gauge_when_tabbing_back(shared_portal, new_page, product, width) -> None:
    page = new_page(viewport={"width": width, "height": 844})
    page.goto(f"{shared_portal}/{product.key}/?example=1")
    page.wait_for_load_state()
    page.get_by_role("button", name="Score and record").last.focus()
    first, covered = next(iter(product.factors)).factor.name, {}
    for _ in range(MAX_STOPS):
        page.keyboard.press("Shift+Tab")
        name = page.evaluate("document.activeElement.id")
        if covering := page.evaluate(COVERING):
            covered[name] = covering[:80]
        if name == first:
            break
    assert name == first
    assert covered == {}


def test_a_gauge_card_that_grows_does_not_cover_the_field_that_is_typed_in(shared_portal, new_page) -> None:
    page = new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{shared_portal}/churn/?example=1")
    page.wait_for_load_state()
    page.locator("#NumOfProducts").evaluate("""field => {
        scrollBy(0, field.getBoundingClientRect().top - document.querySelector(".result").offsetHeight - 90);
        field.focus({ preventScroll: true });
    }""")
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#Balance")).to_be_focused()
    assert page.evaluate(COVERING) == ""
    before = page.locator(".result").bounding_box()["height"]
    with page.expect_response("**/preview"):
        page.keyboard.type("999000000")  # what had the focus is selected
    expect(page.locator(".preview-note.flagged").first).to_be_visible()
    assert page.locator(".result").bounding_box()["height"] > before
    assert page.evaluate(COVERING) == ""


@EACH_PRODUCT
def test_the_gauge_card_can_be_reached_in_a_low_window(shared_portal, new_page, product) -> None:
    page = new_page(viewport={"width": 1280, "height": 400})  # half of a screen, or a whole one enlarged
    page.goto(f"{shared_portal}/{product.key}/?example=1")
    page.wait_for_load_state()
    for control in page.locator(".result").locator("button, summary").all():
        control.focus()
        assert page.evaluate(COVERING) == ""


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_the_button_of_the_gauge_card_records(portal, new_page, recorded, script) -> None:
    page = new_page(java_script_enabled=script)
    page.goto(f"{portal}/churn/?example=1")
    button = page.locator(".result").get_by_role("button", name="Score and record")
    expect(button).to_be_in_viewport()
    button.click()
    page.wait_for_url("**/decisions/*")
    assert recorded() == 1


def test_how_required_fields_are_marked_reaches_a_screen_reader(shared_portal, new_page) -> None:
    page = new_page()
    page.goto(f"{shared_portal}/churn/")
    group = page.get_by_role("group").first
    expect(group).to_have_accessible_description(re.compile("^Fields marked \\* are required"))
    expect(page.locator("#CreditScore")).to_have_accessible_name("Credit score · points")
    assert page.locator("#CreditScore").evaluate("field => field.required")
    assert not page.locator("#HasLoan").evaluate("field => field.required")
