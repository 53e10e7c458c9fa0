"""Identifiers of decisions and batches."""

import secrets
import time

ID_LENGTH = 26
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, without i, l, o, u, which are easily misread
# Two characters at once: an identifier is made for every decision.
_PAIRS = [first + second for first in ALPHABET for second in ALPHABET]


def new_id() -> str:
    """Return a new identifier: 26 characters that sort by time and cannot be guessed."""
    bits = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join([_PAIRS[bits >> shift & 1023] for shift in range(120, -1, -10)])


def is_id(text: str) -> bool:
    """Return whether a text could be the identifier of a decision or a batch."""
    return len(text) == ID_LENGTH and set(text) <= set(ALPHABET)
