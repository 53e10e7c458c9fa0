"""What stands behind a recorded decision: what would change it, the score along one factor, where the customer stands.

All of it is worked out anew from the decision's own inputs and model version, so it shows what was decided then.
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from bankportal.domain.errors import NoActiveModel, NotFound
from bankportal.domain.factors import ESTIMATED_SALARY, MONTHLY_OBLIGATIONS, Factor
from bankportal.domain.outcome import Decision
from bankportal.domain.policy import ABILITY_TO_PAY, POLICIES, Limit, LimitPolicy, Value
from bankportal.domain.products import PRODUCTS, Band
from bankportal.explanation.curve import Curve, curve
from bankportal.explanation.recourse import Recourse, Replacement, Suggestion, kernels, recourse
from bankportal.model.histograms import Histogram
from bankportal.registry.registry import LoadedModel
from bankportal.services.models import Models

WARM_UP_AFTER = 2.0  # seconds


def _lifting(decision: Decision, limit: Limit, policy: LimitPolicy) -> Iterator[tuple[Factor, float]]:
    """Yield the factor and value that carry the smallest limit, or the requested one where some is granted."""
    target = math.ceil((limit.requested or policy.smallest) / policy.step) * policy.step
    target = policy.smallest if limit.declined else target
    salary, bound = (decision.customer.scored[factor.name] for factor in (ESTIMATED_SALARY, MONTHLY_OBLIGATIONS))
    if isinstance(salary, float) and isinstance(bound, float) and (less := policy.obligations_for(target, salary)) >= 0:
        yield MONTHLY_OBLIGATIONS, _whole_steps(less, MONTHLY_OBLIGATIONS, math.floor)
    known = bound if isinstance(bound, float) else None
    yield ESTIMATED_SALARY, _whole_steps(policy.salary_for(target, known), ESTIMATED_SALARY, math.ceil)


def _whole_steps(value: float, factor: Factor, rounded: Callable[[float], int]) -> float:
    step = factor.change.step if factor.change else 1.0
    return float(rounded(value / step) * step)


class Explaining:
    """Answers about what explains a decision; `VersionRefused` where its model version's files are not right."""

    def __init__(self, models: Models):
        self.models = models

    def warm_up_later(self) -> None:
        """Warm up beside the first requests: the first page is there at once, and the first score is fast."""
        later = threading.Timer(WARM_UP_AFTER, self._warm_up_if_set_up)
        later.daemon = True
        later.start()

    def _warm_up_if_set_up(self) -> None:
        with suppress(SQLAlchemyError, OSError):  # a portal that is not set up yet says so when it is asked
            self.warm_up()

    def warm_up(self) -> None:
        """Load every product's model and compile its kernels, or load them compiled; no model is fine."""
        kernels()
        for product in PRODUCTS.values():
            try:
                self.models.serving(product).warm_up()
            except NoActiveModel:
                continue

    def model(self, decision: Decision) -> LoadedModel:
        """Return the very model version that decided."""
        outcome = decision.outcome
        return self.models.registry.model(outcome.product, outcome.model_version, outcome.model_digest)

    def recourse(self, decision: Decision) -> Recourse:
        """Return the smallest changes that reach a better band, within what the model saw in training."""
        model = self.model(decision)
        values = decision.customer.scored
        return recourse(model.product, model.forest, model.encoding, values, model.seen.ranges)

    def limit_after(self, decision: Decision, suggestion: Suggestion) -> Limit | None:
        """Return the limit that the decision's policy would suggest after a change; `None` without a policy."""
        return self.limit_with(
            decision, suggestion.band, {change.factor.name: change.new for change in suggestion.changes}
        )

    def limit_with(self, decision: Decision, band: Band, changes: Mapping[str, Value]) -> Limit | None:
        """Return the limit for a decision's values with changes, which put the score into `band`; as `limit_after`."""
        policy = POLICIES.get(decision.outcome.policy_version or "")
        if policy is None:
            return None
        requested = decision.customer.policy.get("RequestedLimit")
        values = {**decision.customer.scored, **changes}
        return policy.suggest(band.name, values, requested if isinstance(requested, float) else None)

    def lifts(self, decision: Decision) -> tuple[Suggestion, ...]:
        """Return what lifts a limit that the ability to pay cut or refused: less to pay, or more salary.

        Each is the smallest such change of the one factor, scored again, and does lead to a higher limit.
        """
        limit, policy = decision.outcome.limit, POLICIES.get(decision.outcome.policy_version or "")
        if limit is None or policy is None or limit.rule != ABILITY_TO_PAY or not limit.cut:
            return ()
        made = (self._lift(decision, factor, value) for factor, value in _lifting(decision, limit, policy))
        return tuple(lift for lift in made if lift and self._lifted(decision, lift) > limit.amount)

    def _lift(self, decision: Decision, factor: Factor, new: float) -> Suggestion | None:
        old = decision.customer.scored[factor.name]
        if not isinstance(old, int | float) or factor.change is None:
            return None
        model = self.model(decision)
        row = model.encoding.row(decision.customer.scored | {factor.name: new})
        score = float(model.forest.score(row[None, :])[0])
        effort = abs(new - old) * factor.change.effort
        return Suggestion((Replacement(factor, old, new),), score, model.product.band(score), effort)

    def _lifted(self, decision: Decision, lift: Suggestion) -> float:
        after = self.limit_after(decision, lift)
        return after.amount if after else 0.0

    def curve(self, decision: Decision, factor: str) -> Curve:
        """Return the score at every value of one factor, all others as they were; `NotFound` if it is not scored."""
        model = self.model(decision)
        if factor not in {scored.name for scored in model.product.scored}:
            raise NotFound(f"{model.product.title} scores no factor {factor[:40]}.")
        return curve(model.product, model.forest, model.encoding, decision.customer.scored, factor, model.seen)

    def histograms(self, decision: Decision) -> Mapping[str, Histogram]:
        """Return how the training customers spread over each factor."""
        return self.model(decision).histograms

    def reference(self, decision: Decision) -> str:
        """Say whom the customer was compared with: who they are, and how many."""
        reference = self.model(decision).manifest["reference"]
        return f"{reference['meaning']} ({reference['rows']:,})"
