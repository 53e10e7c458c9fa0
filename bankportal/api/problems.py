"""Errors as problem details (RFC 9457): one shape for every refusal of every operation, on every engine."""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from bankportal import answers
from bankportal.answers import PROBLEM_JSON
from bankportal.api.calls import Reply, written
from bankportal.config import PREFIX
from bankportal.domain.errors import FieldProblem, InvalidInput, PortalError
from bankportal.outages import OUTAGES, outage_of

TYPE = "urn:bankportal:problem:"
MAX_QUOTED = 80

# Status and title of each kind of error, by its code.
KINDS: Mapping[str, tuple[int, str]] = {
    "not-json": (400, "The body is not the JSON it should be"),
    "unreadable": (400, "The body cannot be read"),
    "not-multipart": (400, "The body is not the form it should be"),
    "host-refused": (400, "The host is not one of the portal's"),
    "foreign-origin": (403, "Not for pages of another origin"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "conflict": (409, "Not possible in the state things are in"),
    "too-large": (413, "Too large"),
    "unsupported-media-type": (415, "Unsupported media type"),
    "invalid-input": (422, "The values given are not acceptable"),
    "invalid-parameter": (422, "The parameters given are not acceptable"),
    "data-refused": (422, "The file cannot be read"),
    "key-reused": (422, "The idempotency key was used for another request"),
    "no-active-model": (503, "No model to answer with"),
    "version-refused": (503, "No model to answer with"),
    **{outage.code: (outage.status, outage.title) for outage in OUTAGES},
    "fault": (500, "Something went wrong"),
}

log = structlog.get_logger()


@dataclass(frozen=True)
class ParameterProblem(FieldProblem):
    """A problem of a value that is not in the body: its place is `query`, `path` or `header`."""

    place: str = "query"


class Refused(PortalError):
    """A request that the API does not take, with one of the codes of `KINDS`."""

    def __init__(
        self, code: str, detail: str, problems: tuple[FieldProblem, ...] = (), headers: Mapping[str, str] | None = None
    ):
        self.code = code
        self.problems = problems
        self.headers = headers or {}
        super().__init__(detail)


def untrusted_host() -> Refused:
    """Return the refusal of a request to a host that is not one of the portal's."""
    return Refused("host-refused", f"Not a host of this portal; see {PREFIX}TRUSTED_HOSTS.")


def refusal(error: Exception, request_id: str) -> Reply:
    """Return the reply to an error. One that is not expected is logged; its reply names the request alone."""
    error = _in_own_words(error)
    code = _code(error)
    status, title = KINDS[code]
    detail, instance = str(error), None
    if not isinstance(error, PortalError) or code == "fault":
        log.error(code, exc_info=error)
        detail = f"Nothing was answered. Reference: {request_id}"
        instance = f"urn:bankportal:request:{request_id}"
    if isinstance(error, InvalidInput):
        detail = f"{_counted(len(error.problems))} not acceptable; nothing was scored or recorded."
    problems = error.problems if isinstance(error, InvalidInput | Refused) else ()
    content = answers.Problem(
        type=f"{TYPE}{code}",
        title=title,
        status=status,
        detail=detail,
        instance=instance,
        errors=tuple(map(fault, problems)),
    )
    headers = error.headers if isinstance(error, Refused) else {}
    return Reply(status, written(content.model_dump(by_alias=True, exclude_none=True)), PROBLEM_JSON, headers)


def _counted(problems: int) -> str:
    return "One of the values is" if problems == 1 else f"{problems} of the values are"


def _code(error: Exception) -> str:
    if isinstance(error, PortalError) and error.code in KINDS:
        return error.code
    outage = outage_of(error)
    return outage.code if outage else "fault"


def _in_own_words(error: Exception) -> Exception:
    """Return what a server or form parser says about a body as a refusal of ours; other errors as they are."""
    if isinstance(error, RequestEntityTooLarge):
        return Refused("too-large", "The body has more bytes, or more parts, than it may have.")
    if isinstance(error, ClientDisconnected):
        return Refused("not-json", "The body ended before it was whole.")
    return error


def fault(problem: FieldProblem) -> answers.Fault:
    """Return one field's problem as it is answered."""
    return answers.Fault(
        place=problem.place if isinstance(problem, ParameterProblem) else "body",
        field=printable(problem.field),
        code=problem.code,
        message=problem.message,
        found=printable(problem.value),
    )


def printable(text: str) -> str:
    """Return a text as it can be written in UTF-8, cut short."""
    text = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
    return text.encode("utf-8", "replace").decode()
