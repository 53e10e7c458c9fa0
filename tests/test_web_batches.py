import csv
import html
import io
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bankportal.domain.batch import RESULTS, Progress, State
from bankportal.domain.constraints import Source
from bankportal.domain.outcome import percent
from bankportal.domain.schema import validate
from bankportal.services.batches.chunks import REASONS
from bankportal.web import batches as pages
from bankportal.web import streams
from bankportal.web.jobs import progress_facts, seconds_words
from bankportal.web.words import moment, share
from tests.conftest import REAL_DATA, make_app
from tests.shipped import CHURN, PRODUCTS
from tests.test_web_decisions import badges

ROWS = 60


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def address_in(page: str, pattern: str) -> str:
    return html.unescape(re.search(pattern, page)[0])


@pytest.fixture
def portal(app):
    return app.extensions["bankportal"]


@pytest.fixture
def customers(bank_files) -> list[list[str]]:
    """The header and first rows of a churn file."""
    with bank_files["churn"].open(encoding="utf-8", newline="") as file:
        return [row for row, _ in zip(csv.reader(file), range(ROWS + 1), strict=False)]


def written(rows, delimiter=",") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


def upload(client, content: bytes, name="May.csv", **more):
    return post(client, {"product": "churn", **more}, (name, content))


def post(client, fields, file=None):
    """Send the upload form; encoded here, because the test client would leave a large one open."""
    name, content = file or ("", b"")
    parts = [(f'name="{key}"', value.encode()) for key, value in fields.items()]
    parts += [(f'name="file"; filename="{name}"', content)] if file else []
    body = b"".join(
        b"--mark\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), value) for head, value in parts
    )
    return client.post("/batches/", data=body + b"--mark--\r\n", content_type="multipart/form-data; boundary=mark")


def downloaded(client, address: str):
    with client.get(address) as response:
        assert response.status_code == 200
        response.get_data()
        return response


def sent(page: str) -> dict[str, str]:
    """What the mapping form sends as it stands."""
    selects = re.findall(r'<select id="(column-\d+)".*?</select>', page, re.S)
    bodies = re.findall(r"<select id=\"column-\d+\".*?</select>", page, re.S)
    return {
        name: re.search(r'<option value="([^"]*)" selected', body)[1]
        for name, body in zip(selects, bodies, strict=True)
    }


def work(portal) -> None:
    while portal.worker.step():
        pass


def checked(client, portal, content: bytes, **more) -> str:
    location = upload(client, content, **more).location
    response = client.post(f"{location}/check", data=sent(client.get(location).text))
    assert response.status_code == 303
    work(portal)
    return location


def done(client, portal, content: bytes, **more) -> str:
    location = checked(client, portal, content, **more)
    assert client.post(f"{location}/start").status_code == 303
    work(portal)
    return location


def test_it_works(client, portal, customers) -> None:
    header, *rows = customers
    rows[3] = [*rows[3]]
    rows[3][header.index("CreditScore")] = "900"
    response = upload(client, written([header, *rows]))
    assert response.status_code == 303
    location = response.location
    page = client.get(location).text
    assert "What the columns mean" in page
    assert "The answer itself (the customer left): never used to score." in text_of(page)
    assert "Suggested" in page
    assert client.post(f"{location}/check", data=sent(page)).location == location
    page = client.get(location).text
    assert "Checking every row" in page
    assert '<noscript><meta http-equiv="refresh" content="3"></noscript>' in page
    work(portal)
    page = text_of(client.get(location).text)
    assert f"Rows {ROWS} Can be scored {ROWS - 1} Rejected 1" in page
    assert "CreditScore must be 850 or less line 5 900" in page
    assert f"Score {ROWS - 1} rows" in page
    with client.get(f"{location}/rejects.csv") as rejects:
        assert "900" in rejects.text
    assert client.post(f"{location}/start").location == location
    assert "Scoring every good row" in client.get(location).text
    work(portal)
    job = portal.batches.get(location.rsplit("/", 1)[1])
    page = client.get(location).text
    assert f"Scored {ROWS - 1} Rejected 1 Mean score {percent(CHURN, job.summary.mean_score)}" in text_of(page)
    for band, count in job.summary.bands.items():
        assert re.search(rf"{band} (\d+%?|{count}) ", text_of(page))
    best = portal.batches.rows(job, sort="score", descending=True, size=1).items[0]
    assert f'href="{location}/rows/{best.position}"' in page
    row = client.get(f"{location}/rows/{best.position}").text
    _, outcome = portal.batches.row(job, best.position)
    assert percent(CHURN, outcome.score) in row
    assert outcome.reasons[0].sentence in text_of(row)
    assert f"row {best.position + 1} of May.csv" in text_of(row)
    assert "May.csv" in client.get("/batches/").text


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=lambda product: product.key)
def test_the_template_can_be_uploaded_as_it_is(client, portal, product) -> None:
    response = client.get(f"/batches/template/{product.key}.csv")
    assert response.headers["Content-Disposition"] == f"attachment; filename={product.key}-template.csv"
    assert product.label.name not in response.text
    location = checked(client, portal, response.data, product=product.key)
    assert "Rows 1 Can be scored 1 Rejected 0" in text_of(client.get(location).text)


def test_limits_for_the_allowance(client, portal, bank_files) -> None:
    location = done(client, portal, bank_files["allowance"].read_bytes(), product="allowance")
    page = client.get(f"{location}?sort=limit&descending=1").text
    assert "Largest limits" in page
    assert 'aria-sort="descending"><a class="sorter" href="' in page
    row = client.get(address_in(page, rf"{location}/rows/\d+"))
    assert row.status_code == 200
    assert "Suggested card limit" in row.text


# A good score and a salary that carries no limit; a poor score; and a customer with a limit.
APPLICANTS = (
    {"CreditScore": "820", "EstimatedSalary": "24000", "MonthlyObligations": "900", "CardUtilisation": "5"},
    {"CreditScore": "420", "CardUtilisation": "190", "LatePayments": "8"},
    {"CreditScore": "820", "EstimatedSalary": "90000", "MonthlyObligations": "0", "CardUtilisation": "5"},
)


@pytest.fixture
def applicants(client, portal, examples) -> str:
    """The address of a scored file of the applicants."""
    rows = [{**examples["allowance"], "RequestedLimit": "", **applicant} for applicant in APPLICANTS]
    return done(client, portal, written([list(rows[0]), *(list(row.values()) for row in rows)]), product="allowance")


def test_rows_without_a_limit_are_one_outcome_in_word_and_colour(client, portal, applicants) -> None:
    job = portal.batches.get(applicants.rsplit("/", 1)[1])
    *declined, granted = portal.batches.rows(job, sort="position").items
    assert [row.limit for row in declined] == [0, 0]
    assert declined[0].band != "Ineligible"
    assert granted.limit > 0
    page, word = client.get(applicants).text, granted.band
    assert badges(page) == {("No limit", "bad", True), *badges(client.get(f"{applicants}?verdict={word}").text)}
    assert f"No limit 2 {share(2 / 3)}" in text_of(page)
    assert f"{word} 1 {share(1 / 3)}" in text_of(page)
    assert "Ineligible" not in page
    only = client.get(f"{applicants}?verdict=No+limit").text
    assert "2 of 3 rows" in text_of(only)
    assert "<option selected>No limit</option>" in only
    assert "1 of 3 row" in text_of(client.get(f"{applicants}?verdict={word}").text)
    listed = client.get("/batches/").text
    assert "2 No limit" in text_of(listed)
    assert re.search(r'<li class="tone-bad">(?:(?!</li>).)*No limit', listed, re.S)
    row = client.get(f"{applicants}/rows/0").text
    assert badges(row.split('id="change-heading"')[0]) == {("No limit", "bad", True)}
    assert '<h1 class="outcome tone-bad">' in row


def test_batches_are_listed_also_where_their_results_are_gone(client, portal, applicants) -> None:
    home = portal.batches.storage.home(applicants.rsplit("/", 1)[1])
    (home / RESULTS).rename(home / "away")
    assert client.get("/batches/").status_code == 200
    (home / RESULTS).write_bytes(b"something else")
    assert client.get("/batches/").status_code == 200


def test_downloads(client, portal, customers) -> None:
    header, *rows = customers
    bad = ["x" if name == "Age" else cell for name, cell in zip(header, rows[0], strict=True)]
    location = done(client, portal, written([header, *rows, bad]), name="März 2026.csv")
    job = portal.batches.get(location.rsplit("/", 1)[1])
    for file, count in (("scored.csv", ROWS), ("rejects.csv", 1)):
        response = downloaded(client, f"{location}/{file}")
        assert response.headers["Content-Disposition"].endswith(f"filename*=UTF-8''M%C3%A4rz%202026-{file}")
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.data == portal.batches.file(job, file).read_bytes()
        assert len(list(csv.reader(io.StringIO(response.text)))) == count + 1
    again = downloaded(client, f"{location}/rejects.csv").data
    assert "Rejected 1" in text_of(client.get(checked(client, portal, again)).text)


def test_the_table(client, portal, customers, monkeypatch) -> None:
    monkeypatch.setattr(pages, "ROWS_SHOWN", 25)
    location = done(client, portal, written(customers))
    job = portal.batches.get(location.rsplit("/", 1)[1])

    def positions(query: str) -> list[int]:
        page = client.get(location + query).text
        return [int(each) - 1 for each in re.findall(r'<span class="sr-only">Row </span>(\d+)', page)]

    assert positions("") == list(range(25))
    assert positions("?page=3") == list(range(50, ROWS))
    assert positions("?page=99") == list(range(50, ROWS))
    by_score = [row.position for row in portal.batches.rows(job, sort="score", descending=True, size=25).items]
    assert positions("?sort=score&descending=1") == by_score
    customer = customers[8][customers[0].index("CustomerId")]
    assert positions(f"?customer={customer}") == [7]
    band = next(name for name, count in job.summary.bands.items() if count)
    page = client.get(f"{location}?verdict={band}").text
    assert f"{job.summary.bands[band]} of {ROWS} rows" in text_of(page)
    assert f"<option selected>{band}</option>" in page
    reason = portal.batches.row(job, 0)[1].reasons[0].factor
    assert 0 in positions(f"?factor={reason}")
    assert "No scored row fits" in client.get(f"{location}?customer=nobody").text
    page = client.get(f"{location}?verdict={band}&sort=score&page=1").text
    assert 'name="sort" value="score"' in page


@pytest.mark.parametrize(
    "query",
    [
        "?page=0",
        "?page=-1",
        "?page=x",
        "?page=9999999999",
        "?sort=name",
        "?sort=limit",
        "?verdict=Best",
        "?factor=Gender",
    ],
)
def test_a_table_that_is_not_there(client, portal, customers, query) -> None:
    location = done(client, portal, written(customers[:3]))
    assert client.get(location + query).status_code == 404


@pytest.mark.parametrize(
    ("product", "file", "status", "sentence"),
    [
        (None, None, 422, "Choose what the customers are to be scored for."),
        ("churn", None, 422, "Choose a CSV file to upload."),
        ("churn", ("", b""), 422, "Choose a CSV file to upload."),
        ("mortgage", ("a.csv", b"a\n1\n"), 422, "Choose what the customers"),
        ("churn", ("empty.csv", b""), 422, "is empty"),
        ("churn", ("book.xlsx", b"PK\x03\x04 more"), 422, "Excel workbook"),
        ("churn", ("a.csv", "Ä;B\n".encode("utf-16")), 422, "UTF-16"),
        ("churn", ("twice.csv", b"Age,Age\n1,2\n"), 422, "twice"),
        ("churn", ("wide.csv", b",".join(b"c%d" % n for n in range(201)) + b"\n"), 413, "UPLOAD_COLUMNS"),
    ],
)
def test_what_cannot_be_uploaded(client, portal, product, file, status, sentence) -> None:
    response = post(client, {"product": product} if product else {}, file)
    assert response.status_code == status
    assert "<title>Error: " in response.text
    assert "There is a problem" in response.text
    assert sentence in text_of(response.text)
    assert portal.batches.page(None, None, 5).items == []


@pytest.mark.parametrize("size", [1_000_001, 2_500_000], ids=["found while it is stored", "known before it is read"])
def test_a_file_larger_than_the_setting(config, size) -> None:
    app = make_app(replace(config, upload_megabytes=1), csrf=False)
    response = upload(app.test_client(), b"x" * size)
    assert response.status_code == 413
    assert "larger than 1 MB" in response.text
    assert "BANKPORTAL_UPLOAD_MEGABYTES" in response.text
    assert app.extensions["bankportal"].batches.page(None, None, 5).items == []
    app.extensions["bankportal"].database.close()


@pytest.mark.parametrize(
    ("number", "status", "title"), [(28, 507, "The disk is full"), (30, 503, "The storage cannot be used")]
)
def test_a_storage_that_does_not_take_a_file(client, portal, customers, monkeypatch, number, status, title) -> None:
    def refused(*_):
        raise OSError(number, "no")

    with monkeypatch.context() as patch:
        patch.setattr("bankportal.store.storage.flush_folder", refused)
        response = upload(client, written(customers))
    assert response.status_code == status
    assert title in text_of(response.text)
    assert portal.batches.page(None, None, 5).items == []
    assert list(portal.batches.storage.folder.iterdir()) == []


def test_two_files_at_once_are_not_taken_for_one(client, portal, customers) -> None:
    files = [(io.BytesIO(written(customers)), name) for name in ("a.csv", "b.csv")]
    response = client.post("/batches/", data={"product": "churn", "file": files}, buffered=True)
    assert response.status_code == 422
    assert "one file at a time" in text_of(response.text)
    assert portal.batches.page(None, None, 5).items == []


def test_only_uploads_may_be_large(client) -> None:
    assert client.post("/churn/", data={"Surname": "x" * 1_100_000}).status_code == 413


def test_the_same_form_sent_twice_is_one_job(client, portal, customers) -> None:
    key = "0123456789abcdef"
    first, second = (upload(client, written(customers), submission=key).location for _ in range(2))
    assert first == second
    other = upload(client, written(customers[:9]), submission=key)
    assert other.status_code == 409
    assert "Choose your file again" in other.text
    assert len(portal.batches.page(None, None, 5).items) == 1


@pytest.mark.parametrize(
    "name",
    ["<script>alert(1)</script>.csv", "../../etc/passwd", "C:\\Users\\me\\a.csv", "Kündigungen – Май.csv", "x" * 500],
)
def test_hostile_names_are_shown_and_nothing_else(client, portal, customers, name) -> None:
    location = checked(client, portal, written(customers[:5]), name=name)
    job = portal.batches.get(location.rsplit("/", 1)[1])
    for path in (location, "/batches/"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert html.escape(job.file_name[:40], quote=False) in page.replace("&#39;", "'")
    client.post(f"{location}/start")
    work(portal)
    disposition = downloaded(client, f"{location}/scored.csv").headers["Content-Disposition"]
    assert disposition.startswith("attachment; filename")
    assert not re.search(r"[/\\<>]|\.\.|x{200}", disposition)
    assert client.get(f"{location}/rows/0").status_code == 200


def test_hostile_cells_are_text(client, portal, customers) -> None:
    header, *rows = customers[:4]
    hostile = '<img src=x onerror="alert(1)">'
    rows[0][header.index("Surname")] = hostile
    header[header.index("LatePayments")] = hostile
    location = upload(client, written([header, *rows])).location
    page = client.get(location).text
    assert "<img" not in page
    client.post(f"{location}/check", data=sent(page))
    work(portal)
    assert "<img" not in client.get(location).text
    client.post(f"{location}/start")
    work(portal)
    for path in (location, f"{location}/rows/0"):
        assert "<img" not in client.get(path).text


def test_a_mapping_must_be_whole(client, portal, customers) -> None:
    location = upload(client, written(customers)).location
    choices = sent(client.get(location).text)
    age = next(field for field, factor in choices.items() if factor == "Age")
    tenure = next(field for field, factor in choices.items() if factor == "Tenure")
    for change, sentence in (
        ({age: "-"}, "Age needs a column."),
        ({age: ""}, "needs a choice"),
        ({age: "Tenure"}, "is not the only column mapped to Tenure"),
        ({tenure: "ShoeSize"}, "does not have"),
    ):
        response = client.post(f"{location}/check", data=choices | change)
        assert response.status_code == 422
        assert sentence in text_of(response.text)
        assert "<title>Error: " in response.text
        links = set(re.findall(r'href="#([^"]+)"', response.text)) - {"main"}
        assert links
        assert all(f'id="{link}"' in response.text for link in links)
        if "ShoeSize" not in change.values():
            assert sent(response.text) == choices | change
    assert portal.batches.get(location.rsplit("/", 1)[1]).state is State.UPLOADED


def test_columns_that_could_mean_the_same_must_be_chosen(client, customers) -> None:
    header, *rows = customers[:4]
    doubled = written([[*header, "credit_score"], *([*row, "700"] for row in rows)])
    unclear = written([["score_a" if name == "CreditScore" else name for name in header], *rows])
    page = client.get(upload(client, unclear).location).text
    assert "Needed, and not found in the file: Credit score" in text_of(page)
    page = client.get(upload(client, doubled).location).text
    assert list(sent(page).values()).count("CreditScore") <= 1


def test_a_mapping_can_be_changed_after_the_check(client, portal, customers) -> None:
    first = checked(client, portal, written(customers))
    page = client.get(f"{first}?columns=1").text
    assert "What the columns mean" in page
    late = field_of(page, "LatePayments")
    assert client.post(f"{first}/check", data=sent(page) | {late: "-"}).status_code == 303
    work(portal)
    assert "LatePayments" not in portal.batches.get(first.rsplit("/", 1)[1]).mapping


def field_of(page: str, factor: str) -> str:
    return next(field for field, chosen in sent(page).items() if chosen == factor)


def unnamed(customers) -> list[list[str]]:
    """The customers with a column for CreditScore whose name says nothing."""
    header, *rows = customers
    return [["K1" if name == "CreditScore" else name for name in header], *rows]


def choose(client, content: bytes, **choices: str) -> None:
    """Upload a file and confirm its columns, some of them otherwise than suggested: factor or place to factor."""
    location = upload(client, content).location
    page = client.get(location).text
    changed = {place if place.startswith("column") else field_of(page, place): choices[place] for place in choices}
    assert client.post(f"{location}/check", data=sent(page) | changed).status_code == 303


def test_what_a_person_chose_is_suggested_again(client, portal, app, customers) -> None:
    content = written(unnamed(customers[:9]))
    place = f"column-{customers[0].index('CreditScore')}"
    choose(client, content, **{place: "CreditScore"})
    page = client.get(upload(client, content).location).text
    assert sent(page)[place] == "CreditScore"
    assert page.count("As last time") == 2  # once beside its column, once above all
    assert "Needed, and not found" not in page
    others = app.test_client()
    page = others.get(upload(others, content).location).text
    assert sent(page)[place] == "-"
    assert "As last time" not in page
    assert portal.batches.suggestion(portal.batches.page(None, None, 1).items[0]).missing == ("CreditScore",)
    choose(client, content.replace(b"K1", b"K2"), **{place: "CreditScore"})  # another header
    page = client.get(upload(client, content).location).text
    assert sent(page)[place] == "CreditScore"


def test_a_swapped_mapping_is_for_one_upload(client, customers) -> None:
    content = written(customers[:9])
    honest = sent(client.get(upload(client, content).location).text)
    choose(client, content, Age="Tenure", Tenure="Age", LatePayments="-")
    page = client.get(upload(client, content).location).text
    assert sent(page) == honest
    assert "As last time" not in page


def test_many_choices_fit_into_a_cookie(client, customers) -> None:
    header, *rows = customers[:3]
    factors = {f"column-{place}": name for place, name in enumerate(header) if name != "Churn"}
    files = [written([["Churn" if n == "Churn" else f"{k}{n}!" for n in header], *rows]) for k in range(12)]
    files = [content.replace(b"0Age!", b"Age") for content in files]
    for content in files:
        choose(client, content, **factors)
        assert len(client.get_cookie("bankportal").value) < 4_000
    assert sent(client.get(upload(client, files[-1]).location).text) == factors
    assert sent(client.get(upload(client, files[1]).location).text) != factors


def test_the_twin_is_offered(client, portal, customers) -> None:
    first = done(client, portal, written(customers))
    second = checked(client, portal, written(customers))
    page = client.get(second).text
    assert f'href="{first}">Open that result' in page
    assert "Score it again" in page
    client.post(f"{second}/start")
    work(portal)
    assert downloaded(client, f"{second}/scored.csv").data == downloaded(client, f"{first}/scored.csv").data


def test_nothing_good_is_nothing_to_start(client, portal, customers) -> None:
    header, *rows = customers[:4]
    bad = [["" if name == "Age" else cell for name, cell in zip(header, row, strict=True)] for row in rows]
    location = checked(client, portal, written([header, *bad]))
    page = client.get(location).text
    assert "No row can be scored" in page
    assert "Ready to score" not in page + client.get("/batches/").text
    assert "Nothing to score" in client.get("/batches/").text
    assert f'action="{location}/start"' not in page
    assert client.post(f"{location}/start").status_code == 409


def test_cancelled(client, portal, customers) -> None:
    location = checked(client, portal, written(customers))
    assert client.post(f"{location}/cancel").status_code == 303
    page = client.get(location).text
    assert "This batch was cancelled" in page
    response = client.post(f"{location}/start")
    assert response.status_code == 409
    assert "This cannot be done now" in response.text
    assert f'href="{location}">Go to the batch' in response.text


def test_a_file_that_cannot_be_read_to_its_end(client, portal, customers) -> None:
    rows = written(customers[1:])
    content = written(customers[:1]) + rows * (1_200_000 // len(rows)) + b"\xff\xfe broken\r\n"
    location = checked(client, portal, content)
    page = client.get(location).text
    assert "The file cannot be scored" in page
    assert portal.batches.get(location.rsplit("/", 1)[1]).message in html.unescape(page)


def test_quarantined_rows_are_said(client, portal, customers, monkeypatch) -> None:
    location = done(client, portal, written(customers))
    job = portal.batches.get(location.rsplit("/", 1)[1])
    set_aside = replace(job, summary=replace(job.summary, quarantined=20))
    monkeypatch.setattr(type(portal.batches), "get", lambda *_: set_aside)
    assert "20 rows were set aside." in text_of(client.get(location).text)


def test_a_row_that_does_not_come_out_again(client, portal, customers) -> None:
    location = done(client, portal, written(customers))
    id_ = location.rsplit("/", 1)[1]
    path = portal.batches.storage.input(id_)
    content = path.read_bytes().split(b"\r\n")
    cells = content[1].split(b",")
    place = customers[0].index("Age")
    cells[place] = b"77" if cells[place] != b"77" else b"78"
    content[1] = b",".join(cells)
    path.chmod(0o600)
    path.write_bytes(b"\r\n".join(content))
    response = client.get(f"{location}/rows/0")
    assert response.status_code == 409
    assert "does not come out again" in response.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "nothing"),
        ("get", "nothing/progress"),
        ("get", "nothing/events"),
        ("get", "nothing/rows/0"),
        ("get", "nothing/scored.csv"),
        ("get", "nothing/results.npy"),
        ("get", "template/mortgage.csv"),
        ("get", "?product=mortgage"),
        ("get", "%00"),
        ("post", "nothing/check"),
        ("post", "nothing/start"),
        ("post", "nothing/cancel"),
    ],
)
def test_what_is_not_there(client, method, path) -> None:
    response = getattr(client, method)(f"/batches/{path}")
    assert response.status_code == 404
    assert "Go to the batch" not in response.text


def test_what_is_not_there_yet(client, portal, customers) -> None:
    location = checked(client, portal, written(customers))
    assert client.get(f"{location}/scored.csv").status_code == 404
    assert client.get(f"{location}/rows/0").status_code == 404
    client.post(f"{location}/start")
    work(portal)
    assert client.get(f"{location}/rows/{ROWS}").status_code == 404
    assert client.get(f"{location}/results.npy").status_code == 404


def test_without_a_model(empty_app, customers) -> None:
    client, portal = empty_app.test_client(), empty_app.extensions["bankportal"]
    location = checked(client, portal, written(customers))
    page = client.get(location).text
    assert "flask train churn" in page
    assert f'action="{location}/start"' not in page
    assert client.post(f"{location}/start").status_code == 503


def test_progress_as_events(client, portal, customers, monkeypatch) -> None:
    monkeypatch.setattr(streams, "INTERVAL", 0)
    monkeypatch.setattr(streams, "MAX_DURATION", 0.2)
    location = upload(client, written(customers)).location
    client.post(f"{location}/check", data=sent(client.get(location).text))
    page = client.get(location).text
    events = address_in(page, rf"{location}/events\?state=checking")
    waiting = client.get(events)
    assert waiting.headers["Content-Type"].startswith("text/event-stream")
    assert waiting.headers["Cache-Control"] == "no-store"
    assert waiting.headers["X-Accel-Buffering"] == "no"
    assert waiting.text.startswith("retry: ")
    assert '"state": "checking"' in waiting.text
    assert "event: rest" not in waiting.text
    assert client.get(f"{location}/progress").json["state"] == "checking"
    work(portal)
    assert client.get(events).text.count("event: rest") == 1
    assert client.get(f"{location}/progress").json["rows"] == ROWS


def test_few_may_watch_at_a_time_and_leave_their_place(client, app, customers, monkeypatch) -> None:
    monkeypatch.setattr(streams, "MAX_DURATION", 5)
    location = upload(client, written(customers)).location
    places = app.extensions["bankportal"].config.threads // 2
    for _ in range(2):  # whoever goes away gives the place back, even one that never read a line
        watching = [client.get(f"{location}/events") for _ in range(places)]
        next(watching[0].response)
        assert client.get(f"{location}/events").status_code == 503
        for each in watching:
            each.close()


def test_a_single_thread_is_not_held_by_a_stream(config, customers) -> None:
    app = make_app(replace(config, threads=1), csrf=False)
    client = app.test_client()
    location = upload(client, written(customers)).location
    assert client.get(f"{location}/events").status_code == 503
    assert client.get(f"{location}/progress").status_code == 200
    app.extensions["bankportal"].database.close()


def test_expired_forms(csrf_app, customers) -> None:
    client = csrf_app.test_client()
    response = upload(client, written(customers))
    assert response.status_code == 400
    assert "Choose your file again" in response.text
    token = html.unescape(re.search(r'name="csrf_token" value="([^"]+)"', response.text)[1])
    location = upload(client, written(customers), csrf_token=token).location
    for action in ("check", "start", "cancel"):
        response = client.post(f"{location}/{action}")
        assert response.status_code == 400
        assert "Open the batch and send it again." in response.text
        assert f'href="{location}">Go to the batch' in response.text
    assert csrf_app.extensions["bankportal"].batches.get(location.rsplit("/", 1)[1]).state is State.UPLOADED


def test_the_list_in_pages(client, customers, monkeypatch) -> None:
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    locations = [upload(client, written(customers[: 3 + n]), name=f"{n}.csv").location for n in range(5)]
    seen, path = [], "/batches/"
    while path:
        page = client.get(path).text
        seen += re.findall(r'<a href="(/batches/[^"?]+)" title', page)
        older = re.search(r'href="([^"]+)">Older', page)
        path = html.unescape(older[1]) if older else ""
    assert seen == locations[::-1]
    assert client.get("/batches/?product=allowance").text.count("No batches yet") == 1


def test_time_left_in_words() -> None:
    assert [seconds_words(each) for each in (0, 88, 89.9, 90, 5399, 5400)] == [
        "a second left",
        "about 90 seconds left",
        "about 90 seconds left",
        "about 2 minutes left",
        "about 90 minutes left",
        "about 1.5 hours left",
    ]


def test_progress_in_words() -> None:
    counting = progress_facts(Progress(State.CHECKING, 1200, None, 800.4, None))
    assert (counting["count"], counting["rate"], counting["percent"], counting["announcement"]) == (
        "1,200 rows so far",
        "800 rows a second",
        None,
        "",
    )
    halfway = progress_facts(Progress(State.SCORING, 5600, 10_000, 800.0, 5.5))
    assert (halfway["count"], halfway["percent"]) == ("5,600 of 10,000 rows", 56)
    assert (halfway["left"], halfway["announcement"]) == ("about 5 seconds left", "50% of the rows done")
    assert progress_facts(Progress(State.SCORING, 9, 9, 800.0, 0.0))["left"] == "putting the result together"
    assert {facts["waiting"] for facts in (counting, halfway)} == {""}


def test_progress_without_a_worker_in_words() -> None:
    waiting = progress_facts(Progress(State.CHECKING, 0, None, None, None, begun=False))
    assert waiting["waiting"] == "Waiting for a worker."
    silent = progress_facts(Progress(State.SCORING, 10_000, 10_000, None, None, silent=86_400.0))
    since = moment(datetime.now(UTC) - timedelta(days=1)).split(",")[0]
    assert silent["waiting"].startswith(f"No worker has reported since {since}, ")
    assert silent["left"] == ""
    assert progress_facts(Progress(State.CANCELLED, 0, 9, None, None, begun=False, silent=9.0))["waiting"] == ""


def test_a_worker_that_is_not_heard_of_is_said(client, portal, customers, monkeypatch) -> None:
    location = upload(client, written(customers)).location
    client.post(f"{location}/check", data=sent(client.get(location).text))
    hint = "If nothing moves, start one: flask worker"
    assert f"Waiting for a worker. {hint}" in text_of(client.get(location).text)
    portal.worker.store.claim("w", 60)
    assert re.search(r"data-waiting hidden>", client.get(location).text)
    monkeypatch.setattr(type(portal.batches), "_silent", lambda *_: 200.0)
    assert re.search(rf"No worker has reported since .* UTC\. {hint}", text_of(client.get(location).text))


def test_a_column_without_a_name_names_no_customer(client, portal, customers) -> None:
    header, *rows = customers
    kept = [place for place, name in enumerate(header) if name not in {"CustomerId", "Surname"}]
    indexed = [["", *header], *([f"row-{n}", *row] for n, row in enumerate(rows))]
    location = done(client, portal, written([[row[0], *(row[1 + place] for place in kept)] for row in indexed]))
    page = text_of(client.get(location).text)
    assert "not named" in page
    assert "row-7" not in page


@pytest.mark.skipif(not (REAL_DATA / "Churn.csv").is_file(), reason="the public data set is not on this machine")
def test_the_public_data_as_it_is(client, portal) -> None:
    """Every row has the score, band and reasons that the form's service gives it by itself, bit for bit."""
    location = done(client, portal, (REAL_DATA / "Churn.csv").read_bytes(), name="Churn.csv")
    assert "Scored 10,000 Rejected 0" in text_of(client.get(location).text)
    job = portal.batches.get(location.rsplit("/", 1)[1])
    with (REAL_DATA / "Churn.csv").open(encoding="utf-8", newline="") as file:
        customers = list(csv.DictReader(file))
    scored = csv.DictReader(io.StringIO(portal.batches.file(job, "scored.csv").read_text(encoding="utf-8"), newline=""))
    for customer, row in zip(customers, scored, strict=True):
        raw = {factor: customer[column] for column, factor in job.mapping.items()}
        outcome = portal.scoring.score(validate(CHURN, raw, Source.TEXT))
        reasons = [reason.sentence for reason in outcome.reasons]
        assert customer.items() <= row.items()
        assert (float(row["score"]), row["band"]) == (outcome.score, outcome.band.name)
        assert [row[name] for name in REASONS if row[name]] == reasons


def test_problems_beyond_those_listed_are_counted(client, portal, customers, monkeypatch) -> None:
    monkeypatch.setattr("bankportal.services.batches.checking.MAX_GROUPS", 1)
    location = checked(client, portal, written([*customers, ["a"], ["a", "b"], ["a", "b", "c"]]))
    assert "And 2 more problems of other kinds; the rejects name each." in text_of(client.get(location).text)
