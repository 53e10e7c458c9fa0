"""The products: what is decided, from which factors, trained on which label, in which bands.

Products are made from declarations (`bankportal.domain.declaration`). A new one needs a file, and no new page, form or
command.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from bankportal.domain.canonical import sha256
from bankportal.domain.constraints import ConstraintViolation, Source, YesNo
from bankportal.domain.factors import Factor, Phrase, normalised_name
from bankportal.domain.policy import LimitPolicy


class Tone(Enum):
    """Whether a band is good or bad news. Colour and icon follow from it, never from the score itself."""

    GOOD = "good"
    FAIR = "fair"
    BAD = "bad"


@dataclass(frozen=True, kw_only=True)
class Band:
    """A named range of the score, from `start` (included) up to the next band's start."""

    name: str
    start: float
    tone: Tone
    meaning: str


@dataclass(frozen=True)
class Verdict:
    """A decision in one word with one tone: its band, or `NO_LIMIT` where no limit is granted."""

    name: str
    tone: Tone
    meaning: str


NO_LIMIT = "No limit"


@dataclass(frozen=True, kw_only=True)
class Label:
    """The column that a forest learns to predict: 1 where `meaning` is true, else 0.

    `positive` and `negative` are the texts that stand for 1 and 0 in a file.
    """

    name: str
    meaning: str
    aliases: tuple[str, ...] = ()
    positive: tuple[str, ...] = ("1",)
    negative: tuple[str, ...] = ("0",)

    def validate(self, text: str) -> int:
        """Return 1 or 0 for a cell of a file, or raise `ConstraintViolation`; `1.0` is read as `1`."""
        cell = text.strip(" \t")
        cell = cell[0] if cell in {"1.0", "0.0"} else cell
        for value, texts in ((1, self.positive), (0, self.negative)):
            if cell in texts:
                return value
        if (self.positive, self.negative) == (("1",), ("0",)):
            return YesNo().validate(text, Source.TEXT)
        raise ConstraintViolation("not-a-flag", f"must be {' or '.join((*self.positive, *self.negative))}")

    def matches(self, column: str) -> bool:
        """Return whether a column of this name is this label."""
        return normalised_name(column) in {normalised_name(name) for name in (self.name, *self.aliases)}


@dataclass(frozen=True)
class Verb:
    """The verb of a reason's sentence after a singular and a plural subject: "raises the risk", "raise the risk"."""

    singular: str
    plural: str


@dataclass(frozen=True)
class Reference:
    """The reference population: all training customers, or the `size` of them that score just above a band's start."""

    meaning: str
    band: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class ReasonThresholds:
    """From when on a contribution is a reason: below either of them it is none.

    `min_points` is a share of 1, the whole range of the score; `min_share` is a share of the largest contribution that
    is named.
    """

    min_points: float = 0.005
    min_share: float = 0.05


class Role(Enum):
    """What a product does with a factor."""

    IDENTIFIER = "travels along, never scored"
    SCORED = "scored"
    POLICY = "used by the limit policy, not by the forest"
    PROTECTED = "stored apart for the fairness audit, never scored"


@dataclass(frozen=True)
class ProductFactor:
    """A factor with its role for one product. A factor that is not required may be blank, which means unknown."""

    factor: Factor
    role: Role
    required: bool = False


class ProductRefused(ValueError):
    """A product's declaration contradicts itself or scores a protected factor."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Product:
    """One kind of decision, with all that is declared about it.

    `quantity` names the score in a sentence ("the risk of leaving"); `raises` and `lowers` are the verbs for what a
    value does to it. `required` and `optional` are the scored factors. `protected` factors are accepted for the
    fairness audit and stored apart. Amounts are in `currency` (ISO 4217). `text` is the canonical text of the
    declaration that this product was made from, without its policy.

    Raises `ProductRefused` where a scored or policy factor is protected for this product, where a name is declared
    twice, where the bands do not cover 0 to 1 in order, or where the policy does not name exactly these bands.
    """

    key: str
    title: str
    question: str
    quantity: str
    decides_credit: bool
    required: tuple[Factor, ...]
    optional: tuple[Factor, ...]
    protected: tuple[Factor, ...]
    label: Label
    bands: tuple[Band, ...]
    raises: Verb
    lowers: Verb
    reference: Reference
    policy_factors: tuple[Factor, ...] = ()
    policy: LimitPolicy | None = None
    identifiers: tuple[Factor, ...] = ()
    currency: str
    thresholds: ReasonThresholds = ReasonThresholds()
    text: str = ""

    def __post_init__(self) -> None:
        for factor in (*self.scored, *self.policy_factors):
            if factor.barred(credit=self.decides_credit):
                raise ProductRefused(f"{self.key} must not score {factor.name}: {factor.protection.value}")
        declared: list[Factor | Label] = [self.label, *(product_factor.factor for product_factor in self.factors)]
        names = [normalised_name(name) for named in declared for name in (named.name, *named.aliases)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ProductRefused(f"{self.key} declares {', '.join(sorted(twice))} twice")
        starts = [band.start for band in self.bands]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1:
            raise ProductRefused(f"{self.key}'s bands must start at 0 and rise, all below 1")
        if self.policy and set(self.policy.band_months) != {band.name for band in self.bands}:
            raise ProductRefused(f"{self.key}'s policy must name its bands and no others")

    @cached_property
    def component_name(self) -> str:
        """The key as documents and classes are named by it: "home-equity" gives "HomeEquity".

        Keys that differ have names that differ: "home-1" gives "Home_1".
        """
        return "".join(f"_{part}" if part[:1].isdigit() else part.capitalize() for part in self.key.split("-"))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the declaration's canonical text, in hexadecimal."""
        return sha256(self.text)

    @property
    def policy_version(self) -> str | None:
        """The version of its policy; `None` where it has none."""
        return self.policy.version if self.policy else None

    @cached_property
    def factors(self) -> tuple[ProductFactor, ...]:
        """All factors that the product accepts, with their roles."""
        return tuple(self._declared_factors())

    def _declared_factors(self) -> Iterator[ProductFactor]:
        yield from (ProductFactor(factor, Role.IDENTIFIER) for factor in self.identifiers)
        yield from (ProductFactor(factor, Role.SCORED, required=True) for factor in self.required)
        yield from (ProductFactor(factor, Role.SCORED) for factor in self.optional)
        yield from (ProductFactor(factor, Role.POLICY) for factor in self.policy_factors)
        yield from (ProductFactor(factor, Role.PROTECTED) for factor in self.protected)

    @property
    def customer_number(self) -> Factor | None:
        """The identifier by which customers are searched for in lists: the first that is declared, if there is any."""
        return self.identifiers[0] if self.identifiers else None

    @cached_property
    def scored(self) -> tuple[Factor, ...]:
        """The factors that the forest scores, in the order of its columns."""
        return self.required + self.optional

    @cached_property
    def phrases(self) -> Mapping[str, Phrase]:
        """The words of the scored factors that have any, by factor."""
        return {factor.name: factor.phrase for factor in self.scored if factor.phrase}

    @cached_property
    def cut_offs(self) -> tuple[float, ...]:
        """The scores at which a band ends and the next begins."""
        return tuple(band.start for band in self.bands[1:])

    def band(self, score: float) -> Band:
        """Return the band that holds a score from 0 to 1."""
        return self.bands[bisect_right(self.cut_offs, score)]

    def end(self, band: Band) -> float:
        """Return the score at which a band ends: the next band's start, or 1."""
        return (*self.cut_offs, 1.0)[self.bands.index(band)]

    def verdict(self, band: Band, amount: float | None) -> Verdict:
        """Return the verdict of a decision in a band; `amount` is the limit, `None` where no policy set one."""
        if self.decides_credit and band.tone is Tone.BAD:
            return Verdict(NO_LIMIT, Tone.BAD, f"{band.name} by the score. {band.meaning}")
        if amount == 0:
            return Verdict(NO_LIMIT, Tone.BAD, f"{band.name} by the score, but no limit can be granted.")
        return Verdict(band.name, band.tone, band.meaning)

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts that a decision can have, in the order of the bands; a refusal of credit comes first."""
        refusal = [Verdict(NO_LIMIT, Tone.BAD, "No limit can be granted.")] if self.decides_credit else []
        by_band = [self.verdict(band, None) for band in self.bands]
        return (*refusal, *(verdict for verdict in by_band if verdict.name != NO_LIMIT))

    def count_verdicts(self, by_band: Mapping[str, int], without_limit: Mapping[str, int]) -> dict[str, int]:
        """Return how many decisions have each verdict, by its name.

        `by_band` counts all decisions by their band's name, `without_limit` those of them with a limit of 0. Bands that
        the product has dropped are left out.
        """
        counts = Counter[str]()
        for band in self.bands:
            declined = without_limit.get(band.name, 0)
            counts[self.verdict(band, 0.0).name] += declined
            counts[self.verdict(band, None).name] += by_band.get(band.name, 0) - declined
        return {verdict.name: counts[verdict.name] for verdict in self.verdicts}

    def band_named(self, name: str) -> Band:
        """Return the band of that name; `KeyError` if there is none."""
        return {band.name: band for band in self.bands}[name]
