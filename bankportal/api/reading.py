"""Reads parameters and JSON bodies strictly: what is not exactly right is refused, and the refusal says why."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import orjson
from pydantic import ValidationError
from werkzeug.http import parse_options_header

from bankportal.answers import JSON
from bankportal.api.calls import Body, Call, Operation, ParsedRequest
from bankportal.api.parameters import NO_PRODUCT, Parameter, Parameters, declared
from bankportal.api.problems import ParameterProblem, Refused, printable
from bankportal.domain.portfolio import Portfolio

MAX_DEPTH = 20
MAX_EXACT = 2.0**53  # beyond, a float may stand for a whole number that has more digits
MAX_PARAMETERS = 20
UTF_8 = frozenset({"utf-8", "utf8"})
NOTHING = "There is nothing at this path."


def parse(operation: Operation, portfolio: Portfolio, captured: Mapping[str, str], call: Call) -> ParsedRequest[Any]:
    """Read a call's parameters and JSON body; `Refused` where they are not what the operation takes."""
    parameters = _parameters(operation, portfolio, captured, call)
    if operation.body is None or operation.body.media != JSON:
        return ParsedRequest(parameters, None, b"", call, portfolio)
    require_media(call, JSON)
    content = read_body(call, operation.body)
    return ParsedRequest(parameters, from_json(content), content, call, portfolio)


def require_media(call: Call, media: str) -> None:
    """Refuse a body of another media type, compressed, or in another encoding than UTF-8."""
    content_type = call.headers.get("content-type") or ""
    if call.headers.get("content-encoding", "").lower() not in {"", "identity"}:
        raise Refused("unsupported-media-type", "The body must not be compressed.")
    kind, options = parse_options_header(content_type)
    if kind.lower() != media:
        raise Refused("unsupported-media-type", f"The body must be sent as {media}, not as {_quoted(content_type)}.")
    if media == JSON and options.get("charset", "utf-8").lower() not in UTF_8:
        raise Refused("unsupported-media-type", f"JSON is written in UTF-8, not as {_quoted(content_type)}.")


def _quoted(content_type: str) -> str:
    return printable(content_type) or "nothing named"


def read_body(call: Call, body: Body) -> bytes:
    """Read a body up to its limit; `Refused` where it is larger, or shorter than announced."""
    content = call.stream.read(body.max_bytes + 1)
    if len(content) > body.max_bytes:
        raise too_large(body.max_bytes)
    announced = call.headers.get("content-length", "")  # gunicorn does not say that a caller stopped sending
    if announced.isascii() and announced.isdigit() and len(content) < int(announced):
        raise Refused("not-json", "The body ended before it was whole.")
    return content


def too_large(max_bytes: int) -> Refused:
    """Return the refusal of a body with more bytes than its operation takes."""
    return Refused("too-large", f"The body must have {max_bytes:,} bytes or fewer.")


def from_json(content: bytes) -> Any:
    """Parse JSON strictly.

    `Refused` where it is not UTF-8 or not JSON, names a field twice, holds half a surrogate pair or is nested deeper
    than `MAX_DEPTH`. Numbers that are not finite pass: the validation of their field refuses them by its name.
    """
    if (customer := _plain_object(content)) is not None:
        return customer
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise Refused("not-json", f"Byte {error.start + 1} of the body is not UTF-8.") from None
    except json.JSONDecodeError as error:
        raise Refused("not-json", f"Line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # a whole number with thousands of digits
        raise Refused("not-json", "The body holds a number with too many digits.") from None
    if content.count(b"[") + content.count(b"{") > MAX_DEPTH and _is_deeper(value, MAX_DEPTH):
        raise _too_deep()
    if b"\\u" in content and not _is_encodable(value):
        raise Refused("not-json", "The body holds half a character: a lone surrogate.")
    return value


def _plain_object(content: bytes) -> dict[str, Any] | None:
    """Return an object of texts and numbers, as customers mostly are; `None` for what only the slower reading judges.

    orjson takes a field that is given twice, and makes floats of whole numbers beyond 64 bits. There is no field twice
    where there are no more colons than fields.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
    if type(value) is not dict or len(value) != content.count(b":"):
        return None
    for each in value.values():
        kind = type(each)
        if kind is dict or kind is list or (kind is float and not -MAX_EXACT < each < MAX_EXACT):
            return None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in fields if names.count(name) > 1)
        problem = ParameterProblem(twice, "duplicate", "is given more than once", place="body")
        raise Refused("not-json", f"{printable(twice)} is given more than once.", (problem,))
    return fields


def _too_deep() -> Refused:
    return Refused("not-json", f"The body is nested deeper than {MAX_DEPTH} levels.")


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value] if isinstance(value, dict | list) else []
    for _ in range(levels + 1):
        layer = [inner for outer in layer for inner in _containers_in(outer)]
        if not layer:
            return False
    return True


def _containers_in(container: dict[str, Any] | list[Any]) -> Iterator[Any]:
    inside = container.values() if isinstance(container, dict) else container
    yield from (inner for inner in inside if isinstance(inner, dict | list))


def _is_encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parameters(operation: Operation, portfolio: Portfolio, captured: Mapping[str, str], call: Call) -> Parameters:
    """Read the parameters as their model declares them; `Refused` with one problem for each that is not acceptable."""
    problems: list[ParameterProblem] = []
    sent = {"path": captured, "query": _query(operation, call, problems), "header": call.headers}
    taken, nothing = declared(operation.parameters), NOTHING
    texts = {each.name: text for each in taken if (text := sent[each.place].get(each.key)) is not None}
    try:
        parameters = operation.parameters.model_validate(texts, context=portfolio)
    except ValidationError as invalid:
        at_fault = {str(error["loc"][0]): error for error in invalid.errors()}
        nothing = next((error["msg"] for error in at_fault.values() if error["type"] == NO_PRODUCT), NOTHING)
        problems += [_not_acceptable(each.of(portfolio), texts[each.name]) for each in taken if each.name in at_fault]
    if problems:
        raise _refused(problems, nothing)
    return parameters


def _not_acceptable(parameter: Parameter, text: str) -> ParameterProblem:
    return ParameterProblem(parameter.name, "not-acceptable", f"must be {parameter.words}", text, parameter.place)


def _refused(problems: Sequence[ParameterProblem], nothing: str) -> Refused:
    """Return the refusal of parameters; `nothing` says why nothing is at the path, where one of it is at fault."""
    if any(problem.place == "path" for problem in problems):
        return Refused("not-found", nothing, tuple(problems))
    names = ", ".join(printable(problem.field) or "a parameter without a name" for problem in problems)
    return Refused("invalid-parameter", f"Not acceptable: {names}.", tuple(problems))


def _query(operation: Operation, call: Call, problems: list[ParameterProblem]) -> dict[str, str]:
    """Return the query's parameters by name; note those that are unknown or given twice."""
    if not call.query:
        return {}
    try:
        pairs = parse_qsl(call.query, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)
    except UnicodeDecodeError:
        raise Refused("invalid-parameter", "The query is not UTF-8.") from None
    except ValueError:
        raise Refused("invalid-parameter", f"The query has more than {MAX_PARAMETERS} parameters.") from None
    names = {parameter.name for parameter in declared(operation.parameters) if parameter.place == "query"}
    texts: dict[str, str] = {}
    for name, text in pairs:
        if name not in names:
            problems.append(ParameterProblem(name, "unknown-parameter", "is not a parameter of this operation", text))
        elif name in texts:
            problems.append(ParameterProblem(name, "duplicate", "is given more than once", text))
        texts[name] = text
    return texts
