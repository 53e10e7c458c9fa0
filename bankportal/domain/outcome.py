"""What the portal answers: a score, its band, and a limit where the product has one."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bankportal.domain.policy import Limit
from bankportal.domain.products import NO_LIMIT, Band, Product, Verdict
from bankportal.domain.schema import Customer


@dataclass(frozen=True)
class UnseenValue:
    """A value outside what the forest was trained on: scored all the same, and said so."""

    factor: str
    message: str


@dataclass(frozen=True)
class Reason:
    """Why the answer is what it is, in the bank's words.

    `factor` names the scored factor whose `contribution` this is, or `rule` the policy rule that decided by itself;
    neither where no value stands out alone.
    """

    factor: str | None
    rule: str | None
    contribution: float
    sentence: str


@dataclass(frozen=True)
class Outcome:
    """The answer for one customer.

    `score` is the forest's probability, 0 to 1; `model_digest` is the SHA-256 of the model version's manifest;
    `limit` and `policy_version` are `None` where the product has no limit policy.
    `base` is the reference population's mean score, `contributions` each scored factor's exact share of the rest.
    """

    product: Product
    score: float
    band: Band
    limit: Limit | None
    flags: tuple[UnseenValue, ...]
    base: float
    contributions: Mapping[str, float]
    reasons: tuple[Reason, ...]
    model_version: str
    model_digest: str
    policy_version: str | None

    @property
    def verdict(self) -> Verdict:
        """The outcome in one word with one tone: its band, or that no limit is granted."""
        return self.product.verdict(self.band, self.limit.amount if self.limit else None)

    @property
    def declined(self) -> bool:
        """Whether credit is refused."""
        return self.verdict.name == NO_LIMIT

    def to_record(self) -> dict[str, Any]:
        """Return what is stored of the answer itself, as plain data."""
        return {
            "score": self.score,
            "band": self.band.name,
            "limit": dict(vars(self.limit)) if self.limit else None,
            "flags": [dict(vars(flag)) for flag in self.flags],
            "base": self.base,
            "contributions": dict(self.contributions),
            "reasons": [dict(vars(reason)) for reason in self.reasons],
            "policy_version": self.policy_version,
        }


@dataclass(frozen=True)
class Decision:
    """An outcome that was recorded, with the customer it is about, at a time in UTC."""

    id: str
    at: datetime
    customer: Customer
    outcome: Outcome


def percent(product: Product, score: float) -> str:
    """Write a score as a percentage that never looks as if it stood in another band.

    One decimal, and more where rounding would cross a cut-off: 0.3996 is not 40.0%.

    >>> from bankportal.domain.products import CHURN
    >>> percent(CHURN, 0.634), percent(CHURN, 0.39999)
    ('63.4%', '39.999%')
    """
    for decimals in range(1, 18):
        text = f"{score * 100:.{decimals}f}"
        if product.band(float(text) / 100) is product.band(score):
            return f"{text}%"
    return f"{score * 100!r}%"
