"""Before and after: a decision as recorded beside the same customer with some values changed. Nothing is recorded."""

from collections.abc import Mapping
from dataclasses import dataclass

from bankportal.domain.constraints import Source
from bankportal.domain.errors import FieldProblem, InvalidInput
from bankportal.domain.outcome import Decision, Outcome
from bankportal.domain.policy import Value
from bankportal.domain.products import Product
from bankportal.domain.schema import Customer, validate
from bankportal.web import forms
from bankportal.web.current import services
from bankportal.web.drawings.bars import NEGLIGIBLE, Mark, direction, factors_by_name, points
from bankportal.web.drawings.gauge import Gauge, gauge
from bankportal.web.words import value_words


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
    """Both outcomes and their gauges. `after` is `None` where a changed value is not legal; `problems` says why."""

    decision: Decision
    raw: Mapping[str, str | None]
    after: Outcome | None
    gauges: tuple[Gauge, Gauge] | None
    rows: tuple[Row, ...]
    problems: tuple[FieldProblem, ...] = ()

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


def comparison(decision: Decision, changes: Mapping[str, str]) -> Comparison:
    """Score a decision's values with changes, as typed, and set both answers side by side."""
    product = decision.outcome.product
    before = {name: text for name, text in recorded_values(decision).items() if name in factors_by_name(product)}
    raw: dict[str, str | None] = {**before, **changes}
    try:
        customer = validate(product, {**forms.raw_values(product, {}), **raw}, Source.TEXT)
    except InvalidInput as invalid:
        return Comparison(decision, raw, None, None, (), invalid.problems)
    after = services().scoring.score(customer)
    gauges = gauge(decision.outcome), gauge(after)
    return Comparison(decision, raw, after, gauges, rows(decision, customer, after))


def rows(decision: Decision, customer: Customer, after: Outcome) -> tuple[Row, ...]:
    """Return the factors that were changed or contribute: changed ones first, then by the larger contribution."""
    product, before = decision.outcome.product, decision.outcome.contributions
    old_values, new_values = (each.scored | each.policy for each in (decision.customer, customer))
    sortable = []
    for name in dict.fromkeys([*before, *after.contributions, *customer.policy]):
        contributions = before.get(name, 0.0), after.contributions.get(name, 0.0)
        row = _row(product, name, (old_values.get(name), new_values.get(name)), contributions)
        weight = max(map(abs, contributions))
        if row.changed or weight >= NEGLIGIBLE:
            sortable.append((not row.changed, -weight, row))
    return tuple(row for _, _, row in sorted(sortable, key=lambda each: each[:2]))


def _row(product: Product, name: str, values: tuple[Value, Value], contributions: tuple[float, float]) -> Row:
    factor = factors_by_name(product).get(name)
    texts = [value_words(factor, value) if factor else str(value) for value in values]
    marks = [direction(product, each if abs(each) >= NEGLIGIBLE else 0.0) for each in contributions]
    return Row(
        label=factor.label if factor else name,
        values=(texts[0], texts[1]),
        points=(points(contributions[0]), points(contributions[1])),
        marks=(marks[0], marks[1]),
        changed=values[0] != values[1],
    )
