"""The credit-limit policy: deterministic, versioned rules that follow the forest's score.

"Allowance" is a credit-limit allowance here, never a loan-loss allowance. The policy considers whether the customer can
make the payments (12 CFR 1026.51): the residual income sets a ceiling for the limit, whatever the band.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bankportal.domain.canonical import sha256

Value = int | float | str | None
ABILITY_TO_PAY = "ability-to-pay"


@dataclass(frozen=True)
class Limit:
    """The policy's answer; amounts in the product's currency.

    `amount` is 0 where no limit is granted. `ceiling` is the largest limit that the residual income can carry. `rule`
    names the rule that decided, a key of the policy's `rules`. `requested` is `None` where no limit was requested.
    `counteroffer`: the amount is above 0 and below the request. `obligations_assumed`: the obligations were blank, and
    a share of the salary was taken for them.
    """

    amount: float
    ceiling: float
    rule: str
    requested: float | None
    counteroffer: bool
    obligations_assumed: bool

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data, as it is stored; the receipt's format fixes the keys."""
        return {
            "amount": self.amount,
            "ceiling": self.ceiling,
            "rule": self.rule,
            "requested": self.requested,
            "counteroffer": self.counteroffer,
            "obligations_assumed": self.obligations_assumed,
        }

    @property
    def declined(self) -> bool:
        """Whether no limit is granted."""
        return self.amount == 0

    @property
    def cut(self) -> bool:
        """Whether less is granted than could be requested: nothing, or a counteroffer."""
        return self.declined or self.counteroffer


def amount_of(value: Value) -> float | None:
    """Return a validated value that a policy reads as an amount; `None` where it is unknown."""
    return float(value) if isinstance(value, int | float) else None


# What the sentence of a rule may name in braces.
AMOUNTS = ("ceiling", "amount", "smallest")
# Below this share of a salary nothing is left of it: 1 - 0.7 - 0.3 is not exactly 0.
MIN_FREE_SHARE = 1e-9


@dataclass(frozen=True, kw_only=True)
class LimitPolicy:
    """Suggests a limit from band, salary, obligations and request.

    `band_months`: the largest limit of each band, in monthly salaries. `living_share`: the share of the salary that tax
    and living costs take. `unknown_obligations_share`: the share taken for obligations where they are blank.
    `minimum_payment`: the monthly minimum payment as a share of the full limit. `payment_share`: the largest share of
    the residual income that the minimum payment may take. Limits are rounded down to a multiple of `step`, unless the
    request is granted as it is. Below `smallest` no limit is granted, and none can be requested. Amounts in the
    product's currency.

    `salary`, `obligations` and `requested` name the factors that the policy reads. `rules` says in words what each rule
    does. `sentences` is what a rule says as a reason, with `{ceiling}`, `{amount}` and `{smallest}` for amounts with
    their currency. `text` is the canonical text of the policy's declaration.
    """

    key: str
    version: str
    band_months: Mapping[str, float]
    living_share: float
    unknown_obligations_share: float
    minimum_payment: float
    payment_share: float
    step: int
    smallest: int
    salary: str
    obligations: str
    requested: str
    rules: Mapping[str, str]
    sentences: Mapping[str, str]
    text: str = ""

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the declaration's canonical text, in hexadecimal."""
        return sha256(self.text)

    def ceiling(self, salary: float, obligations: float | None) -> float:
        """Return the largest limit whose minimum payment the residual income can carry; never below 0.

        `salary` is a year's; `obligations` are a month's, `None` where unknown.
        """
        income = salary / 12
        bound = self.unknown_obligations_share * income if obligations is None else obligations
        residual = income * (1 - self.living_share) - bound
        return max(0.0, residual * self.payment_share / self.minimum_payment)

    def suggest(self, band: str, factors: Mapping[str, Value], requested: float | None) -> Limit:
        """Return the limit for a band, the scored values by factor, and the requested limit (`None`: none)."""
        salary, obligations = amount_of(factors[self.salary]), amount_of(factors[self.obligations])
        assert salary is not None
        ceiling = self.ceiling(salary, obligations)
        by_band = self.band_months[band] * salary / 12
        offers = {ABILITY_TO_PAY: self._round(ceiling), "band": self._round(by_band)}
        rule = min(offers, key=offers.__getitem__) if self.band_months[band] else "ineligible"
        amount = offers.get(rule, 0.0)
        if amount < self.smallest:
            amount = 0.0
        elif requested is not None and requested <= amount:
            rule, amount = "requested", requested
        counteroffer = requested is not None and 0 < amount < requested
        return Limit(amount, ceiling, rule, requested, counteroffer, obligations is None)

    def obligations_for(self, limit: float, salary: float) -> float:
        """Return the largest monthly obligations with which a salary still carries a limit; may be below 0."""
        return salary / 12 * (1 - self.living_share) - limit * self.minimum_payment / self.payment_share

    def salary_for(self, limit: float, obligations: float | None) -> float | None:
        """Return the smallest yearly salary that carries a limit beside the obligations (`None`: unknown).

        `None` where no salary does, because living costs and what is taken for unknown obligations use up all of it.
        """
        free_share = 1 - self.living_share - (self.unknown_obligations_share if obligations is None else 0)
        if free_share < MIN_FREE_SHARE:
            return None
        return (limit * self.minimum_payment / self.payment_share + (obligations or 0.0)) * 12 / free_share

    def _round(self, amount: float) -> float:
        return float(math.floor(amount / self.step) * self.step)
