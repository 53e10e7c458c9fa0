"""What goes in and out of an operation, without any engine: the call, the parsed request and the reply."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import IO, Any, Generic, TypeVar

from pydantic import BaseModel

from bankportal.answers import JSON
from bankportal.api.parameters import Parameters
from bankportal.domain.canonical import canonical
from bankportal.domain.outcome import Decision
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.schema import Customer
from bankportal.wiring import Services

BY_API = Provenance(Door.API)
CSV = "text/csv; charset=utf-8"
MULTIPART = "multipart/form-data"
MAX_BODY_BYTES = 1_000_000  # bytes
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


Plain = dict[str, Any]
P = TypeVar("P", bound=Parameters, covariant=True)


@dataclass(frozen=True)
class Call:
    """A request as it came in. `path` is decoded, `query` is not; headers go by their lower-case names.

    `scheme` is `http` or `https` as the server sees it, behind a proxy that it trusts by `X-Forwarded-Proto`.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    stream: IO[bytes]
    request_id: str = ""
    scheme: str = "http"


@dataclass(frozen=True)
class Reply:
    """What is sent back. A body that is an iterator is sent block by block."""

    status: int
    body: bytes | Iterator[bytes]
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def headers_with(self, always: Mapping[str, str]) -> dict[str, str]:
        """Return all headers to send: the reply's own, and those that every reply has."""
        headers = {**always, **self.headers}
        if self.status == HTTPStatus.NO_CONTENT:  # which has neither type nor length
            return headers
        headers["Content-Type"] = self.content_type
        if isinstance(self.body, bytes):
            headers["Content-Length"] = str(len(self.body))
        return headers


def reply(content: BaseModel | Plain, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an answer, or plain data, as a reply; floats keep every digit."""
    return Reply(status, written(content), JSON, headers or {})


def written(content: BaseModel | Plain) -> bytes:
    """Write an answer or plain data as JSON in UTF-8; `ValueError` where a number is not finite."""
    if not isinstance(content, BaseModel):
        return ENCODER.encode(content).encode()
    text = content.model_dump_json(by_alias=True).encode()
    if b"NaN" in text or b"Infinity" in text:  # a word of a sentence, or a number
        return ENCODER.encode(content.model_dump(by_alias=True)).encode()
    return text


@dataclass(frozen=True)
class ParsedRequest(Generic[P]):
    """A call that was read: its parameters, its JSON body as Python has it, and as the bytes that came.

    `portfolio` has the products that are in force for the whole of the call.
    """

    parameters: P
    body: Any
    content: bytes
    call: Call
    portfolio: Portfolio

    def fingerprint(self, operation: str) -> bytes:
        """Return what must be the same again where an idempotency key is used again."""
        return f"{operation}\n{canonical(self.parameters.model_dump(exclude={'key'}))}\n".encode() + self.content


@dataclass(frozen=True, kw_only=True)
class Body:
    """What an operation takes as its body: the name of its schema in the document, examples by name, a limit in bytes.

    For a form with a file (`MULTIPART`) the limit is that of the other fields; a setting limits the file.
    """

    schema: str
    examples: Mapping[str, Any]
    max_bytes: int = MAX_BODY_BYTES
    media: str = JSON


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an operation answers when all is well: JSON of a model's shape, or another medium.

    `example` is a description and a value.
    """

    status: int
    help: str
    model: type[BaseModel] | None = None
    media: str = JSON
    example: tuple[str, Any] | None = None


@dataclass(frozen=True)
class DecisionRequest:
    """A decision to be made about a customer; one that is not to be recorded has no number.

    The same `submission` gives the same decision. `claim` is an idempotency key with the request it is bound to first.
    """

    customer: Customer
    recorded: bool
    submission: str | None = None
    claim: tuple[str, bytes] | None = None


# What a handler returns that needs a decision: a generator that yields the request for it, is sent the decision, and
# returns the reply. So customers of calls that come at the same time are scored together, and recorded together.
ReplyAfterDecision = Generator[DecisionRequest, Decision, Reply]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the API. `path` names its parameters in braces; `errors` are the statuses it refuses with."""

    id: str
    method: str
    path: str
    tag: str
    summary: str
    help: str
    handler: Callable[[Services, ParsedRequest[Any]], Reply | ReplyAfterDecision]
    answers: tuple[Answer, ...]
    errors: tuple[int, ...]
    parameters: type[Parameters] = Parameters
    body: Body | None = None
