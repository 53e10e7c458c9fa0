"""The letter that tells an applicant why a limit was declined or countered."""

from dataclasses import dataclass
from datetime import UTC, date, timedelta

from bankportal.domain.errors import NotFound
from bankportal.domain.outcome import Decision
from bankportal.domain.products import Product, Tone
from bankportal.web.words import limit_name

# 12 CFR 1002.9(a)(1): an applicant is notified within 30 days of a complete application.
DAYS_TO_SEND = timedelta(days=30)
RULE = "12 CFR 1002.9"


@dataclass(frozen=True)
class Letter:
    """What the letter says. `requested` and `offered` are in `currency`, `None` and 0 where there is nothing."""

    decision: Decision
    limit: str
    currency: str
    requested: float | None
    offered: float
    reasons: tuple[str, ...]
    compared_with: str
    left_out: str
    day: date
    send_by: date
    days: int = DAYS_TO_SEND.days
    rule: str = RULE

    @property
    def limit_with_article(self) -> str:
        """What was asked for, in short."""
        return with_article(self.limit)

    @property
    def limit_in_full(self) -> str:
        """What was asked for: a card limit is a credit-card limit here."""
        return with_article(f"credit-{self.limit}" if self.limit.startswith("card ") else self.limit)


def is_due(decision: Decision) -> bool:
    """Say whether a decision calls for a letter: credit that was declined, or less of it than was asked for."""
    limit = decision.outcome.limit
    return decision.outcome.declined or (limit is not None and limit.counteroffer)


def letter(decision: Decision) -> Letter:
    """Return a decision's letter; `NotFound` where none is due."""
    if not is_due(decision):
        raise NotFound("There is no letter for this decision: nothing was declined and nothing countered.")
    outcome, day = decision.outcome, decision.at.astimezone(UTC).date()
    return Letter(
        decision=decision,
        limit=limit_name(outcome.product),
        currency=outcome.product.currency,
        requested=outcome.limit.requested if outcome.limit else None,
        offered=outcome.limit.amount if outcome.limit else 0.0,
        reasons=tuple(reason.sentence for reason in outcome.reasons),
        compared_with=compared_with(outcome.product) if any(reason.factor for reason in outcome.reasons) else "",
        left_out=listed([factor.label for factor in outcome.product.protected]),
        day=day,
        send_by=day + DAYS_TO_SEND,
    )


def compared_with(product: Product) -> str:
    """Name, to an applicant, the population that reasons compare with."""
    passing = next((band.name for band in product.bands if band.tone is not Tone.BAD), None)
    if product.reference.band is None:
        return "other applicants"
    return "applicants who just passed" if product.reference.band == passing else product.reference.meaning


def with_article(name: str) -> str:
    """Put the indefinite article before a name: "an overdraft limit"."""
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def listed(labels: list[str]) -> str:
    """Write labels as a list in a sentence.

    >>> listed(["Gender", "Age", "Country"])
    'Gender, age and country'
    """
    words = [label if place == 0 else f"{label[:1].lower()}{label[1:]}" for place, label in enumerate(labels)]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
