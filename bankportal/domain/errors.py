"""Expected errors.

Every error that a person or another system sees is a `PortalError` with a short `code` and a sentence. Errors about
submitted values have one `FieldProblem` for each value that is wrong.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldProblem:
    """One problem of one submitted value.

    `message` has no subject, so that a page can put the label before it and the API the field's name. `value` is the
    submitted value as text, shortened.
    """

    field: str
    code: str
    message: str
    value: str = ""


class PortalError(Exception):
    """Base class of all expected errors; `str()` of it can be shown to users."""

    code = "error"


class InvalidInput(PortalError):
    """Submitted values break the product's constraints; nothing was scored or recorded."""

    code = "invalid-input"

    def __init__(self, problems: Iterable[FieldProblem]):
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.field} {p.message}".strip() for p in self.problems))


@dataclass(frozen=True)
class DeclarationProblem:
    """One problem of a declaration file.

    `table` is the table's header, blank at the top of the file; `key` is blank where the table itself is the problem.
    `stands` is what stands there as a file writes it, shortened, blank where nothing does. `message` says what may
    stand there, or what is wrong, without a subject.
    """

    file: str
    table: str
    key: str
    stands: str
    message: str

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.file, self.table, self.key) if part)
        return f"{where}: {self.stands} {self.message}." if self.stands else f"{where}: {self.message}."


class DeclarationRefused(PortalError):
    """Declaration files cannot be applied; nothing of them is in force. `problems` are all there are, by file."""

    code = "declaration-refused"

    def __init__(self, problems: Iterable[DeclarationProblem]):
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class NotFound(PortalError):
    """The requested object does not exist."""

    code = "not-found"


class NoActiveModel(PortalError):
    """A product has no active model version that can score."""

    code = "no-active-model"


class VersionRefused(PortalError):
    """A model version's files fail their check; the message names the version, which is not used."""

    code = "version-refused"


class ExplanationRefused(PortalError):
    """A score's contributions do not add up to it; nothing is answered or recorded."""

    code = "explanation-refused"


class DataRefused(PortalError):
    """A data file cannot be read or must not be trained on."""

    code = "data-refused"


class NoRows(DataRefused):
    """A data file has no row; what it does have is right."""


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
    """The request does not fit the present state; nothing was changed."""

    code = "conflict"


class KeyReused(PortalError):
    """An idempotency key was used before for another request."""

    code = "key-reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for a request with other content. Use a new key.")


class SettingsRefused(PortalError):
    """The settings do not allow the portal to start."""

    code = "settings-refused"
