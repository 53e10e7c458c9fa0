"""Every page in both themes: axe, narrow screens, the theme switch."""

import pytest

PAGES = (
    "/",
    "/churn/",
    "/allowance/?example=1",
    "/decisions/",
    "decision",
    "decision/letter",
    "decision/compare?CreditScore=560&LatePayments=2",
    "decision/compare?CreditScore=1",
    "/models/",
    "/models/allowance/v1",
    "/docs",
    "/not-there",
)
# Parts of other makers.
FOREIGN = "#swagger-ui"


@pytest.fixture(scope="module")
def decision(shared_portal, browser) -> str:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{shared_portal}/allowance/?example=1")
    page.fill("#RequestedLimit", "90000")
    page.get_by_role("button", name="Score and record").first.click()
    page.wait_for_url("**/decisions/*")
    address = page.url.removeprefix(shared_portal)
    context.close()
    return address


def address(path: str, decision: str) -> str:
    return decision + path.removeprefix("decision") if path.startswith("decision") else path


def serious(page) -> list[str]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    context = {"exclude": [[FOREIGN]]} if page.locator(FOREIGN).count() else None
    found = axe.run(page, context=context, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['failureSummary']}"
        for each in found
        if each["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(shared_portal, new_page, decision, theme) -> None:
    page = new_page(color_scheme=theme, bypass_csp=True)
    faults = {}
    for path in PAGES:
        page.goto(shared_portal + address(path, decision))
        if found := serious(page):
            faults[path] = found
    page.goto(f"{shared_portal}/churn/?example=1")
    page.fill("#Age", "7")
    page.get_by_role("button", name="Score and record").first.click()
    page.wait_for_selector(".summary")
    page.wait_for_load_state()
    if found := serious(page):
        faults["errors"] = found
    assert faults == {}


@pytest.mark.parametrize("width", [320, 390, 820])
def test_no_page_scrolls_sideways_and_each_has_its_landmarks(shared_portal, new_page, decision, width) -> None:
    page = new_page(viewport={"width": width, "height": 844})
    wide = {}
    for path in PAGES:
        page.goto(shared_portal + address(path, decision))
        if (needed := page.evaluate("document.documentElement.scrollWidth")) > width:
            wide[path] = needed
        landmarks = ("h1", "main", "nav[aria-label=Main]", "[style]")
        counts = [page.locator(f"{each}:not({FOREIGN} *)").count() for each in landmarks]
        assert counts == [1, 1, 1, 0]
    assert wide == {}


def test_the_theme_switch(shared_portal, new_page) -> None:
    page = new_page(color_scheme="light")
    page.goto(f"{shared_portal}/")
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate(colour)
    assert dark != light
    page.goto(f"{shared_portal}/models/")
    assert page.evaluate(colour) == dark
    assert page.get_by_role("button", name="Dark theme").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate(colour) == light


def test_the_theme_follows_the_system(shared_portal, new_page) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page = new_page(color_scheme=scheme, java_script_enabled=False)
        page.goto(f"{shared_portal}/")
        colours.add(page.locator("html").evaluate("root => getComputedStyle(root).backgroundColor"))
    assert len(colours) == 2


def test_nothing_moves_where_motion_is_unwanted(shared_portal, new_page) -> None:
    page = new_page(reduced_motion="reduce")
    page.goto(f"{shared_portal}/churn/?example=1")
    assert page.evaluate("getComputedStyle(document.querySelector('.gauge-needle')).animationName") == "none"
    moving = new_page(reduced_motion="no-preference")
    moving.goto(f"{shared_portal}/churn/?example=1")
    assert moving.evaluate("getComputedStyle(document.querySelector('.gauge-needle')).animationName") == "gauge-turn"


@pytest.mark.parametrize("width", [320, 390, 820])
def test_every_part_of_the_navigation_is_in_sight(shared_portal, new_page, width) -> None:
    page = new_page(viewport={"width": width, "height": 844})
    page.goto(f"{shared_portal}/")
    for link in page.locator(".nav a").all():
        box = link.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["height"] >= 24


# --- tables on a phone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "cells"),
    [
        ("/decisions/", (".cell-customer", ".cell-time", ".badge")),
        ("/", (".cell-customer", ".cell-time", ".badge")),
        ("decision/compare?CreditScore=560", ("[data-label=Before]", "[data-label=After]", ".points")),
        ("/models/", ("[data-label=Trained]", "[data-label=Brier]")),
        ("/models/allowance/v1", ("[data-label=Brier]", "[data-label=Recall]")),
    ],
)
def test_on_a_phone_tables_are_stacked_and_hide_nothing(shared_portal, new_page, decision, path, cells) -> None:
    page = new_page(viewport={"width": 390, "height": 844})
    page.goto(shared_portal + address(path, decision))
    page.locator("table.stacked").first.wait_for()
    for cell in cells:
        assert whole(page.locator(f"table.stacked tbody {cell}")) == [], cell
    for table in page.get_by_role("region").all():
        assert table.evaluate("region => region.scrollWidth <= region.clientWidth")
    assert page.get_by_role("table").first.get_by_role("row").count() > 1, "a screen reader still finds a table"


def whole(cells) -> list[str]:
    """Return the texts of the cells that do not lie within the width of a phone, whole; there must be some cells."""
    assert cells.count()
    return [
        cell.inner_text()
        for cell in cells.all()
        if not (box := cell.bounding_box())
        or box["x"] < 0
        or box["x"] + box["width"] > 390
        or cell.evaluate(
            "cell => cell.scrollWidth > cell.clientWidth + 1 && getComputedStyle(cell).overflow !== 'visible'"
        )
    ]


# --- paper ----------------------------------------------------------------------------------------------------------

LUMINANCE = """element => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const lightness = (colour) => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return Math.max(...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3));
    };
    const style = getComputedStyle(element);
    return [lightness(style.color), lightness(style.backgroundColor)];
}"""


def test_printing_shows_the_needle_where_it_belongs_at_once(shared_portal, new_page, decision) -> None:
    page = new_page(reduced_motion="no-preference")
    page.goto(shared_portal + decision)
    page.emulate_media(media="print")
    moving = page.evaluate("document.getAnimations().filter((each) => each.playState === 'running').length")
    needle = page.locator(".gauge-needle")
    assert (moving, needle.evaluate("needle => getComputedStyle(needle).animationName")) == (0, "none")
    angle = needle.evaluate("needle => new DOMMatrix(getComputedStyle(needle).transform).m11")
    assert angle == pytest.approx(needle.evaluate("needle => needle.transform.baseVal.consolidate().matrix.a"))


@pytest.mark.parametrize("media", ["screen", "print"])
def test_the_letter_is_never_dark(shared_portal, new_page, decision, media) -> None:
    page = new_page(color_scheme="dark")
    page.goto(f"{shared_portal}{decision}/letter")
    page.emulate_media(media=media, color_scheme="dark")
    for theme in ("", "dark"):
        page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
        for part in (".letter", ".letter h3", ".letter .blanks dt"):
            assert page.locator(part).first.evaluate(LUMINANCE)[0] < 130, part
        if media == "screen":
            assert page.locator(".letter").evaluate(LUMINANCE)[1] > 240
            assert page.locator("html").evaluate(LUMINANCE)[1] < 60, "the page around it keeps its theme"


def test_no_page_is_printed_dark(shared_portal, new_page, decision) -> None:
    page = new_page(color_scheme="dark")
    page.goto(shared_portal + decision)
    page.emulate_media(media="print", color_scheme="dark")
    for part in ("html", ".card", ".badge", ".reasons li"):
        assert page.locator(part).first.evaluate(LUMINANCE)[0] < 190, part
    assert page.locator("html").evaluate(LUMINANCE)[1] == 255
    assert page.locator(".gauge-track").first.evaluate("track => getComputedStyle(track).stroke").startswith("rgba(23")
