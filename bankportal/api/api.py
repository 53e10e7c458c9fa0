"""The API itself: finds the operation of a call, parses the request and answers. Engines bring calls, send replies."""

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache, partial

import structlog
from werkzeug.sansio.utils import host_is_trusted

from bankportal.answers import BASE
from bankportal.api import legacy
from bankportal.api.calls import (
    BY_API,
    MAX_BODY_BYTES,
    MULTIPART,
    Body,
    Call,
    DecisionRequest,
    Reply,
    ReplyAfterDecision,
)
from bankportal.api.problems import Refused, refusal, untrusted_host
from bankportal.api.reading import parse, too_large
from bankportal.api.table import OperationTable, not_allowed
from bankportal.domain.errors import ForeignOrigin, NotFound, TooLarge
from bankportal.domain.outcome import Decision
from bankportal.domain.portfolio import Portfolio
from bankportal.origins import is_foreign, origin_of
from bankportal.outages import OUTAGE_ERRORS
from bankportal.services.batches.uploads import upload_limit
from bankportal.wiring import Services

API_PATH = re.compile("/+api(/|$)")
DOCUMENT_PATHS = frozenset({"/openapi.json", f"{BASE}/openapi.json"})
MAX_HOSTS = 100  # remembered

log = structlog.get_logger()


class Api:
    """The operations on one portal's services; knows no engine.

    They follow the portfolio that is in force: every call, or group of calls, is answered by one table of operations.
    `taken_up` is called with each new table, in the thread that needs it first. Where the operations on a new portfolio
    cannot be made, which is logged, those before go on.
    """

    def __init__(self, services: Services, taken_up: Callable[[OperationTable], None] = lambda table: None):
        self.services = services
        self.taken_up = taken_up
        # Callers name few hosts, and checking one takes longer than reading the other headers.
        self._is_trusted = lru_cache(MAX_HOSTS)(partial(host_is_trusted, trusted_list=services.config.trusted_hosts))
        self._lock = threading.Lock()
        self._table: OperationTable | None = None
        self._failed: Portfolio | None = None

    def table(self) -> OperationTable:
        """Return the operations on the portfolio that is in force; may ask the database which one that is."""
        table = self._table
        if table is not None and table.portfolio is self.services.declarations.portfolio():
            return table
        with self._lock:
            return self._take_up(self.services.declarations.portfolio())

    def _take_up(self, portfolio: Portfolio) -> OperationTable:
        if self._table is not None and (portfolio is self._table.portfolio or portfolio is self._failed):
            return self._table
        try:
            table = OperationTable(portfolio, with_legacy=self.services.config.legacy_api)
            self.taken_up(table)
        except Exception as error:
            if self._table is None:
                raise
            log.error("operations on the new declarations cannot be made", exc_info=error)
            self._failed = portfolio
            return self._table
        self._table = table
        return table

    @property
    def last_table(self) -> OperationTable:
        """The table by which calls were answered last; asks nobody."""
        return self._table or self.table()

    def may_be_new(self, path: str) -> bool:
        """Say whether a path may be one of `table`, though `last_table` does not know it: of a product that is new."""
        return path not in DOCUMENT_PATHS and not self.last_table.knows(path)

    def owns(self, path: str) -> bool:
        """Say whether the API answers at a path; all others are pages."""
        return bool(API_PATH.match(path)) or path in DOCUMENT_PATHS or (path != "/" and self.is_legacy(path))

    def is_legacy(self, path: str) -> bool:
        """Say whether a path is one of the older system's, and these are answered."""
        return self.services.config.legacy_api and legacy.is_older(path)

    def is_single_score(self, call: Call) -> bool:
        """Say whether a call only scores one customer, so that it is answered in a group."""
        return self.last_table.is_single_score(call)

    def max_body_bytes(self, method: str, path: str) -> int:
        """Return how many bytes the body of a call may have."""
        body = self._body(method, path)
        if body is None:
            return MAX_BODY_BYTES
        return body.max_bytes + (self.services.config.upload_bytes if body.media == MULTIPART else 0)

    def _body(self, method: str, path: str) -> Body | None:
        with suppress(Refused, NotFound):
            return self.last_table.find(method, path)[0].body
        return None

    def refuse(self, call: Call, error: Exception) -> Reply:
        """Return the reply to a call that is not answered because of an error."""
        return self.with_sharing_headers(call, refusal(error, call.request_id))

    def refuse_too_large(self, call: Call) -> Reply:
        """Return the reply to a call whose body has more bytes than `max_body_bytes`."""
        body = self._body(call.method, call.path)
        if body is not None and body.media == MULTIPART:
            return self.refuse(call, TooLarge(upload_limit(self.services.config)))
        return self.refuse(call, too_large(self.max_body_bytes(call.method, call.path)))

    def refusal_by_headers(self, call: Call) -> Reply | None:
        """Return the reply to a call that its headers forbid to answer; `None` for all others. Reads no body."""
        host = call.headers.get("host")
        if not self._is_trusted(host):
            return self.refuse(call, untrusted_host())
        own = origin_of(call.scheme, str(host))
        if is_foreign(call.method, call.headers, own) and not self._is_shared_with_origin(call):
            return self.refuse(call, ForeignOrigin(own))
        return None

    def _is_shared_with_origin(self, call: Call) -> bool:
        return self.is_legacy(call.path) and legacy.is_shared_with(self.services.config, call)

    def with_sharing_headers(self, call: Call, reply: Reply) -> Reply:
        """Return a reply with the headers that let pages of allowed origins read what the older paths answer."""
        return legacy.shared(self.services.config, call, reply) if self.is_legacy(call.path) else reply

    def answer(self, call: Call) -> Reply:
        """Answer a call; whatever goes wrong is answered as a problem."""
        return self.answer_all([call])[0]

    def answer_all(self, calls: Sequence[Call]) -> list[Reply]:
        """Answer calls that came at the same time, each by itself; their customers are scored and recorded together."""
        table = self.table()
        started = [_StartedCall(self, table, call) for call in calls]
        self._claim_keys(started)
        waiting = [each for each in started if each.decision_request]
        for each, decision in zip(waiting, self._decide(waiting), strict=True):
            each.go_on(decision)
        return [each.reply() for each in started]

    def _claim_keys(self, started: Sequence["_StartedCall"]) -> None:
        """Bind the idempotency keys, all at once; a call whose key belongs to another request ends here."""
        claiming = [(each, each.decision_request.claim) for each in started if each.decision_request]
        claims = {each: claim for each, claim in claiming if claim}
        errors: Sequence[Exception | None]
        try:
            errors = self.services.keys.claim_all(list(claims.values()))
        except Exception as error:  # each call is answered with it
            errors = [error] * len(claims)
        for each, refused in zip(claims, errors, strict=True):
            if refused:
                each.go_on(refused)

    def _decide(self, waiting: Sequence["_StartedCall"]) -> list[Decision | Exception]:
        """Return the decisions that calls wait for: those to be recorded and the others, each made together."""
        requests = [each.decision_request for each in waiting if each.decision_request]
        recorded = iter(_together([each for each in requests if each.recorded], self._record_all))
        scored = iter(_together([each for each in requests if not each.recorded], self._score_all))
        return [next(recorded if each.recorded else scored) for each in requests]

    def _record_all(self, requests: Sequence[DecisionRequest]) -> list[Decision]:
        submitted = [(each.customer, each.submission, BY_API) for each in requests]
        if len(submitted) == 1:
            return [self.services.scoring.decide(*submitted[0])]  # with those of pages, and of calls in other threads
        return self.services.scoring.decide_all(submitted)

    def _score_all(self, requests: Sequence[DecisionRequest]) -> list[Decision]:
        customers = [each.customer for each in requests]
        outcomes, at = self.services.scoring.score_all(customers), datetime.now(UTC)
        return [Decision("", at, *each) for each in zip(customers, outcomes, strict=True)]

    def dispatch(self, table: OperationTable, call: Call) -> Reply | ReplyAfterDecision:
        """Let the operation of a call answer it, or say which decision it needs first."""
        if call.path in DOCUMENT_PATHS:
            if call.method not in {"GET", "HEAD"}:
                raise not_allowed(call.method, ["GET"])
            return Reply(200, table.document_text)
        operation, captured = table.find(call.method, call.path)
        return operation.handler(self.services, parse(operation, table.portfolio, captured, call))


def _together(
    requests: Sequence[DecisionRequest], decide: Callable[[Sequence[DecisionRequest]], list[Decision]]
) -> list[Decision | Exception]:
    """Return the decisions that are requested, made together; where that fails, made one by one.

    Not after an outage: what a lost connection has committed would be recorded again.
    """
    if len(requests) > 1:
        try:
            return list(decide(requests))
        except OUTAGE_ERRORS as error:
            return [error] * len(requests)
        except Exception:  # those at fault fail again below, and are answered with their error
            log.debug("a group is made one by one")
    decided: list[Decision | Exception] = []
    for request in requests:
        try:
            decided += decide([request])
        except Exception as error:  # the call is answered with it
            decided.append(error)
    return decided


class _StartedCall:
    """A call whose handler has started: it has a reply, or `decision_request` is the decision it waits for."""

    def __init__(self, api: Api, table: OperationTable, call: Call):
        self.api = api
        self.table = table
        self.call = call
        self.decision_request: DecisionRequest | None = None
        self._handler: ReplyAfterDecision | None = None
        self._reply: Reply | None = None
        self._run(self._start)

    def _start(self) -> None:
        if self.call.method == "OPTIONS" and self.api.is_legacy(self.call.path):
            self._reply = legacy.preflight(self.api.services.config, self.call)
            return
        handler = self.api.dispatch(self.table, self.call)
        if isinstance(handler, Reply):
            self._reply = handler
            return
        self._handler = handler
        self._advance(lambda: next(handler))

    def go_on(self, decision: Decision | Exception) -> None:
        """Let the handler go on with the decision, or with the error in its place."""
        handler, self.decision_request = self._handler, None
        assert handler is not None
        if isinstance(decision, Exception):
            self._run(lambda: self._advance(lambda: handler.throw(decision)))
        else:
            self._run(lambda: self._advance(lambda: handler.send(decision)))

    def _advance(self, step: Callable[[], DecisionRequest]) -> None:
        try:
            self.decision_request = step()
        except StopIteration as ended:
            self._reply = ended.value

    def _run(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # answered as a problem; one that is not expected is logged
            self._reply = refusal(error, self.call.request_id)

    def reply(self) -> Reply:
        """Return the reply, once the call waits for no decision."""
        assert self._reply is not None
        return self.api.with_sharing_headers(self.call, self._reply)
