"""What is declared about a factor, a fact that a bank knows about a customer.

Forms, API schema, CSV validation and template, training, explanation, documentation and the tests' bad values derive
from the declared factors.
"""

from dataclasses import dataclass
from enum import Enum

from bankportal.domain.constraints import Constraint


class Group(Enum):
    """How forms and documents group the factors; the value is the heading."""

    PROFILE = "Profile"
    ACCOUNTS = "Accounts"
    ACTIVITY = "Activity"
    RELATIONSHIP = "Relationship"


class Protection(Enum):
    """Which decisions must not score a factor."""

    NONE = "may be scored"
    CREDIT = "never scored in a credit decision"
    ALWAYS = "never scored"


class Direction(Enum):
    """The direction in which a factor can be changed."""

    UP = "up"
    DOWN = "down"
    EITHER = "either"


@dataclass(frozen=True, kw_only=True)
class Changeability:
    """How a customer can change a factor within about a year.

    `effort` is what a change by one unit costs the customer: 1 is about a month of trying. Changed values are whole
    multiples of `step`.
    """

    direction: Direction
    effort: float
    step: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """The subject of a reason's sentence: how it names the customer's value.

    `many` contains `{value}`. `one` is used instead for the value 1, `zero` for 0, and `unknown` for a blank value.
    `plural` says that `many` and `zero` take a plural verb.
    """

    unknown: str
    many: str = ""
    one: str = ""
    zero: str = ""
    plural: bool = False


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One declared fact about a customer.

    `unit` is what the number counts ("EUR", "years", "a month"). `example` is a legal value as typed. `aliases` are
    other names for the column in files; case, spaces, `_` and `-` do not matter. `behavioural` factors describe what
    the customer did recently: a base file lacks them, and `flask data augment` adds them. `phrase` names the value in a
    reason: a model that scores a factor without a phrase cannot be activated. `change` is `None` where the customer
    cannot change the factor.
    """

    name: str
    label: str
    group: Group
    constraint: Constraint
    help: str
    example: str
    unit: str = ""
    aliases: tuple[str, ...] = ()
    protection: Protection = Protection.NONE
    behavioural: bool = False
    phrase: Phrase | None = None
    change: Changeability | None = None

    def barred(self, *, credit: bool) -> bool:
        """Return whether a product must not score this factor; `credit`: whether the product decides on credit."""
        return self.protection is Protection.ALWAYS or (credit and self.protection is Protection.CREDIT)


def normalised_name(name: str) -> str:
    """Return a column name reduced to its letters and digits, in lower case, for comparison.

    >>> normalised_name("credit_score") == normalised_name("Credit Score") == normalised_name("CreditScore")
    True
    """
    return "".join(character for character in name.casefold() if character.isalnum())
