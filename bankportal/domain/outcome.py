"""The portal's answer: a score, its band, its reasons, and a limit where the product has a policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bankportal.domain.policy import Limit
from bankportal.domain.products import NO_LIMIT, Band, Product, Verdict
from bankportal.domain.provenance import Provenance
from bankportal.domain.schema import Customer


@dataclass(frozen=True)
class UnseenValue:
    """A value outside what the forest was trained on. It is scored all the same and flagged in the answer."""

    factor: str
    message: str

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data, as it is stored; the receipt's format fixes the keys."""
        return {"factor": self.factor, "message": self.message}


@dataclass(frozen=True)
class Reason:
    """One reason for an answer, as a sentence in the bank's words.

    `factor` names the scored factor whose `contribution` it is. `rule` names the policy rule that decided by itself.
    Both are `None` where no single value stands out.
    """

    factor: str | None
    rule: str | None
    contribution: float
    sentence: str

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data, as it is stored; the receipt's format fixes the keys."""
        return {
            "factor": self.factor,
            "rule": self.rule,
            "contribution": self.contribution,
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class Outcome:
    """The answer for one customer.

    `score` is the forest's probability, 0 to 1. `limit` and `policy_version` are `None` where the product has no limit
    policy. `base` is the mean score of the reference population; `contributions` are the scored factors' Shapley
    values, by factor: `base` plus their sum is `score`. `model_digest` is the SHA-256 of the model version's manifest.
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
        """Return the answer as plain data, as it is stored; the receipt's format fixes the keys."""
        return {
            "score": self.score,
            "band": self.band.name,
            "limit": self.limit.to_record() if self.limit else None,
            "flags": [flag.to_record() for flag in self.flags],
            "base": self.base,
            "contributions": dict(self.contributions),
            "reasons": [reason.to_record() for reason in self.reasons],
            "policy_version": self.policy_version,
        }


@dataclass(frozen=True)
class Decision:
    """An outcome that was recorded, with its customer; `at` is in UTC.

    `provenance` is `None` where the decision is older than the record of it.
    """

    id: str
    at: datetime
    customer: Customer
    outcome: Outcome
    provenance: Provenance | None = None


def percent(product: Product, score: float) -> str:
    """Return a score as a percentage that is in the score's own band.

    It has one decimal, and more where rounding would cross a cut-off: 0.39999 is not 40.0%.

    >>> from bankportal.domain.portfolio import shipped_portfolio
    >>> churn = shipped_portfolio()["churn"]
    >>> percent(churn, 0.634), percent(churn, 0.39999)
    ('63.4%', '39.999%')
    """
    for decimals in range(1, 18):
        text = f"{score * 100:.{decimals}f}"
        if product.band(float(text) / 100) is product.band(score):
            return f"{text}%"
    return f"{score * 100!r}%"
