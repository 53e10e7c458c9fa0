"""Declarations as people read them: as the TOML file that a bank edits, and as a list of what differs between two."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# What the canonical text has beside the file's content: which factors the file declares itself.
OWN = "own"
NOTHING = "nothing"


def to_toml(content: Mapping[str, Any], *, whole: Iterable[str] = ()) -> str:
    """Return a declaration's content as a TOML file that makes the same declaration again.

    Factors that a product shares with others stay in the file that it names; `whole` names those to write out too.
    """
    kept = {key: value for key, value in content.items() if key != OWN}
    if OWN in content:
        own = {*content[OWN], *whole}
        names = [name for names in content["roles"].values() for name in names if name in own]
        kept["factors"] = {name: content["factors"][name] for name in names}
    return "\n".join(_table("", kept)).lstrip("\n") + "\n"


# The keys that come first in their table; the others follow in the order of their content.
_FIRST = (
    *("format", "kind", "key", "title", "question", "quantity", "roles", "identifiers", "required", "factors"),
    *("label", "group", "name", "version", "start", "tone", "aliases", "meaning", "positive", "negative", "bands"),
    *("raises", "singular", "many", "one", "zero", "salary", "minimum"),
)


def _table(path: str, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of a table: its values first, then the tables inside it."""
    known = {key: content[key] for key in sorted(content, key=_place) if content[key] not in (None, [], {})}
    for key, value in known.items():
        if not _is_table(value, path):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in known.items():
        inner = f"{path}.{_key(key)}" if path else _key(key)
        if _is_tables(value):
            for each in value:
                yield from ("", f"[[{inner}]]", *_table(inner, each))
        elif _is_table(value, path):
            # A table that only holds tables needs no header of its own.
            header = () if value and all(_is_table(each, inner) for each in value.values()) else ("", f"[{inner}]")
            yield from (*header, *_table(inner, value))


def _place(key: str) -> int:
    return _FIRST.index(key) if key in _FIRST else len(_FIRST)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _is_table(value: object, path: str) -> bool:
    """Say whether a value gets a header of its own: a table, but a factor's inside are written in one line each."""
    return _is_tables(value) or (isinstance(value, dict) and path.count(".") < 1)


def _key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _text(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _text(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            known = {key: value[key] for key in sorted(value, key=_place) if value[key] is not None}
            return f"{{ {', '.join(f'{_key(key)} = {_value(each)}' for key, each in known.items())} }}"
        case _:
            return repr(value)


def _text(text: str) -> str:
    """Write a text as TOML's basic string, whose escapes are those of JSON; it wants DEL escaped as well."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return what differs between two declarations' contents, one line each: "bands.Moderate.start: 0.4 → 0.45"."""
    return list(_differences("", before, after))


def _differences(path: str, before: Any, after: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in {**before, **after}:
            yield from _differences(f"{path}.{key}" if path else key, before.get(key), after.get(key))
    elif _is_tables(before) and _is_tables(after):
        yield from _differences(path, *_by_name(before, after))
    elif before != after:
        yield f"{path}: {_shown(before)} → {_shown(after)}"


def _by_name(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return two lists of named tables by name; where there are as many, a table keeps the name it had."""
    names = [table["name"] for table in (before if len(before) == len(after) else after)]
    return {table["name"]: table for table in before}, dict(zip(names, after, strict=True))


def _shown(value: object) -> str:
    return NOTHING if value is None else _value(value)
