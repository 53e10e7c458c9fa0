"""What the API refuses, in one shape on both engines."""

import json

import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from bankportal import answers
from bankportal.api.schemas import example
from bankportal.config import SETTINGS
from bankportal.domain.constraints import Number
from tests.api.conftest import ENGINES, running
from tests.conftest import config_for
from tests.shipped import CHURN, PRODUCTS

SCORE = "/api/v1/churn/score"
JSON = {"Content-Type": "application/json"}
GOOD = json.dumps(example(CHURN))
HOSTS = next(setting.default for setting in SETTINGS if setting.name == "TRUSTED_HOSTS").split(",")


def problem(response, status: int, kind: str) -> answers.Problem:
    """Check a refusal's shape and return it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    found = answers.Problem.model_validate_json(response.content, extra="forbid")
    assert found.status == status
    assert found.type == f"urn:bankportal:problem:{kind}"
    assert found.title
    assert "Traceback" not in response.text
    assert 'File "' not in response.text
    return found


def with_value(text: str, name: str = "Balance") -> bytes:
    """Return the example with one value written as given."""
    return json.dumps(example(CHURN) | {name: "@"}).replace('"@"', text).encode()


HOSTILE = [
    ("empty", b"", 400, "not-json"),
    ("white space", b"  \n", 400, "not-json"),
    ("no JSON", b"Balance=1", 400, "not-json"),
    ("cut off", GOOD[:-1].encode(), 400, "not-json"),
    ("more after it", f"{GOOD} {GOOD}".encode(), 400, "not-json"),
    ("single quotes", GOOD.replace('"', "'").encode(), 400, "not-json"),
    ("trailing comma", GOOD.replace("}", ",}").encode(), 400, "not-json"),
    ("comment", f"{GOOD} // fine".encode(), 400, "not-json"),
    ("byte-order mark", b"\xef\xbb\xbf" + GOOD.encode(), 400, "not-json"),
    ("UTF-16", GOOD.encode("utf-16"), 400, "not-json"),
    ("Latin-1", with_value('"caf\u00e9"', "Surname").decode().encode("latin-1"), 400, "not-json"),
    ("zip bomb", b"PK\x03\x04" + bytes(100), 400, "not-json"),
    ("NUL", b"\x00" * 100, 400, "not-json"),
    ("control character", with_value('"a\nb"', "Surname"), 400, "not-json"),
    ("lone surrogate", with_value('"\\ud800"', "Surname"), 400, "not-json"),
    ("lone surrogate as a field", with_value('1, "\\udc00": 1'), 400, "not-json"),
    ("field twice", with_value('1, "Balance": 2'), 400, "not-json"),
    ("deep lists", with_value("[" * 21 + "]" * 21), 400, "not-json"),
    ("deep objects", with_value('{"a":' * 30 + "1" + "}" * 30), 400, "not-json"),
    ("depth that breaks parsers", b"[" * 100_000 + b"]" * 100_000, 400, "not-json"),
    ("digits without end", with_value("9" * 100_000), 400, "not-json"),
    ("NaN", with_value("NaN"), 422, "invalid-input"),
    ("Infinity", with_value("-Infinity"), 422, "invalid-input"),
    ("1e400", with_value("1e400"), 422, "invalid-input"),
    ("hundreds of digits", with_value("9" * 400), 422, "invalid-input"),
    ("number as text", with_value('"100"'), 422, "invalid-input"),
    ("blank", with_value('""'), 422, "invalid-input"),
    ("true", with_value("true"), 422, "invalid-input"),
    ("list", with_value("[1]"), 422, "invalid-input"),
    ("object", with_value('{"$gt": 0}'), 422, "invalid-input"),
    ("null where required", with_value("null"), 422, "invalid-input"),
]


@pytest.mark.parametrize(("body", "status", "kind"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_hostile_bodies(engine, body, status, kind) -> None:
    before = engine.services.decisions.latest(1)
    response = engine.client.post(SCORE, content=body, headers=JSON)
    found = problem(response, status, kind)
    if kind == "invalid-input":
        assert [error.field for error in found.errors] == ["Balance"]
        assert found.errors[0].place == "body"
    assert engine.services.decisions.latest(1) == before
    if kind != "not-json":
        return
    wrapped = engine.client.post("/api/v1/churn/scores", content=b'{"items":[' + body + b"]}", headers=JSON)
    assert wrapped.status_code < 500


@pytest.mark.parametrize("text", ["null", "7", '"text"', "[]", "true", "[{}]"])
def test_a_body_that_is_no_object(engine, text) -> None:
    found = problem(engine.client.post(SCORE, content=text, headers=JSON), 422, "invalid-input")
    assert found.errors[0].code == "not-an-object"


def test_every_broken_bound_is_named(engine, product) -> None:
    for entry in product.factors:
        if isinstance(entry.factor.constraint, Number):
            values = example(product) | {entry.factor.name: entry.factor.constraint.maximum + 1}
            found = problem(engine.client.post(f"/api/v1/{product.key}/score", json=values), 422, "invalid-input")
            assert [(error.field, error.code) for error in found.errors] == [(entry.factor.name, "above")]


def test_all_faults_at_once_in_the_callers_own_names(engine) -> None:
    values = example(CHURN) | {"credit_score": 600, "Age": "42", "CustomerId": 15634602}
    del values["Tenure"]
    found = problem(engine.client.post(SCORE, json=values), 422, "invalid-input")
    assert {error.field: (error.code, error.found) for error in found.errors} == {
        "credit_score": ("unknown-field", "600"),
        "Age": ("not-a-number", "42"),
        "CustomerId": ("not-text", "15634602"),
        "Tenure": ("required", ""),
    }


def test_one_fault_and_many_are_told_in_their_number(engine) -> None:
    said = {1: "One of the values is not acceptable", 2: "2 of the values are not acceptable"}
    for count, detail in said.items():
        values = {name: -1 if place < count else 50 for place, name in enumerate(("Age", "Tenure"))}
        response = engine.client.post(SCORE, json=example(CHURN) | values)
        assert problem(response, 422, "invalid-input").detail.startswith(f"{detail};")


def test_what_was_found_is_cut_short(engine) -> None:
    values = example(CHURN) | {"x" * 5000: "y" * 5000}
    found = problem(engine.client.post(SCORE, json=values), 422, "invalid-input")
    assert len(found.errors[0].field) < 100
    assert len(found.errors[0].found) < 100


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonx"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": 'application/json; foo=bar; Charset="ISO-8859-1"'},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {},
    ],
)
def test_other_media(engine, headers) -> None:
    response = engine.client.post(SCORE, content=GOOD.encode(), headers=headers)
    problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json;",
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf-8"',
        "application/json; foo=bar",
        "application/json; foo=bar; charset=utf8",
    ],
)
def test_media_that_are_json(engine, kind) -> None:
    response = engine.client.post(f"{SCORE}?record=false", content=GOOD.encode(), headers={"Content-Type": kind})
    assert response.status_code == 200


def test_too_large(engine) -> None:
    found = problem(engine.client.post(SCORE, content=b" " * 1_000_001, headers=JSON), 413, "too-large")
    assert "1,000,000" in found.detail
    found = problem(
        engine.client.post("/api/v1/churn/scores", content=b" " * 4_000_001, headers=JSON), 413, "too-large"
    )
    assert "4,000,000" in found.detail


def test_too_large_without_a_length(engine) -> None:
    if engine.name == "flask":
        pytest.skip("a test client in process sends no chunks")
    response = engine.client.post(SCORE, content=iter([b" " * 600_000] * 2), headers=JSON)
    problem(response, 413, "too-large")


@pytest.mark.parametrize(
    ("path", "field", "code"),
    [
        (f"{SCORE}?record=yes", "record", "not-acceptable"),
        (f"{SCORE}?record=", "record", "not-acceptable"),
        (f"{SCORE}?record=True", "record", "not-acceptable"),
        (f"{SCORE}?record=true&record=false", "record", "duplicate"),
        (f"{SCORE}?verbose=1", "verbose", "unknown-parameter"),
        ("/api/v1/churn/scores?recourse=true", "recourse", "unknown-parameter"),
    ],
)
def test_parameters_of_scoring(engine, path, field, code) -> None:
    found = problem(engine.client.post(path, json=example(CHURN)), 422, "invalid-parameter")
    assert [(error.field, error.code, error.place) for error in found.errors] == [(field, code, "query")]


@pytest.mark.parametrize(
    "query",
    ["size=0", "size=201", "size=1.0", "size=ten", "size=%2B5", "product=loan", "before=x", "before=latest", "x=%00"],
)
def test_parameters_of_a_list(engine, query) -> None:
    problem(engine.client.get(f"/api/v1/decisions?{query}"), 422, "invalid-parameter")


@pytest.mark.parametrize("query", ["size=%ff", "&".join(f"p{number}=1" for number in range(100))])
def test_queries_that_cannot_be_read(engine, query) -> None:
    problem(engine.client.get(f"/api/v1/decisions?{query}"), 422, "invalid-parameter")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/nothing",
        "/api/v1/",
        "/api/v2/products",
        "/api/v1/products/",
        "/api/v1/loan/score",
        "/api/v1/products/loan/schema",
        "/api/v1/decisions/0123456789abcdefghjkmnpqrs",
        "/api/v1/decisions/nothing",
        "/api/v1/decisions/%00",
        "/api/v1/decisions/a%2Fb",
        "/api/v1/decisions/%0A",
        "/api/v1/products%0A",
        "//api/v1/products",
        "/api//v1/products",
        "/%61pi/v1/nothing",
        "/api/v1/products;a=b",
        "/api/",
        "/api",
        "/api/v1/models/churn/v99",
        "/api/v1/models/loan/v1",
    ],
)
def test_what_is_not_there(engine, path) -> None:
    base = str(engine.client.base_url).rstrip("/")  # else //api would be a host
    problem(engine.client.get(base + path), 404, "not-found")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("decisions/ZZZ", "of 26 digits and small letters, or latest"),
        ("batches/ZZZ/results", "of 26 digits and small letters, or latest"),
        ("models/churn/v-1", "a version's name, such as v1"),
        ("products/loan/schema", "churn or allowance"),
    ],
)
def test_a_path_says_what_it_takes(engine, path, said) -> None:
    (error,) = problem(engine.client.get(f"/api/v1/{path}"), 404, "not-found").errors
    assert (error.place, error.message.endswith(said)) == ("path", True)


@pytest.mark.parametrize(("method", "path"), [("GET", SCORE), ("DELETE", SCORE), ("OPTIONS", SCORE), ("PURGE", SCORE)])
def test_other_methods(engine, method, path) -> None:
    response = engine.client.request(method, path)
    problem(response, 405, "method-not-allowed")
    assert response.headers["Allow"] == "POST"


def test_whoever_may_get_may_ask_for_the_head(engine) -> None:
    for path, methods in (
        ("/api/v1/products", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/api/v1/batches", "GET, HEAD, POST"),
    ):
        assert engine.client.delete(path).headers["Allow"] == methods


def test_heads_have_no_body(engine) -> None:
    response = engine.client.head("/api/v1/products")
    assert response.status_code == 200
    assert response.content == b""


@pytest.mark.parametrize("host", [*HOSTS, f"{HOSTS[0]}:8000"])
def test_every_host_that_is_trusted_by_default_is_answered(engine, host) -> None:
    assert engine.client.get("/api/v1/products", headers={"Host": host}).status_code == 200


def test_what_is_cut_short_is_refused_even_where_it_is_json(app) -> None:
    environ = EnvironBuilder(SCORE, method="POST", content_type="application/json", data=GOOD).get_environ()
    environ |= {"CONTENT_LENGTH": str(len(GOOD) + 1), "wsgi.input_terminated": True}  # what gunicorn makes of it
    blocks, status, _ = run_wsgi_app(app, environ)
    assert status.startswith("400")
    assert "before it was whole" in json.loads(b"".join(blocks))["detail"]


@pytest.mark.parametrize(("encoding", "status"), [("IDENTITY", 200), ("", 200), ("gzip", 415), ("GZip", 415)])
def test_encodings(engine, encoding, status) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    assert engine.client.post(f"{SCORE}?record=false", content=GOOD, headers=headers).status_code == status


def test_other_hosts(engine) -> None:
    response = engine.client.get("/api/v1/products", headers={"Host": "evil.example"})
    problem(response, 400, "host-refused")


def test_headers(engine) -> None:
    for path in ("/api/v1/products", "/api/v1/nothing", "/openapi.json", "/docs"):
        headers = engine.client.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert len(headers["X-Request-Id"]) == 16


def test_a_fault_of_ours_tells_its_reference_alone(engine, monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("bankportal.services.scoring.Scoring.decide", fail)
    response = engine.client.post(SCORE, json=example(CHURN))
    found = problem(response, 500, "fault")
    assert "secret detail" not in response.text
    assert found.instance == f"urn:bankportal:request:{response.headers['X-Request-Id']}"


@pytest.mark.parametrize("name", ENGINES)
def test_without_models(name, tmp_path) -> None:
    from bankportal.store.migrate import upgrade

    with running(name, config_for(tmp_path / "empty")) as engine:
        upgrade(engine.services.database)
        for each in PRODUCTS.values():
            response = engine.client.post(f"/api/v1/{each.key}/score", json=example(each))
            problem(response, 503, "no-active-model")
        problem(engine.client.get("/api/v1/models/churn/active"), 503, "no-active-model")
        health = engine.client.get("/api/v1/health")
        assert health.status_code == 503
        assert health.json()["status"] == "no model"
        assert [each["model_version"] for each in engine.client.get("/api/v1/products").json()["items"]] == [None, None]
        problem(engine.client.get("/api/v1/decisions/latest"), 404, "not-found")


@pytest.mark.parametrize("name", ENGINES)
def test_without_a_database(name, tmp_path) -> None:
    with running(name, config_for(tmp_path / "nothing")) as engine:
        problem(engine.client.get("/api/v1/decisions"), 503, "database")
        problem(engine.client.get("/api/v1/health"), 503, "database")
