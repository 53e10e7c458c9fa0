"""Reasons: contributions put in the bank's words, in a catalogue that the bank can edit in one file.

The words are declared with the factors (`Phrase`) and products (`Verb`); `Catalogue.edited` lays the bank's own over
them. Which contributions become reasons is decided here as well.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

from bankportal.domain.errors import SettingsRefused
from bankportal.domain.factors import CURRENCY, Factor, Phrase
from bankportal.domain.outcome import Outcome, Reason
from bankportal.domain.policy import ABILITY_TO_PAY, Limit, Value
from bankportal.domain.products import PRODUCTS, Band, Product, Tone

MAX_REASONS = 4
# How a phrase writes an amount.
MONEY = f"{CURRENCY} {{value}}"
NOTHING_ALONE = "Several values together, none of them by itself"
# A contribution below either is no principal reason: half a percentage point, a share of the weightiest one.
MIN_POINTS, MIN_SHARE = 0.005, 0.05
# How a policy rule that cut or refused a limit is named; {ceiling}, {amount} and {smallest} come with their currency.
RULE_SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        ABILITY_TO_PAY: "After living costs and obligations the salary carries no limit above {ceiling}",
        f"{ABILITY_TO_PAY}-declined": "After living costs and obligations the salary carries no limit above {ceiling}; "
        "below {smallest} none is granted",
        "band": "The salary together with the score sets the limit of {amount}",
        "band-declined": "The salary together with the score leads to less than {smallest}, and less is not granted",
    }
)


def spoken(value: Value) -> str:
    """Write a value as people do: thousands separated, two decimals at most.

    >>> spoken(62000.0), spoken(4.5), spoken("Spain"), spoken(-0.004)
    ('62,000', '4.5', 'Spain', '0')
    """
    if not isinstance(value, int | float):
        return "" if value is None else value
    text = f"{value:,.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def spoken_money(value: float) -> str:
    """Write an amount with its currency, cents where there are any.

    >>> spoken_money(85.2), spoken_money(62000.0)
    ('EUR 85.20', 'EUR 62,000')
    """
    cents = f"{value:,.2f}"
    return f"{CURRENCY} {cents.removesuffix('.00')}"


@dataclass(frozen=True)
class Catalogue:
    """The words for every factor that can be a reason, and for the policy's rules.

    `phrases` maps a factor's name to its phrase, `rules` a rule's name to its sentence.
    """

    phrases: Mapping[str, Phrase]
    rules: Mapping[str, str] = field(default_factory=lambda: RULE_SENTENCES)

    @classmethod
    def declared(cls) -> "Catalogue":
        """Return the words as declared with the factors."""
        return cls({factor.name: factor.phrase for factor in _factors().values() if factor.phrase})

    @classmethod
    def edited(cls, text: str) -> "Catalogue":
        """Lay a bank's words over the declared ones.

        `text` is TOML: a table a factor with any of `many`, `one`, `zero`, `unknown`, `plural`, and a table `rules`.
        Raises `SettingsRefused` naming what has no meaning.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsRefused(f"The catalogue of reasons is not TOML: {error}.") from None
        rules = _edited_rules(tables.pop("rules", {}))
        phrases = dict(cls.declared().phrases)
        for name, words in tables.items():
            phrases[name] = _edited_phrase(name, words, phrases)
        return cls(phrases, rules)

    def missing(self, factors: tuple[str, ...]) -> list[str]:
        """Return which of the factors have no words."""
        return [name for name in factors if name not in self.phrases]

    def sentence(self, product: Product, factor: str, value: Value, *, raises: bool) -> str:
        """Say what a factor's value does to the score: "3 complaints in 12 months raise the risk"."""
        phrase = self.phrases[factor]
        subject, plural = _subject(phrase, value)
        verb = product.raises if raises else product.lowers
        return f"{subject} {verb.plural if plural else verb.singular}"

    def to_toml(self) -> str:
        """Write the words as the file that a bank edits."""
        rules = "\n".join(["[rules]", *(f'{name} = "{sentence}"' for name, sentence in self.rules.items()), ""])
        return "\n".join([*(_table(name, phrase) for name, phrase in self.phrases.items()), rules])


def _factors() -> dict[str, Factor]:
    return {factor.name: factor for product in PRODUCTS.values() for factor in product.scored}


def _edited_phrase(name: str, words: object, phrases: Mapping[str, Phrase]) -> Phrase:
    if name not in _factors():
        raise SettingsRefused(f"The catalogue of reasons names {name}, which no product scores.")
    if not isinstance(words, dict) or (unknown := set(words) - {field.name for field in fields(Phrase)}):
        what = ", ".join(sorted(unknown)) if isinstance(words, dict) else "no table"
        raise SettingsRefused(f"The catalogue of reasons has under {name}: {what}.")
    for key, word in words.items():
        if not isinstance(word, bool if key == "plural" else str):
            raise SettingsRefused(f"The catalogue of reasons has under {name} a {key} of the wrong type.")
    if "many" in words and "{value}" not in words["many"]:
        raise SettingsRefused(f"The catalogue of reasons needs {{value}} in {name}'s many.")
    return replace(phrases[name], **words) if name in phrases else Phrase(**words)


def _edited_rules(given: object) -> Mapping[str, str]:
    if not isinstance(given, dict) or not all(isinstance(sentence, str) for sentence in given.values()):
        raise SettingsRefused("The catalogue of reasons needs a table of sentences under rules.")
    if unknown := set(given) - set(RULE_SENTENCES):
        raise SettingsRefused(f"The catalogue of reasons has under rules: {', '.join(sorted(unknown))}.")
    for name, sentence in given.items():
        if set(re.findall(r"{([^}]*)}", sentence)) - {"ceiling", "amount", "smallest"}:
            raise SettingsRefused(f"The catalogue of reasons has a name in braces in {name} that means nothing.")
    return MappingProxyType({**RULE_SENTENCES, **given})


def _subject(phrase: Phrase, value: Value) -> tuple[str, bool]:
    """Return how a phrase names a value, and whether that takes a plural verb."""
    if value is None:
        return phrase.unknown, False
    if value == 1 and phrase.one:
        return phrase.one, False
    if value == 0 and phrase.zero:
        return phrase.zero, phrase.plural
    if MONEY in phrase.many and isinstance(value, int | float):
        return phrase.many.replace(MONEY, spoken_money(value)), phrase.plural
    return phrase.many.replace("{value}", spoken(value)), phrase.plural


def _table(name: str, phrase: Phrase) -> str:
    words: dict[str, Any] = {field.name: getattr(phrase, field.name) for field in fields(phrase)}
    lines = [f'{key} = "{word}"' for key, word in words.items() if isinstance(word, str) and word]
    return "\n".join([f"[{name}]", *lines, f"plural = {str(phrase.plural).lower()}", ""])


@dataclass(frozen=True)
class Explained:
    """What the reasons are chosen from, by factor: `contributions`, and `effects`.

    An effect is how much higher the score is than the mean score with that factor alone put at the reference
    population's values.
    """

    contributions: Mapping[str, float]
    effects: Mapping[str, float]

    def honest(self) -> list[tuple[str, float]]:
        """Return the contributions that hold by themselves, largest first: those whose effect has the same sign."""
        held = [(name, share) for name, share in self.contributions.items() if share * self.effects[name] > 0]
        return sorted(held, key=lambda pair: (-abs(pair[1]), pair[0]))


def principal(ordered: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the contributions that weigh enough to be named: the first always, the others where they count."""
    if not ordered:
        return []
    first, *others = ordered[:MAX_REASONS]
    least = max(MIN_POINTS, MIN_SHARE * abs(first[1]))
    return [first, *(pair for pair in others if abs(pair[1]) >= least)]


def reasons(
    catalogue: Catalogue,
    product: Product,
    band: Band,
    values: Mapping[str, Value],
    explained: Explained,
    limit: Limit | None,
) -> tuple[Reason, ...]:
    """Return one to four reasons, the weightiest first.

    Where credit is refused for the score, they are what pulls furthest below the reference population; where a policy
    rule cut the limit, it is named first, and alone where it is the ability to pay. Elsewhere they are what weighs most
    either way.
    """
    rule = rule_reason(catalogue, product, band, limit)
    if rule and rule.rule == ABILITY_TO_PAY:
        return (rule,)
    adverse = product.decides_credit and (band.tone is Tone.BAD or rule is not None)
    chosen = principal([(name, share) for name, share in explained.honest() if not adverse or share < 0])
    found = [
        Reason(name, None, share, catalogue.sentence(product, name, values.get(name), raises=share > 0))
        for name, share in chosen[: MAX_REASONS - (rule is not None)]
    ]
    return tuple([rule, *found] if rule else found) or (Reason(None, None, 0.0, NOTHING_ALONE),)


class Omission(Enum):
    """Why a contribution is not among the reasons."""

    RULE_ALONE = "a policy rule decided alone"
    SPEAKS_FOR = "a refusal names only what speaks against the customer"
    NOT_BY_ITSELF = "the factor's own effect does not point the same way"
    TOO_MANY = "others weigh more, and there are as many reasons as are named"
    TOO_SMALL = "it is below the least share of the weightiest"


def omissions(outcome: Outcome) -> dict[str, Omission]:
    """Return, by factor, why a contribution of an outcome is not among its reasons.

    This follows from what is recorded. Of the contributions that point the way their factor's own effect does, the
    weightiest are named; so one that is large enough and was passed over does not point that way.
    """
    named = {reason.factor: abs(reason.contribution) for reason in outcome.reasons if reason.factor}
    rules = {reason.rule for reason in outcome.reasons if reason.rule}
    others = {name: share for name, share in outcome.contributions.items() if name not in named}
    if ABILITY_TO_PAY in rules:
        return dict.fromkeys(others, Omission.RULE_ALONE)
    adverse = outcome.product.decides_credit and (outcome.band.tone is Tone.BAD or bool(rules))
    least = max(MIN_POINTS, MIN_SHARE * max(named.values())) if named else 0.0
    lightest = min(named.values(), default=0.0) if len(outcome.reasons) == MAX_REASONS else 0.0

    def omission(share: float) -> Omission:
        if adverse and share > 0:
            return Omission.SPEAKS_FOR
        if abs(share) < least:
            return Omission.TOO_SMALL
        return Omission.TOO_MANY if 0 < abs(share) <= lightest else Omission.NOT_BY_ITSELF

    return {name: omission(share) for name, share in others.items()}


def rule_reason(catalogue: Catalogue, product: Product, band: Band, limit: Limit | None) -> Reason | None:
    """Return the policy rule that cut or refused a limit by itself; the score's own refusal is none."""
    if limit is None or product.policy is None or not limit.cut or band.tone is Tone.BAD:
        return None
    sentence = catalogue.rules[f"{limit.rule}-declined" if limit.declined else limit.rule]
    amounts = {"ceiling": float(int(limit.ceiling)), "amount": limit.amount, "smallest": float(product.policy.smallest)}
    return Reason(
        None, limit.rule, 0.0, sentence.format(**{name: spoken_money(each) for name, each in amounts.items()})
    )
