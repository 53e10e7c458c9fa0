"""Reasons: which contributions of a score are named as its reasons, and the sentences that name them.

The words are the product's: its factors' phrases, its verbs, and the sentences of its policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from bankportal.domain.factors import Phrase
from bankportal.domain.outcome import Outcome, Reason
from bankportal.domain.policy import ABILITY_TO_PAY, Limit, Value
from bankportal.domain.products import Band, Product, ReasonThresholds, Tone

MAX_REASONS = 4  # results have room for as many
SENTENCES = 8192  # that are kept: most factors have few values
NOTHING_ALONE = "Several values together, none of them by itself"


def spoken(value: Value) -> str:
    """Return a value as text for a sentence: thousands separated, two decimals at most.

    >>> spoken(62000.0), spoken(4.5), spoken("Spain"), spoken(-0.004)
    ('62,000', '4.5', 'Spain', '0')
    """
    if not isinstance(value, int | float):
        return "" if value is None else value
    text = f"{value:,.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def spoken_money(value: float, currency: str) -> str:
    """Return an amount with its currency as text; with cents only where there are any.

    >>> spoken_money(85.2, "EUR"), spoken_money(62000.0, "CHF")
    ('EUR 85.20', 'CHF 62,000')
    """
    cents = f"{value:,.2f}"
    return f"{currency} {cents.removesuffix('.00')}"


def without_words(product: Product) -> list[str]:
    """Return the scored factors of a product that have no phrase, so that no reason could name them."""
    return [factor.name for factor in product.scored if not factor.phrase]


def sentence(product: Product, factor: str, value: Value, *, raises: bool) -> str:
    """Return what a factor's value does to the score: "3 complaints in 12 months raise the risk"."""
    subject, plural = _subject(product.phrases[factor], value, product.currency)
    verb = product.raises if raises else product.lowers
    return f"{subject} {verb.plural if plural else verb.singular}"


@lru_cache(maxsize=SENTENCES)
def _sentence(product: Product, factor: str, value: Value, raises: bool) -> str:
    return sentence(product, factor, value, raises=raises)


def _subject(phrase: Phrase, value: Value, currency: str) -> tuple[str, bool]:
    """Return a phrase's subject for a value, and whether it takes a plural verb."""
    money = f"{currency} {{value}}"
    if value is None:
        return phrase.unknown, False
    if value == 1 and phrase.one:
        return phrase.one, False
    if value == 0 and phrase.zero:
        return phrase.zero, phrase.plural
    if money in phrase.many and isinstance(value, int | float):
        return phrase.many.replace(money, spoken_money(value, currency)), phrase.plural
    return phrase.many.replace("{value}", spoken(value)), phrase.plural


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
        effects = self.effects
        agreeing = [
            (-abs(share), name, share) for name, share in self.contributions.items() if share * effects[name] > 0
        ]
        agreeing.sort()  # of equal weights, the first name comes first
        return [(name, share) for _, name, share in agreeing]


def principal_contributions(ordered: list[tuple[str, float]], thresholds: ReasonThresholds) -> list[tuple[str, float]]:
    """Return the contributions to be named, of (factor, contribution) pairs ordered by size.

    These are the largest, and at most `MAX_REASONS` - 1 others that reach both thresholds.
    """
    if not ordered:
        return []
    largest, *smaller = ordered[:MAX_REASONS]
    minimum = max(thresholds.min_points, thresholds.min_share * abs(largest[1]))
    return [largest, *(pair for pair in smaller if abs(pair[1]) >= minimum)]


def reasons(
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
    rule = rule_reason(product, band, limit)
    if rule and rule.rule == ABILITY_TO_PAY:
        return (rule,)
    adverse = product.decides_credit and (band.tone is Tone.BAD or rule is not None)
    honest = [(name, share) for name, share in attribution.honest() if not adverse or share < 0]
    from_score = [
        Reason(name, None, share, _sentence(product, name, values.get(name), share > 0))
        for name, share in principal_contributions(honest, product.thresholds)[: MAX_REASONS - (rule is not None)]
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
    thresholds = outcome.product.thresholds
    minimum = max(thresholds.min_points, thresholds.min_share * max(named.values())) if named else 0.0
    smallest_named = min(named.values(), default=0.0) if len(outcome.reasons) == MAX_REASONS else 0.0

    def omission(share: float) -> Omission:
        if adverse and share > 0:
            return Omission.SPEAKS_FOR
        if abs(share) < minimum:
            return Omission.TOO_SMALL
        return Omission.TOO_MANY if 0 < abs(share) <= smallest_named else Omission.NOT_BY_ITSELF

    return {name: omission(share) for name, share in omitted.items()}


def rule_reason(product: Product, band: Band, limit: Limit | None) -> Reason | None:
    """Return the reason for a limit that a policy rule reduced or refused.

    `None` where no rule did, and where the score itself refuses credit.
    """
    policy = product.policy
    if limit is None or policy is None or not limit.cut or band.tone is Tone.BAD:
        return None
    words = policy.sentences[f"{limit.rule}-declined" if limit.declined else limit.rule]
    amounts = {"ceiling": float(int(limit.ceiling)), "amount": limit.amount, "smallest": float(policy.smallest)}
    spoken_amounts = {name: spoken_money(amount, product.currency) for name, amount in amounts.items()}
    return Reason(None, limit.rule, 0.0, words.format(**spoken_amounts))
