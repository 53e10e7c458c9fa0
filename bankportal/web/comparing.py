"""Before and after: a decision as recorded, beside what the customer would get now with some values changed.

Nothing is recorded. "Now" is by the declaration in force and the model that serves; "before" keeps its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bankportal.domain.constraints import Source
from bankportal.domain.errors import FieldProblem, InvalidInput
from bankportal.domain.outcome import Decision, Outcome
from bankportal.domain.products import Product
from bankportal.domain.schema import Customer, validate
from bankportal.web import forms
from bankportal.web.current import services
from bankportal.web.declared import is_in_force, labels, no_longer_asked
from bankportal.web.drawings.bars import NEGLIGIBLE, Mark, direction, factors_by_name, points
from bankportal.web.drawings.gauge import Gauge, gauge
from bankportal.web.words import value_words

NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Row:
    """One factor before and after: values and contributions in percentage points, each with its mark."""

    label: str
    values: tuple[str, str]
    points: tuple[str, str]
    marks: tuple[Mark, Mark]
    changed: bool


@dataclass(frozen=True)
class Comparison:
    """Both outcomes and their gauges. `after` is `None` where a value is not legal now; `problems` says why.

    `left_out` are recorded values that today's declaration does not ask for.
    """

    decision: Decision
    raw: Mapping[str, str | None]
    after: Outcome | None
    gauges: tuple[Gauge, Gauge] | None
    rows: tuple[Row, ...]
    problems: tuple[FieldProblem, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def other_declaration(self) -> bool:
        """Whether the declaration in force is not the one of the decision."""
        return not is_in_force(self.decision.outcome.product)

    @property
    def other_version(self) -> bool:
        """Whether the model version that scores now is not the one that decided."""
        return self.after is not None and self.after.model_digest != self.decision.outcome.model_digest

    @property
    def difference(self) -> str:
        """How far the score moves, in percentage points."""
        return points(self.after.score - self.decision.outcome.score) if self.after else ""

    @property
    def changed(self) -> dict[str, str]:
        """The values that differ from the recorded ones, as typed."""
        before = recorded_values(self.decision)
        return {name: text or "" for name, text in self.raw.items() if (text or "") != before.get(name, "")}


def recorded_values(decision: Decision) -> dict[str, str]:
    """Return the recorded values of the factors that decided, as typed."""
    return forms.typed_values(decision.customer.scored | decision.customer.policy)


def comparison(decision: Decision, product: Product, changes: Mapping[str, str]) -> Comparison:
    """Score a decision's values with changes, as typed, and set both answers side by side.

    `product` is the decision's as it is declared now.
    """
    values = {**recorded_values(decision), **changes}
    raw: dict[str, str | None] = {name: text for name, text in values.items() if name in factors_by_name(product)}
    left_out = no_longer_asked(product, values, labels(decision.outcome.product, values))
    try:
        customer = validate(product, {**forms.raw_values(product, {}), **raw}, Source.TEXT)
    except InvalidInput as invalid:
        return Comparison(decision, raw, None, None, (), invalid.problems, left_out)
    after = services().scoring.score(customer)
    gauges = gauge(decision.outcome), gauge(after)
    return Comparison(decision, raw, after, gauges, rows(decision, customer, after), left_out=left_out)


def rows(decision: Decision, customer: Customer, after: Outcome) -> tuple[Row, ...]:
    """Return the factors that were changed or contribute: changed ones first, then by the larger contribution."""
    sides = _Side(decision.customer, decision.outcome), _Side(customer, after)
    sortable = []
    for name in dict.fromkeys(name for side in sides for name in (*side.contributions, *side.customer.policy)):
        row = _row(name, *sides)
        weight = max(abs(side.contributions.get(name, 0.0)) for side in sides)
        if row.changed or weight >= NEGLIGIBLE:
            sortable.append((not row.changed, -weight, row))
    return tuple(row for _, _, row in sorted(sortable, key=lambda each: each[:2]))


class _Side:
    """What is known of one side, each by its own declaration."""

    def __init__(self, customer: Customer, outcome: Outcome):
        self.customer, self.product, self.contributions = customer, outcome.product, outcome.contributions
        self.factors = factors_by_name(outcome.product)
        self.values = customer.scored | customer.policy

    def words(self, name: str) -> str:
        """Write the value of a factor."""
        if name not in self.values:
            return NOT_ASKED
        value = self.values[name]
        return value_words(self.factors[name], value, self.product.currency) if name in self.factors else str(value)

    def mark(self, name: str) -> Mark:
        """Return the mark of a factor's contribution."""
        contribution = self.contributions.get(name, 0.0)
        return direction(self.product, contribution if abs(contribution) >= NEGLIGIBLE else 0.0)


def _row(name: str, before: _Side, after: _Side) -> Row:
    factor = after.factors.get(name) or before.factors.get(name)
    return Row(
        label=factor.label if factor else name,
        values=(before.words(name), after.words(name)),
        points=(points(before.contributions.get(name, 0.0)), points(after.contributions.get(name, 0.0))),
        marks=(before.mark(name), after.mark(name)),
        changed=before.values.get(name) != after.values.get(name),
    )
