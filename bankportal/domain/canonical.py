"""Plain data written in one way, so that it has one digest whoever writes it."""

import hashlib
import json
from datetime import datetime
from typing import Any

_ENCODER = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False
)


def canonical(content: Any) -> str:
    """Write plain data as JSON in one way: keys sorted, no spaces, shortest floats, no NaN."""
    return _ENCODER.encode(content)


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def instant(at: datetime | None) -> str | None:
    """Write a moment with its microseconds and its zone, as `2026-11-23T09:30:00.000000+00:00`."""
    return at.isoformat(timespec="microseconds") if at else None
