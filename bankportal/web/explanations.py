"""What explains a decision on its page and is worked out anew, from the files of the model version that decided."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bankportal.domain.constraints import YesNo
from bankportal.domain.errors import NotFound, VersionRefused
from bankportal.domain.outcome import Decision, percent
from bankportal.domain.policy import Limit, Value
from bankportal.domain.products import Product, Verdict
from bankportal.explanation.recourse import Recourse, Replacement, Suggestion
from bankportal.model.histograms import Histogram
from bankportal.web.current import services
from bankportal.web.drawings.bars import NEGLIGIBLE
from bankportal.web.drawings.curves import Drawing, drawing
from bankportal.web.words import as_typed, capitalised, money, number, value_words, with_unit


@dataclass(frozen=True)
class Advice:
    """A suggested change in words, the score, verdict and limit it leads to, and its values as they would be typed."""

    words: str
    score: str
    verdict: Verdict
    limit: str
    typed: Mapping[str, str]


@dataclass(frozen=True)
class Explanation:
    """What would change a decision, the curve of one factor, and whom the customer is compared with (`reference`)."""

    recourse: Recourse
    advice: tuple[Advice, ...]
    lifts: tuple[Advice, ...]
    drawing: Drawing
    histograms: Mapping[str, Histogram]
    reference: str


def explain_decision(decision: Decision, factor: str | None) -> Explanation | None:
    """Work out what explains a decision; `None` where its model version's files are missing or changed.

    `factor` names the factor of the curve; `None` takes the weightiest one. `NotFound` where it is not scored.
    """
    explaining, product = services().explaining, decision.outcome.product
    if factor is not None and factor not in {scored.name for scored in product.scored}:
        raise NotFound(f"{product.title} scores no factor {factor[:40]}.")
    try:
        recourse = explaining.recourse(decision)
        return Explanation(
            recourse=recourse,
            advice=all_advice(decision, recourse.suggestions),
            lifts=all_advice(decision, explaining.lifts(decision)),
            drawing=factor_drawing(decision, factor or weightiest_factor(decision)),
            histograms=explaining.histograms(decision),
            reference=explaining.reference(decision),
        )
    except VersionRefused:
        return None


def factor_drawing(decision: Decision, factor: str) -> Drawing:
    """Return the drawing of a factor's curve; the verdict at each value considers the limit as well."""
    explaining, product = services().explaining, decision.outcome.product

    def verdict_at(value: Value, score: float) -> Verdict:
        band = product.band(score)
        limit = explaining.limit_with(decision, band, {factor: value})
        return product.verdict(band, limit.amount if limit else None)

    return drawing(product, explaining.curve(decision, factor), verdict_at)


def all_advice(decision: Decision, suggestions: Iterable[Suggestion]) -> tuple[Advice, ...]:
    """Put a decision's suggestions in words."""
    product, limit_after = decision.outcome.product, services().explaining.limit_after
    return tuple(advice(product, suggestion, limit_after(decision, suggestion)) for suggestion in suggestions)


def weightiest_factor(decision: Decision) -> str:
    """Return the factor whose curve is shown first: of the changeable ones, that with the largest contribution."""
    contributions = decision.outcome.contributions
    scored = decision.outcome.product.scored
    changeable = [each for each in scored if each.change and abs(contributions.get(each.name, 0.0)) >= NEGLIGIBLE]
    return max(changeable or scored, key=lambda factor: abs(contributions.get(factor.name, 0.0))).name


def advice(product: Product, suggestion: Suggestion, limit: Limit | None = None) -> Advice:
    """Put a suggestion in words, with the limit it leads to where the product has limits."""
    return Advice(
        words=capitalised(" and ".join(replacement_words(change, product) for change in suggestion.changes)),
        score=percent(product, suggestion.score),
        verdict=product.verdict(suggestion.band, limit.amount if limit else None),
        limit=limit_after_words(limit, product.currency) if limit else "",
        typed={change.factor.name: as_typed(change.new) for change in suggestion.changes},
    )


def limit_after_words(limit: Limit, currency: str) -> str:
    """Say what limit a change leads to."""
    if limit.declined:
        return "still no limit: what is left of the salary carries too little"
    return f"limit {money(limit.amount, currency)}{' (a counteroffer)' if limit.counteroffer else ''}"


def replacement_words(change: Replacement, product: Product) -> str:
    """Say one change: "card utilisation from 85% to 60%"."""
    factor = change.factor
    label = f"{factor.label[:1].lower()}{factor.label[1:]}"
    if isinstance(factor.constraint, YesNo):
        old, new = (value_words(factor, value, product.currency).lower() for value in (change.old, change.new))
        return f"{label} from {old} to {new}"
    old, new = number(change.old), number(change.new)
    if factor.unit == "percent":
        return f"{label} from {with_unit(factor, old)} to {with_unit(factor, new)}"
    label_has_unit = factor.unit.lower() in label.lower()  # "products held from 3 to 2" needs no "products" behind it
    return f"{label} from {old} to {new if label_has_unit else with_unit(factor, new)}"
