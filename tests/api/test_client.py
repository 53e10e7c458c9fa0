"""The Python client, against the portal on both engines, and against networks and servers that fail."""

import hashlib
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import islice
from typing import Any

import httpx
import pytest

from bankportal import answers, client
from bankportal.api.schemas import customer_schema, example
from bankportal.client import Portal, Problem, Unreachable
from tests.shipped import CHURN, PRODUCTS

ADDRESS = "http://localhost"


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """How long the client would have waited; no test waits."""
    found: list[float] = []
    monkeypatch.setattr(client, "sleep", found.append)
    return found


def portal_on(engine, transport=None, **options) -> Portal:
    return Portal(str(engine.client.base_url), transport=transport or engine.client._transport, **options)


@pytest.fixture
def portal(engine) -> Portal:
    return portal_on(engine)


class Losing(httpx.BaseTransport):
    """Lets requests through and loses the first answers: the portal has recorded by then."""

    def __init__(self, inner: httpx.BaseTransport, faults: list[Exception]):
        self.inner, self.faults = inner, faults
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        response = self.inner.handle_request(request)
        response.read()
        if self.faults:
            raise self.faults.pop(0)
        return response


class Scripted(httpx.MockTransport):
    """Answers as scripted, whatever is asked: responses, or exceptions that it raises."""

    def __init__(self, *script: httpx.Response | Exception):
        self.script, self.asked = list(script), 0
        super().__init__(self._next)

    def _next(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        found = self.script.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


def scripted(*script: httpx.Response | Exception, **options: Any) -> tuple[Portal, Scripted]:
    transport = Scripted(*script)
    return Portal(ADDRESS, transport=transport, **options), transport


class Cut(httpx.SyncByteStream):
    """A body that breaks off."""

    def __iter__(self):
        yield b'{"items"'
        raise httpx.ReadError("reset")


GOOD = {"status": "ok", "models": {}, "refused": {}, "version": "0.1.0"}


def good() -> httpx.Response:
    return httpx.Response(200, json={"items": []})


def failing(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(status, html="<h1>Gateway</h1>", headers={k.replace("_", "-"): v for k, v in headers.items()})


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_client_offers_each_answer_by_the_name_it_is_declared_under() -> None:
    classes = {
        name: each
        for name, each in vars(answers).items()
        if getattr(each, "__module__", "") == answers.__name__ and not name.startswith("_")
    }
    assert {name for name, each in classes.items() if getattr(client, name) is not each} == {"Problem"}  # the exception
    assert classes.keys() <= set(client.__all__)


@pytest.mark.parametrize("text", ["1", "1.0", "0.1", "1e-07", "123456789012345680.0", "5e-324", "0.30000000000000004"])
def test_numbers_are_read_to_the_last_bit(text) -> None:
    portal, _ = scripted(httpx.Response(200, content=f'{{"properties": {text}}}'))
    assert portal.factors("churn") == {"properties": json.loads(text)}
    reason = f'{{"factor": null, "rule": null, "contribution": {text}, "sentence": ""}}'
    assert answers.Reason.model_validate_json(reason, strict=True).contribution == float(text)


def test_what_is_of_another_type_is_not_converted() -> None:
    for wrong in ({"version": 1}, {"models": {"churn": 1}}, {"models": []}, {"refused": None}):
        portal, _ = scripted(httpx.Response(200, json=GOOD | wrong))
        with pytest.raises(Problem, match="not what this client knows"):
            portal.health()


def test_score(engine, portal, product) -> None:
    answer = portal.score(product.key, example(product), contributions=True, recourse=True)
    raw = engine.client.get(answer.decision.url).json()["outcome"]
    assert (answer.score, answer.band, answer.base) == (raw["score"], raw["band"], raw["base"])
    assert answer.contributions == raw["contributions"]
    assert [reason.model_dump() for reason in answer.reasons] == raw["reasons"]
    assert (answer.limit and answer.limit.model_dump()) == raw["limit"]
    assert answer.recourse is not None
    assert portal.decision(answer.decision.id).at == answer.decision.at


def test_score_without_recording(engine, portal, product) -> None:
    before = engine.services.decisions.latest(1)
    answer = portal.score(product.key, example(product), record=False)
    assert answer.decision is answer.contributions is answer.recourse is None
    assert engine.services.decisions.latest(1) == before


def test_score_many(portal, product) -> None:
    good, bad = example(product), example(product) | {"CreditScore": 99}
    answered = portal.score_many(product.key, [good, bad, good])
    assert (answered.scored, answered.refused) == (2, 1)
    assert [item.outcome is None for item in answered.items] == [False, True, False]
    (fault,) = answered.items[1].errors
    assert (fault.place, fault.field, fault.found) == ("body", "CreditScore", "99")


def test_an_own_key_gives_the_same_decision(portal) -> None:
    first, second = (portal.score("churn", example(CHURN), key="crm-4711") for _ in range(2))
    assert first == second
    with pytest.raises(Problem) as refused:
        portal.score("churn", example(CHURN) | {"Age": 50}, key="crm-4711")
    assert refused.value.type == "urn:bankportal:problem:key-reused"


def test_each_call_is_a_decision_of_its_own(portal) -> None:
    first, second = (portal.score("churn", example(CHURN)) for _ in range(2))
    assert first.decision.id != second.decision.id


def test_products_and_factors(portal) -> None:
    assert [each.key for each in portal.products()] == list(PRODUCTS)
    assert portal.factors("churn")["properties"] == customer_schema(CHURN)["properties"]


def test_decisions_page_by_page(engine, portal, product) -> None:
    for each in PRODUCTS:
        for _ in range(3):
            portal.score(each, example(PRODUCTS[each]))
    found = [each.id for each in portal.decisions(product.key, size=2)]
    assert found == [each.id for each in engine.services.decisions.page(product.key, None, 500).items]
    assert len(found) >= 3
    everything = [each.id for each in portal.decisions(size=200)]
    assert set(found) < set(everything)
    assert [each.id for each in portal.decisions(before=everything[2])] == everything[3:]


def test_verify(portal) -> None:
    kept = portal.score("churn", example(CHURN)).decision
    verdict = portal.verify(kept.id)
    assert (verdict.decision, verdict.intact, verdict.fault) == (kept.id, True, None)
    assert len(verdict.receipt.digest) == 64


def test_models(portal, product) -> None:
    (registered,) = [each for each in portal.models() if each.product == product.key]
    assert registered == portal.model(product.key) == portal.model(product.key, registered.version)
    assert registered.active
    assert registered.trained_at.tzinfo is not None


def test_health(portal) -> None:
    assert portal.health().status == "ok"


def test_health_without_a_model(empty_app) -> None:
    portal = Portal(ADDRESS, transport=httpx.WSGITransport(empty_app))
    assert portal.health().models == dict.fromkeys(PRODUCTS)


# --- batches ----------------------------------------------------------------------------------------------------------


HEADER = "CustomerId,CreditScore,Age,Tenure,Balance\n"
FILE = (HEADER + "15634602,650,42,5,48200.5\n15634603,99,42,5,48200.5\n").encode()


@pytest.fixture
def working(engine, monkeypatch) -> None:
    """Whenever the client waits, a worker works on one chunk."""
    monkeypatch.setattr(client, "sleep", lambda _: engine.services.worker.step())


def scored(path) -> list[str]:
    return path.read_text(encoding="utf-8-sig").splitlines()


@pytest.mark.parametrize("way", ["path", "text", "file", "bytes"])
def test_a_file_is_scored(portal, working, tmp_path, way) -> None:
    path = tmp_path / "künftige, kunden.csv"
    path.write_bytes(FILE)
    with path.open("rb") as opened:
        opened.read(5)  # it is sent from its beginning all the same
        given = {"path": path, "text": str(path), "file": opened, "bytes": io.BytesIO(FILE)}[way]
        received = portal.upload("churn", given)
    assert received.file_name == (path.name if way in {"path", "text"} else "upload.csv")
    assert (received.input_bytes, received.input_digest) == (len(FILE), hashlib.sha256(FILE).hexdigest())
    batch = portal.wait(received.id)
    assert (batch.state, batch.summary.scored, batch.summary.rejected) == ("done", 1, 1)
    assert batch.checked.groups[0].factor == "CreditScore"
    assert batch.model_dump().items() >= received.model_dump().items()
    kept = scored(portal.save_results(received.id, tmp_path / "scored.csv"))
    assert len(kept) == 2
    assert kept[1].startswith("15634602,")
    assert "CreditScore" in "".join(scored(portal.save_rejects(received.id, tmp_path / "rejects.csv")))
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "scored.csv", "rejects.csv"}


def test_a_mapping_and_no_start(portal, working) -> None:
    content = io.BytesIO(b"score,b,c,Balance\n650,42,5,48200.5\n")
    with pytest.raises(Problem) as refused:
        portal.upload("churn", content)
    assert {"Age", "Tenure"} <= {fault.field for fault in refused.value.errors}
    mapping = {"score": "CreditScore", "b": "Age", "c": "Tenure", "Balance": "Balance"}
    batch = portal.wait(portal.upload("churn", content, mapping=mapping, start=False, name="n.csv").id)
    assert (batch.state, batch.mapping, batch.file_name, batch.checked.good) == ("checked", mapping, "n.csv", 1)
    assert portal.start(batch.id).state == "scoring"
    assert portal.wait(batch.id).state == portal.start(batch.id).state == "done"


def test_batches_page_by_page(portal) -> None:
    sent = [portal.upload("churn", io.BytesIO(FILE)).id for _ in range(3)]
    newest = list(islice(portal.batches("churn", size=2), 3))
    assert [batch.id for batch in newest] == sent[::-1]
    assert next(portal.batches(before=sent[2])) == newest[1]


def test_a_file_whose_receipt_was_lost_is_one_batch(engine, pauses) -> None:
    earlier = portal_on(engine).upload("churn", io.BytesIO(FILE))
    losing = Losing(engine.client._transport, [httpx.ReadTimeout("late"), httpx.ReadError("reset")])
    received = portal_on(engine, losing).upload("churn", io.BytesIO(FILE))
    assert [each.id for each in engine.services.batches.page(None, None, 2).items] == [received.id, earlier.id]
    assert len(losing.requests) == 3
    assert received.input_digest == hashlib.sha256(FILE).hexdigest()
    again = portal_on(engine).upload("churn", io.BytesIO(FILE))
    assert engine.services.batches.page(None, None, 2).items[1].id == received.id != again.id


def test_a_file_that_cannot_be_sent_again_is_not_sent() -> None:
    portal, transport = scripted()
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "wb"), pytest.raises(ValueError, match="rewound"):
        portal.upload("churn", pipe)
    assert transport.asked == 0


def test_waiting_ends(engine, portal, monkeypatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(client, "sleep", waited.append)
    monkeypatch.setattr(client, "monotonic", lambda: sum(waited))
    received = portal.upload("churn", io.BytesIO(FILE))
    with pytest.raises(TimeoutError, match="still checking"):
        portal.wait(received.id, timeout=12)
    assert sum(waited) == pytest.approx(12)
    assert portal.cancel(received.id).state == "cancelled"
    assert portal.wait(received.id) == portal.cancel(received.id)


def test_results_too_early(portal, tmp_path) -> None:
    received = portal.upload("churn", io.BytesIO(FILE))
    for save in (portal.save_results, portal.save_rejects):
        with pytest.raises(Problem) as refused:
            save(received.id, tmp_path / "out.csv")
        assert refused.value.status == 404
    assert list(tmp_path.iterdir()) == []
    portal.cancel(received.id)


def test_a_download_cut_off_leaves_the_file_that_was_there(pauses, tmp_path) -> None:
    (tmp_path / "out.csv").write_text("before")
    portal, _ = scripted(httpx.Response(200, stream=Cut()), httpx.Response(200, stream=Cut()), attempts=2)
    with pytest.raises(Unreachable):
        portal.save_results("b", tmp_path / "out.csv")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["before"]
    portal, _ = scripted(httpx.Response(200, stream=Cut()), httpx.Response(200, content=b"whole"))
    portal.save_results("b", tmp_path / "out.csv")
    assert [each.read_text() for each in tmp_path.iterdir()] == ["whole"]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "much", float("nan"), float("inf"), True])
def test_a_refusal_names_the_field(portal, value) -> None:
    with pytest.raises(Problem) as refused:
        portal.score("churn", example(CHURN) | {"Balance": value})
    problem = refused.value
    assert (problem.status, problem.type) == (422, "urn:bankportal:problem:invalid-input")
    assert [fault.field for fault in problem.errors] == ["Balance"]
    assert "Balance" in str(problem)


@pytest.mark.parametrize("name", ["mortgage", "../churn", "churn/score?record=false&x=", "%2e%2e", "é"])
def test_no_such_product(portal, name) -> None:
    for ask in (lambda: portal.score(name, example(CHURN)), lambda: portal.factors(name)):
        with pytest.raises(Problem) as refused:
            ask()
        assert refused.value.status == 404


def test_what_is_not_the_portal(pauses) -> None:
    for answer in (
        httpx.Response(200, html="<h1>Welcome</h1>"),
        httpx.Response(200, json={"items": [{"id": 1}]}),
        httpx.Response(200, json=[]),
        httpx.Response(301, headers={"Location": "https://elsewhere.example/"}),
        httpx.Response(418, json={"error": "teapot"}),
        httpx.Response(400, content=b"{", headers={"Content-Type": "application/problem+json"}),
        httpx.Response(400, content=b'{"errors": ["x"]}', headers={"Content-Type": "application/problem+json"}),
    ):
        portal, transport = scripted(answer)
        with pytest.raises(Problem) as refused:
            list(portal.decisions())
        assert refused.value.status == answer.status_code
        assert transport.asked == 1
    assert pauses == []


def test_fields_that_are_new_are_left() -> None:
    portal, _ = scripted(httpx.Response(200, json=GOOD | {"colour": "blue"}))
    assert portal.health().status == "ok"


# --- retries ----------------------------------------------------------------------------------------------------------


FAULTS = [httpx.ReadTimeout("late"), httpx.ReadError("reset"), httpx.RemoteProtocolError("cut off")]


def test_what_was_recorded_when_the_answer_was_lost_is_recorded_once(engine, product, pauses) -> None:
    before = len(list(portal_on(engine).decisions(product.key, size=200)))
    losing = Losing(engine.client._transport, list(FAULTS))
    answer = portal_on(engine, losing).score(product.key, example(product))
    assert len(losing.requests) == 4
    assert len({request.headers["Idempotency-Key"] for request in losing.requests}) == 1
    after = list(portal_on(engine).decisions(product.key, size=200))
    assert len(after) == before + 1
    assert after[0].id == answer.decision.id
    assert len(pauses) == 3


def test_many_recorded_once(engine, product, pauses) -> None:
    before = len(list(portal_on(engine).decisions(product.key, size=200)))
    losing = Losing(engine.client._transport, [httpx.ReadTimeout("late")])
    answered = portal_on(engine, losing).score_many(product.key, [example(product)] * 3)
    after = list(portal_on(engine).decisions(product.key, size=200))
    assert len(after) == before + 3
    assert {each.id for each in after[:3]} == {item.outcome.decision.id for item in answered.items}


def test_what_is_not_recorded_is_sent_again_without_a_key(engine, pauses) -> None:
    losing = Losing(engine.client._transport, [httpx.ReadTimeout("late")])
    portal_on(engine, losing).score("churn", example(CHURN), record=False)
    assert len(losing.requests) == 2
    assert "Idempotency-Key" not in losing.requests[0].headers


def test_what_may_record_twice_is_not_safe() -> None:
    def safe(method: str, query: str = "", **headers: str) -> bool:
        return client._is_repeatable(httpx.Request(method, f"{ADDRESS}/{query}", headers=headers))

    assert safe("GET")
    assert safe("POST", "?record=false")
    assert safe("POST", **{"Idempotency-Key": "k"})
    assert safe("POST", "batches/b/cancel")
    assert safe("POST", "batches/b/start")
    assert not safe("POST")
    assert not safe("POST", "?record=true")
    assert not safe("PUT")


def test_what_is_not_safe_is_sent_once(pauses) -> None:
    portal, transport = scripted(httpx.ReadTimeout("late"))
    with pytest.raises(Unreachable, match="tried once: late"):
        portal._send(portal._request("POST", "churn/score"), httpx.Response.read)
    assert (transport.asked, pauses) == (1, [])


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_statuses_that_may_pass(pauses, status) -> None:
    portal, transport = scripted(failing(status), failing(status), good())
    assert portal.models() == ()
    assert transport.asked == 3


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 500, 501])
def test_statuses_that_stay(pauses, status) -> None:
    portal, transport = scripted(failing(status))
    with pytest.raises(Problem):
        portal.models()
    assert (transport.asked, pauses) == (1, [])


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_end(pauses, attempts) -> None:
    portal, transport = scripted(*[failing()] * attempts, attempts=attempts)
    with pytest.raises(Problem) as refused:
        portal.models()
    assert refused.value.status == 503
    assert (transport.asked, len(pauses)) == (attempts, attempts - 1)
    portal, transport = scripted(*[httpx.ConnectError("refused")] * attempts, attempts=attempts)
    with pytest.raises(Unreachable, match="http://localhost/api/v1/models did not answer"):
        portal.models()
    assert transport.asked == attempts


def test_pauses_grow_and_differ() -> None:
    for attempt in (1, 2, 3, 4, 5, 6, 11, 5000):
        found = {client._pause(attempt) for _ in range(50)}
        longest = min(client.FIRST_PAUSE * 2 ** (min(attempt, 50) - 1), client.MAX_PAUSE)
        assert longest / 2 <= min(found) < max(found) <= longest


def test_retry_after_is_honoured(pauses) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    portal, _ = scripted(failing(429, Retry_After="7"), failing(503, Retry_After=at), good())
    portal.models()
    assert pauses[0] == 7
    assert 0 < pauses[1] <= 30


@pytest.mark.parametrize("text", ["", "soon", "-5", "Wed, 99 Foo", "Wed, 21 Oct 2015 07:28:00 GMT", "²"])
def test_retry_after_without_a_meaning(pauses, text) -> None:
    portal, _ = scripted(httpx.Response(503, headers={b"Retry-After": text.encode()}), good())
    portal.models()
    assert 0 < pauses[0] <= client.FIRST_PAUSE


def test_a_pause_too_long_is_left_to_the_caller(pauses) -> None:
    portal, _ = scripted(failing(429, Retry_After="3600"))
    with pytest.raises(Problem) as refused:
        portal.models()
    assert refused.value.retry_after == 3600
    assert pauses == []


def test_an_answer_cut_off_is_asked_for_again(pauses) -> None:
    portal, transport = scripted(httpx.Response(200, stream=Cut()), good())
    assert portal.models() == ()
    assert transport.asked == 2


def test_no_attempts() -> None:
    with pytest.raises(ValueError, match="1 or more"):
        Portal(ADDRESS, attempts=0)


def test_nobody_listens(pauses) -> None:
    with Portal("http://127.0.0.1:9", attempts=2) as portal, pytest.raises(Unreachable, match="tried 2 times"):
        portal.health()


def test_the_client_loads_nothing_of_the_portal() -> None:
    code = "import sys, json, bankportal.client; print(json.dumps([n for n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    ours = {name for name in loaded if name.startswith("bankportal.")}
    assert ours == {"bankportal.answers", "bankportal.client", "bankportal.version"}
    assert loaded.isdisjoint({"flask", "numpy", "sqlalchemy"})
