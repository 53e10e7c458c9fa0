"""The tables of a declaration file, each a pydantic model: what may stand under which key, and what it means.

`docs/declarations.md` is generated from these models, and every error repeats what they say. A validated table as plain
data is the canonical content of a declaration: numbers that are whole are written as whole numbers, whatever way the
file writes them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from bankportal.domain.constraints import INVISIBLE
from bankportal.domain.factors import Direction, Group, normalised_name
from bankportal.domain.products import Tone

# Floats of this size still tell neighbouring whole numbers apart.
MAX_NUMBER = 10**15
MAX_NAME = 40  # as many characters as the database's columns hold
MAX_LINE = 300


@dataclass(frozen=True)
class May:
    """What may stand under a key, in words that follow "must be"."""

    words: str


@dataclass(frozen=True)
class Checked(May):
    """A value that is checked by itself: `check` returns it as it is recorded, or raises `ValueError`."""

    check: Callable[[object], Any]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the check for pydantic."""

        def checked(value: object) -> Any:
            try:
                return self.check(value)
            except ValueError:
                raise PydanticCustomError("may", "must be {words}", {"words": self.words}) from None

        return core_schema.no_info_plain_validator_function(checked)


def _line(longest: int, *, blank: bool = False) -> Checked:
    def check(value: object) -> str:
        if not isinstance(value, str) or len(value) > longest or INVISIBLE.search(value) or value != value.strip():
            raise ValueError
        if not value and not blank:
            raise ValueError
        return value

    words = f"text on one line of up to {longest} characters, without spaces at its ends"
    return Checked(f"{words}; may be blank" if blank else words, check)


def _matching(pattern: str, words: str) -> Checked:
    def check(value: object) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
            raise ValueError
        return value

    return Checked(words, check)


def _alias() -> Checked:
    line = _line(64)

    def check(value: object) -> str:
        if not normalised_name(name := line.check(value)):
            raise ValueError
        return str(name)

    return Checked("a column's name of up to 64 characters, with a letter or a digit", check)


def _number(words: str, allowed: Callable[[float], bool], *, whole: bool = False) -> Checked:
    def check(value: object) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        # The bounds leave out infinity and what is no number as well.
        if not -MAX_NUMBER <= value <= MAX_NUMBER or not allowed(value) or (whole and value != int(value)):
            raise ValueError
        return int(value) if value == int(value) else value

    return Checked(words, check)


def _one_of(*options: str) -> Checked:
    def check(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError
        return value

    return Checked(
        " or ".join(filter(None, (", ".join(f'"{each}"' for each in options[:-1]), f'"{options[-1]}"'))), check
    )


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


Flag = Annotated[bool, Checked("true or false", _flag)]
Line = Annotated[str, _line(MAX_LINE)]
BlankLine = Annotated[str, _line(MAX_LINE, blank=True)]
ShortLine = Annotated[str, _line(MAX_NAME)]
Name = Annotated[
    str,
    _matching(
        rf"[A-Za-z][A-Za-z0-9_]{{0,{MAX_NAME - 1}}}",
        f"a name of up to {MAX_NAME} letters, digits and _ that starts with a letter",
    ),
]
Key = Annotated[
    str,
    _matching(
        rf"(?!.*--)[a-z][a-z0-9-]{{0,{MAX_NAME - 2}}}[a-z0-9]",
        f"a key of 2 to {MAX_NAME} small letters, digits and single hyphens that starts with a letter, such as "
        '"home-equity"',
    ),
]
Alias = Annotated[str, _alias()]
Names = Annotated[list[Name], May("a list of factors' names")]
Aliases = Annotated[list[Alias], May("a list of columns' names")]
Bound = Annotated[int | float, _number("a number between -10¹⁵ and 10¹⁵", lambda number: True)]
Positive = Annotated[int | float, _number("a number above 0", lambda number: number > 0)]
NotNegative = Annotated[int | float, _number("a number of 0 or more", lambda number: number >= 0)]
BelowOne = Annotated[int | float, _number("a number from 0 to below 1", lambda number: 0 <= number < 1)]
Share = Annotated[int | float, _number("a number above 0 and up to 1", lambda number: 0 < number <= 1)]
Count = Annotated[int, _number("a whole number of 1 or more", lambda number: number >= 1, whole=True)]


class Table(BaseModel):
    """A table of a declaration file: unknown keys are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NumberTable(Table):
    """A number between two bounds."""

    kind: Annotated[Literal["number"], May('"number"')]
    minimum: Bound = Field(description="The smallest value that is taken.")
    maximum: Bound = Field(description="The largest value that is taken; above the smallest.")
    whole: Flag = Field(False, description="Whether only whole numbers are taken; then the bounds are whole as well.")


class YesNoTable(Table):
    """Yes or no, written 1 or 0."""

    kind: Annotated[Literal["yes-no"], May('"yes-no"')]


class ChoiceTable(Table):
    """One of a few names."""

    kind: Annotated[Literal["choice"], May('"choice"')]
    options: Annotated[list[ShortLine], May("a list of 2 or more different names")] = Field(
        description="The names, as they are written in forms and files; their order is kept."
    )


class TextTable(Table):
    """A short text on one line. A factor of this kind is an identifier or kept apart; it is never scored."""

    kind: Annotated[Literal["text"], May('"text"')]
    longest: Annotated[int, _number("a whole number from 1 to 300", lambda number: 1 <= number <= 300, whole=True)] = (
        Field(description="How many characters a value may have.")
    )


ConstraintTable = Annotated[
    NumberTable | YesNoTable | ChoiceTable | TextTable,
    Field(discriminator="kind"),
    May('a table whose kind is "number", "yes-no", "choice" or "text"'),
]


class PhraseTable(Table):
    """The subject of a reason's sentence: how it names the customer's value. The product's verbs follow it."""

    many: BlankLine = Field("", description="For every value; `{value}` stands for it. Numbers and choices need it.")
    one: BlankLine = Field("", description="In place of `many` for the value 1. Yes-no factors need it.")
    zero: BlankLine = Field("", description="In place of `many` for the value 0. Yes-no factors need it.")
    unknown: Line = Field(description="Where the value is blank.")
    plural: Flag = Field(False, description="Whether `many` and `zero` take the plural verb.")


class ChangeTable(Table):
    """How a customer can change a factor within about a year. Without this table it counts as unchangeable."""

    direction: Annotated[str, _one_of(*(direction.value for direction in Direction))] = Field(
        description="The direction in which the value can be changed."
    )
    units: Positive = Field(1, description="How far a customer gets in `months` months of trying.")
    months: Positive = Field(description="How many months a change by `units` takes.")
    step: Positive = Field(1, description="Changed values are whole multiples of it.")


class FactorTable(Table):
    """One fact about a customer. `{currency}` in label, help, unit or phrase stands for the product's currency."""

    label: Line = Field(description="What forms and documents call it.")
    group: Annotated[str, _one_of(*(group.value for group in Group))] = Field(
        description="The heading under which forms and documents show it."
    )
    help: Line = Field(description="A sentence that says what to enter.")
    example: BlankLine = Field(description="A legal value as it is typed. May be blank unless the factor is required.")
    unit: BlankLine = Field("", description="What the number counts, such as `years` or `{currency} a month`.")
    aliases: Aliases = Field(
        [], description="Other names of its column in files; case, spaces, `_` and `-` do not matter."
    )
    protection: Annotated[str, _one_of("none", "credit", "always")] = Field(
        "none", description="Whether it is never scored: in no decision on credit, or `always`, in none at all."
    )
    behavioural: Flag = Field(
        False, description="Whether it says what the customer did recently; `flask data augment` adds such factors."
    )
    constraint: ConstraintTable = Field(description="Which values are legal.")
    phrase: PhraseTable | None = Field(None, description="Its words in reasons. A scored factor needs them.")
    change: ChangeTable | None = Field(None, description="How a customer can change it.")


class RolesTable(Table):
    """What the product does with each factor, by name. A factor has one role; lists keep their order."""

    identifiers: Names = Field([], description="They travel along and are never scored.")
    required: Names = Field([], description="They are scored, and never blank.")
    optional: Names = Field([], description="They are scored, and may be blank, which means unknown.")
    policy: Names = Field([], description="The policy alone reads them.")
    protected: Names = Field([], description="They are stored apart for the fairness audit, and never scored.")


class LabelTable(Table):
    """The column of training files that the forest learns to predict."""

    name: Name = Field(description="The column's name.")
    aliases: Aliases = Field([], description="Other names of the column.")
    meaning: Line = Field(description="What is true where the label says yes: “the customer left”.")
    positive: Annotated[list[ShortLine], May("a list of texts")] = Field(
        ["1"], description="The texts that mean yes in a file."
    )
    negative: Annotated[list[ShortLine], May("a list of texts")] = Field(
        ["0"], description="The texts that mean no in a file."
    )


class BandTable(Table):
    """A named range of the score, up to the start of the next band."""

    name: ShortLine = Field(description="Its name, which answers and files carry.")
    start: BelowOne = Field(
        description="Its lowest score. The first band starts at 0, each other above the one before."
    )
    tone: Annotated[str, _one_of(*(tone.value for tone in Tone))] = Field(
        description="Whether it is good or bad news. A product that decides on credit grants none in a bad band."
    )
    meaning: Line = Field(description="A sentence for whoever reads the decision.")


class VerbTable(Table):
    """A verb with its object, after a subject in the singular and in the plural."""

    singular: Line = Field(description="Such as `raises the risk`.")
    plural: Line = Field(description="Such as `raise the risk`.")


class VerbsTable(Table):
    """What a value does to the score, in the sentences of reasons."""

    raises: VerbTable = Field(description="Where it raises the score.")
    lowers: VerbTable = Field(description="Where it lowers the score.")


class ReferenceTable(Table):
    """Whom a customer is compared with: all training customers, or some that score just above a band's start."""

    meaning: Line = Field(description="The population in words, after “Compared with”.")
    band: Annotated[str | None, _line(MAX_NAME)] = Field(
        None, description="The band at whose start the population begins; goes with `size`."
    )
    size: Annotated[int | None, _number("a whole number of 1 or more", lambda number: number >= 1, whole=True)] = Field(
        None, description="How many customers; goes with `band`."
    )


class ReasonsTable(Table):
    """From when on a contribution is a reason: one below either of these is none."""

    min_points: BelowOne = Field(0.005, description="As a share of the score's whole range.")
    min_share: BelowOne = Field(0.05, description="As a share of the largest contribution that is named.")


Format = Annotated[int, _number("1", lambda number: number == 1, whole=True)]


class ProductTable(Table):
    """A product: what is decided, from which factors, trained on which label, in which bands."""

    format: Format = Field(description="The format of the file.")
    kind: Annotated[Literal["product"], May('"product"')] = Field(description="What the file declares.")
    key: Key = Field(
        description="Its name in addresses, commands and records. A shipped product's key stands in its place."
    )
    title: ShortLine = Field(description="Its name on pages.")
    question: Line = Field(description="What it answers, as a question.")
    quantity: Line = Field(description="The score in a sentence, such as `the risk of leaving`.")
    decides_credit: Flag = Field(
        description="Whether it decides on credit: then factors protected for credit are never scored, and reasons "
        "for a refusal are given."
    )
    currency: Annotated[str, _matching("[A-Z]{3}", 'a currency by its three capital letters, such as "EUR"')] = Field(
        "EUR", description="The currency of all amounts (ISO 4217)."
    )
    shared: Annotated[str | None, Key.__metadata__[0]] = Field(
        None, description="The key of the factors that it shares with other products."
    )
    policy: Annotated[str | None, Key.__metadata__[0]] = Field(
        None, description="The key of the policy that sets the limit; without it the product sets none."
    )
    roles: RolesTable = Field(description="What it does with each factor.")
    factors: dict[Name, FactorTable] = Field(
        {}, description="Factors of its own by name, beside the shared ones or in place of those of the same name."
    )
    label: LabelTable = Field(description="What the forest learns to predict.")
    bands: Annotated[list[BandTable], May("one or more tables [[bands]]")] = Field(
        description="The ranges of the score, lowest first."
    )
    verbs: VerbsTable = Field(description="What a value does to the score, in words.")
    reference: ReferenceTable = Field(description="Whom a customer is compared with.")
    reasons: ReasonsTable = Field(
        ReasonsTable.model_validate({}), description="From when on a contribution is a reason."
    )


class ReadsTable(Table):
    """The factors that the policy reads, by name. The product must have them in the roles named here."""

    salary: Name = Field(description="The salary a year: a required number.")
    obligations: Name = Field(description="The obligations a month: a scored number.")
    requested: Name = Field(description="The limit that is asked for: a number in the role `policy`.")


class RulesTable(Table):
    """What each rule does, in words for the clerk."""

    band: Line = Field(description="The band's share of the salary set the limit.")
    ability_to_pay: Line = Field(alias="ability-to-pay", description="The ability to pay set the limit.")
    requested: Line = Field(description="All that was asked for is granted.")
    ineligible: Line = Field(description="The band has no limit.")


class SentencesTable(Table):
    """What a rule that reduced or refused a limit says as a reason.

    `{ceiling}`, `{amount}` and `{smallest}` stand for amounts with their currency.
    """

    ability_to_pay: Line = Field(alias="ability-to-pay", description="The ability to pay reduced the limit.")
    ability_to_pay_declined: Line = Field(
        alias="ability-to-pay-declined", description="The ability to pay leaves no limit."
    )
    band: Line = Field(description="The band's share of the salary reduced the limit.")
    band_declined: Line = Field(alias="band-declined", description="The band's share of the salary leaves no limit.")


class PolicyTable(Table):
    """A policy: the rules that make a limit of the band, the salary and the obligations."""

    format: Format = Field(description="The format of the file.")
    kind: Annotated[Literal["policy"], May('"policy"')] = Field(description="What the file declares.")
    key: Key = Field(description="Its name, which products name. A shipped policy's key stands in its place.")
    version: Annotated[
        str,
        _matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", 'up to 40 letters, digits, points, _ and -, such as "2026-11"'),
    ] = Field(description="Its version, which answers carry. Other rules need another version; other words do not.")
    living_share: BelowOne = Field(description="The share of the salary that tax and living costs take.")
    unknown_obligations_share: BelowOne = Field(
        description="The share of the salary that is taken for obligations where they are blank. Where it and "
        "`living_share` make 1 or more, nobody whose obligations are unknown gets a limit."
    )
    minimum_payment: Share = Field(description="The monthly minimum payment, as a share of the full limit.")
    payment_share: Share = Field(
        description="The largest share of the income left after living costs and obligations that the minimum payment "
        "may take."
    )
    step: Count = Field(description="Limits are rounded down to a multiple of it.")
    smallest: Count = Field(description="Below it no limit is granted, and none can be asked for.")
    band_months: Annotated[dict[ShortLine, NotNegative], May("a table with a number for each band")] = Field(
        description="The largest limit of each of the product's bands, in monthly salaries; 0 where the band has none."
    )
    factors: ReadsTable = Field(description="The factors that it reads.")
    rules: RulesTable = Field(description="What each rule does.")
    sentences: SentencesTable = Field(description="What a rule says as a reason.")


class FactorsTable(Table):
    """Factors that several products share."""

    format: Format = Field(description="The format of the file.")
    kind: Annotated[Literal["factors"], May('"factors"')] = Field(description="What the file declares.")
    key: Key = Field(description="Its name, which products name as `shared`.")
    factors: dict[Name, FactorTable] = Field(description="The factors by name.")


TABLES: dict[str, type[Table]] = {"product": ProductTable, "policy": PolicyTable, "factors": FactorsTable}
