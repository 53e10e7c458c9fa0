"""Explanations of a recorded decision: recourse, what-if curves, histograms, the reference population.

They are computed when they are needed, from the decision's own inputs, model version, product and policy, so they are
about the decision as it was made, whatever was declared since.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from bankportal.domain.errors import NoActiveModel, NotFound
from bankportal.domain.factors import Factor
from bankportal.domain.outcome import Decision
from bankportal.domain.policy import ABILITY_TO_PAY, Limit, LimitPolicy, Value, amount_of
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Band
from bankportal.explanation.curve import Curve, curve
from bankportal.explanation.recourse import Recourse, Replacement, Suggestion, kernels, recourse
from bankportal.model.histograms import Histogram
from bankportal.registry.registry import LoadedModel
from bankportal.services.models import Models

WARM_UP_AFTER = 2.0  # seconds


def _lifting_values(decision: Decision, limit: Limit, policy: LimitPolicy) -> Iterator[tuple[Factor, float]]:
    """Yield the factors and values by which the customer can pay for a higher limit.

    That limit is the smallest where none was granted, else the requested one.
    """
    target = math.ceil((limit.requested or policy.smallest) / policy.step) * policy.step
    target = policy.smallest if limit.declined else target
    factors = {factor.name: factor for factor in decision.outcome.product.scored}
    salary, obligations = (amount_of(decision.customer.scored[name]) for name in (policy.salary, policy.obligations))
    if salary is not None and obligations is not None and (lower := policy.obligations_for(target, salary)) >= 0:
        yield factors[policy.obligations], _whole_steps(lower, factors[policy.obligations], math.floor)
    if (enough := policy.salary_for(target, obligations)) is not None:
        yield factors[policy.salary], _whole_steps(enough, factors[policy.salary], math.ceil)


def _whole_steps(value: float, factor: Factor, rounded: Callable[[float], int]) -> float:
    step = factor.change.step if factor.change else 1.0
    return float(rounded(value / step) * step)


class Explaining:
    """Explains recorded decisions; `VersionRefused` where the files of a decision's model version were changed."""

    def __init__(self, models: Models, portfolio: Callable[[], Portfolio]):
        """`portfolio` returns the products that are in force, whose models are warmed up."""
        self.models = models
        self.portfolio = portfolio

    def warm_up_later(self) -> None:
        """Warm up in the background, so that the first page does not wait and the first score is fast."""
        later = threading.Timer(WARM_UP_AFTER, self._warm_up_if_set_up)
        later.daemon = True
        later.start()

    def _warm_up_if_set_up(self) -> None:
        with suppress(SQLAlchemyError, OSError):  # a portal that is not set up yet says so at the first request
            self.warm_up()

    def warm_up(self) -> None:
        """Load the model of every product that has one, and compile its kernels or load the compiled ones."""
        kernels()
        for product in self.portfolio().values():
            try:
                self.models.serving(product).warm_up()
            except NoActiveModel:
                continue

    def model(self, decision: Decision) -> LoadedModel:
        """Return the model version that decided."""
        outcome = decision.outcome
        return self.models.registry.model(outcome.product, outcome.model_version, outcome.model_digest)

    def recourse(self, decision: Decision) -> Recourse:
        """Return the smallest changes that reach a better band, within the ranges of the training data."""
        model = self.model(decision)
        values = decision.customer.scored
        return recourse(decision.outcome.product, model.forest, model.encoding, values, model.seen.ranges)

    def limit_after(self, decision: Decision, suggestion: Suggestion) -> Limit | None:
        """Return the limit that the decision's policy suggests after a change; `None` without a policy."""
        return self.limit_with(
            decision, suggestion.band, {change.factor.name: change.new for change in suggestion.changes}
        )

    def limit_with(self, decision: Decision, band: Band, changes: Mapping[str, Value]) -> Limit | None:
        """Return the limit for a decision's changed values with a score in `band`; `None` without a policy."""
        policy = decision.outcome.product.policy
        if policy is None:
            return None
        values = {**decision.customer.scored, **changes}
        return policy.suggest(band.name, values, amount_of(decision.customer.policy.get(policy.requested)))

    def lifts(self, decision: Decision) -> tuple[Suggestion, ...]:
        """Return the changes that raise a limit which the ability to pay reduced or refused.

        They are smaller obligations and a larger salary, each the smallest change of the one factor. Each is scored
        again and is left out where the limit would not be higher.
        """
        limit, policy = decision.outcome.limit, decision.outcome.product.policy
        if limit is None or policy is None or limit.rule != ABILITY_TO_PAY or not limit.cut:
            return ()
        lifts = (self._lift(decision, factor, value) for factor, value in _lifting_values(decision, limit, policy))
        return tuple(lift for lift in lifts if lift and self._lifted(decision, lift) > limit.amount)

    def _lift(self, decision: Decision, factor: Factor, new: float) -> Suggestion | None:
        old = decision.customer.scored[factor.name]
        if not isinstance(old, int | float) or factor.change is None:
            return None
        model = self.model(decision)
        row = model.encoding.row(decision.customer.scored | {factor.name: new})
        score = float(model.forest.score(row[None, :])[0])
        effort = abs(new - old) * factor.change.effort
        return Suggestion((Replacement(factor, old, new),), score, decision.outcome.product.band(score), effort)

    def _lifted(self, decision: Decision, lift: Suggestion) -> float:
        after = self.limit_after(decision, lift)
        return after.amount if after else 0.0

    def curve(self, decision: Decision, factor: str) -> Curve:
        """Return the score at every value of one factor, the others unchanged; `NotFound` if it is not scored."""
        model, product = self.model(decision), decision.outcome.product
        if factor not in {scored.name for scored in product.scored}:
            raise NotFound(f"{product.title} scores no factor {factor[:40]}.")
        return curve(product, model.forest, model.encoding, decision.customer.scored, factor, model.seen)

    def histograms(self, decision: Decision) -> Mapping[str, Histogram]:
        """Return the histograms of the training customers by factor."""
        return self.model(decision).histograms

    def reference(self, decision: Decision) -> str:
        """Return the reference population in words, with its size."""
        reference = self.model(decision).manifest["reference"]
        return f"{reference['meaning']} ({reference['rows']:,})"
