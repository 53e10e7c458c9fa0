"""The FastAPI engine is a FastAPI app: its own tools see the operations, and middleware sees their requests."""

import asyncio
import json
import warnings
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Match

from bankportal import answers, asgi
from bankportal.answers import JSON
from bankportal.api.fastapi_adapter import TELEMETRY, BeforeRoutes
from bankportal.api.operations import operations_of
from bankportal.api.parameters import described
from bankportal.api.schemas import example
from tests.shipped import CHURN, PRODUCTS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it would like httpx2 in place of httpx
    from fastapi.testclient import TestClient

GOLDEN = Path(__file__).parents[2] / "docs" / "openapi.json"
OPERATIONS = operations_of(PRODUCTS)
SCORE = "/api/v1/churn/score"


@pytest.fixture
def app(config):
    return asgi.create_app(config)


@pytest.fixture
def client(app):
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def routes(app) -> dict[str, APIRoute]:
    return {route.name: route for route in app.routes if isinstance(route, APIRoute)}


def test_it_works(client) -> None:
    answered = client.post(SCORE, json=example(CHURN))
    assert answered.status_code == 200
    outcome = answers.Outcome.model_validate_json(answered.content, extra="forbid")
    assert client.get(outcome.decision.url).json()["outcome"]["score"] == outcome.score


def test_each_operation_is_a_path_operation(app) -> None:
    found = routes(app)
    assert list(found) == [operation.id for operation in OPERATIONS]
    for operation in OPERATIONS:
        route, answer = found[operation.id], operation.answers[0]
        assert (route.path, route.operation_id, route.tags) == (operation.path, operation.id, [operation.tag])
        assert route.methods == ({"GET", "HEAD"} if operation.method == "GET" else {operation.method})
        assert (route.status_code, route.response_model) == (answer.status, answer.model)
        assert (route.summary, route.description) == (operation.summary, operation.help)
        assert {status: each["model"] for status, each in route.responses.items()} == {
            **dict.fromkeys(operation.errors, answers.Problem),
            **{other.status: other.model for other in operation.answers[1:]},
        }


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_a_route_takes_what_the_api_takes_for_its_operation(app, operation) -> None:
    examples = {parameter.name: str(parameter.example) for parameter in described(operation.parameters, PRODUCTS)}
    scope = {"type": "http", "method": operation.method, "path": operation.path.format(**examples)}
    first = next(route for route in app.routes if route.matches(scope)[0] is Match.FULL)
    assert first.name == operation.id


def test_its_paths_have_names(app) -> None:
    assert app.url_path_for("score-churn") == SCORE
    assert app.url_path_for("get-model", product="churn", version="v1") == "/api/v1/models/churn/v1"


def test_its_document_is_the_golden_copy(app, client) -> None:
    assert app.openapi() == json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert client.get("/openapi.json").text == GOLDEN.read_text(encoding="utf-8")


def test_middleware_sees_calls_and_pages(config) -> None:
    app = asgi.create_app(config)
    seen: list[tuple[str, str, int]] = []

    @app.middleware("http")
    async def note(request, call_next):
        body = await request.body()
        response = await call_next(request)
        response.headers["X-Noted"] = str(len(body))
        seen.append((request.method, request.url.path, response.status_code))
        return response

    content = json.dumps(example(CHURN)).encode()
    with TestClient(app, base_url="http://localhost") as client:
        answered = client.post(SCORE, content=content, headers={"Content-Type": JSON})
        assert (answered.status_code, answered.headers["X-Noted"]) == (200, str(len(content)))
        assert client.get("/api/v1/nothing").headers["Content-Type"] == "application/problem+json"
        assert client.get("/").headers["Content-Type"].startswith("text/html")
    assert seen == [("POST", SCORE, 200), ("GET", "/api/v1/nothing", 404), ("GET", "/", 200)]


def test_without_middleware_calls_come_before_the_routes(app, client, monkeypatch) -> None:
    def nowhere(*args):
        raise AssertionError("a call of the API went to the router")

    monkeypatch.setattr(app.router, "middleware_stack", nowhere)
    assert client.post(SCORE, json=example(CHURN)).status_code == 200


@pytest.mark.parametrize(
    ("scope", "of_api"),
    [
        ({"type": "http", "path": SCORE}, True),
        ({"type": "http", "path": "/api/v1/nothing"}, True),
        ({"type": "http", "path": SCORE, TELEMETRY: object()}, False),
        ({"type": "websocket", "path": SCORE}, False),
        ({"type": "lifespan"}, False),
        ({"type": "http", "path": "/churn/"}, False),
    ],
)
def test_which_requests_come_before_the_routes(app, scope, of_api) -> None:
    reached: list[bool] = []

    class Noting:
        api = app.engine.api

        async def __call__(self, scope, receive, send):
            reached.append(True)

    async def routes(scope, receive, send):
        reached.append(False)

    asyncio.run(BeforeRoutes(Noting(), routes)(scope, None, None))
    assert reached == [of_api]


@pytest.mark.parametrize(("method", "path"), [("DELETE", SCORE), ("GET", SCORE), ("POST", "/api/v1/products")])
def test_other_methods_are_refused_in_the_api_s_words(client, method, path) -> None:
    refused = client.request(method, path)
    problem = answers.Problem.model_validate_json(refused.content, extra="forbid")
    assert (refused.status_code, problem.type) == (405, "urn:bankportal:problem:method-not-allowed")
    assert refused.headers["Allow"] in {"POST", "GET, HEAD"}


@pytest.mark.parametrize("path", [f"{SCORE}%0A", "/api/v1/products%0A", "/nothing%0Aelse"])
def test_a_line_break_in_a_path_is_none_of_the_operations(client, path) -> None:
    assert client.get(path).status_code == 404


def test_a_caller_that_hangs_up_is_no_fault(app) -> None:
    import anyio

    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": SCORE,
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    anyio.run(app, scope, receive, send)
    assert [message.get("body", b"") for message in sent] == [b"", b""]
