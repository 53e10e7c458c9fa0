"""The API under ASGI: calls are answered in a pool of threads, so that a slow one never stalls the loop."""

import asyncio
import io
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from bankportal import answers
from bankportal.api.api import Api
from bankportal.api.calls import Call, Operation, Reply
from bankportal.api.table import OperationTable

MAX_GROUP = 64  # calls
IN_MEMORY = 1_000_000  # bytes of a body; larger ones wait in a file

log = structlog.get_logger()


class CallGroups:
    """Answers calls in groups: those that come while one group is answered make up the next.

    No call waits for others to come. Each group costs one hop to a thread and one commit. For one event loop.
    """

    def __init__(self, api: Api):
        self.api = api
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="api-together")
        self._waiting: list[tuple[Call, asyncio.Future[Reply]]] = []
        self._busy = False

    async def answer(self, loop: asyncio.AbstractEventLoop, call: Call) -> Reply:
        """Answer a call, by itself or in a group."""
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((call, future))
        if not self._busy:
            self._start(loop)
        return await future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        taken, self._waiting, self._busy = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:], True
        calls = [call for call, _ in taken]
        group = loop.run_in_executor(self.thread, self.api.answer_all, calls)
        group.add_done_callback(lambda done: self._end(loop, done, [future for _, future in taken]))

    def _end(
        self, loop: asyncio.AbstractEventLoop, done: "asyncio.Future[list[Reply]]", futures: list[asyncio.Future[Reply]]
    ) -> None:
        """Start the next group, if any call has come, and hand out the replies."""
        self._busy = False
        if self._waiting:
            self._start(loop)
        error = done.exception()
        for place, future in enumerate(futures):
            if error is not None and not future.done():
                future.set_exception(error)
            elif not future.done():  # else its caller has gone
                future.set_result(done.result()[place])


class Engine:
    """Answers the API's calls for a FastAPI app; `headers` go with every reply."""

    def __init__(self, api: Api, headers: Mapping[str, str]):
        self.api = api
        self.headers = {"Cache-Control": "no-store", **headers}
        config = api.services.config
        self.pool = ThreadPoolExecutor(config.threads, thread_name_prefix="api")
        self.groups = CallGroups(api)

    def route(self, app: FastAPI) -> None:
        """Give an app the operations as its routes; those on another portfolio as soon as that is in force.

        Each operation is a path operation, named by its id, with its models as FastAPI's own tools see them.
        Validation, refusals and grouping are the API's own, the same on every engine: each route hands its request on.
        """

        def replace_routes(table: OperationTable) -> None:
            own = [_route(operation, self.respond) for operation in table.operations if self.api.owns(operation.path)]
            others = [route for route in app.router.routes if not isinstance(route, _OperationRoute)]
            app.router.routes = [*own, *others]  # at once: requests go on with the list that they began with

        self.api.taken_up = replace_routes
        replace_routes(self.api.table())

    async def respond(self, request: Request) -> Response:
        """Answer one request."""
        started, request_id = time.perf_counter(), secrets.token_hex(8)
        try:
            reply = await self._reply(request, request_id)
        except ClientDisconnect:
            return Response()  # nobody is there to read it
        took = round((time.perf_counter() - started) * 1000, 1)
        fields = {"method": request.method, "path": request.scope["path"], "status": reply.status, "milliseconds": took}
        log.info("request", request_id=request_id, **fields)
        headers = reply.headers_with({**self.headers, "X-Request-Id": request_id})
        return _ReplyResponse(reply, headers, self.pool)

    async def _reply(self, request: Request, request_id: str) -> Reply:
        unread = call_of(request.scope, io.BytesIO(), request_id)
        if refused := self.api.refusal_by_headers(unread):
            return refused
        if self.api.may_be_new(unread.path):
            await asyncio.get_running_loop().run_in_executor(self.pool, self.api.table)
        limit = self.api.max_body_bytes(unread.method, unread.path)
        with io.BytesIO() if limit <= IN_MEMORY else SpooledTemporaryFile(IN_MEMORY) as body:
            try:
                if _announced_bytes(unread) > limit or not await _read(request, body, limit):
                    return self.api.refuse_too_large(unread)
            except OSError as error:  # of the disk where large bodies wait
                return self.api.refuse(unread, error)
            return await self._answer(replace(unread, stream=body))

    async def _answer(self, call: Call) -> Reply:
        loop = asyncio.get_running_loop()
        if self.api.is_single_score(call):
            return await self.groups.answer(loop, call)
        return await loop.run_in_executor(self.pool, self.api.answer, call)


class _OperationRoute(APIRoute):
    """Hands a request on as it is: the API reads parameters and body itself, and FastAPI has nothing to inject.

    It takes its own methods alone: what others are answered, the API says in its own words.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return self.endpoint

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return (match, child_scope) if match is Match.FULL else (Match.NONE, {})


def _route(operation: Operation, endpoint: Callable[[Request], Awaitable[Response]]) -> APIRoute:
    answer, *others = operation.answers
    return _OperationRoute(
        operation.path,
        endpoint,
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


class _ReplyResponse(Response):
    """A reply as FastAPI's response. Blocks that may come slowly are read in the engine's threads."""

    def __init__(self, reply: Reply, headers: Mapping[str, str], pool: ThreadPoolExecutor):
        super().__init__(status_code=reply.status)
        self.raw_headers = [(name.lower().encode("latin-1"), text.encode("latin-1")) for name, text in headers.items()]
        self.content = reply.body
        self.pool = pool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; without its body where only the head was requested."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        content = b"" if scope["method"] == "HEAD" else self.content
        if isinstance(content, bytes):
            await send({"type": "http.response.body", "body": content})
            return
        loop = asyncio.get_running_loop()
        while (block := await loop.run_in_executor(self.pool, _next, content)) is not None:
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


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


async def _read(request: Request, body: IO[bytes], limit: int) -> bool:
    """Take in the body, and say whether it is within its limit; `ClientDisconnect` where the caller hung up."""
    size = 0
    async for block in request.stream():
        size += len(block)
        if size > limit:
            return False
        if size <= IN_MEMORY:
            body.write(block)
        else:  # on its way to a file, which may be slow
            await asyncio.get_running_loop().run_in_executor(None, body.write, block)
    body.seek(0)
    return True
