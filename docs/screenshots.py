"""Draws the screenshots: the README's, or with a folder every page at three widths in both themes, to look at.

The portal it draws is made for it in a temporary folder: both models on the simulated customers, decisions of every
outcome, files at every step. Chromium must be installed.
"""

import csv
import io
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from flask import Flask
from flask.testing import FlaskClient
from playwright.sync_api import Browser, Page, sync_playwright
from werkzeug.serving import make_server

from bankportal import create_app
from bankportal.cli.up import prepare
from bankportal.domain.portfolio import shipped_portfolio
from bankportal.domain.provenance import Door, Provenance
from bankportal.web.forms import example_values

PRODUCTS = shipped_portfolio()
HERE = Path(__file__).parent / "screenshots"
DATA = Path(__file__).parents[1] / "migrations_data"
WIDTHS = {"desktop": (1440, 900), "tablet": (820, 1180), "phone": (390, 844)}
THEMES = ("light", "dark")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CUSTOMERS = (30, 44)  # the rows of the churn file that are scored one by one
# Changes to the allowance's example: one of each outcome.
APPLICANTS: Mapping[str, Mapping[str, str]] = {
    "granted": {"RequestedLimit": "5000"},
    "standard": {"LatePayments": "1", "RequestedLimit": "3000", "Surname": "Moreau", "CustomerId": "15619304"},
    "counteroffer": {"RequestedLimit": "25000", "Surname": "Okafor", "CustomerId": "15701354"},
    "no-limit": {
        "CreditScore": "820",
        "EstimatedSalary": "24000",
        "MonthlyObligations": "900",
        "CardUtilisation": "5",
        "Surname": "Lindqvist",
        "CustomerId": "15737888",
    },
    "ineligible": {
        "CreditScore": "505",
        "CardUtilisation": "97",
        "LatePayments": "4",
        "Tenure": "1",
        "Surname": "Brandt",
        "CustomerId": "15574012",
    },
}
LEAVING = {
    "Age": "55",
    "NumOfProducts": "1",
    "IsActiveMember": "0",
    "ComplaintsFiled": "2",
    "CustomerSatisfaction": "2",
}
README = {
    "overview": ("overview", "desktop", "light", 900),
    "churn": ("churn-form", "desktop", "light", 900),
    "churn-dark": ("churn-form", "desktop", "dark", 900),
    "decision": ("decision-ineligible", "desktop", "light", 2100),
    "batch": ("batch-checked", "desktop", "light", 900),
    "allowance-phone": ("allowance-form", "phone", "light", 844),
}


def form_values(key: str, **changes: str) -> dict[str, str]:
    """Return a product's example as typed, with changes."""
    return {**example_values(PRODUCTS[key]), **changes}


def make_decisions(client: FlaskClient) -> dict[str, str]:
    """Record decisions; return the addresses of some of them by name."""
    with (DATA / "Churn.csv").open(encoding="utf-8", newline="") as file:
        rows = list(islice(csv.DictReader(file), *CUSTOMERS))
    names = [entry.factor.name for entry in PRODUCTS["churn"].factors]
    for row in rows:
        client.post("/churn/", data={name: row[name] for name in names if name in row})
    applicants = {
        name: client.post("/allowance/", data=form_values("allowance", **changes)).location
        for name, changes in APPLICANTS.items()
    }
    leaving = client.post("/churn/", data=form_values("churn", **LEAVING)).location
    return {"churn": leaving, **applicants}


def churn_file(count: int) -> bytes:
    """Return so many of a month's customers, some of them with values that no customer can have."""
    rows = list(csv.reader((DATA / "Churn.csv").read_text(encoding="utf-8").splitlines()))[: count + 1]
    for place, column, text in ((12, "CreditScore", "912"), (77, "CreditScore", "861"), (140, "Age", "fifty")):
        rows[place][rows[0].index(column)] = text
    return written(rows)


def allowance_file() -> bytes:
    """Return applicants with every outcome, many times."""
    applicants = [form_values("allowance", **changes) for changes in APPLICANTS.values()]
    rows = [{**each, "CustomerId": str(15_600_000 + number)} for number in range(40) for each in applicants]
    return written([list(rows[0]), *(list(row.values()) for row in rows)])


def written(rows: list[list[str]]) -> bytes:
    """Write rows as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def make_batches(app: Flask) -> dict[str, str]:
    """Upload files and leave each at a step; return their addresses by the step."""
    batches, worker = app.extensions["bankportal"].batches, app.extensions["bankportal"].worker
    steps = (
        ("columns", "churn", "customers-october.csv", churn_file(1800)),
        ("checked", "churn", "customers-november.csv", churn_file(2400)),
        ("result", "churn", "customers-september.csv", churn_file(2000)),
        ("limits", "allowance", "applications-november.csv", allowance_file()),
    )
    addresses = {}
    for step, key, name, content in steps:
        job = batches.receive(PRODUCTS[key], name, io.BytesIO(content), provenance=Provenance(Door.PAGE))
        if step != "columns":
            batches.check(job, batches.suggestion(job).mapping, start=step != "checked")
        while worker.step():
            pass
        addresses[step] = f"/batches/{job.id}"
    return addresses


def pages_of(app: Flask) -> dict[str, str]:
    """Fill the portal; return the addresses of all kinds of pages by a name for their files."""
    client = app.test_client()
    decisions, batches = make_decisions(client), make_batches(app)
    return {
        "overview": "/",
        "churn-form": "/churn/?example=1",
        "churn-blank": "/churn/",
        "allowance-form": "/allowance/?example=1",
        "decisions": "/decisions/",
        "decision-churn": decisions["churn"],
        **{f"decision-{name}": decisions[name] for name in APPLICANTS},
        "compare": f"{decisions['churn']}/compare?Age=35&ComplaintsFiled=0",
        "compare-no-limit": f"{decisions['no-limit']}/compare?EstimatedSalary=60000",
        "compare-problem": f"{decisions['churn']}/compare?Age=7&CreditScore=9000",
        "letter": f"{decisions['ineligible']}/letter",
        "batches": "/batches/",
        "batch-columns": batches["columns"],
        "batch-checked": batches["checked"],
        "batch-result": batches["result"],
        "batch-limits": batches["limits"],
        "batch-row": f"{batches['limits']}/rows/2",
        "models": "/models/",
        "model": "/models/allowance/v1",
        "docs": "/docs",
        "error": "/not-there",
    }


@contextmanager
def made_portal() -> Iterator[Flask]:
    """Make a portal with both models in a temporary folder."""
    with TemporaryDirectory() as instance:
        os.environ["BANKPORTAL_INSTANCE"] = instance
        logging.getLogger("werkzeug").disabled = True
        app = create_app(prepare())
        app.config["WTF_CSRF_ENABLED"] = False
        yield app
        app.extensions["bankportal"].database.close()


@contextmanager
def listening(app: Flask) -> Iterator[str]:
    """Serve the app and give its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@contextmanager
def opened(browser: Browser, width: str, theme: str) -> Iterator[Page]:
    """Open an empty page of a width in a theme, where nothing moves."""
    size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
    context = browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce")
    yield context.new_page()
    context.close()


def open_page(page: Page, address: str) -> None:
    """Load an address and wait until nothing is fetched any more."""
    page.goto(address)
    page.wait_for_load_state("networkidle")


def draw_readme(browser: Browser, address: str, pages: Mapping[str, str]) -> None:
    """Draw the README's screenshots."""
    for file, (name, width, theme, height) in README.items():
        with opened(browser, width, theme) as page:
            page.set_viewport_size({"width": WIDTHS[width][0], "height": height})
            open_page(page, address + pages[name])
            page.screenshot(path=HERE / f"{file}.png")


def draw_everything(browser: Browser, address: str, pages: Mapping[str, str], folder: Path, only: str) -> None:
    """Draw each page whole, at every width in both themes, and as it is printed."""
    folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        for theme in THEMES:
            with opened(browser, width, theme) as page:
                for name, path in pages.items():
                    if only in name:
                        open_page(page, address + path)
                        page.screenshot(path=folder / f"{name}-{width}-{theme}.png", full_page=True)
    with opened(browser, "desktop", "dark") as page:
        page.emulate_media(media="print")
        for name in ("decision-churn", "letter"):
            if only in name:
                open_page(page, address + pages[name])
                page.screenshot(path=folder / f"{name}-print.png", full_page=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--only", default="", help="Only pages with this in their name.")
def main(folder: Path | None, only: str) -> None:
    """Draw the README's screenshots, or every page into FOLDER."""
    arguments: dict[str, Any] = {"executable_path": CHROMIUM, "args": ["--no-sandbox", "--disable-gpu"]}
    with (
        made_portal() as app,
        listening(app) as address,
        sync_playwright() as playwright,
        playwright.chromium.launch(**arguments) as browser,
    ):
        pages = pages_of(app)
        if folder:
            draw_everything(browser, address, pages, folder, only)
        else:
            draw_readme(browser, address, pages)


if __name__ == "__main__":
    main()
