"""A headless Chromium and a portal served from a thread; everything is skipped where either is missing."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, config_for, listening, make_app

MILLISECONDS = 1000 * PATIENCE

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    """One headless Chromium for all tests."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    api.expect.set_options(timeout=MILLISECONDS)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=MILLISECONDS)
        yield browser
        browser.close()


@pytest.fixture
def portal(csrf_app, browser):
    """The address of the test's own portal, form tokens asked for as in real life."""
    with listening(csrf_app) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def shared_portal(browser, ready_instance, tmp_path_factory):
    """The address of one portal for tests that only look."""
    instance = shutil.copytree(ready_instance, tmp_path_factory.mktemp("shared") / "instance")
    app = make_app(config_for(instance), csrf=True)
    with listening(app) as port:
        yield f"http://127.0.0.1:{port}"
    app.extensions["bankportal"].database.close()


@pytest.fixture
def new_page(browser):
    """Open pages, each in a context of its own; fail where a page reports an error of its own making."""
    contexts, faults = [], []

    def open_page(**options):
        context = browser.new_context(
            **{"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"} | options
        )
        context.set_default_timeout(MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: "Content Security" in message.text and faults.append(message.text))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def recorded(csrf_app):
    """Count the decisions of the test's own portal."""
    return lambda: len(csrf_app.extensions["bankportal"].decisions.latest(100))
