"""Constraints: each validates a value, words the error, and generates values that break it.

Values come from two kinds of source. Text (`Source.TEXT`: web forms, CSV) was written by a person or a program; typed
values (`Source.TYPED`: JSON, Python) already have a type. Both give the same value or the same error. The schema takes
blank text and `None` as unknown before a constraint sees them.
"""

import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

# Nobody needs a longer number: 17 digits write every float.
MAX_NUMBER_LENGTH = 40
# Up to here every whole number is a float.
MAX_EXACT = 2**53
# No leading zeros: 007 is an identifier, not the number 7. ASCII digits only: float("١٢") is 12.0.
NUMBER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
# Characters that are invisible or misleading: control characters, line breaks, marks of text direction, lone
# surrogates, the replacement character.
INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffd]")


class Source(Enum):
    """Where a raw value comes from."""

    TEXT = "text"
    TYPED = "typed"


class ConstraintViolation(ValueError):
    """A value breaks its constraint. `message` has no subject: "must be 850 or less"."""

    def __init__(self, code: str, message: str):
        self.code = code
        self.message = message
        super().__init__(message)


class Constraint(Protocol):
    """What every constraint does."""

    def validate(self, value: object, source: Source) -> Any:
        """Return the value in the constraint's type, or raise `ConstraintViolation`."""

    def json_schema(self) -> dict[str, Any]:
        """Return the constraint as JSON Schema."""

    def describe(self) -> str:
        """Return the constraint in words: "a whole number from 300 to 850"."""

    def bad_values(self) -> Iterator[tuple[str, str]]:
        """Yield texts that break the constraint, each with the code of the error it gives."""


def plain(number: float) -> str:
    """Write a number as people do: no exponent, no trailing zeros.

    >>> plain(850.0), plain(-100), plain(0.05)
    ('850', '-100', '0.05')
    """
    return f"{number:.10f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, kw_only=True)
class Number:
    """A finite number between two bounds, both included; `int` where `whole`, else `float`."""

    minimum: float
    maximum: float
    whole: bool = False

    def validate(self, value: object, source: Source) -> int | float:
        """Return the number, or raise `ConstraintViolation`."""
        if type(value) is float or (type(value) is int and -MAX_EXACT <= value <= MAX_EXACT):
            # Nearly every typed value passes here. What does not is looked at again below, for the words.
            number = float(value)
            if self.minimum <= number <= self.maximum and not (self.whole and number % 1):
                return int(number) if self.whole else number + 0.0  # as below
        number = self._from_text(value) if source is Source.TEXT and isinstance(value, str) else self._from_typed(value)
        if number < self.minimum:
            raise ConstraintViolation("below", f"must be {plain(self.minimum)} or more")
        if number > self.maximum:
            raise ConstraintViolation("above", f"must be {plain(self.maximum)} or less")
        if self.whole:
            if number != int(number):
                raise ConstraintViolation("not-whole", "must be a whole number")
            return int(number)
        return float(number) + 0.0  # -0.0 becomes 0.0, so that equal inputs are written equally

    def _from_text(self, text: str) -> float:
        text = text.strip(" \t")
        if len(text) <= MAX_NUMBER_LENGTH and NUMBER.fullmatch(text):
            return self._finite(float(text))
        if text.lstrip("+-").lower() in {"nan", "inf", "infinity"}:
            raise ConstraintViolation("not-finite", "must be a finite number")
        raise ConstraintViolation(
            "not-a-number", f"must be {self._kind()} in the digits 0 to 9, such as {self._such_as()}{_hint(text)}"
        )

    def _from_typed(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConstraintViolation("not-a-number", f"must be {self._kind()}, such as {self._such_as()}")
        try:
            return self._finite(float(value))
        except OverflowError:  # a whole number with hundreds of digits
            return math.copysign(sys.float_info.max, 1 if value > 0 else -1)

    @staticmethod
    def _finite(number: float) -> float:
        if not math.isfinite(number):
            raise ConstraintViolation("not-finite", "must be a finite number")
        return number

    def _kind(self) -> str:
        return "a whole number" if self.whole else "a number"

    def _such_as(self) -> str:
        middle = max(self.minimum, min(self.maximum, 1500 if self.maximum > 10_000 else self.maximum // 2))
        return plain(middle)

    def json_schema(self) -> dict[str, Any]:
        """Return the constraint as JSON Schema."""
        return {"type": "integer" if self.whole else "number", "minimum": self.minimum, "maximum": self.maximum}

    def describe(self) -> str:
        """Return the constraint in words."""
        return f"{self._kind()} from {plain(self.minimum)} to {plain(self.maximum)}"

    def bad_values(self) -> Iterator[tuple[str, str]]:
        """Yield texts that break the constraint, each with the code of its error."""
        yield plain(self.minimum - 1), "below"
        yield plain(self.maximum + 1), "above"
        yield "9" * 30, "above"
        yield "-" + "9" * 30, "below"
        yield "9" * 400, "not-a-number"
        yield "1e400", "not-finite"
        for text in ("NaN", "Infinity", "-inf"):
            yield text, "not-finite"
        for text in (
            "many",
            "1_000",
            "1,5",
            "007",
            "0x1f",
            "\u0661\u0662",
            "\uff11\uff12",
            "<script>alert(1)</script>",
            "\x001",
            "True",
        ):
            yield text, "not-a-number"
        if self.whole:
            yield plain(self.minimum + 0.5), "not-whole"


def _hint(text: str) -> str:
    """Return how to repair a common slip, or nothing."""
    if re.fullmatch(r"[+-]?[0-9][0-9.,' \u00a0\u202f]*", text) and not re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", text):
        return ", with a point for decimals and no thousands separators"
    if re.fullmatch(r"[+-]?0[0-9]+(\.[0-9]+)?", text):
        return ", without leading zeros"
    return ""


@dataclass(frozen=True, kw_only=True)
class YesNo:
    """Yes or no, written 1 or 0; the value is an `int`."""

    def validate(self, value: object, source: Source) -> int:
        """Return 1 or 0, or raise `ConstraintViolation`."""
        if source is Source.TEXT and isinstance(value, str):
            text = value.strip(" \t")
            value = int(float(text)) if text in {"0", "1", "0.0", "1.0"} else text
        if isinstance(value, bool | str) or value not in (0, 1):
            raise ConstraintViolation("not-a-flag", f"must be {self.describe()}")
        return int(value)

    def json_schema(self) -> dict[str, Any]:
        """Return the constraint as JSON Schema."""
        return {"type": "integer", "enum": [0, 1]}

    def describe(self) -> str:
        """Return the constraint in words."""
        return "1 (yes) or 0 (no)"

    def bad_values(self) -> Iterator[tuple[str, str]]:
        """Yield texts that break the constraint, each with the code of its error."""
        for text in (
            "2",
            "-1",
            "0.5",
            "yes",
            "true",
            "NaN",
            "Infinity",
            "9" * 400,
            "\u0661",
            "<script>alert(1)</script>",
        ):
            yield text, "not-a-flag"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One of a few names, as written."""

    options: tuple[str, ...]

    def validate(self, value: object, source: Source) -> str:
        """Return the option, or raise `ConstraintViolation`."""
        if isinstance(value, str):
            text = value.strip(" \t") if source is Source.TEXT else value
            if text in self.options:
                return text
        raise ConstraintViolation("not-a-choice", f"must be {self.describe()}")

    def json_schema(self) -> dict[str, Any]:
        """Return the constraint as JSON Schema."""
        return {"type": "string", "enum": list(self.options)}

    def describe(self) -> str:
        """Return the constraint in words."""
        return f"{', '.join(self.options[:-1])} or {self.options[-1]}"

    def bad_values(self) -> Iterator[tuple[str, str]]:
        """Yield texts that break the constraint, each with the code of its error."""
        yield self.options[0].upper(), "not-a-choice"
        for text in ("1", "NaN", "Atlantis", "x" * 10_000, "\u0661", "<script>alert(1)</script>"):
            yield text, "not-a-choice"


@dataclass(frozen=True, kw_only=True)
class Text:
    """A short text on one line; never scored."""

    longest: int

    def validate(self, value: object, source: Source) -> str:
        """Return the text without surrounding white space, or raise `ConstraintViolation`."""
        if not isinstance(value, str):
            raise ConstraintViolation("not-text", f"must be {self.describe()}")
        text = value.strip() if source is Source.TEXT else value
        if len(text) > self.longest:
            raise ConstraintViolation("too-long", f"must have {self.longest} characters or fewer")
        if INVISIBLE.search(text):
            raise ConstraintViolation(
                "not-text", "must not hold control characters, line breaks or unreadable characters"
            )
        return text.strip()

    def json_schema(self) -> dict[str, Any]:
        """Return the constraint as JSON Schema. Texts there have no lone surrogates: the pattern leaves them out."""
        invisible = INVISIBLE.pattern.removeprefix("[").replace(r"\ud800-\udfff", "")
        return {"type": "string", "maxLength": self.longest, "pattern": f"^[^{invisible}*$"}

    def describe(self) -> str:
        """Return the constraint in words."""
        return f"text of up to {self.longest} characters"

    def bad_values(self) -> Iterator[tuple[str, str]]:
        """Yield texts that break the constraint, each with the code of its error."""
        yield "x" * (self.longest + 1), "too-long"
        for text in ("a\x00b", "a\nb", "a\u2028b", "a\u202eb", "a\ufffdb"):
            yield text, "not-text"
