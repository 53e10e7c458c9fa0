"""The pages of the portfolio that is in force: each portfolio has an app, made when it is first asked for."""

import time
from collections.abc import Callable, Iterable
from threading import Lock
from typing import TYPE_CHECKING

import structlog
from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket

from bankportal.domain.portfolio import Portfolio
from bankportal.services.declarations import Declarations
from bankportal.web.current import portfolio_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PAUSE = 10.0  # seconds until an app that could not be made is tried again

log = structlog.get_logger()


class CompiledTemplates(BytecodeCache):
    """Keeps compiled templates in memory, so that the next app need not compile them again."""

    def __init__(self) -> None:
        self._compiled: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Hand a template over that was compiled from the same source."""
        if compiled := self._compiled.get(bucket.key):
            bucket.bytecode_from_string(compiled)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep a compiled template."""
        self._compiled[bucket.key] = bucket.bytecode_to_string()


def follow(app: Flask, declarations: Declarations, make: Callable[[Portfolio], Flask]) -> None:
    """Let an app's pages follow the declarations that are in force; `make` makes the app of another portfolio."""
    app.wsgi_app = Pages(app, declarations, make)  # type: ignore[method-assign]


class Pages:
    """Hands each request to the app of the portfolio in force, as a WSGI app.

    A request ends on the app on which it began. One thread makes the app of a new portfolio, and the others go on with
    the present one meanwhile; so do all of them where it cannot be made, which is logged.
    """

    def __init__(self, app: Flask, declarations: Declarations, make: Callable[[Portfolio], Flask]):
        self._declarations = declarations
        self._make = make
        self._present: tuple[Portfolio, WSGIApplication] = portfolio_of(app), app.wsgi_app
        self._making = Lock()
        self._failed: tuple[Portfolio, float] | None = None  # which portfolio, and until when it is not tried again

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        if self._declarations.portfolio() is not self._present[0] and self._making.acquire(blocking=False):
            try:
                self._renew()
            finally:
                self._making.release()
        return self._present[1](environ, start_response)

    def _renew(self) -> None:
        portfolio = self._declarations.portfolio()  # again: another thread may have renewed the pages meanwhile
        if portfolio is self._present[0] or self._failed_lately(portfolio):
            return
        try:
            self._present = portfolio, self._make(portfolio).wsgi_app
        except Exception as error:  # whatever is wrong with them, the present pages go on
            self._failed = portfolio, time.monotonic() + PAUSE
            log.error("pages of the new declarations cannot be made", exc_info=error)

    def _failed_lately(self, portfolio: Portfolio) -> bool:
        return self._failed is not None and self._failed[0] is portfolio and time.monotonic() < self._failed[1]
