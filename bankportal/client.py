"""A client of the API: typed answers, and retries that never record twice.

It is installed with the portal (`pip install bankportal[client]`), or without it as `bankportal_client` (`pip install
./client`): this file, `answers.py` and `version.py` are all of that distribution, so the imports here are relative.

from bankportal.client import Portal, Problem

with Portal("http://127.0.0.1:8000") as portal:
    answer = portal.score("churn", {"CreditScore": 650, "Age": 42, "Tenure": 5.0, "Balance": 48200.5})
    print(answer.band, answer.reasons[0].sentence)
"""

import json
import math
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from os import PathLike
from pathlib import Path
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Any, Self, TypeVar, cast
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from . import answers
from .answers import (
    BASE,
    JSON,
    KEY,
    PROBLEM_JSON,
    Band,
    Batch,
    Batches,
    Change,
    Check,
    Customer,
    Decision,
    Decisions,
    Example,
    Fault,
    Flag,
    Health,
    Item,
    Limit,
    Model,
    ModelVersion,
    ModelVersions,
    Outcome,
    Product,
    Products,
    Progress,
    Reason,
    Receipt,
    Received,
    Recorded,
    Recourse,
    Repair,
    Scores,
    Suggestion,
    Summary,
    Value,
    Verdict,
)
from .version import __version__

__all__ = (
    "Band",
    "Batch",
    "Batches",
    "Change",
    "Check",
    "Customer",
    "Decision",
    "Decisions",
    "Example",
    "Fault",
    "Flag",
    "Health",
    "Item",
    "Limit",
    "Model",
    "ModelVersion",
    "ModelVersions",
    "Outcome",
    "Portal",
    "Problem",
    "Product",
    "Products",
    "Progress",
    "Reason",
    "Receipt",
    "Received",
    "Recorded",
    "Recourse",
    "Repair",
    "Scores",
    "Suggestion",
    "Summary",
    "Unreachable",
    "Value",
    "Verdict",
)

REPEATABLE_PATHS = ("/start", "/cancel")  # a repeated call changes nothing more
UNNAMED = "upload.csv"
AT_WORK = frozenset({"checking", "scoring"})
ATTEMPTS = 4
TIMEOUT = 30.0  # seconds, for each step of an attempt: connect, send, wait, receive
TRANSIENT_STATUSES = frozenset({429, 502, 503, 504})
TRANSIENT_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)
FIRST_PAUSE, MAX_PAUSE = 0.2, 5.0  # seconds; doubled from one attempt to the next
MAX_RETRY_AFTER = 60.0  # seconds; where a server wants a longer pause, the call is not sent again

NO_QUERY: Mapping[str, Any] = {}

T = TypeVar("T")


# --- what goes wrong --------------------------------------------------------------------------------------------------


class Problem(Exception):
    """The portal refused a request (RFC 9457), or what answered is not a portal.

    `errors` has one `Fault` for each value at fault; `retry_after` is the pause that the portal wants, in seconds.
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        *,
        type: str = "about:blank",  # noqa: A002  # the field's name
        instance: str | None = None,
        errors: tuple[Fault, ...] = (),
        retry_after: float = 0.0,
    ):
        self.status, self.title, self.detail, self.type = status, title, detail, type
        self.instance, self.errors, self.retry_after = instance, errors, retry_after
        super().__init__("; ".join([f"{status} {title}: {detail}", *(f"{e.field} {e.message}" for e in errors)]))


class Unreachable(Exception):
    """The portal did not answer, however often the request was sent."""


# --- the client -------------------------------------------------------------------------------------------------------


class Portal:
    """A portal at an address. Close it, or use it in a `with` block; threads may share it.

    A request is tried up to `attempts` times where it is safe to repeat and the fault may pass: no connection, no
    answer in time, or one of `TRANSIENT_STATUSES`. `Retry-After` is honoured. A call that records carries a key of its
    own, so that it is recorded once however often it is sent. Methods raise `Problem` and `Unreachable`.
    """

    def __init__(
        self,
        address: str,
        *,
        attempts: int = ATTEMPTS,
        timeout: float = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ):
        if attempts < 1:
            raise ValueError("attempts must be 1 or more")
        self.attempts = attempts
        headers = {"User-Agent": f"bankportal-client/{__version__}"}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def score(
        self,
        product: str,
        customer: Mapping[str, object],
        *,
        record: bool = True,
        contributions: bool = False,
        recourse: bool = False,
        key: str | None = None,
    ) -> Outcome:
        """Score one customer and record the decision; without `record` nothing is kept.

        Give a `key` of your own to have the same decision again later, after a restart of your program too.
        """
        query = {"record": record, "contributions": contributions, "recourse": recourse}
        return self._post(Outcome, f"{_segment(product)}/score", customer, query, key)

    def score_many(
        self,
        product: str,
        customers: Sequence[Mapping[str, object]],
        *,
        record: bool = True,
        contributions: bool = False,
        key: str | None = None,
    ) -> Scores:
        """Score up to 1,000 customers; one that is refused stops no other."""
        query = {"record": record, "contributions": contributions}
        return self._post(Scores, f"{_segment(product)}/scores", {"items": list(customers)}, query, key)

    def products(self) -> tuple[Product, ...]:
        """Return what the portal decides."""
        return self._get(Products, "products").items

    def factors(self, product: str) -> Mapping[str, Any]:
        """Return a product's factors as JSON Schema."""
        return self._get(dict[str, Any], f"products/{_segment(product)}/schema")

    def decisions(self, product: str | None = None, *, before: str | None = None, size: int = 50) -> Iterator[Decision]:
        """Yield recorded decisions, newest first, fetched `size` at a time. Without contributions."""
        return self._pages(Decisions, "decisions", product, before, size)

    def decision(self, id: str = "latest") -> Decision:  # noqa: A002  # the field's name
        """Return one decision, or the latest."""
        return self._get(Decision, f"decisions/{_segment(id)}")

    def verify(self, id: str = "latest") -> Verdict:  # noqa: A002  # the field's name
        """Say whether a decision is what was recorded."""
        return self._get(Verdict, f"decisions/{_segment(id)}/verify")

    def models(self) -> tuple[ModelVersion, ...]:
        """Return the registered model versions."""
        return self._get(ModelVersions, "models").items

    def model(self, product: str, version: str = "active") -> ModelVersion:
        """Return one model version, or the one that serves."""
        return self._get(ModelVersion, f"models/{_segment(product)}/{_segment(version)}")

    def upload(
        self,
        product: str,
        file: str | PathLike[str] | IO[bytes],
        *,
        mapping: Mapping[str, str] | None = None,
        start: bool = True,
        name: str | None = None,
        key: str | None = None,
    ) -> Received:
        """Have a CSV file scored, given by its path or opened for reading bytes; it is sent from its beginning.

        `mapping` maps its columns to factors; without one they are matched by their names. Without `start` the file is
        checked alone. `ValueError` where the file cannot be rewound: it could not be sent again.
        """
        if isinstance(file, str | PathLike):
            with Path(file).open("rb") as opened:
                return self.upload(product, opened, mapping=mapping, start=start, name=name or Path(file).name, key=key)
        if not file.seekable():
            raise ValueError("The file must be one that can be rewound: a file on disk, or bytes in memory.")
        fields = {"product": product, "start": json.dumps(start)}
        fields |= {} if mapping is None else {"mapping": json.dumps(dict(mapping))}
        request = self._request(
            "POST",
            "batches",
            headers={KEY: key or str(uuid.uuid4())},
            data=fields,
            files={"file": (name or UNNAMED, file, "text/csv")},
        )
        return self._send(request, partial(_answer, Received))

    def batches(self, product: str | None = None, *, before: str | None = None, size: int = 50) -> Iterator[Batch]:
        """Yield batches, newest first, fetched `size` at a time."""
        return self._pages(Batches, "batches", product, before, size)

    def batch(self, id: str = "latest") -> Batch:  # noqa: A002  # the field's name
        """Say how a batch is."""
        return self._get(Batch, f"batches/{_segment(id)}")

    def wait(self, id: str, *, timeout: float | None = None) -> Batch:  # noqa: A002  # the field's name
        """Return a batch once no worker has anything to do for it; `TimeoutError` after `timeout` seconds."""
        end = math.inf if timeout is None else monotonic() + timeout
        attempt = 0
        while (batch := self.batch(id)).state in AT_WORK:
            left = end - monotonic()
            if left <= 0:
                raise TimeoutError(f"Batch {id} is still {batch.state}: {batch.progress.rows_done:,} rows done.")
            attempt += 1
            sleep(min(_pause(attempt), left))
        return batch

    def start(self, id: str) -> Batch:  # noqa: A002  # the field's name
        """Have a batch that was checked alone scored; one that was started before stays as it is."""
        return self._send(self._request("POST", f"batches/{_segment(id)}/start"), partial(_answer, Batch))

    def cancel(self, id: str) -> Batch:  # noqa: A002  # the field's name
        """Stop a batch for good; one at rest stays as it is."""
        return self._send(self._request("POST", f"batches/{_segment(id)}/cancel"), partial(_answer, Batch))

    def save_results(self, id: str, path: str | PathLike[str]) -> Path:  # noqa: A002  # the field's name
        """Write the scored rows of a batch that is done to a file, whole or not at all."""
        return self._send(self._request("GET", f"batches/{_segment(id)}/results"), partial(_save, Path(path)))

    def save_rejects(self, id: str, path: str | PathLike[str]) -> Path:  # noqa: A002  # the field's name
        """Write the rejected rows of a batch that was checked to a file, whole or not at all."""
        return self._send(self._request("GET", f"batches/{_segment(id)}/rejects"), partial(_save, Path(path)))

    def health(self) -> Health:
        """Say how the portal is; one without a model answers as well."""
        request = self._request("GET", "health")
        return self._send(request, partial(_answer, Health), also=HTTPStatus.SERVICE_UNAVAILABLE)

    def _pages(self, kind: type[Any], path: str, product: str | None, before: str | None, size: int) -> Iterator[Any]:
        query = {"size": size} | ({"product": product} if product else {})
        while True:
            page = self._get(kind, path, query | ({"before": before} if before else {}))
            yield from page.items
            before = page.next
            if before is None:
                return

    def _get(self, kind: type[T], path: str, query: Mapping[str, object] = NO_QUERY) -> T:
        return self._send(self._request("GET", path, query), partial(_answer, kind))

    def _post(
        self, kind: type[T], path: str, content: Mapping[str, object], query: Mapping[str, object], key: str | None
    ) -> T:
        headers = {"Content-Type": JSON} | ({KEY: key or str(uuid.uuid4())} if query["record"] else {})
        # NaN is sent as it is: the portal's refusal names the field.
        request = self._request("POST", path, query, headers=headers, content=json.dumps(content))
        return self._send(request, partial(_answer, kind))

    def _request(self, method: str, path: str, query: Mapping[str, object] = NO_QUERY, **rest: Any) -> httpx.Request:
        return self._http.build_request(method, f"{BASE}/{path}", params=cast(Any, query), **rest)

    def _send(self, request: httpx.Request, read: Callable[[httpx.Response], T], also: int = 0) -> T:
        """Send a request, again where it is safe and may help, and read the answer."""
        attempts = self.attempts if _is_repeatable(request) else 1
        for attempt in range(1, attempts):
            try:
                return self._once(request, read, also)
            except TRANSIENT_ERRORS:
                pause = 0.0
            except Problem as problem:
                pause = problem.retry_after
                if problem.status not in TRANSIENT_STATUSES or pause > MAX_RETRY_AFTER:
                    raise
            sleep(max(pause, _pause(attempt)))
        try:
            return self._once(request, read, also)
        except TRANSIENT_ERRORS as error:
            times = f"{attempts} times" if attempts > 1 else "once"
            why = str(error) or type(error).__name__
            raise Unreachable(f"{request.url.copy_with(query=None)} did not answer; tried {times}: {why}") from error

    def _once(self, request: httpx.Request, read: Callable[[httpx.Response], T], also: int) -> T:
        with closing(self._http.send(request, stream=True)) as response:
            if response.is_success or (response.status_code == also and _media(response) == JSON):
                return read(response)
            response.read()
            raise _problem(response)


def _is_repeatable(request: httpx.Request) -> bool:
    """Say whether a request may be sent again: it changes nothing, or only once, by its key or by what it does."""
    if request.method == "GET" or KEY in request.headers:
        return True
    return request.url.params.get("record") == "false" or request.url.path.endswith(REPEATABLE_PATHS)


def _pause(attempt: int) -> float:
    """Return how long to wait after an attempt: longer each time, and not all clients at the same moment."""
    longest = min(FIRST_PAUSE * 2.0 ** min(attempt - 1, 10), MAX_PAUSE)
    return longest * random.uniform(0.5, 1)  # noqa: S311  # spreads load, guards nothing


def _segment(text: str) -> str:
    """Return a text as one part of a path."""
    return quote(text, safe="")


def _media(response: httpx.Response) -> str:
    content_type: str = response.headers.get("Content-Type", "")
    return content_type.partition(";")[0].strip().lower()


def _answer(kind: type[T], response: httpx.Response) -> T:
    """Read an answer. Fields that this client does not know are left out: a newer portal may tell more."""
    try:
        return TypeAdapter(kind).validate_json(response.read(), strict=True)
    except ValidationError as error:
        detail = f"The answer is not what this client knows: {error}."
        raise Problem(response.status_code, "Not an answer of the portal", detail) from error


def _save(path: Path, response: httpx.Response) -> Path:
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("xb") as file:
            for block in response.iter_bytes():
                file.write(block)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def _problem(response: httpx.Response) -> Problem:
    pause = _retry_after(response.headers.get("Retry-After", ""))
    try:
        details = answers.Problem.model_validate_json(response.content if _media(response) == PROBLEM_JSON else b"")
    except ValidationError:  # a gateway's page
        title, detail = response.reason_phrase or "Refused", "What answered is not the portal."
        return Problem(response.status_code, title, detail, retry_after=pause)
    return Problem(
        response.status_code,
        details.title,
        details.detail,
        type=details.type,
        instance=details.instance,
        errors=details.errors,
        retry_after=pause,
    )


def _retry_after(text: str) -> float:
    """Return the seconds to wait by a `Retry-After` header: seconds or a moment; 0 where there is none."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0
