"""Calls answered together are answered as each by itself."""

import asyncio
import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from werkzeug.test import EnvironBuilder

from bankportal.api.api import Api
from bankportal.api.calls import Call, Reply
from bankportal.api.fastapi_adapter import CallGroups
from bankportal.api.flask_adapter import Engine
from bankportal.api.schemas import example
from bankportal.config import Config
from tests.conftest import PATIENCE
from tests.shipped import ALLOWANCE, CHURN


@pytest.fixture
def api(services):
    return Api(services)


def call(body, path: str = "/api/v1/churn/score", query: str = "", **headers: str) -> Call:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": "application/json", **headers}
    return Call("POST", path, query, given, io.BytesIO(content), "reference")


def outcome(reply) -> dict:
    """Return an answer without what differs from decision to decision."""
    return json.loads(reply.body) | {"decision": None}


def test_each_is_answered_by_itself(api) -> None:
    bodies = [example(CHURN), b"{", {**example(CHURN), "Age": 17}, {**example(CHURN), "Balance": 0.0}]
    together = api.answer_all([call(body) for body in bodies])
    assert [reply.status for reply in together] == [200, 400, 422, 200]
    alone = [api.answer(call(body)) for body in bodies]
    assert list(map(outcome, together)) == list(map(outcome, alone))
    assert len(api.services.decisions.latest(10)) == 4


def test_products_and_other_calls_may_be_mixed(api) -> None:
    allowance = call(example(ALLOWANCE), "/api/v1/allowance/score")
    reading = Call("GET", "/api/v1/products", "", {}, io.BytesIO())
    replies = api.answer_all([allowance, reading, call(example(CHURN))])
    assert [reply.status for reply in replies] == [200, 200, 200]
    assert [json.loads(replies[place].body)["product"] for place in (0, 2)] == ["allowance", "churn"]


def test_one_that_cannot_be_answered_takes_no_other_along(api, monkeypatch) -> None:
    decide = api.services.scoring.decisions.record_all

    def record_all(answered):
        if any(customer.scored["Age"] == 33 for customer, *_ in answered):
            raise TypeError("cannot be stored")
        return decide(answered)

    monkeypatch.setattr(api.services.scoring.decisions, "record_all", record_all)
    replies = api.answer_all([call({**example(CHURN), "Age": age}) for age in (31, 33, 35)])
    assert [reply.status for reply in replies] == [200, 500, 200]
    assert len(api.services.decisions.latest(10)) == 2


def test_one_key_in_a_group_is_one_decision(api) -> None:
    replies = api.answer_all([call(example(CHURN), **{"idempotency-key": "one"}) for _ in range(5)])
    assert len({reply.body for reply in replies}) == 1
    assert len(api.services.decisions.latest(10)) == 1


def test_keys_of_a_group_are_bound_with_one_commit(api, monkeypatch) -> None:
    bound: list[int] = []
    claim_all = api.services.keys.claim_all
    monkeypatch.setattr(api.services.keys, "claim_all", lambda claims: bound.append(len(claims)) or claim_all(claims))
    other = {**example(CHURN), "Balance": 0.0}
    named = [("one", example(CHURN)), ("two", other), ("one", other), ("one", example(CHURN))]
    replies = api.answer_all([call(body, **{"idempotency-key": key}) for key, body in named] + [call(other)])
    assert [reply.status for reply in replies] == [200, 200, 422, 200, 200]
    assert replies[0].body == replies[3].body
    assert bound == [4]
    assert len(api.services.decisions.latest(10)) == 3


def test_keys_that_cannot_be_bound_stop_their_own_calls_alone(api, monkeypatch) -> None:
    def claim_all(claims):
        raise OSError("no room")

    monkeypatch.setattr(api.services.keys, "claim_all", claim_all)
    replies = api.answer_all([call(example(CHURN), **{"idempotency-key": "one"}), call(example(CHURN))])
    assert [reply.status for reply in replies] == [503, 200]
    assert len(api.services.decisions.latest(10)) == 1


@pytest.fixture
def scored(api, monkeypatch) -> list[int]:
    """Notes how many customers are scored at a time."""
    sizes: list[int] = []
    score_all = api.services.scoring.score_all
    monkeypatch.setattr(
        api.services.scoring, "score_all", lambda customers: sizes.append(len(customers)) or score_all(customers)
    )
    return sizes


@pytest.mark.parametrize("query", ["record=false", "record=false&contributions=true"])
def test_what_is_not_recorded_is_scored_together(api, scored, query) -> None:
    bodies = [example(CHURN), {**example(CHURN), "Age": 17}, {**example(CHURN), "Balance": 0.0}]
    together = api.answer_all([call(body, query=query) for body in bodies])
    assert [reply.status for reply in together] == [200, 422, 200]
    assert scored == [2]
    assert [reply.body for reply in together] == [api.answer(call(body, query=query)).body for body in bodies]
    recorded = api.answer(call(bodies[0], query=query.replace("false", "true")))
    assert outcome(together[0]) == outcome(recorded)
    assert json.loads(together[0].body)["decision"] is None
    assert len(api.services.decisions.latest(10)) == 1


def test_recorded_and_other_scores_may_be_mixed(api, scored) -> None:
    queries = ["", "record=false", "", "record=false", "record=false"]
    bodies = [{**example(CHURN), "Age": 30 + age} for age in range(len(queries))]
    together = api.answer_all([call(body, query=query) for body, query in zip(bodies, queries, strict=True)])
    assert sorted(scored) == [2, 3]
    decided = [json.loads(reply.body)["decision"] for reply in together]
    assert [decision is not None for decision in decided] == [not query for query in queries]
    alone = [api.answer(call(body)) for body in bodies]
    assert list(map(outcome, together)) == list(map(outcome, alone))


def test_one_that_cannot_be_scored_takes_no_other_along(api, monkeypatch) -> None:
    score_all = api.services.scoring.score_all

    def fail_at(customers):
        if any(customer.scored["Age"] == 33 for customer in customers):
            raise TypeError("cannot be scored")
        return score_all(customers)

    monkeypatch.setattr(api.services.scoring, "score_all", fail_at)
    calls = [call({**example(CHURN), "Age": age}, query="record=false") for age in (31, 33, 35)]
    assert [reply.status for reply in api.answer_all(calls)] == [200, 500, 200]


def test_many_that_are_not_recorded_are_scored_together(api, scored) -> None:
    many = call({"items": [example(CHURN)] * 3}, "/api/v1/churn/scores", "record=false")
    assert json.loads(api.answer(many).body)["scored"] == 3
    assert scored == [3]


@pytest.mark.parametrize(
    ("path", "query", "in_group"),
    [
        ("/api/v1/churn/score", "", True),
        ("/api/v1/churn/score", "record=false", True),
        ("/api/v1/churn/score", "contributions=true&record=false", True),
        ("/api/v1/churn/score", "recourse=true", False),
        ("/api/v1/churn/score", "record=false&recourse=true", False),
        ("/api/v1/churn/score", "record=false&%72ecourse=true", False),
        ("/api/v1/churn/scores", "record=false", False),
        ("/api/v1/nothing/score", "", False),
    ],
)
def test_which_calls_are_answered_in_a_group(api, path, query, in_group) -> None:
    assert api.is_single_score(call({}, path, query)) is in_group


class Gated:
    """Stands for the API: notes the groups, and lets the first wait until the others have come."""

    def __init__(self, config: Config) -> None:
        self.services = SimpleNamespace(config=config)
        self.groups: list[list[bytes]] = []
        self.began, self.gate = threading.Event(), threading.Event()

    def owns(self, path: str) -> bool:
        return True

    def may_be_new(self, path: str) -> bool:
        return False

    def refusal_by_headers(self, call: Call) -> Reply | None:
        return None

    def max_body_bytes(self, method: str, path: str) -> int:
        return 100

    def is_single_score(self, call: Call) -> bool:
        return True

    def answer_all(self, calls) -> list[Reply]:
        bodies = [call.stream.read() for call in calls]
        self.groups.append(bodies)
        self.began.set()
        assert self.gate.wait(PATIENCE)
        return [Reply(200, body) for body in bodies]


def test_flask_answers_who_comes_meanwhile_together(services) -> None:
    api = Gated(services.config)
    engine = Engine(api, {}, lambda environ, start_response: [])

    def post(body: bytes) -> bytes:
        environ = EnvironBuilder("/api/v1/churn/score", method="POST", data=body).get_environ()
        return b"".join(engine(environ, lambda status, headers: None))

    def waiting() -> int:
        return len(engine.recorder._waiting)

    with ThreadPoolExecutor(4) as pool:
        answered = [pool.submit(post, b"first")]
        assert api.began.wait(PATIENCE)
        answered += [pool.submit(post, body) for body in (b"a", b"b", b"c")]
        until = time.monotonic() + PATIENCE
        while waiting() < 3 and time.monotonic() < until:
            time.sleep(0.01)
        api.gate.set()
        assert [each.result(PATIENCE) for each in answered] == [b"first", b"a", b"b", b"c"]
    assert [sorted(group) for group in api.groups] == [[b"first"], [b"a", b"b", b"c"]]


def test_who_comes_while_a_group_is_answered_makes_up_the_next() -> None:
    class Slow:
        def __init__(self) -> None:
            self.groups: list[int] = []
            self.gate = threading.Event()

        def answer_all(self, calls):
            self.groups.append(len(calls))
            assert self.gate.wait(PATIENCE)
            if len(calls) == 3:
                raise ValueError("all of them")
            return list(calls)

    async def run() -> list:
        slow = Slow()
        groups, loop = CallGroups(slow), asyncio.get_running_loop()
        asked = [asyncio.ensure_future(groups.answer(loop, number)) for number in range(4)]
        await asyncio.sleep(0)
        slow.gate.set()
        first, *others = await asyncio.gather(*asked, return_exceptions=True)
        assert slow.groups == [1, 3]
        return [first, *map(str, others), await groups.answer(loop, 4)]

    assert asyncio.run(run()) == [0, "all of them", "all of them", "all of them", 4]


class Counting:
    """Stands for the API: notes how many calls each group has, and takes a moment for each group."""

    def __init__(self) -> None:
        self.groups: list[int] = []

    def answer_all(self, calls):
        self.groups.append(len(calls))
        time.sleep(0.1)
        return list(calls)


async def come_back(groups: CallGroups, number: int, times: int) -> None:
    for _ in range(times):
        assert await groups.answer(asyncio.get_running_loop(), number) == number


def test_who_was_answered_together_comes_back_together() -> None:
    api = Counting()

    async def run() -> None:
        groups = CallGroups(api)
        await asyncio.gather(*(come_back(groups, number, 3) for number in range(4)))

    asyncio.run(run())
    assert api.groups == [1, 4, 4, 3]


def test_a_group_does_not_wait_for_those_who_stay_away() -> None:
    api = Counting()

    async def run() -> None:
        groups, loop = CallGroups(api), asyncio.get_running_loop()
        await asyncio.gather(*(groups.answer(loop, number) for number in range(4)))
        await groups.answer(loop, 4)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))
    assert api.groups == [1, 3, 1]
