"""Contributions as bars to both sides of the reference, and where the customer lies among the training customers.

All numbers are computed here; templates only draw.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bankportal.domain.constraints import Choice, YesNo
from bankportal.domain.factors import Factor
from bankportal.domain.outcome import Outcome, Reason, percent
from bankportal.domain.policy import Value
from bankportal.domain.products import Product, Tone
from bankportal.domain.reasons import MAX_REASONS, Omission, omissions
from bankportal.model.histograms import Histogram
from bankportal.web.words import UNKNOWN, share, value_words

# A smaller contribution would be written as 0.00 percentage points: it is shown as no influence.
NEGLIGIBLE = 0.00005
CENTRE, MAX_BAR_LENGTH = 50.0, 48.0
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 72.0, 24.0
RANKS = {Tone.BAD: 0, Tone.FAIR: 1, Tone.GOOD: 2}
MIN_BAR_HEIGHT = 1.5  # a bar with at least one customer is visible


@dataclass(frozen=True)
class Mark:
    """The sign before a reason or a contribution: an icon's name, its words, and a tone for the style sheet."""

    icon: str
    words: str
    tone: str


@dataclass(frozen=True)
class HistogramBar:
    """One bar of the histogram; `own` holds the customer."""

    x: float
    y: float
    width: float
    height: float
    own: bool


@dataclass(frozen=True)
class HistogramDrawing:
    """A small histogram of all training customers over one factor, and the same in words."""

    bars: tuple[HistogramBar, ...]
    words: str
    view_box: str = f"0 0 {HISTOGRAM_WIDTH:g} {HISTOGRAM_HEIGHT:g}"


@dataclass(frozen=True)
class Bar:
    """One factor's contribution. `x` and `width` are percent of the drawing, whose centre is the reference.

    `reason` is its place among the reasons, from 1, or `None` where it is not one of them; `omission` says why not.
    """

    label: str
    value: str
    contribution: float
    points: str
    mark: Mark
    x: float
    width: float
    histogram: HistogramDrawing | None
    reason: int | None
    omission: str


@dataclass(frozen=True)
class Bars:
    """All contributions, the largest first; `idle` are the negligible ones.

    `base` is the reference's mean score; `rule` says in a sentence which contributions become reasons.
    """

    base: str
    score: str
    moving: tuple[Bar, ...]
    idle: tuple[Bar, ...]
    rule: str


def rising_is_good(product: Product) -> bool:
    """Whether a higher score is good news for this product: its highest band is better than its lowest one."""
    lowest, highest = (RANKS[band.tone] for band in (product.bands[0], product.bands[-1]))
    return highest > lowest if highest != lowest else product.decides_credit


def direction(product: Product, contribution: float) -> Mark:
    """Return the mark of a contribution."""
    if contribution == 0:
        return Mark("middle", "Does not move the score", "none")
    up = contribution > 0
    tone = Tone.GOOD if up is rising_is_good(product) else Tone.BAD
    return Mark("up" if up else "down", "Raises the score" if up else "Lowers the score", tone.value)


def reason_mark(product: Product, reason: Reason) -> Mark:
    """Return the mark of a reason; a rule of the limit policy has no direction."""
    return Mark("notice", "A rule decided", Tone.FAIR.value) if reason.rule else direction(product, reason.contribution)


def points(contribution: float) -> str:
    """Write a contribution in percentage points, signed.

    >>> points(0.1234), points(-0.0004), points(0.0)
    ('+12.3', '−0.04', '0')
    """
    size = abs(contribution) * 100
    if abs(contribution) < NEGLIGIBLE:
        return "0"
    return f"{'+' if contribution > 0 else '−'}{size:.{1 if size >= 0.05 else 2}f}"


def bars(outcome: Outcome, values: Mapping[str, Value], histograms: Mapping[str, Histogram] | None) -> Bars:
    """Return an outcome's contributions as bars; `histograms` is `None` where the model version's files are missing."""
    factors, omitted = factors_by_name(outcome.product), omissions(outcome)
    ordered = sorted(outcome.contributions.items(), key=lambda pair: -abs(pair[1]))
    most = max((abs(part) for _, part in ordered), default=0.0)
    places = {reason.factor: place for place, reason in enumerate(outcome.reasons, 1)}

    def bar(name: str, part: float) -> Bar:
        factor, value, histogram = factors.get(name), values.get(name), (histograms or {}).get(name)
        width = MAX_BAR_LENGTH * abs(part) / most if most else 0.0
        return Bar(
            label=factor.label if factor else name,
            value=value_words(factor, value, outcome.product.currency) if factor else str(value),
            contribution=part,
            points=points(part),
            mark=direction(outcome.product, part if abs(part) >= NEGLIGIBLE else 0.0),
            x=round(CENTRE - width if part < 0 else CENTRE, 3),
            width=round(width, 3),
            histogram=histogram_drawing(factor, value, histogram) if factor and histogram else None,
            reason=places.get(name),
            omission=omission_words(outcome.product, omitted[name], part) if name in omitted else "",
        )

    rows = [bar(name, part) for name, part in ordered]
    return Bars(
        base=f"{outcome.base:.1%}",
        score=percent(outcome.product, outcome.score),
        moving=tuple(row for row in rows if abs(row.contribution) >= NEGLIGIBLE),
        idle=tuple(row for row in rows if abs(row.contribution) < NEGLIGIBLE),
        rule=reason_rule(outcome.product, set(omitted.values())),
    )


def omission_words(product: Product, omission: Omission, contribution: float) -> str:
    """Say beside a contribution why it is not among the reasons."""
    verb = product.raises if contribution > 0 else product.lowers
    return {
        Omission.RULE_ALONE: "",  # said once, above the table
        Omission.SPEAKS_FOR: f"Not a reason here: it {verb.singular}.",
        Omission.NOT_BY_ITSELF: f"Not a reason: it {verb.singular} only together with other values.",
        Omission.TOO_MANY: "Not a reason: those that are named weigh more.",
        Omission.TOO_SMALL: "Too small to be a reason.",
    }[omission]


def reason_rule(product: Product, omitted: Collection[Omission]) -> str:
    """Say which contributions become reasons, as far as it matters for those that did not."""
    if Omission.RULE_ALONE in omitted:
        return "None of them is a reason here, because a rule of the limit policy decided alone."
    points, share = product.thresholds.min_points * 100, product.thresholds.min_share * 100
    rule = (
        f"Up to {MAX_REASONS} are the reasons above: each weighs at least {points:g} points and {share:g}% of the "
        "weightiest, and moves the score the same way by itself, with all other values as they are."
    )
    if Omission.SPEAKS_FOR in omitted:
        rule += f" A refusal, or a limit below the request, names only what {product.lowers.singular}."
    return rule


def factors_by_name(product: Product) -> dict[str, Factor]:
    """Return a product's declared factors by name."""
    return {entry.factor.name: entry.factor for entry in product.factors}


def histogram_drawing(factor: Factor, value: Value, histogram: Histogram) -> HistogramDrawing:
    """Return the histogram of one factor with the customer's bar marked."""
    own = None if value is None else histogram.bar(value)
    most, count = max(histogram.counts), len(histogram.counts)
    step = HISTOGRAM_WIDTH / count
    gap = min(2.0, step / 5)
    drawn = []
    for number, held in enumerate(histogram.counts):
        height = max(MIN_BAR_HEIGHT, HISTOGRAM_HEIGHT * held / most) if held else 0.0
        height = max(height, MIN_BAR_HEIGHT) if number == own else height
        at = round(number * step + gap / 2, 2)
        drawn.append(
            HistogramBar(at, round(HISTOGRAM_HEIGHT - height, 2), round(step - gap, 2), round(height, 2), number == own)
        )
    return HistogramDrawing(tuple(drawn), _histogram_words(factor, histogram, own, unknown=value is None))


def _histogram_words(factor: Factor, histogram: Histogram, own: int | None, *, unknown: bool) -> str:
    everybody = sum(histogram.counts) + histogram.unknown
    if unknown:
        return f"{UNKNOWN} for {_part(histogram.unknown, everybody)}"
    if own is None:
        return "a value that no training customer has"
    alike = "the same" if isinstance(factor.constraint, YesNo | Choice) else "about the same"
    return f"{alike} for {_part(histogram.counts[own], everybody)}"


def _part(count: int, everybody: int) -> str:
    part = count / everybody
    return "under 1%" if 0 < part < 0.01 else share(part, 0)
