"""The way in: parameters and JSON bodies, read strictly. What is not exactly right is refused with its reason."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

from werkzeug.http import parse_options_header

from bankportal.api.calls import JSON, Asked, Body, Call, Operation, Parameter
from bankportal.api.problems import Misplaced, Refused, printable

DEEPEST = 20
MOST_PARAMETERS = 20
FLAGS = {"true": True, "false": False}
WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,8})")
UTF_8 = frozenset({"utf-8", "utf8"})


def asked(operation: Operation, captured: Mapping[str, str], call: Call) -> Asked:
    """Read what a call asks of an operation; `Refused` where it is not what the operation takes."""
    parameters = _parameters(operation, captured, call)
    if operation.body is None or operation.body.media != JSON:
        return Asked(parameters, None, b"", call)
    require_media(call, JSON)
    content = whole(call, operation.body)
    return Asked(parameters, from_json(content), content, call)


def require_media(call: Call, media: str) -> None:
    """Refuse a body of another kind than the operation takes."""
    given = call.headers.get("content-type") or ""
    if call.headers.get("content-encoding", "").lower() not in {"", "identity"}:
        raise Refused("unsupported-media-type", "The body must not be compressed.")
    kind, options = parse_options_header(given)
    if kind.lower() != media:
        raise Refused("unsupported-media-type", f"The body must be sent as {media}, not as {_quoted(given)}.")
    if media == JSON and options.get("charset", "utf-8").lower() not in UTF_8:
        raise Refused("unsupported-media-type", f"JSON is written in UTF-8, not as {_quoted(given)}.")


def _quoted(given: str) -> str:
    return printable(given) or "nothing named"


def whole(call: Call, body: Body) -> bytes:
    """Read a body up to its limit; `Refused` where it is larger, or ends before it is whole."""
    content = call.stream.read(body.largest + 1)
    if len(content) > body.largest:
        raise too_large(body.largest)
    announced = call.headers.get("content-length", "")  # gunicorn does not tell where a caller stopped sending
    if announced.isascii() and announced.isdigit() and len(content) < int(announced):
        raise Refused("not-json", "The body ended before it was whole.")
    return content


def too_large(largest: int) -> Refused:
    """Return the refusal of a body that is larger than its operation takes, in bytes."""
    return Refused("too-large", f"The body must have {largest:,} bytes or fewer.")


def from_json(content: bytes) -> Any:
    """Parse JSON strictly.

    `Refused` where it is not UTF-8 or not JSON, names a field twice, holds half characters or is nested deeper than
    `DEEPEST`. Numbers that are not finite pass: the field's own check names the field.
    """
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
    if content.count(b"[") + content.count(b"{") > DEEPEST and _deeper(value, DEEPEST):
        raise _too_deep()
    if b"\\u" in content and not _encodable(value):
        raise Refused("not-json", "The body holds half a character: a lone surrogate.")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        problem = Misplaced(twice, "duplicate", "is given more than once", place="body")
        raise Refused("not-json", f"{printable(twice)} is given more than once.", (problem,))
    return found


def _too_deep() -> Refused:
    return Refused("not-json", f"The body is nested deeper than {DEEPEST} levels.")


def _deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels + 1):
        layer = [inner for outer in layer for inner in _inside(outer)]
        if not layer:
            return False
    return True


def _inside(value: Any) -> Iterator[Any]:
    found: Any = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    yield from (inner for inner in found if isinstance(inner, dict | list))


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _parameters(operation: Operation, captured: Mapping[str, str], call: Call) -> dict[str, Any]:
    problems: list[Misplaced] = []
    given = {"path": captured, "query": _query(operation, call, problems), "header": call.headers}
    values = {}
    for parameter in operation.parameters:
        name = parameter.name.lower() if parameter.place == "header" else parameter.name
        text = given[parameter.place].get(name)
        values[parameter.name] = parameter.default if text is None else _read(parameter, text, problems)
    if any(problem.place == "path" for problem in problems):
        raise Refused("not-found", "There is nothing at this path.", tuple(problems))
    if problems:
        names = ", ".join(printable(problem.field) or "a parameter without a name" for problem in problems)
        raise Refused("invalid-parameter", f"Not acceptable: {names}.", tuple(problems))
    return values


def _query(operation: Operation, call: Call, problems: list[Misplaced]) -> dict[str, str]:
    """Return the query's parameters by name; note those that are unknown or given twice."""
    if not call.query:
        return {}
    try:
        pairs = parse_qsl(call.query, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS)
    except UnicodeDecodeError:
        raise Refused("invalid-parameter", "The query is not UTF-8.") from None
    except ValueError:
        raise Refused("invalid-parameter", f"The query has more than {MOST_PARAMETERS} parameters.") from None
    declared = {parameter.name for parameter in operation.parameters if parameter.place == "query"}
    found: dict[str, str] = {}
    for name, text in pairs:
        if name not in declared:
            problems.append(Misplaced(name, "unknown-parameter", "is not a parameter of this operation", text))
        elif name in found:
            problems.append(Misplaced(name, "duplicate", "is given more than once", text))
        found[name] = text
    return found


def _read(parameter: Parameter, text: str, problems: list[Misplaced]) -> Any:
    """Read one parameter by its schema; note what is wrong with it."""
    schema = parameter.schema
    value = _typed(schema["type"], text)
    if value is None or not _fits(schema, value):
        problems.append(Misplaced(parameter.name, "not-acceptable", f"must be {words(schema)}", text, parameter.place))
    return value


def _typed(kind: str, text: str) -> Any:
    if kind == "boolean":
        return FLAGS.get(text)
    if kind == "integer":
        return int(text) if WHOLE.fullmatch(text) else None
    return text


def _fits(schema: Mapping[str, Any], value: Any) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    if schema["type"] == "integer":
        return bool(schema["minimum"] <= value <= schema["maximum"])
    if schema["type"] == "string":
        fits = re.fullmatch(schema["pattern"].removeprefix("^").removesuffix("$"), value)
        return fits is not None and len(value) <= schema["maxLength"]
    return True


def words(schema: Mapping[str, Any]) -> str:
    """Say in words what a parameter may be."""
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "integer":
        return f"a whole number from {schema['minimum']} to {schema['maximum']}"
    return str(schema["description"])
