"""The API itself: finds the operation of a call, reads what is asked, answers. Engines bring calls and take replies."""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from werkzeug.sansio.utils import host_is_trusted

from bankportal.api import legacy, openapi
from bankportal.api.calls import MAX_BODY_BYTES, MULTIPART, Body, Call, Deciding, Operation, Reply, Wanted
from bankportal.api.conversion import BASE
from bankportal.api.operations import OPERATIONS
from bankportal.api.problems import Refused, refusal, untrusted_host
from bankportal.api.reading import parse, too_large
from bankportal.domain.errors import ForeignOrigin, TooLarge
from bankportal.domain.outcome import Decision
from bankportal.domain.products import PRODUCTS
from bankportal.domain.schema import Customer
from bankportal.origins import is_foreign, origin_of
from bankportal.services.batches.uploads import upload_limit
from bankportal.wiring import Services

OURS = re.compile("/+api(/|$)")
Methods = dict[str, Operation]


class Api:
    """The operations on one portal's services; free of any engine."""

    def __init__(self, services: Services):
        self.services = services
        self.documents: Mapping[str, Callable[[], Reply]] = openapi.DOCUMENTS
        self.older = legacy.OPERATIONS if services.config.legacy_api else ()
        self.quick = frozenset(f"{BASE}/{key}/score" for key in PRODUCTS)
        self._plain: dict[str, Methods] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], Methods]] = {}
        for operation in (*OPERATIONS, *self.older):
            self._add(operation)

    @property
    def operations(self) -> list[Operation]:
        """The operations at paths that are the API's alone: on `/` the older system's shares with a page."""
        return [operation for operation in (*OPERATIONS, *self.older) if self.owns(operation.path)]

    def _add(self, operation: Operation) -> None:
        if "{" not in operation.path:
            self._plain.setdefault(operation.path, {})[operation.method] = operation
            return
        pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", operation.path))
        self._patterns.setdefault(operation.path, (pattern, {}))[1][operation.method] = operation

    def owns(self, path: str) -> bool:
        """Say whether a path is the API's to answer; all others are pages."""
        return bool(OURS.match(path)) or path in self.documents or (path != "/" and path in self._plain)

    def largest(self, call_method: str, path: str) -> int:
        """Return how many bytes of body a call may bring."""
        body = self._body(call_method, path)
        if body is None:
            return MAX_BODY_BYTES
        return body.largest + (self.services.config.upload_bytes if body.media == MULTIPART else 0)

    def _body(self, method: str, path: str) -> Body | None:
        with suppress(Refused):
            return self.find(method, path)[0].body
        return None

    def too_large(self, call: Call) -> Reply:
        """Answer a call that brings more than `largest`."""
        body = self._body(call.method, call.path)
        takes_file = body is not None and body.media == MULTIPART
        limit = TooLarge(upload_limit(self.services.config)) if takes_file else None
        return self.turned_away(call, limit or too_large(self.largest(call.method, call.path)))

    def turned_away(self, call: Call, error: Exception) -> Reply:
        """Answer a call that is not let in."""
        return self.shared(call, refusal(error, call.request_id))

    def refused_unread(self, call: Call) -> Reply | None:
        """Answer a call that must not be let in, whatever its body is; `None` for all others. Reads no body."""
        host = call.headers.get("host")
        if not host_is_trusted(host, self.services.config.trusted_hosts):
            return self.turned_away(call, untrusted_host())
        own = origin_of(call.scheme, str(host))
        if is_foreign(call.method, call.headers, own) and not self._may_share(call):
            return self.turned_away(call, ForeignOrigin(own))
        return None

    def _may_share(self, call: Call) -> bool:
        return self.is_older(call.path) and legacy.is_shared_with(self.services.config, call)

    def shared(self, call: Call, found: Reply) -> Reply:
        """Let pages of other origins read what the older system's paths answer, where they may."""
        return legacy.shared(self.services.config, call, found) if self.is_older(call.path) else found

    def is_older(self, path: str) -> bool:
        """Say whether a path is one of the older system's that answer here."""
        return self.services.config.legacy_api and legacy.is_older(path)

    def answer(self, call: Call) -> Reply:
        """Answer a call; whatever goes wrong is answered as a problem."""
        return self.answer_all([call])[0]

    def answer_all(self, calls: Sequence[Call]) -> list[Reply]:
        """Answer calls that came at the same time, each by itself; the decisions they need are recorded together."""
        begun = [_Begun(self, call) for call in calls]
        self._claim([each for each in begun if each.wanted and each.wanted.claim])
        deciding = [each for each in begun if each.wanted]
        for each, decision in zip(deciding, self._decided(deciding), strict=True):
            each.go_on(decision)
        return [each.reply() for each in begun]

    def _claim(self, claiming: Sequence["_Begun"]) -> None:
        """Bind the idempotency keys, all at once; where one is another request's, its call goes no further."""
        claims = [each.wanted.claim for each in claiming if each.wanted and each.wanted.claim]
        refused: Sequence[Exception | None]
        try:
            refused = self.services.keys.claim_all(claims)
        except Exception as error:  # told by each call
            refused = [error] * len(claims)
        for each, why in zip(claiming, refused, strict=True):
            if why:
                each.go_on(why)

    def _decided(self, deciding: Sequence["_Begun"]) -> list[Decision | Exception]:
        """Return the decisions; where they cannot be had together, what comes of each by itself."""
        scoring = self.services.scoring
        if len(deciding) > 1:
            with suppress(Exception):  # told by each one that still fails
                wanted = [each.wanted for each in deciding if each.wanted]
                return list(scoring.decide_all([(each.customer, each.submission) for each in wanted]))
        return [_tried(scoring.decide, each.wanted) for each in deciding if each.wanted]

    def begin(self, call: Call) -> Reply | Deciding:
        """Find out what a call asks for and do it, up to a decision it needs."""
        if document := self.documents.get(call.path):
            if call.method not in {"GET", "HEAD"}:
                raise _not_allowed(call.method, ["GET"])
            return document()
        operation, captured = self.find(call.method, call.path)
        return operation.handler(self.services, parse(operation, captured, call))

    def is_quick(self, call: Call) -> bool:
        """Say whether nothing but a decision can take long: single scores, without a question beside."""
        return call.path in self.quick and not call.query

    def find(self, method: str, path: str) -> tuple[Operation, Mapping[str, str]]:
        """Return the operation of a method and path, and the path's parameters; `Refused` where there is none."""
        methods, captured = self._at(path)
        operation = methods.get("GET" if method == "HEAD" else method)
        if operation is None:
            raise _not_allowed(method, list(methods))
        return operation, captured

    def _at(self, path: str) -> tuple[Methods, Mapping[str, str]]:
        if methods := self._plain.get(path):
            return methods, {}
        for pattern, methods in self._patterns.values():
            if match := pattern.fullmatch(path):
                return methods, match.groupdict()
        raise Refused("not-found", "There is no such path in this API.")


class _Begun:
    """A call on its way to its reply; `wanted` is the decision it waits for."""

    def __init__(self, api: Api, call: Call):
        self.api = api
        self.call = call
        self.wanted: Wanted | None = None
        self._deciding: Deciding | None = None
        self._found: Reply | None = None
        self._try(self._begin)

    def _begin(self) -> None:
        if self.call.method == "OPTIONS" and self.api.is_older(self.call.path):
            self._found = legacy.preflight(self.api.services.config, self.call)
            return
        begun = self.api.begin(self.call)
        if isinstance(begun, Reply):
            self._found = begun
            return
        self._deciding = begun
        self._advance(lambda: next(begun))

    def go_on(self, decision: Decision | Exception) -> None:
        """Go on with the decision, or with why there is none."""
        deciding, self.wanted = self._deciding, None
        assert deciding is not None
        if isinstance(decision, Exception):
            self._try(lambda: self._advance(lambda: deciding.throw(decision)))
        else:
            self._try(lambda: self._advance(lambda: deciding.send(decision)))

    def _advance(self, step: Callable[[], Wanted]) -> None:
        try:
            self.wanted = step()
        except StopIteration as ended:
            self._found = ended.value

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # told as a problem: known ones with their reason, others logged as a fault
            self._found = refusal(error, self.call.request_id)

    def reply(self) -> Reply:
        """Return the reply, once there is no more to wait for."""
        assert self._found is not None
        return self.api.shared(self.call, self._found)


def _tried(decide: Callable[[Customer, str], Decision], wanted: Wanted) -> Decision | Exception:
    try:
        return decide(wanted.customer, wanted.submission)
    except Exception as error:  # the call that wanted it tells
        return error


def _not_allowed(method: str, allowed: list[str]) -> Refused:
    names = ", ".join(sorted([*allowed, "HEAD"] if "GET" in allowed else allowed))
    return Refused("method-not-allowed", f"This path takes {names}, not {method[:20]}.", (), {"Allow": names})
