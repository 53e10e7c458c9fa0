"""The API on Flask: a WSGI app around the portal's, which takes the API's calls out before Flask looks at them."""

import io
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import IO, TYPE_CHECKING, cast

from flask import Flask
from werkzeug.datastructures import EnvironHeaders
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.wsgi import get_input_stream

from bankportal.api import legacy
from bankportal.api.api import Api
from bankportal.api.calls import Call, Reply
from bankportal.api.problems import Refused, refusal
from bankportal.logs import RequestLog
from bankportal.services.recorder import Recorder

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def register(app: Flask, headers: Mapping[str, str]) -> None:
    """Let the API answer its paths; `headers` go with every reply."""
    api = Api(app.extensions["bankportal"])
    app.wsgi_app = Engine(api, headers, app.wsgi_app)  # type: ignore[method-assign]


class Engine:
    """Answers the API's calls as a WSGI app and hands all others on to the pages.

    No cookie counts in these calls, so they need no session, no form token and nothing else that Flask does for pages.
    """

    def __init__(self, api: Api, headers: Mapping[str, str], pages: "WSGIApplication"):
        self.api = api
        self.headers = {"Cache-Control": "no-store", **headers}
        self.pages = pages
        self.recorder = Recorder(api.answer_all)
        self.log = RequestLog()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        if not (self.api.owns(path) or (self.api.services.config.legacy_api and _requests_service(path, environ))):
            return self.pages(environ, start_response)
        started, request_id = time.perf_counter(), secrets.token_hex(8)
        reply = self._reply(path, environ, request_id)
        headers = reply.headers_with({**self.headers, "X-Request-Id": request_id})
        method = environ["REQUEST_METHOD"]
        self.log.write(request_id, method, path, reply.status, started)
        start_response(f"{reply.status} {HTTPStatus(reply.status).phrase}", list(headers.items()))
        if method == "HEAD":
            return []
        return [reply.body] if isinstance(reply.body, bytes) else reply.body

    def _reply(self, path: str, environ: "WSGIEnvironment", request_id: str) -> Reply:
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        headers = cast(Mapping[str, str], EnvironHeaders(environ))
        unread = Call(method, path, query, headers, io.BytesIO(), request_id, environ["wsgi.url_scheme"])
        if refused := self.api.refusal_by_headers(unread):
            return refused
        if self.api.may_be_new(path):
            self.api.table()
        limit = self.api.max_body_bytes(method, path) + 1  # one more, so that the API itself sees what is too large
        try:
            stream = get_input_stream(environ, max_content_length=limit)
        except RequestEntityTooLarge:
            return self.api.refuse_too_large(unread)
        call = replace(unread, stream=cast(IO[bytes], _Body(stream)))
        return self._answer_in_group(call, limit) if self.api.is_single_score(call) else self.api.answer(call)

    def _answer_in_group(self, call: Call, limit: int) -> Reply:
        """Answer a call together with all that wait at the moment: one thread does the work, the others sleep.

        The body is read before, up to `limit` bytes, so that no call waits for another's body.
        """
        try:
            content = call.stream.read(limit)
        except Exception as error:  # answered as where the API reads the body
            return refusal(error, call.request_id)
        return self.recorder.record(replace(call, stream=io.BytesIO(content)))


class _Body:
    """A body as it comes in. What the server cannot read, such as chunks without a size, is the caller's fault."""

    def __init__(self, stream: IO[bytes]):
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """Read as any stream does; `Refused` where the server cannot go on."""
        try:
            return self._stream.read(size)
        except HTTPException:  # cut short or too large: has a refusal of its own
            raise
        except Exception as error:  # each server has its own
            raise Refused("unreadable", "The body is not sent as HTTP says, or was cut short.") from error


def _requests_service(path: str, environ: "WSGIEnvironment") -> bool:
    """Say whether the older system's `GET /` is meant: a browser that opens the first page names `text/html`."""
    at_service = path == legacy.SERVICE_PATH and environ["REQUEST_METHOD"] in {"GET", "HEAD", "OPTIONS"}
    return at_service and "text/html" not in environ.get("HTTP_ACCEPT", "")
