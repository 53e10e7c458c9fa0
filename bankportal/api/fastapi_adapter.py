"""The API under ASGI: calls are answered in a pool of threads, so that a slow one never stalls the loop."""

import asyncio
import io
import secrets
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from enum import Enum
from tempfile import SpooledTemporaryFile
from typing import IO

from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from bankportal import answers
from bankportal.api.api import Api
from bankportal.api.calls import Call, Operation, Reply
from bankportal.api.table import OperationTable
from bankportal.logs import RequestLog

MAX_GROUP = 64  # calls
QUIET = 0.0005  # seconds
QUIET_TURNS = 2  # of the event loop: one for what was received, one for the tasks that this has started
IN_MEMORY = 1_000_000  # bytes of a body; larger ones wait in a file
TELEMETRY = "fastapi.telemetry"  # in the scope of a request that FastAPI's telemetry follows


class _State(Enum):
    """What a `CallGroups` does at the moment."""

    IDLE, GATHERING, ANSWERING = range(3)


class CallGroups:
    """Answers calls in groups: those that come while one group is answered make up the next. For one event loop.

    Each group costs one hop to a thread and one commit. Who was answered together usually comes back together. So after
    a group, the next one begins once as many calls wait as were there before, or none has come for `QUIET` seconds; at
    the latest after half the time that the group took. A call that comes when nothing is going on is answered at once.
    """

    def __init__(self, api: Api):
        self.api = api
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="api-together")
        self._waiting: list[tuple[Call, asyncio.Future[Reply]]] = []
        self._state = _State.IDLE
        self._expected = 1  # calls
        self._latest = 0.0  # when the next group begins at the latest, by the loop's clock
        self._next_look: asyncio.Handle | None = None

    async def answer(self, loop: asyncio.AbstractEventLoop, call: Call) -> Reply:
        """Answer a call, by itself or in a group."""
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((call, future))
        if self._state is _State.IDLE or (self._state is _State.GATHERING and len(self._waiting) >= self._expected):
            self._start(loop)
        return await future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._next_look:
            self._next_look.cancel()
        taken, self._waiting, self._state = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:], _State.ANSWERING
        began, calls = loop.time(), [call for call, _ in taken]
        group = loop.run_in_executor(self.thread, self.api.answer_all, calls)
        group.add_done_callback(lambda done: self._end(loop, done, [future for _, future in taken], began))

    def _end(
        self,
        loop: asyncio.AbstractEventLoop,
        done: "asyncio.Future[list[Reply]]",
        futures: list[asyncio.Future[Reply]],
        began: float,
    ) -> None:
        """Hand out the replies, and wait for those that come back."""
        error = done.exception()
        for place, future in enumerate(futures):
            if error is not None and not future.done():
                future.set_exception(error)
            elif not future.done():  # else its caller has gone
                future.set_result(done.result()[place])
        self._state, now = _State.GATHERING, loop.time()
        self._expected, self._latest = min(len(futures) + len(self._waiting), MAX_GROUP), now + (now - began) / 2
        if len(self._waiting) >= self._expected:
            self._start(loop)
        else:
            self._next_look = loop.call_soon(self._gather, loop, -1, 0)

    def _gather(self, loop: asyncio.AbstractEventLoop, before: int, turn: int) -> None:
        """Begin a group if none has come since `before` calls waited, else wait for others; or for the first one."""
        waiting = len(self._waiting)
        if turn < QUIET_TURNS:
            self._next_look = loop.call_soon(self._gather, loop, before, turn + 1)
        elif (waiting > before or not waiting) and loop.time() < self._latest:
            self._next_look = loop.call_later(QUIET, self._gather, loop, waiting, 0)
        elif waiting:
            self._start(loop)
        else:
            self._state = _State.IDLE


class Engine:
    """Answers the API's calls for a FastAPI app, as an ASGI app of its own; `headers` go with every reply."""

    def __init__(self, api: Api, headers: Mapping[str, str]):
        self.api = api
        self.raw_headers = _encoded({"Cache-Control": "no-store", **headers})
        config = api.services.config
        self.pool = ThreadPoolExecutor(config.threads, thread_name_prefix="api")
        self.groups = CallGroups(api)
        self.log = RequestLog()

    def route(self, app: FastAPI) -> None:
        """Give an app the operations as its routes; those on another portfolio as soon as that is in force.

        Each operation is a path operation, named by its id, with its models as FastAPI's own tools see them.
        Validation, refusals and grouping are the API's own, the same on every engine: each route hands its request on.
        """

        def replace_routes(table: OperationTable) -> None:
            own = [_route(operation, self) for operation in table.operations if self.api.owns(operation.path)]
            others = [route for route in app.router.routes if not isinstance(route, _OperationRoute)]
            app.router.routes = [*own, *others]  # at once: requests go on with the list that they began with

        self.api.taken_up = replace_routes
        replace_routes(self.api.table())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started, request_id = time.perf_counter(), secrets.token_hex(8)
        try:
            reply = await self._reply(scope, receive, request_id)
        except ClientDisconnect:
            await Response()(scope, receive, send)  # nobody is there to read it
            return
        self.log.write(request_id, scope["method"], scope["path"], reply.status, started)
        headers = [*self.raw_headers, *_encoded(reply.headers_with({"X-Request-Id": request_id}))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self._send_body(b"" if scope["method"] == "HEAD" else reply.body, send)

    async def _send_body(self, body: bytes | Iterator[bytes], send: Send) -> None:
        """Send a body. Blocks that may come slowly are read in the engine's threads."""
        if not isinstance(body, bytes):
            loop = asyncio.get_running_loop()
            while (block := await loop.run_in_executor(self.pool, _next, body)) is not None:
                await send({"type": "http.response.body", "body": block, "more_body": True})
            body = b""
        await send({"type": "http.response.body", "body": body})

    async def _reply(self, scope: Scope, receive: Receive, request_id: str) -> Reply:
        unread = call_of(scope, io.BytesIO(), request_id)
        if refused := self.api.refusal_by_headers(unread):
            return refused
        if self.api.may_be_new(unread.path):
            await asyncio.get_running_loop().run_in_executor(self.pool, self.api.table)
        limit = self.api.max_body_bytes(unread.method, unread.path)
        with io.BytesIO() if limit <= IN_MEMORY else SpooledTemporaryFile(IN_MEMORY) as body:
            try:
                if _announced_bytes(unread) > limit or not await _read(receive, body, limit):
                    return self.api.refuse_too_large(unread)
            except OSError as error:  # of the disk where large bodies wait
                return self.api.refuse(unread, error)
            return await self._answer(replace(unread, stream=body))

    async def _answer(self, call: Call) -> Reply:
        loop = asyncio.get_running_loop()
        if self.api.is_single_score(call):
            return await self.groups.answer(loop, call)
        return await loop.run_in_executor(self.pool, self.api.answer, call)


class BeforeRoutes:
    """The API before FastAPI's routes and its own middleware, which have nothing to do for a call of the API.

    FastAPI's telemetry, where it is configured, follows a request from route to route; such a request goes on to them.
    """

    def __init__(self, engine: Engine, routes: ASGIApp):
        self.engine = engine
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a call of the API, and hand on everything else."""
        of_api = scope["type"] == "http" and TELEMETRY not in scope and self.engine.api.owns(scope["path"])
        await (self.engine if of_api else self.routes)(scope, receive, send)


class _OperationRoute(APIRoute):
    """Hands a request on as it is: the API reads parameters and body itself, and FastAPI has nothing to inject.

    It takes its own methods alone: what others are answered, the API says in its own words.
    """

    engine: ASGIApp

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return (match, child_scope) if match is Match.FULL else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.engine(scope, receive, send)


async def _answered_by_engine() -> None:
    """Stand as the endpoint of every route: FastAPI looks at its signature, and nobody calls it."""


def _route(operation: Operation, engine: ASGIApp) -> APIRoute:
    answer, *others = operation.answers
    route = _OperationRoute(
        operation.path,
        _answered_by_engine,
        methods=["GET", "HEAD"] if operation.method == "GET" else [operation.method],
        name=operation.id,
        operation_id=operation.id,
        tags=[operation.tag],
        summary=operation.summary,
        description=operation.help,
        status_code=answer.status,
        response_model=answer.model,
        response_description=answer.help,
        responses={
            **{status: {"model": answers.Problem} for status in operation.errors},
            **{other.status: {"model": other.model, "description": other.help} for other in others},
        },
    )
    route.engine = engine
    return route


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in headers.items()]


def _next(blocks: Iterator[bytes]) -> bytes | None:
    return next(blocks, None)


def call_of(scope: Scope, body: IO[bytes], request_id: str) -> Call:
    """Return an ASGI request as a call; a header sent more than once is joined by commas, as in WSGI."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    query = scope["query_string"].decode("latin-1")
    return Call(scope["method"], scope["path"], query, headers, body, request_id, scope.get("scheme", "http"))


def _announced_bytes(call: Call) -> int:
    """Return the `Content-Length`, 0 without one: a body that is too large is refused before it is sent."""
    length = call.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


async def _read(receive: Receive, body: IO[bytes], limit: int) -> bool:
    """Take in the body, and say whether it is within its limit; `ClientDisconnect` where the caller hung up."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        block, more = message.get("body", b""), message.get("more_body", False)
        size += len(block)
        if size > limit:
            return False
        if size <= IN_MEMORY:
            body.write(block)
        else:  # on its way to a file, which may be slow
            await asyncio.get_running_loop().run_in_executor(None, body.write, block)
    body.seek(0)
    return True
