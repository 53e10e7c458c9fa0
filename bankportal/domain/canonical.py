"""Plain data written in one way, so that it has one digest whoever writes it."""

import hashlib
import json
import math
from datetime import datetime
from typing import Any

import orjson

_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)
_WHOLE = frozenset({str, int, bool, type(None)})
# The floats between which orjson and Python write the same, signs apart.
_FROM, _TO = 1e-4, 1e16


def canonical(content: Any) -> str:
    """Write plain data as JSON in one way: keys sorted, no spaces, shortest floats as Python writes them.

    Raises `ValueError` for NaN and infinity.
    """
    try:
        return orjson.dumps(_exact(content), option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # whole numbers beyond 64 bits, half characters, other keys than texts, types that are derived
        return _ENCODER.encode(content)


def _exact(value: Any) -> Any:
    """Return plain data with those floats as text that orjson may write in another way than Python.

    `TypeError` for all other types: orjson has words for some that JSON has none for, and looks into those derived from
    dict and list, whose floats would not be seen here.
    """
    kind = type(value)
    if kind in _WHOLE:
        return value
    if kind is float:
        return value if _FROM <= abs(value) < _TO or not value else _as_python_writes_it(value)
    if kind is dict:
        return _exact_members(value)
    if kind is list or kind is tuple:
        return list(map(_exact, value))
    raise TypeError(f"{kind.__name__} is not plain data")


def _exact_members(content: dict[str, Any]) -> dict[str, Any]:
    """Return an object with its members as `_exact` returns them; the object itself where nothing changes.

    A loop with the most frequent cases first: every decision is written here, with some fifty values.
    """
    changed: dict[str, Any] | None = None
    for name, value in content.items():
        kind = type(value)
        if kind in _WHOLE or (kind is float and (_FROM <= value < _TO or -_TO < value <= -_FROM)):
            continue
        exact = _exact(value)
        if exact is not value:
            changed = dict(content) if changed is None else changed
            changed[name] = exact
    return content if changed is None else changed


def _as_python_writes_it(number: float) -> orjson.Fragment:
    if not math.isfinite(number):
        raise ValueError("JSON has no words for a number that is not finite")
    return orjson.Fragment(repr(number))


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def instant(at: datetime | None) -> str | None:
    """Write a moment with its microseconds and its zone, as `2026-11-23T09:30:00.000000+00:00`."""
    return at.isoformat(timespec="microseconds") if at else None
