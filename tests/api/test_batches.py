"""Whole files through the API, on both engines: taken in once, checked, scored, sent back."""

import base64
import csv
import hashlib
import io
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from bankportal import answers
from bankportal.api.schemas import example
from tests.shipped import CHURN

PATH = "/api/v1/batches"
DECISIONS = "/api/v1/decisions"
FILE = "CreditScore,Age,Tenure,Balance,Colour\n650,42,5,100.5,red\n700,30,2,0,blue\n99,30,2,0,\n"
OPEN = "credit,Age,Tenure,Balance\n650,42,5,100.5\n"


def send(engine, content: str = FILE, key: str = "", name: str = "my file.csv", **fields):
    headers = {"Idempotency-Key": key} if key else {}
    data = {"product": "churn"} | fields
    return engine.client.post(PATH, data=data, files={"file": (name, content.encode())}, headers=headers)


def work(engine) -> None:
    while engine.services.worker.step():
        pass


def read(engine, url: str) -> answers.Batch:
    response = engine.client.get(url)
    assert response.status_code == 200, response.text
    return answers.Batch.model_validate_json(response.content, extra="forbid")


def test_it_works(engine) -> None:
    response = send(engine)
    assert response.status_code == 202, response.text
    received = answers.Received.model_validate_json(response.content, extra="forbid")
    assert response.headers["Location"] == received.url
    assert received.file_name == "my file.csv"
    assert read(engine, received.url).state == "checking"
    assert engine.client.get(f"{received.url}/results").status_code == 404
    work(engine)
    done = read(engine, received.url)
    assert (done.state, done.summary.scored, done.summary.rejected) == ("done", 2, 1)
    assert (done.checked.rows, done.checked.groups[0].column) == (3, "CreditScore")
    assert read(engine, f"{PATH}/latest").id == done.id
    results = engine.client.get(done.results_url)
    assert results.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert "attachment" in results.headers["Content-Disposition"]
    first = next(csv.DictReader(io.StringIO(results.text)))
    values = {"CreditScore": 650, "Age": 42, "Tenure": 5, "Balance": 100.5}
    alone = engine.client.post("/api/v1/churn/score?record=false", json=values).json()
    assert (float(first["score"]), first["band"]) == (alone["score"], alone["band"])
    assert first["reason_1"].lstrip("'") == alone["reasons"][0]["sentence"]
    rejects = engine.client.get(done.rejects_url)
    assert [row["line"] for row in csv.DictReader(io.StringIO(rejects.text))] == ["4"]
    for file in (results, rejects):
        head = engine.client.head(file.request.url.path)
        assert head.content == b""
        assert file.headers["Content-Length"] == head.headers["Content-Length"] == str(len(file.content))
        digest = base64.b64encode(hashlib.sha256(file.content).digest()).decode()
        assert file.headers["Repr-Digest"] == head.headers["Repr-Digest"] == f"sha-256=:{digest}:"


def test_a_mapping_of_ones_own(engine) -> None:
    mapping = {"credit": "CreditScore", "Age": "Age", "Tenure": "Tenure", "Balance": "Balance"}
    received = send(
        engine,
        OPEN.replace("credit", "K1"),
        mapping=json.dumps({"K1" if k == "credit" else k: v for k, v in mapping.items()}),
    )
    assert received.status_code == 202, received.text
    assert read(engine, received.json()["url"]).mapping["K1"] == "CreditScore"


def test_a_mapping_for_columns_with_names_of_their_own(engine) -> None:
    mapping = {"k,1": "CreditScore", "K2": "Age", "K3": "Tenure", "K4": "Balance"}
    received = send(engine, '"k,1";K2;K3;K4\n650;42;5;100.5\n', mapping=json.dumps(mapping))
    assert received.status_code == 202, received.text
    work(engine)
    done = read(engine, received.json()["url"])
    assert (done.state, done.summary.scored, dict(done.mapping)) == ("done", 1, mapping)
    for other in ({}, {"mapping": '{"Nothing": "Age"}'}):
        assert "is the header missing?" in send(engine, "K1,K2\n650,42\n", **other).json()["detail"]


def test_a_mapping_sent_once_is_for_that_file_alone(engine) -> None:
    """Seen: one upload with two columns swapped, and all later ones of that header scored Age as Tenure."""
    content = "CreditScore,Age,Tenure,Balance,K9\n650,30,9,0,3\n"
    names = {name: name for name in ("CreditScore", "Age", "Tenure", "Balance")}
    for mapping in (names | {"Age": "Tenure", "Tenure": "Age"}, names | {"K9": "NumOfProducts"}):
        assert send(engine, content, mapping=json.dumps(mapping)).status_code == 202
        assert read(engine, send(engine, content).json()["url"]).mapping == names


def test_columns_that_are_not_clear(engine) -> None:
    before = engine.client.get(PATH).json()
    response = send(engine, "Colour,Age,Tenure,Balance\nred,42,5,100.5\n", key="not-clear")
    assert response.status_code == 422
    assert [(error["field"], error["code"]) for error in response.json()["errors"]] == [("CreditScore", "required")]
    assert engine.client.get(PATH).json() == before


def test_a_key_is_not_spent_on_columns_that_are_not_clear(engine) -> None:
    unclear = "Colour,Age,Tenure,Balance\nred,42,5,100.5\n"
    storage = engine.services.batches.storage
    before = set(storage.folder.glob("*"))  # there is no folder yet where this is the first batch
    assert send(engine, unclear, key="unclear").status_code == 422
    assert set(storage.folder.glob("*")) == before
    assert send(engine, unclear, key="unclear").status_code == 422
    assert send(engine, key="unclear", mapping='{"Age": "Wage"}').status_code == 422
    received = send(engine, key="unclear")
    assert received.status_code == 202, received.text
    assert send(engine, unclear, key="unclear").json()["type"].endswith(":key-reused")
    assert read(engine, received.json()["url"]).state == "checking"


def test_left_at_the_check(engine) -> None:
    url = send(engine, start="false").json()["url"]
    work(engine)
    assert read(engine, url).state == "checked"
    assert engine.client.get(f"{url}/rejects").status_code == 200
    stopped = engine.client.post(f"{url}/cancel")
    assert stopped.status_code == 200
    assert answers.Batch.model_validate_json(stopped.content, extra="forbid").state == "cancelled"
    assert engine.client.post(f"{url}/cancel").json()["state"] == "cancelled"


def test_started_once_it_is_checked(engine) -> None:
    url = send(engine, start="false").json()["url"]
    early = engine.client.post(f"{url}/start")
    assert early.status_code == 409
    assert early.json()["type"].endswith(":conflict")
    work(engine)
    assert "Repr-Digest" not in engine.client.get(f"{url}/rejects").headers
    started = engine.client.post(f"{url}/start")
    assert started.status_code == 200, started.text
    assert answers.Batch.model_validate_json(started.content, extra="forbid").state == "scoring"
    assert engine.client.post(f"{url}/start").json()["model"] == started.json()["model"]
    work(engine)
    assert read(engine, url).state == "done"
    assert engine.client.post(f"{url}/start").json()["state"] == "done"


def test_start_where_no_row_is_good_or_it_was_stopped(engine) -> None:
    url = send(engine, "CreditScore,Age,Tenure,Balance\n99,42,5,1\n", start="false").json()["url"]
    work(engine)
    assert engine.client.post(f"{url}/start").status_code == 409
    assert engine.client.post(f"{url}/cancel").json()["state"] == "cancelled"
    assert engine.client.post(f"{url}/start").status_code == 409


def test_a_list_page_by_page(engine) -> None:
    sent = [send(engine).json()["id"] for _ in range(3)]
    first = engine.client.get(f"{PATH}?size=2")
    page = answers.Batches.model_validate_json(first.content, extra="forbid")
    assert [batch.id for batch in page.items] == sent[:0:-1]
    again = engine.client.get(f"{PATH}?size=1&before={page.next}").json()
    assert [batch["id"] for batch in again["items"]] == sent[:1]
    assert page.items[0] == read(engine, page.items[0].url)
    others = engine.client.get(f"{PATH}?product=allowance&size=200").json()
    assert {batch["product"] for batch in others["items"]} <= {"allowance"}
    for query, field in (("size=0", "size"), ("before=latest", "before"), ("after=x", "after")):
        refused = engine.client.get(f"{PATH}?{query}")
        assert refused.status_code == 422
        assert [error["field"] for error in refused.json()["errors"]] == [field]


def test_a_list_after_what_there_is_not(engine) -> None:
    batch = send(engine).json()["id"]
    decision = engine.client.post("/api/v1/churn/score", json=example(CHURN)).json()["decision"]["id"]
    unknown = "0" * len(batch)
    for path, what, others in ((PATH, "batch", (unknown, decision)), (DECISIONS, "decision", (unknown, batch))):
        for other in others:
            refused = engine.client.get(f"{path}?before={other}")
            assert refused.status_code == 422, refused.text
            assert refused.json()["type"].endswith(":invalid-parameter")
            (error,) = refused.json()["errors"]
            assert (error["in"], error["field"]) == ("query", "before")
            assert error["message"] == f"is not a {what} of this portal"


def test_the_same_key_is_the_same_batch(engine) -> None:
    first, again = send(engine, key="file"), send(engine, key="file")
    assert first.status_code == again.status_code == 202
    assert first.content == again.content
    for other in (send(engine, FILE + "1,2,3,4,5\n", key="file"), send(engine, key="file", product="allowance")):
        assert other.status_code == 422, other.text
        assert other.json()["type"].endswith(":key-reused")
    assert send(engine).json()["id"] != first.json()["id"]


@pytest.mark.parametrize(
    "other",
    [
        {"content": FILE + "1,2,3,4,5\n"},
        {"name": "other.csv"},
        {"product": "allowance"},
        {"start": "true"},
        {"mapping": '{"CreditScore": "CreditScore", "Age": "Age", "Tenure": "Tenure", "Balance": "Balance"}'},
        {"mapping": '{"Nothing": "Age"}'},
    ],
    ids=str,
)
def test_a_key_with_anything_else_is_refused_and_changes_nothing(engine, other) -> None:
    key = f"same but {other}".replace(" ", "-").replace(",", ";")
    first = send(engine, key=key, start="false")
    assert first.status_code == 202, first.text
    work(engine)
    before = read(engine, first.json()["url"])
    assert before.state == "checked"
    refused = send(engine, **({"key": key, "start": "false"} | other))
    assert refused.status_code == 422, refused.text
    assert refused.json()["type"].endswith(":key-reused")
    work(engine)
    assert read(engine, first.json()["url"]) == before


def test_a_key_gives_its_batch_again_whatever_became_of_it(engine) -> None:
    content = FILE.replace("Colour", "Shade")
    first = send(engine, content, key="again", start="false")
    mapping = {"Shade": "CreditScore", "Age": "Age", "Tenure": "Tenure", "Balance": "Balance"}
    send(engine, content, mapping=json.dumps(mapping))
    assert send(engine, content, key="again", start="false").content == first.content
    work(engine)
    engine.client.post(f"{first.json()['url']}/start")
    work(engine)
    again = send(engine, content, key="again", start="false")
    assert (again.status_code, again.content) == (202, first.content)
    assert read(engine, first.json()["url"]).state == "done"


def test_fifty_at_once_are_one_batch(engine) -> None:
    with ThreadPoolExecutor(50) as threads:
        answered = [each.result() for each in [threads.submit(send, engine, FILE, "fifty-files") for _ in range(50)]]
    assert {response.status_code for response in answered} == {202}
    assert len({response.content for response in answered}) == 1


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"product": "loan"}, "product"),
        ({"start": "yes"}, "start"),
        ({"mapping": "["}, "mapping"),
        ({"mapping": "[]"}, "mapping"),
        ({"mapping": '{"a": 1}'}, "mapping"),
        ({"colour": "red"}, "colour"),
        ({"product": ["churn", "churn"]}, "product"),
        ({"mapping": '{"Nothing": "Age"}'}, "Nothing"),
    ],
)
def test_fields_at_fault_are_named(engine, fields, field) -> None:
    response = send(engine, **fields)
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert field in {error["field"] for error in response.json()["errors"]}


@pytest.mark.parametrize(("text", "state"), [("False", "checked"), ("True", "done")])
def test_true_and_false_as_python_writes_them(engine, text, state) -> None:
    received = send(engine, start=text)
    assert received.status_code == 202, received.text
    work(engine)
    found = read(engine, received.json()["url"])
    assert found.state == state, found


def test_without_a_file(engine) -> None:
    response = engine.client.post(PATH, files={"product": (None, "churn")})
    assert response.status_code == 422
    assert {error["field"] for error in response.json()["errors"]} == {"file"}


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"", {}, 415),
        (b"x", {"Content-Type": "multipart/form-data"}, 400),
        (b"x", {"Content-Type": "multipart/form-data; boundary="}, 400),
        (b"x", {"Content-Type": "multipart/form-data; boundary=a"}, 400),
        (b"--a\r\n\r\n", {"Content-Type": "multipart/form-data; boundary=a"}, 400),
        (
            b'--a\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\ncut',
            {"Content-Type": "multipart/form-data; boundary=a"},
            400,
        ),
    ],
)
def test_forms_that_cannot_be_read(engine, content, headers, status) -> None:
    response = engine.client.post(PATH, content=content, headers=headers)
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"


def test_too_many_parts(engine) -> None:
    files = [("file", (f"{number}.csv", FILE.encode())) for number in range(50)]
    assert engine.client.post(PATH, files=files).status_code == 413


@pytest.mark.parametrize("content", ["", "PK\x03\x04" + "x" * 100, "a\x00b", "\n\n"])
def test_files_that_are_no_csv(engine, content) -> None:
    response = send(engine, content)
    assert response.status_code == 422
    assert response.json()["type"].endswith((":data-refused", ":invalid-input"))


def test_what_is_not_there(engine) -> None:
    for path in ("", "/results", "/rejects"):
        assert engine.client.get(f"{PATH}/0123456789abcdefghjkmnpqrs{path}").status_code == 404
    assert engine.client.post(f"{PATH}/0123456789abcdefghjkmnpqrs/cancel").status_code == 404
    assert engine.client.post(f"{PATH}/0123456789abcdefghjkmnpqrs/start").status_code == 404
    assert engine.client.delete(PATH).status_code == 405


def test_the_example_customer_as_a_file(engine) -> None:
    values = {name: str(value) for name, value in example(CHURN).items()}
    response = send(engine, ",".join(values) + "\n" + ",".join(values.values()) + "\n")
    assert response.status_code == 202, response.text
