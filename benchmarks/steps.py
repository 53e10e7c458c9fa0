"""The portal as it is served, with a clock in it: where the processor time of the running server goes, step by step.

    gunicorn "steps:flask_app()"    uvicorn --factory steps:fastapi_app

`GET /steps` answers as JSON what was counted since it was last asked: `processor`, seconds of the whole process;
`steps`, seconds of each step, without those of other steps that it contains; `groups`, how many groups of calls had
which size. What is left of the processor time belongs to the server, its event loop and threads, and to the sockets.
The portal itself knows nothing of this: functions of its modules are wrapped from outside.
"""

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable
from typing import Any

from fastapi import FastAPI
from sqlalchemy import Engine, event
from starlette.types import ASGIApp, Receive, Scope, Send

from bankportal import app, asgi
from bankportal.api import api, conversion, fastapi_adapter, flask_adapter, handlers, reading
from bankportal.explanation.effects import Effects
from bankportal.explanation.explainer import Explainer
from bankportal.logs import RequestLog
from bankportal.model.forest import Forest
from bankportal.services.scoring import Scoring
from bankportal.sqlite import driver
from bankportal.store.decisions import Decisions

PATH = "/steps"
CALL, READ, CHECK = "call: headers, limits, its place in a group", "read parameters and JSON", "check the customer"
SCORE, EXPLAIN, REASONS = "score", "contributions and effects", "bands, limits, reasons, flags"
PREPARE, STATEMENTS, COMMIT = "record: rows and receipts", "record: SQL statements", "record: commit"
ANSWER, LOG, GROUP = "write the answer", "log", "operation and group"
SERVER = ""  # no step: the server's own work

groups: Counter[int] = Counter()


class Clock:
    """The processor time of one thread by step; a step within another one stops the outer one's time."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._steps: list[str] = [SERVER]
        self._since = time.thread_time()

    def begin(self, step: str) -> None:
        """Begin a step."""
        now = time.thread_time()
        self.seconds[self._steps[-1]] += now - self._since
        self._steps.append(step)
        self._since = now

    def end(self) -> None:
        """End the step that was begun last."""
        now = time.thread_time()
        self.seconds[self._steps.pop()] += now - self._since
        self._since = now


class _Clocks(threading.local):
    every: list[Clock] = []  # noqa: RUF012  # of all threads

    def __init__(self) -> None:
        self.own = Clock()
        self.every.append(self.own)


clocks = _Clocks()


def timed(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that counts its processor time as a step."""

    def counting(*args: Any, **kwargs: Any) -> Any:
        clock = clocks.own
        clock.begin(step)
        try:
            return function(*args, **kwargs)
        finally:
            clock.end()

    return counting


class Timed:
    """Something to await whose every run between two waits counts as a step."""

    def __init__(self, step: str, awaitable: Any):
        self.step = step
        self.awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        runs, sent = self.awaitable.__await__(), None
        advance = timed(self.step, lambda: runs.send(sent))
        while True:
            try:
                awaited = advance()
            except StopIteration as ended:
                return ended.value
            sent = yield awaited


def timed_app(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that is an ASGI app, counted as a step; what it receives and sends is the server's work."""

    async def counting(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        async def timed_receive() -> Any:
            return await Timed(SERVER, receive())

        async def timed_send(message: Any) -> None:
            await Timed(SERVER, send(message))

        await Timed(step, function(self, scope, timed_receive, timed_send))

    return counting


class Cursor(driver.Cursor):  # type: ignore[misc, name-defined]
    """A cursor whose statements are counted."""

    execute = timed(STATEMENTS, driver.Cursor.execute)
    executemany = timed(STATEMENTS, driver.Cursor.executemany)
    fetchall = timed(STATEMENTS, driver.Cursor.fetchall)
    fetchone = timed(STATEMENTS, driver.Cursor.fetchone)


class Connection(driver.Connection):  # type: ignore[misc, name-defined]
    """A connection whose statements and commits are counted."""

    commit = timed(COMMIT, driver.Connection.commit)

    def cursor(self, factory: Any = Cursor) -> Any:
        """Return a cursor that counts."""
        return super().cursor(factory)


def count() -> None:
    """Put the clock into the portal's modules; before an app is made."""
    answer_all = api.Api.answer_all

    def counted(self: api.Api, group: Any) -> Any:
        groups[len(group)] += 1
        return answer_all(self, group)

    for owner, name, step in (
        (reading, "from_json", READ),
        (api, "parse", READ),
        (handlers, "validate", CHECK),
        (Forest, "score", SCORE),
        (Explainer, "explain", EXPLAIN),
        (Effects, "of_rows", EXPLAIN),
        (Scoring, "score_all", REASONS),
        (Decisions, "record_all", PREPARE),
        (conversion, "outcome", ANSWER),
        (handlers, "reply", ANSWER),
        (RequestLog, "write", LOG),
    ):
        setattr(owner, name, timed(step, getattr(owner, name)))
    api.Api.answer_all = timed(GROUP, counted)  # type: ignore[method-assign]

    @event.listens_for(Engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
        if dialect.name == "sqlite":
            parameters["factory"] = Connection


def counted_until_now() -> bytes:
    """Return what was counted since the last time, as JSON, and begin anew."""
    steps: Counter[str] = Counter()
    for clock in clocks.every:
        steps.update(clock.seconds)
        clock.seconds.clear()
    del steps[SERVER]
    content = {"processor": time.process_time() - counted_from[0], "steps": steps, "groups": groups}
    counted_from[0] = time.process_time()
    written = json.dumps(content).encode()
    groups.clear()
    return written


counted_from = [0.0]


def flask_app() -> Any:
    """Make the portal's Flask app, and count."""
    count()
    flask_adapter.Engine.__call__ = timed(CALL, flask_adapter.Engine.__call__)  # type: ignore[method-assign]
    portal = app.create_app()

    def counting(environ: Any, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return portal(environ, start_response)
        content = counted_until_now()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
        return [content]

    return counting


def fastapi_app() -> ASGIApp:
    """Make the portal's FastAPI app, and count."""
    count()
    fastapi_adapter.Engine.__call__ = timed_app(CALL, fastapi_adapter.Engine.__call__)  # type: ignore[method-assign]
    portal: FastAPI = asgi.create_app()

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != PATH:
            await portal(scope, receive, send)
            return
        content = counted_until_now()
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return counting
