"""The letter that tells an applicant why a limit was declined or countered."""

from dataclasses import dataclass
from datetime import UTC, date, timedelta

from bankportal.domain.errors import NotFound
from bankportal.domain.outcome import Decision

# 12 CFR 1002.9(a)(1): an applicant is notified within 30 days of a complete application.
DAYS_TO_SEND = timedelta(days=30)
RULE = "12 CFR 1002.9"


@dataclass(frozen=True)
class Letter:
    """What the letter says. `requested` and `offered` are in `currency`, `None` and 0 where there is nothing."""

    decision: Decision
    currency: str
    requested: float | None
    offered: float
    reasons: tuple[str, ...]
    compares: bool
    left_out: str
    day: date
    send_by: date
    days: int = DAYS_TO_SEND.days
    rule: str = RULE


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
        currency=outcome.product.currency,
        requested=outcome.limit.requested if outcome.limit else None,
        offered=outcome.limit.amount if outcome.limit else 0.0,
        reasons=tuple(reason.sentence for reason in outcome.reasons),
        compares=any(reason.factor for reason in outcome.reasons),
        left_out=listed([factor.label for factor in outcome.product.protected]),
        day=day,
        send_by=day + DAYS_TO_SEND,
    )


def listed(labels: list[str]) -> str:
    """Write labels as a list in a sentence.

    >>> listed(["Gender", "Age", "Country"])
    'Gender, age and country'
    """
    words = [label if place == 0 else f"{label[:1].lower()}{label[1:]}" for place, label in enumerate(labels)]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
