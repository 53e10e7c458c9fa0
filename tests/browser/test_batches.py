"""The batch pages in a browser: from upload to result with progress seen moving, with and without scripts."""

import csv
import io
import shutil
from itertools import pairwise

import pytest

from tests.browser.test_pages import serious, whole
from tests.conftest import REAL_DATA, config_for, listening, make_app
from tests.shipped import BY_PAGE, PRODUCTS

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
PUBLIC = REAL_DATA / "Churn.csv"
ROWS = 30


def work(services) -> None:
    while services.worker.step():
        pass


def upload(page, address: str, path) -> None:
    page.goto(f"{address}/batches/")
    page.set_input_files("#file", path)
    page.get_by_role("button", name="Upload and see its columns").click()
    page.wait_for_url("**/batches/0*")


@pytest.fixture(scope="module")
def some_customers(bank_files, tmp_path_factory):
    """A small churn file with two rows to repair."""
    with bank_files["churn"].open(encoding="utf-8", newline="") as file:
        header, *rows = [row for row, _ in zip(csv.reader(file), range(ROWS + 1), strict=False)]
    rows[3][header.index("CreditScore")] = "900"
    rows[4][header.index("Geography")] = "Atlantis"
    path = tmp_path_factory.mktemp("uploads") / "customers.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.mark.skipif(not PUBLIC.is_file(), reason="the public data set is not on this machine")
def test_it_works(csrf_app, portal, new_page) -> None:
    services = csrf_app.extensions["bankportal"]
    page = new_page()
    upload(page, portal, PUBLIC)
    page.get_by_role("button", name="Check the whole file").click()
    expect(page.get_by_role("heading", name="Checking every row")).to_be_visible()
    work(services)
    expect(page.get_by_role("heading", name="Every row was checked")).to_be_visible()
    page.get_by_role("button", name="Score 10,000 rows").click()
    expect(page.locator("[data-count]")).to_have_text("0 of 10,000 rows")
    seen = [0]
    while seen[-1] < 10_000:
        assert services.worker.step()
        expect(page.locator("[data-count]")).not_to_have_text(f"{seen[-1]:,} of 10,000 rows")
        seen.append(int(page.locator("progress").get_attribute("value")))
        assert page.locator("[data-count]").inner_text() == f"{seen[-1]:,} of 10,000 rows"
    assert len(seen) > 3
    assert all(earlier < later for earlier, later in pairwise(seen))
    expect(page.locator("[data-announce]")).to_have_text("100% of the rows done")
    work(services)
    expect(page.get_by_role("heading", name="Result", exact=True)).to_be_visible()
    for place, figure in enumerate(("10,000", "0")):
        expect(page.locator(".figures dd").nth(place)).to_have_text(figure)
    with page.expect_download() as download:
        page.get_by_role("link", name="Scored file").click()
    assert download.value.suggested_filename == "Churn-scored.csv"
    assert download.value.path().read_bytes().count(b"\n") == 10_001
    page.locator(".leaders a").first.click()
    expect(page.get_by_role("meter")).to_be_visible()
    page.get_by_role("link", name="Score by form").click()
    page.wait_for_url("**/churn/?*")
    expect(page.get_by_role("meter")).to_be_visible()


def test_without_scripts(csrf_app, portal, new_page, some_customers) -> None:
    services = csrf_app.extensions["bankportal"]
    page = new_page(java_script_enabled=False)
    upload(page, portal, some_customers)
    page.get_by_role("button", name="Check the whole file").click()
    expect(page.get_by_role("heading", name="Checking every row")).to_be_visible()
    work(services)
    expect(page.get_by_role("heading", name="Every row was checked")).to_be_visible()  # it refreshes by itself
    page.get_by_role("button", name=f"Score {ROWS - 2} rows").click()
    page.get_by_role("link", name="Look again").click()  # before the work is done: afterwards it goes by itself
    expect(page.get_by_role("heading", name="Scoring every good row")).to_be_visible()
    work(services)
    expect(page.get_by_role("heading", name="Result", exact=True)).to_be_visible()
    page.get_by_role("link", name="Score", exact=False).filter(has=page.locator(".sort-mark")).click()
    expect(page.locator("th[aria-sort=descending]")).to_have_count(1)


def test_progress_by_polling_where_no_stream_is_to_be_had(csrf_app, portal, new_page, some_customers) -> None:
    services = csrf_app.extensions["bankportal"]
    page = new_page()
    page.route("**/events?*", lambda route: route.fulfill(status=503))
    upload(page, portal, some_customers)
    page.get_by_role("button", name="Check the whole file").click()
    expect(page.get_by_role("heading", name="Checking every row")).to_be_visible()
    work(services)
    expect(page.get_by_role("heading", name="Every row was checked")).to_be_visible()


def test_what_the_server_refuses_is_said_on_the_page(portal, new_page, tmp_path) -> None:
    page = new_page()
    page.goto(f"{portal}/batches/")
    page.get_by_role("button", name="Upload and see its columns").click()
    expect(page.locator(".summary")).to_be_focused()
    expect(page.locator(".summary")).to_contain_text("Choose a CSV file to upload.")
    page.wait_for_load_state()
    book = tmp_path / "book.xlsx"
    book.write_bytes(b"PK\x03\x04 more")
    page.set_input_files("#file", book)
    page.get_by_role("button", name="Upload and see its columns").click()
    expect(page.locator(".summary")).to_contain_text("Excel workbook")
    expect(page.locator(".summary")).to_be_focused()
    page.wait_for_load_state()
    page.locator(".summary a").click()
    expect(page.locator("#file")).to_be_focused()
    page.locator("[data-upload]").evaluate("form => { form.dataset.most = '3' }")
    page.set_input_files("#file", book)
    expect(page.locator("#file-error")).to_contain_text("larger than")


def test_a_dropped_file_is_chosen(portal, new_page, some_customers) -> None:
    page = new_page()
    page.goto(f"{portal}/batches/")
    page.locator("[data-drop]").evaluate(
        """(zone, text) => {
            const dropped = new DataTransfer();
            dropped.items.add(new File([text], "dropped.csv"));
            zone.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, cancelable: true }));
        }""",
        some_customers.read_text(encoding="utf-8"),
    )
    page.get_by_role("button", name="Upload and see its columns").click()
    page.wait_for_url("**/batches/0*")
    expect(page.get_by_role("heading", name="dropped.csv")).to_be_visible()


def test_of_several_dropped_files_none_is_chosen(portal, new_page) -> None:
    page = new_page()
    page.goto(f"{portal}/batches/")
    page.locator("[data-drop]").evaluate(
        """(zone) => {
            const dropped = new DataTransfer();
            for (const name of ["a.csv", "b.csv"]) dropped.items.add(new File(["Age"], name));
            zone.dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, cancelable: true }));
        }"""
    )
    expect(page.locator("#file-error")).to_contain_text("one file at a time")
    assert page.locator("#file").evaluate("file => file.files.length") == 0


@pytest.fixture(scope="module")
def steps(browser, ready_instance, some_customers, bank_files, tmp_path_factory):
    """A portal with a job in every step, and the addresses of its pages."""
    instance = shutil.copytree(ready_instance, tmp_path_factory.mktemp("steps") / "instance")
    app = make_app(config_for(instance), csrf=True)
    with listening(app) as port:
        yield f"http://127.0.0.1:{port}", pages(app.extensions["bankportal"], some_customers, bank_files["allowance"])
    app.extensions["bankportal"].database.close()


def pages(services, customers, applicants) -> dict[str, str]:
    from tests.shipped import ALLOWANCE, CHURN

    batches = services.batches

    def received(product, path, name):
        with path.open("rb") as file:
            return batches.receive(product, name, file, provenance=BY_PAGE)

    def at_work(product, path, name, *, start=False):
        job = received(product, path, name)
        return batches.check(job, batches.suggestion(job).mapping, start=start)

    long = "customers of the whole country, as of " + "November" * 20 + ".csv"
    done = at_work(CHURN, customers, long, start=True)
    limits = at_work(ALLOWANCE, applicants, "limits.csv", start=True)
    checked = at_work(CHURN, customers, "checked.csv")
    work(services)
    scoring = at_work(CHURN, customers, "scoring.csv", start=True)
    services.worker.step()
    checking = at_work(CHURN, customers, "checking.csv")
    cancelled = batches.cancel(at_work(CHURN, customers, "cancelled.csv"))
    odd = io.BytesIO(b"id;name;Age;years;Geography\n1;<b>Bold</b>;42;3;France\n")
    unclear = batches.receive(CHURN, "unclear.csv", odd, provenance=BY_PAGE)
    jobs = {
        "done": done,
        "limits": limits,
        "checked": checked,
        "scoring": scoring,
        "checking": checking,
        "cancelled": cancelled,
        "unclear": unclear,
    }
    addresses = {name: f"/batches/{job.id}" for name, job in jobs.items()}
    return {
        "list": "/batches/",
        **addresses,
        "row": f"{addresses['done']}/rows/0",
        "limit": f"{addresses['limits']}/rows/0?what-if=CardUtilisation",
        "columns": f"{addresses['checked']}?columns=1",
        "none found": f"{addresses['done']}?customer=nobody",
        "gone": "/batches/nothing",
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(steps, new_page, theme) -> None:
    address, paths = steps
    page, faults = new_page(color_scheme=theme, bypass_csp=True), {}
    for name, path in paths.items():
        page.goto(address + path)
        if found := serious(page):
            faults[name] = found
    page.goto(address + paths["unclear"])
    page.get_by_role("button", name="Check the whole file").click()
    page.wait_for_selector(".summary")
    page.wait_for_load_state()
    if found := serious(page):
        faults["errors"] = found
    assert faults == {}


@pytest.mark.parametrize("width", [320, 390, 820])
def test_no_page_scrolls_sideways_and_each_has_its_landmarks(steps, new_page, width) -> None:
    address, paths = steps
    page, wide = new_page(viewport={"width": width, "height": 844}), {}
    for name, path in paths.items():
        page.goto(address + path)
        if (needed := page.evaluate("document.documentElement.scrollWidth")) > width:
            wide[name] = needed
        landmarks = [page.locator(each).count() for each in ("h1", "main", "nav[aria-label=Main]", "[style]")]
        assert landmarks == [1, 1, 1, 0], name
    assert wide == {}


@pytest.mark.parametrize("step", ["checked", "done"])
def test_on_a_phone_what_to_repair_is_whole(steps, new_page, step) -> None:
    address, paths = steps
    page = new_page(viewport={"width": 320, "height": 844})
    page.goto(address + paths[step])
    table = page.get_by_role("region", name="Rejected rows", exact=True)
    assert table.evaluate("region => region.scrollWidth <= region.clientWidth")


def test_on_a_phone_the_result_shows_outcome_and_reason_and_can_be_sorted(
    portal, csrf_app, new_page, some_customers
) -> None:
    services = csrf_app.extensions["bankportal"]
    job = services.batches.receive(
        PRODUCTS["churn"], "customers.csv", io.BytesIO(some_customers.read_bytes()), provenance=BY_PAGE
    )
    services.batches.check(job, services.batches.suggestion(job).mapping, start=True)
    work(services)
    page = new_page(viewport={"width": 390, "height": 844})
    page.goto(f"{portal}/batches/{job.id}")
    for cell in (".cell-outcome .badge", ".reason-cell", ".cell-customer", "th"):
        assert whole(page.locator(f"table.scored tbody {cell}")) == [], cell
    page.get_by_role("columnheader", name="Score").get_by_role("link").click()
    page.wait_for_url("**sort=score**")
