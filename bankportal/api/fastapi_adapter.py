"""The API under ASGI: calls are answered in a pool of threads, so that a slow one never stalls the loop."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import structlog

from bankportal.api.api import Api
from bankportal.api.calls import Call, Reply

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
MAX_TOGETHER = 64  # calls
IN_MEMORY = 1_000_000  # bytes of a body; larger ones wait in a file

log = structlog.get_logger()


class Gone(Exception):
    """The caller hung up before the body was whole."""


class Together:
    """Answers quick calls in groups: those that come while one group is answered make up the next.

    Nobody waits for company, and there is one hop to a thread and one commit a group. Lives on one event loop.
    """

    def __init__(self, api: Api):
        self.api = api
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="api-together")
        self._waiting: list[tuple[Call, asyncio.Future[Reply]]] = []
        self._busy = False

    async def answer(self, loop: asyncio.AbstractEventLoop, call: Call) -> Reply:
        """Answer a call, alone or with others."""
        future: asyncio.Future[Reply] = loop.create_future()
        self._waiting.append((call, future))
        if not self._busy:
            self._begin(loop)
        return await future

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        taken, self._waiting, self._busy = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:], True
        calls = [call for call, _ in taken]
        group = loop.run_in_executor(self.thread, self.api.answer_all, calls)
        group.add_done_callback(lambda done: self._end(loop, done, [future for _, future in taken]))

    def _end(
        self, loop: asyncio.AbstractEventLoop, done: "asyncio.Future[list[Reply]]", futures: list[asyncio.Future[Reply]]
    ) -> None:
        """Begin the next group, if any has come, and hand out the replies."""
        self._busy = False
        if self._waiting:
            self._begin(loop)
        error = done.exception()
        for place, future in enumerate(futures):
            if error is not None and not future.done():
                future.set_exception(error)
            elif not future.done():  # else its caller has gone
                future.set_result(done.result()[place])


class Engine:
    """Answers the API's calls as an ASGI app; `headers` go with every reply."""

    def __init__(self, api: Api, headers: Mapping[str, str]):
        self.api = api
        self.headers = {"Cache-Control": "no-store", **headers}
        config = api.services.config
        self.pool = ThreadPoolExecutor(config.threads, thread_name_prefix="api")
        self.together = Together(api)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        started, request_id = time.perf_counter(), secrets.token_hex(8)
        loop = asyncio.get_running_loop()
        with SpooledTemporaryFile(IN_MEMORY) as body:
            try:
                found = await self._found(loop, scope, receive, body, request_id)
            except Gone:
                return
            await self._send(loop, scope, send, found, request_id)
        took = round((time.perf_counter() - started) * 1000, 1)
        fields = {"method": scope["method"], "path": scope["path"], "status": found.status, "milliseconds": took}
        log.info("request", request_id=request_id, **fields)

    async def _found(
        self, loop: asyncio.AbstractEventLoop, scope: Scope, receive: Receive, body: IO[bytes], request_id: str
    ) -> Reply:
        call = call_of(scope, body, request_id)
        if refused := self.api.refused_unread(call):
            return refused
        largest = self.api.largest(call.method, call.path)
        if _declared(call) > largest or not await _read(loop, receive, body, largest):
            return self.api.too_large(call)
        if self.api.is_quick(call):
            return await self.together.answer(loop, call)
        return await loop.run_in_executor(self.pool, self.api.answer, call)

    async def _send(
        self, loop: asyncio.AbstractEventLoop, scope: Scope, send: Send, found: Reply, request_id: str
    ) -> None:
        headers = found.headers_with({**self.headers, "X-Request-Id": request_id})
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": found.status, "headers": raw})
        if isinstance(found.body, bytes):
            content = b"" if scope["method"] == "HEAD" else found.body
            await send({"type": "http.response.body", "body": content})
            return
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        while (block := await loop.run_in_executor(self.pool, _next, found.body)) is not None:
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


def _declared(call: Call) -> int:
    """Return how many bytes are announced; 0 where nothing is: what is too large is refused before it is sent."""
    length = call.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0


async def _read(loop: asyncio.AbstractEventLoop, receive: Receive, body: IO[bytes], largest: int) -> bool:
    """Take in the body, and say whether it is within its limit; `Gone` where the caller hung up."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        block = message.get("body", b"")
        size, more = size + len(block), message.get("more_body", False)
        if size > largest:
            return False
        if size <= IN_MEMORY:
            body.write(block)
        else:  # on its way to a file, which may be slow
            await loop.run_in_executor(None, body.write, block)
    body.seek(0)
    return True
