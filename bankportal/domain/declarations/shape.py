"""Declaration files as tables: reading TOML, and what does not fit the models of the tables.

What fits is kept even where something else does not, so that one pass finds every problem: a part that does not fit is
`None` in the content that is returned.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from bankportal.domain.declarations.tables import TABLES, May, Table
from bankportal.domain.errors import DeclarationProblem

MAX_FILE_BYTES = 1 << 20
MAX_SHOWN = 80
FORMAT = 1


@dataclass(frozen=True)
class Content:
    """A file's content as plain data, as its declaration is recorded. What does not fit is `None`.

    `unfitting` are the tables and keys of what does not fit. `in_force` marks a product that is in force and that the
    file changes without declaring it.
    """

    file: str
    kind: str
    tables: dict[str, Any]
    unfitting: frozenset[tuple[str, str]] = frozenset()
    in_force: bool = False

    @property
    def key(self) -> str | None:
        """The declaration's key; `None` where the file has no legal one."""
        key: str | None = self.tables["key"]
        return key


def opened(file: str, content: bytes, problems: list[DeclarationProblem]) -> Content | None:
    """Read a file and add what does not fit to the problems; `None` where it is no declaration at all."""
    raw = _toml(file, content, problems)
    if raw is None:
        return None
    kind, format_ = raw.get("kind"), raw.get("format")
    if isinstance(format_, int) and not isinstance(format_, bool) and format_ > FORMAT:
        message = f"is the format of a newer release; this one reads format {FORMAT}"
        problems.append(DeclarationProblem(file, "", "format", stands(format_), message))
        return None
    if not isinstance(kind, str) or kind not in TABLES:
        problems.append(_problem(file, ("kind",), f"must be {_listing(TABLES)}", raw.get("kind", _NOTHING)))
        return None
    try:
        return Content(file, kind, TABLES[kind].model_validate(raw).model_dump(by_alias=True))
    except ValidationError as error:
        unfitting = list(_shape_problems(file, TABLES[kind], error))
        problems.extend(unfitting)
        places = frozenset((problem.table, problem.key) for problem in unfitting)
        return Content(file, kind, _fitting(TABLES[kind], raw), places)


def _toml(file: str, content: bytes, problems: list[DeclarationProblem]) -> dict[str, Any] | None:
    try:
        if len(content) > MAX_FILE_BYTES:
            raise ValueError(f"is larger than {MAX_FILE_BYTES >> 20} MB")
        return tomllib.loads(_text(content))
    except RecursionError:
        message = "is nested too deeply"
    except tomllib.TOMLDecodeError as error:
        message = f"is not TOML: {error}"
    except ValueError as error:  # of this module, or of Python for numbers of thousands of digits
        message = str(error) if str(error).startswith("is ") else f"is not TOML: {error}"
    problems.append(DeclarationProblem(file, "", "", "", message))
    return None


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"is not in UTF-8 at line {line}: save it in UTF-8") from None


_NOTHING = object()


def stands(value: object) -> str:
    """Write a value as a file does, shortened; nothing for nothing."""
    if value is _NOTHING:
        return ""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str).replace("NaN", "nan").replace("Infinity", "inf")
    except (ValueError, RecursionError):  # a number of thousands of digits
        return "(too long to show)"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def header(path: tuple[str | int, ...]) -> str:
    """Return the header of a table: `[label]`, `[factors.Age.phrase]`; of a list's, with its number: `[[bands]] 2`."""
    if not path:
        return ""
    if isinstance(path[-1], int):
        return f"[[{'.'.join(map(str, path[:-1]))}]] {path[-1] + 1}"
    return f"[{'.'.join(_bare(str(part)) for part in path)}]"


def _bare(key: str) -> str:
    plain = key.replace("_", "").replace("-", "")
    return key if plain.isascii() and plain.isalnum() else stands(key)


def _listing(names: Mapping[str, object]) -> str:
    return " or ".join(filter(None, (", ".join(f'"{name}"' for name in [*names][:-1]), f'"{[*names][-1]}"')))


def _problem(file: str, path: tuple[str | int, ...], message: str, value: object) -> DeclarationProblem:
    """Place a problem: an entry of a list that is no table is named by the list's key."""
    *table, key = path
    if isinstance(key, int):
        *table, key = table
    return DeclarationProblem(file, header(tuple(table)), _bare(str(key)), stands(value), message)


def _shape_problems(file: str, model: type[Table], error: ValidationError) -> Iterator[DeclarationProblem]:
    for details in error.errors(include_url=False):
        path, annotation, parent = _located(model, details["loc"])
        value: object = details["input"]
        match details["type"]:
            case "missing":
                message, value = f"is missing; it must be {words_of(annotation)}", _NOTHING
            case "extra_forbidden":
                message = f"is no key that may stand here; these may: {', '.join(_keys(parent))}"
            case "may":
                message = details["msg"]
            case _:
                message = f"must be {words_of(annotation)}"
        yield _problem(file, path, message, value)


def _located(model: type[Table], loc: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], Any, type[Table]]:
    """Return the path of keys that pydantic's location means, what is declared there, and the table it stands in."""
    path: list[str | int] = []
    annotation: Any = model
    parent = model
    for part in loc:
        bare = stripped(annotation)
        if part == "[key]":
            annotation = get_args(bare)[0] if get_origin(bare) is dict else annotation
        elif isinstance(bare, type) and issubclass(bare, BaseModel):
            parent = bare  # type: ignore[assignment]  # all models here are tables
            path.append(part)
            annotation = annotations_of(bare).get(str(part))
        elif get_origin(bare) is UnionType and isinstance(part, str):
            annotation = next(each for each in get_args(bare) if _tag(each) == part)
        else:
            path.append(part)
            annotation = get_args(bare)[-1]
    return tuple(path), annotation, parent


def stripped(annotation: Any) -> Any:
    """Return what is declared without its words and without `None`."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is UnionType:
        members = [each for each in get_args(annotation) if each is not type(None)]
        return members[0] if len(members) == 1 else annotation
    return annotation


def _tag(model: type[BaseModel]) -> str:
    return str(get_args(stripped(model.model_fields["kind"].annotation))[0])


@cache
def annotations_of(model: type[BaseModel]) -> Mapping[str, Any]:
    """Return what is declared under each key of a table."""
    return {field.alias or name: _annotation(field) for name, field in model.model_fields.items()}


def _annotation(field: FieldInfo) -> Any:
    """Return a field's annotation with its words outermost, also where pydantic keeps others beside them."""
    words = [each for each in field.metadata if isinstance(each, May)]
    annotation = field.rebuild_annotation()
    return Annotated[annotation, words[0]] if words else annotation


def _keys(model: type[BaseModel]) -> list[str]:
    return list(annotations_of(model))


def words_of(annotation: Any) -> str:
    """Say what may stand where something is declared, in words that follow "must be"."""
    if get_origin(annotation) is Annotated:
        for each in get_args(annotation)[1:]:
            if isinstance(each, May):
                return each.words
    bare = stripped(annotation)
    if get_origin(bare) is dict:
        return "a table of tables"
    return f"a table with {', '.join(_keys(bare))}"


def _fitting(model: type[BaseModel], raw: Any) -> dict[str, Any]:
    """Return what of a table fits, as `model_dump` would; a part that does not is `None`."""
    if not isinstance(raw, dict):
        return dict.fromkeys(_keys(model))
    fitting: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key in raw:
            fitting[key] = _fitting_value(_annotation(field), raw[key])
        else:
            default = None if field.is_required() else field.default
            fitting[key] = default.model_dump(by_alias=True) if isinstance(default, BaseModel) else default
    return fitting


def _fitting_value(annotation: Any, value: Any) -> Any:
    adapter = _adapter(annotation)
    try:
        return adapter.dump_python(adapter.validate_python(value), by_alias=True)
    except ValidationError:
        bare = stripped(annotation)
    if get_origin(bare) is list and isinstance(value, list):
        return [_fitting_value(get_args(bare)[0], each) for each in value]
    if get_origin(bare) is dict and isinstance(value, dict):
        return {name: _fitting_value(get_args(bare)[1], each) for name, each in value.items()}
    if isinstance(bare, type) and issubclass(bare, BaseModel) and isinstance(value, dict):
        return _fitting(bare, value)
    return None


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)
