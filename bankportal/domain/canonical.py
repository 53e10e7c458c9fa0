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
    if kind is dict:
        return {name: each if type(each) in _WHOLE else _exact(each) for name, each in value.items()}
    if kind is float:
        return value if 1e-4 <= value < 1e16 or -1e16 < value <= -1e-4 or not value else _as_python_writes_it(value)
    if kind is list or kind is tuple:
        return [each if type(each) in _WHOLE else _exact(each) for each in value]
    if kind in _WHOLE:
        return value
    raise TypeError(f"{kind.__name__} is not plain data")


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
