"""Plain data written in one way, so that it has one digest whoever writes it."""

import hashlib
import json
from datetime import datetime
from typing import Any

import orjson

_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)
# What JSON has no words for is refused by both.
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
# Floats that both encoders must write alike: `canonical_finite` looks only for those from 1e-6 to 1e-4, and for smaller
# ones, which orjson writes in another way.
_ALIKE = [1.0, -0.0, 0.1, 1e-4, 123456.789, 1 / 3, 1e15, 1e16, 1.5e300]
_WRITTEN_ALIKE = orjson.dumps(_ALIKE).decode() == _ENCODER.encode(_ALIKE)


def canonical(content: Any) -> str:
    """Write plain data as JSON in one way: keys sorted, no spaces, shortest floats; `ValueError` for NaN, infinity."""
    return _ENCODER.encode(content)


def canonical_finite(content: dict[str, Any]) -> str:
    """Write an object whose floats are known to be finite, in the same way as `canonical`, ten times as fast.

    NaN would become null: the caller must know that there is none.
    """
    try:
        text = _compact(content)
        if _may_differ(text):
            text = _compact({name: _fragment(value) for name, value in content.items()})
    except TypeError:  # whole numbers beyond 64 bits, half characters: orjson refuses them
        return canonical(content)
    return text if _WRITTEN_ALIKE else canonical(content)


def _compact(value: Any) -> str:
    return orjson.dumps(value, option=_OPTIONS).decode()


def _may_differ(text: str) -> bool:
    """Say whether a text may hold a float below 1e-4, which Python writes with an exponent of two digits."""
    return "0.0000" in text or "e-" in text


def _fragment(value: Any) -> Any:
    """Return a value, or its canonical text where orjson may write it in another way."""
    if isinstance(value, dict | list | float) and _may_differ(_compact(value)):
        return orjson.Fragment(canonical(value))
    return value


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def instant(at: datetime | None) -> str | None:
    """Write a moment with its microseconds and its zone, as `2026-11-23T09:30:00.000000+00:00`."""
    return at.isoformat(timespec="microseconds") if at else None
