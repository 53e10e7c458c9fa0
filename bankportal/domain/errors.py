"""What can go wrong, in one shape.

Every error that a person or another system sees is a `PortalError` with a short `code` and a sentence. Errors about
given values carry one `FieldProblem` a field.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldProblem:
    """One thing wrong with one given value.

    `message` has no subject, so that a page can put the label before it and the API the field's name. `found` is the
    offending value as text, cut short.
    """

    field: str
    code: str
    message: str
    found: str = ""


class PortalError(Exception):
    """Base of all expected failures; `str()` of it is fit to be shown."""

    code = "error"


class InvalidInput(PortalError):
    """The given values break the product's constraints; nothing was scored or recorded."""

    code = "invalid-input"

    def __init__(self, problems: Iterable[FieldProblem]):
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.field} {p.message}".strip() for p in self.problems))


class NotFound(PortalError):
    """What was asked for is not there."""

    code = "not-found"


class NoActiveModel(PortalError):
    """A product has no model version that can serve."""

    code = "no-active-model"


class VersionRefused(PortalError):
    """A model version's files fail their check; it is named and not used."""

    code = "version-refused"


class ExplanationRefused(PortalError):
    """A score and its contributions do not agree; nothing is answered or recorded."""

    code = "explanation-refused"


class DataRefused(PortalError):
    """A data file cannot be read or must not be trained on."""

    code = "data-refused"


class NoRows(DataRefused):
    """A data file is in order as far as it goes, and has no row."""


class ForeignOrigin(PortalError):
    """A browser asks for something to be done for a page of another origin; `own` is the portal's."""

    code = "foreign-origin"

    def __init__(self, own: str):
        super().__init__(
            f"In a browser, only the portal's own pages may do this, from {own}. "
            "A proxy before the portal must hand on Host and set X-Forwarded-Proto."
        )


class TooLarge(PortalError):
    """A file is larger, or wider, than the settings allow; the message names the limit and its setting."""

    code = "too-large"


class Conflict(PortalError):
    """What is asked for does not fit the state things are in; nothing was changed."""

    code = "conflict"


class KeyReused(PortalError):
    """An idempotency key was used before, for another request."""

    code = "key-reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for a request with other content. Use a new key.")


class SettingsRefused(PortalError):
    """The settings do not allow the portal to start."""

    code = "settings-refused"
