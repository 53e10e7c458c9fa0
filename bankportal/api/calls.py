"""What goes in and out of an operation, free of any engine: a call, what it asks for, and the reply."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import IO, Any, Generic, TypeVar

from pydantic import BaseModel

from bankportal.api.parameters import Parameters
from bankportal.domain.outcome import Decision
from bankportal.domain.receipt import canonical
from bankportal.domain.schema import Customer
from bankportal.wiring import Services

JSON = "application/json"
CSV = "text/csv; charset=utf-8"
MULTIPART = "multipart/form-data"
MAX_BODY_BYTES = 1_000_000  # bytes
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


Plain = dict[str, Any]
P = TypeVar("P", bound=Parameters, covariant=True)


@dataclass(frozen=True)
class Call:
    """A request as it came in. `path` is decoded, `query` is not; headers are found under their lower-case names.

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
    """What goes out; a body that is an iterator is sent as it comes."""

    status: int
    body: bytes | Iterator[bytes]
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)

    def headers_with(self, always: Mapping[str, str]) -> dict[str, str]:
        """Return all headers that go out, those that every reply has among them."""
        headers = {**always, **self.headers}
        if self.status == HTTPStatus.NO_CONTENT:  # which has neither type nor length
            return headers
        headers["Content-Type"] = self.content_type
        if isinstance(self.body, bytes):
            headers["Content-Length"] = str(len(self.body))
        return headers


def reply(content: BaseModel | Plain, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Return an answer, or plain data, as a reply; floats keep every digit."""
    plain = content.model_dump(by_alias=True) if isinstance(content, BaseModel) else content
    return Reply(status, written(plain), JSON, headers or {})


def written(content: Any) -> bytes:
    """Write plain data as JSON in UTF-8."""
    return ENCODER.encode(content).encode()


@dataclass(frozen=True)
class ParsedRequest(Generic[P]):
    """What a call asks for, once read: its parameters, and the JSON body, parsed and as it came."""

    parameters: P
    body: Any
    content: bytes
    call: Call

    def fingerprint(self, operation: str) -> bytes:
        """Return what must be the same again where an idempotency key is used again."""
        return f"{operation}\n{canonical(self.parameters.model_dump(exclude={'key'}))}\n".encode() + self.content


@dataclass(frozen=True, kw_only=True)
class Body:
    """What an operation takes as its body: a schema's name in the document, examples by name, most bytes.

    Of a form with a file (`MULTIPART`), a setting says how large the file may be.
    """

    schema: str
    examples: Mapping[str, Any]
    largest: int = MAX_BODY_BYTES
    media: str = JSON


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an operation answers when all is well: JSON by a model, or another medium; one `example`, and what it is."""

    status: int
    help: str
    model: type[BaseModel] | None = None
    media: str = JSON
    example: tuple[str, Any] | None = None


@dataclass(frozen=True)
class Wanted:
    """A decision that is wanted: about whom, under which submission, and the idempotency key and request to bind."""

    customer: Customer
    submission: str
    claim: tuple[str, bytes] | None = None


# A handler that needs a decision recorded says which, and goes on with the decision: so that those which come at the
# same time can be scored and recorded together.
Deciding = Generator[Wanted, Decision, Reply]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the API. `path` names its parameters in braces; `errors` are the statuses it refuses with."""

    id: str
    method: str
    path: str
    tag: str
    summary: str
    help: str
    handler: Callable[[Services, ParsedRequest[Any]], Reply | Deciding]
    answers: tuple[Answer, ...]
    errors: tuple[int, ...]
    parameters: type[Parameters] = Parameters
    body: Body | None = None
