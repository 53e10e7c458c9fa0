"""Calls answered together are answered as each by itself."""

import asyncio
import io
import json
import threading

import pytest

from bankportal.api.api import Api
from bankportal.api.calls import Call
from bankportal.api.fastapi_adapter import Together
from bankportal.api.schemas import example
from bankportal.domain.products import ALLOWANCE, CHURN
from tests.conftest import PATIENCE


@pytest.fixture
def api(services):
    return Api(services)


def call(body, path: str = "/api/v1/churn/score", **headers: str) -> Call:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": "application/json", **headers}
    return Call("POST", path, "", given, io.BytesIO(content), "reference")


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
        if any(customer.scored["Age"] == 33 for customer, _, _ in answered):
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
        together, loop = Together(slow), asyncio.get_running_loop()
        asked = [asyncio.ensure_future(together.answer(loop, number)) for number in range(4)]
        await asyncio.sleep(0)
        slow.gate.set()
        first, *others = await asyncio.gather(*asked, return_exceptions=True)
        assert slow.groups == [1, 3]
        return [first, *map(str, others), await together.answer(loop, 4)]

    assert asyncio.run(run()) == [0, "all of them", "all of them", "all of them", 4]
