"""Reasons: which contributions of a score are named as its reasons, and the sentences that name them.

The words are declared with the factors (`Phrase`) and products (`Verb`). A bank can replace them in one file, which
`Catalogue.edited` reads.
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
from bankportal.domain.policy import ABILITY_TO_PAY, RULE_SENTENCES, Limit, Value
from bankportal.domain.products import PRODUCTS, Band, Product, Tone

MAX_REASONS = 4
# How a phrase contains an amount.
MONEY = f"{CURRENCY} {{value}}"
NOTHING_ALONE = "Several values together, none of them by itself"
# A contribution below either of them is no principal reason: half a percentage point of the score, and 5% of the
# largest contribution that is named.
MIN_POINTS, MIN_SHARE = 0.005, 0.05


def spoken(value: Value) -> str:
    """Return a value as text for a sentence: thousands separated, two decimals at most.

    >>> spoken(62000.0), spoken(4.5), spoken("Spain"), spoken(-0.004)
    ('62,000', '4.5', 'Spain', '0')
    """
    if not isinstance(value, int | float):
        return "" if value is None else value
    text = f"{value:,.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def spoken_money(value: float) -> str:
    """Return an amount with its currency as text; with cents only where there are any.

    >>> spoken_money(85.2), spoken_money(62000.0)
    ('EUR 85.20', 'EUR 62,000')
    """
    cents = f"{value:,.2f}"
    return f"{CURRENCY} {cents.removesuffix('.00')}"


@dataclass(frozen=True)
class Catalogue:
    """The words of all reasons.

    `phrases` maps the name of a factor to its phrase, `rules` the name of a policy rule to its sentence.
    """

    phrases: Mapping[str, Phrase]
    rules: Mapping[str, str] = field(default_factory=lambda: RULE_SENTENCES)

    @classmethod
    def declared(cls) -> "Catalogue":
        """Return the words as they are declared with the factors."""
        return cls({factor.name: factor.phrase for factor in _factors().values() if factor.phrase})

    @classmethod
    def edited(cls, text: str) -> "Catalogue":
        """Return the declared words with a bank's own words in their place.

        `text` is TOML: a table for each factor with any of `many`, `one`, `zero`, `unknown`, `plural`, and a table
        `rules`. Raises `SettingsRefused`, which names what cannot be used.
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
        """Return those of the factors that have no phrase."""
        return [name for name in factors if name not in self.phrases]

    def sentence(self, product: Product, factor: str, value: Value, *, raises: bool) -> str:
        """Return what a factor's value does to the score: "3 complaints in 12 months raise the risk"."""
        phrase = self.phrases[factor]
        subject, plural = _subject(phrase, value)
        verb = product.raises if raises else product.lowers
        return f"{subject} {verb.plural if plural else verb.singular}"

    def to_toml(self) -> str:
        """Return the words as the TOML file that a bank edits."""
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


def _edited_rules(sentences: object) -> Mapping[str, str]:
    if not isinstance(sentences, dict) or not all(isinstance(sentence, str) for sentence in sentences.values()):
        raise SettingsRefused("The catalogue of reasons needs a table of sentences under rules.")
    if unknown := set(sentences) - set(RULE_SENTENCES):
        raise SettingsRefused(f"The catalogue of reasons has under rules: {', '.join(sorted(unknown))}.")
    for name, sentence in sentences.items():
        if set(re.findall(r"{([^}]*)}", sentence)) - {"ceiling", "amount", "smallest"}:
            raise SettingsRefused(f"The catalogue of reasons has a name in braces in {name} that means nothing.")
    return MappingProxyType({**RULE_SENTENCES, **sentences})


def _subject(phrase: Phrase, value: Value) -> tuple[str, bool]:
    """Return a phrase's subject for a value, and whether it takes a plural verb."""
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
class Attribution:
    """A score's contributions and effects by factor, from which the reasons are chosen.

    A contribution is the factor's Shapley value. An effect is the score minus the mean score when that factor alone
    takes the values of the reference population.
    """

    contributions: Mapping[str, float]
    effects: Mapping[str, float]

    def honest(self) -> list[tuple[str, float]]:
        """Return the contributions whose effect has the same sign, with their factors, largest first (honesty gate)."""
        agreeing = [(name, share) for name, share in self.contributions.items() if share * self.effects[name] > 0]
        return sorted(agreeing, key=lambda pair: (-abs(pair[1]), pair[0]))


def principal_contributions(ordered: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Return the contributions to be named, of (factor, contribution) pairs ordered by size.

    These are the largest, and at most `MAX_REASONS` - 1 others that are at least `MIN_POINTS` and `MIN_SHARE` of it.
    """
    if not ordered:
        return []
    largest, *smaller = ordered[:MAX_REASONS]
    minimum = max(MIN_POINTS, MIN_SHARE * abs(largest[1]))
    return [largest, *(pair for pair in smaller if abs(pair[1]) >= minimum)]


def reasons(
    catalogue: Catalogue,
    product: Product,
    band: Band,
    values: Mapping[str, Value],
    attribution: Attribution,
    limit: Limit | None,
) -> tuple[Reason, ...]:
    """Return one to four reasons, the most important first.

    Usually they are the largest contributions of either sign. Where the score refuses credit, or a policy rule reduced
    or refused the limit, they are the largest negative ones. Such a rule is named first; the ability to pay is named
    alone.
    """
    rule = rule_reason(catalogue, product, band, limit)
    if rule and rule.rule == ABILITY_TO_PAY:
        return (rule,)
    adverse = product.decides_credit and (band.tone is Tone.BAD or rule is not None)
    honest = [(name, share) for name, share in attribution.honest() if not adverse or share < 0]
    from_score = [
        Reason(name, None, share, catalogue.sentence(product, name, values.get(name), raises=share > 0))
        for name, share in principal_contributions(honest)[: MAX_REASONS - (rule is not None)]
    ]
    return tuple([rule, *from_score] if rule else from_score) or (Reason(None, None, 0.0, NOTHING_ALONE),)


class Omission(Enum):
    """Why a contribution is not among the reasons."""

    RULE_ALONE = "a policy rule decided alone"
    SPEAKS_FOR = "a refusal names only what speaks against the customer"
    NOT_BY_ITSELF = "the factor's own effect does not point the same way"
    TOO_MANY = "others weigh more, and there are as many reasons as are named"
    TOO_SMALL = "it is below the least share of the weightiest"


def omissions(outcome: Outcome) -> dict[str, Omission]:
    """Return, by factor, why a contribution of an outcome is not among its reasons.

    It is derived from the recorded outcome alone. The largest contributions that pass the honesty gate are named, so a
    contribution that is large enough and still not named did not pass it.
    """
    named = {reason.factor: abs(reason.contribution) for reason in outcome.reasons if reason.factor}
    rules = {reason.rule for reason in outcome.reasons if reason.rule}
    omitted = {name: share for name, share in outcome.contributions.items() if name not in named}
    if ABILITY_TO_PAY in rules:
        return dict.fromkeys(omitted, Omission.RULE_ALONE)
    adverse = outcome.product.decides_credit and (outcome.band.tone is Tone.BAD or bool(rules))
    minimum = max(MIN_POINTS, MIN_SHARE * max(named.values())) if named else 0.0
    smallest_named = min(named.values(), default=0.0) if len(outcome.reasons) == MAX_REASONS else 0.0

    def omission(share: float) -> Omission:
        if adverse and share > 0:
            return Omission.SPEAKS_FOR
        if abs(share) < minimum:
            return Omission.TOO_SMALL
        return Omission.TOO_MANY if 0 < abs(share) <= smallest_named else Omission.NOT_BY_ITSELF

    return {name: omission(share) for name, share in omitted.items()}


def rule_reason(catalogue: Catalogue, product: Product, band: Band, limit: Limit | None) -> Reason | None:
    """Return the reason for a limit that a policy rule reduced or refused.

    `None` where no rule did, and where the score itself refuses credit.
    """
    if limit is None or product.policy is None or not limit.cut or band.tone is Tone.BAD:
        return None
    sentence = catalogue.rules[f"{limit.rule}-declined" if limit.declined else limit.rule]
    amounts = {"ceiling": float(int(limit.ceiling)), "amount": limit.amount, "smallest": float(product.policy.smallest)}
    spoken_amounts = {name: spoken_money(amount) for name, amount in amounts.items()}
    return Reason(None, limit.rule, 0.0, sentence.format(**spoken_amounts))
