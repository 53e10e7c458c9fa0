"""The what-if curve: where its steps, cut-offs and marks lie. Templates only draw, the script only moves the marker.

Places are percent of the drawing, so that it stretches to any width: x to the right over a window of the factor's
range, y downwards from a score of 1.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from bankportal.domain.constraints import Number
from bankportal.domain.outcome import percent
from bankportal.domain.policy import Value
from bankportal.domain.products import Band, Product, Verdict
from bankportal.explanation.curve import Curve, Step
from bankportal.web.drawings.gauge import cut_off_text
from bankportal.web.words import as_typed, number, value_words

MARGIN = 0.06  # of the training data's width, shown on each side of it
CUSTOMER_LABEL_WIDTH = 36.0  # the width that the customer's label takes on a phone
BAND_LABEL_WIDTH = 24.0  # the width that the bands' labels take
BAND_LABEL_GAP = 4.0  # between a band's label and the line below it


# From a value of the curve's factor and the score it leads to, the verdict that the customer would have.
VerdictAt = Callable[[Value, float], Verdict]


@dataclass(frozen=True)
class Zone:
    """A band's part of the drawing's height; `text` is its name and cut-off."""

    band: Band
    y: float
    height: float
    text: str


@dataclass(frozen=True)
class Stop:
    """A place where the marker rests, one for each step of the curve; `typed` is its value as it would be typed."""

    x: float
    y: float
    typed: str
    value: str
    score: str
    verdict: Verdict

    @property
    def words(self) -> str:
        """The stop as a sentence."""
        return f"{self.value}: {self.score}, {self.verdict.name}"


@dataclass(frozen=True)
class StepRow:
    """One step in the table: its range, score and the score's band; `own` holds the customer."""

    range: str
    score: str
    band: Band
    own: bool


@dataclass(frozen=True)
class Drawing:
    """Everything the template needs. `own` is the index of the customer's own stop, `None` for an unknown value."""

    curve: Curve
    zones: tuple[Zone, ...]
    path: str
    trained: tuple[float, float] | None
    trained_words: str
    low: str
    high: str
    options: tuple[tuple[float, str], ...]
    stops: tuple[Stop, ...]
    own: int | None
    rows: tuple[StepRow, ...]
    unknown: Stop | None

    @property
    def at(self) -> Stop:
        """Where the marker begins: at the customer's own value, at the first stop where it is unknown."""
        return self.stops[self.own or 0]

    @property
    def anchor(self) -> str:
        """On which side of its line the customer's label is written: inside, if possible not over the bands' labels."""
        if self.labels_right:
            return "end" if self.at.x > CUSTOMER_LABEL_WIDTH else "start"
        return "start" if self.at.x < 100 - CUSTOMER_LABEL_WIDTH else "end"

    @property
    def labels_right(self) -> bool:
        """Whether the bands' labels are written on the right: on the side where the curve leaves them more room."""
        return self._clearance(lambda x: x > 100 - BAND_LABEL_WIDTH) > self._clearance(lambda x: x < BAND_LABEL_WIDTH)

    def _clearance(self, near: Callable[[float], bool]) -> float:
        heights = [zone.y + zone.height - BAND_LABEL_GAP for zone in self.zones]
        distances = [abs(stop.y - height) for stop in self.stops if near(stop.x) for height in heights]
        own_there = self.own is not None and near(self.at.x)
        return min(distances, default=100.0) - (100.0 if own_there else 0.0)

    @property
    def data(self) -> str:
        """The stops for the script, as JSON."""
        fields = ("x", "y", "typed", "value", "score", "words")
        stops = [{f: getattr(stop, f) for f in fields} | _verdict(stop.verdict) for stop in self.stops]
        return json.dumps(stops, separators=(",", ":"))


@dataclass(frozen=True)
class Window:
    """The part of a number's range that is drawn. `half` is half the width of a whole number's step, else 0."""

    low: float
    high: float
    half: float

    def x(self, value: float) -> float:
        """Return the x of a value; that of the nearer side where it lies outside."""
        return round(100 * min(max((value - self.low) / (self.high - self.low), 0.0), 1.0), 3)


def _verdict(verdict: Verdict) -> dict[str, str]:
    return {"verdict": verdict.name, "tone": verdict.tone.value}


def drawing(product: Product, curve: Curve, verdict_at: VerdictAt) -> Drawing:
    """Return the drawing of a curve."""
    draw = _of_number if isinstance(curve.factor.constraint, Number) else _of_options
    return draw(product, curve, verdict_at)


def zones(product: Product) -> tuple[Zone, ...]:
    """Return the bands, which are drawn behind the curve."""
    return tuple(
        Zone(
            band,
            round(100 * (1 - product.end(band)), 3),
            round(100 * (product.end(band) - band.start), 3),
            f"{band.name} from {cut_off_text(band.start)}",
        )
        for band in product.bands
    )


def height(score: float) -> float:
    """Return the y of a score."""
    return round(100 * (1 - score), 3)


def window(curve: Curve) -> Window:
    """Return the part of a number's range to draw: the training data's, the customer's own value, and a margin."""
    constraint = curve.factor.constraint
    assert isinstance(constraint, Number)
    low, high = _seen(curve) or (constraint.minimum, constraint.maximum)
    half = 0.5 if constraint.whole else 0.0
    width = (high - low) or 1.0
    # A value very far away is marked at the side: drawn to scale, it would leave no room for the curve.
    if isinstance(curve.own, int | float) and low - width <= curve.own <= high + width:
        low, high = min(low, curve.own), max(high, curve.own)
    width = (high - low) or 1.0
    unit = max(10.0 ** math.floor(math.log10(width) - 1), 1.0 if constraint.whole else 0.0)
    low, high = _down(low - MARGIN * width, unit), -_down(-high - MARGIN * width, unit)
    return Window(max(low, constraint.minimum) - half, min(high, constraint.maximum) + half, half)


def _down(value: float, unit: float) -> float:
    """Round down to a multiple of a unit, so that the ends are easily read."""
    return round(math.floor(value / unit) * unit, 10)


def _seen(curve: Curve) -> tuple[float, float] | None:
    if curve.seen is None or not isinstance(curve.factor.constraint, Number):
        return None
    low, high = curve.seen
    assert not isinstance(low, str)
    assert not isinstance(high, str)
    return low, high


def _of_number(product: Product, curve: Curve, verdict_at: VerdictAt) -> Drawing:
    shown, seen = window(curve), _seen(curve)
    low, high = (shown.low + shown.half, shown.high - shown.half)
    inside = [step for step in curve.steps if _number(step.end) >= low and _number(step.start) < high]
    resting = (_resting_value(curve, step, low, high) for step in inside)
    stops = tuple(_stop_on(product, curve, value, shown, verdict_at) for value in resting)
    own = next((place for place, step in enumerate(inside) if _holds(curve, step)), None)
    if own is None and curve.own is not None:
        stops, own = _pinned(product, curve, stops, shown, verdict_at)
    return Drawing(
        curve=curve,
        zones=zones(product),
        path=_path(inside, shown),
        trained=(shown.x(seen[0] - shown.half), shown.x(seen[1] + shown.half)) if seen else None,
        trained_words=f"{_written(curve, seen[0])} to {_written(curve, seen[1])}" if seen else "",
        low=_written(curve, low),
        high=_written(curve, high),
        options=(),
        stops=stops,
        own=own,
        rows=(
            *(_row(product, step.score, _range(curve, step), own=_holds(curve, step)) for step in curve.steps),
            *_unknown_row(product, curve),
        ),
        unknown=_unknown(product, curve, verdict_at),
    )


def _pinned(
    product: Product, curve: Curve, stops: tuple[Stop, ...], shown: Window, verdict_at: VerdictAt
) -> tuple[tuple[Stop, ...], int]:
    """Add a stop for the customer's own value, which lies outside what is drawn, at the nearer side."""
    assert isinstance(curve.own, int | float)
    stop = _stop_on(product, curve, curve.own, shown, verdict_at)
    return ((stop, *stops), 0) if curve.own < shown.low else ((*stops, stop), len(stops))


def _of_options(product: Product, curve: Curve, verdict_at: VerdictAt) -> Drawing:
    width = 100 / len(curve.steps)
    middles = [round(width * (place + 0.5), 3) for place in range(len(curve.steps))]
    stops = tuple(
        _stop(product, curve, x, step.end, step.score, verdict_at) for x, step in zip(middles, curve.steps, strict=True)
    )
    lines = (
        f"M {x - width * 0.36:.3f} {stop.y} L {x + width * 0.36:.3f} {stop.y}"
        for x, stop in zip(middles, stops, strict=True)
    )
    return Drawing(
        curve=curve,
        zones=zones(product),
        path=" ".join(lines),
        trained=None,
        trained_words="",
        low="",
        high="",
        options=tuple((stop.x, stop.value) for stop in stops),
        stops=stops,
        own=next((place for place, step in enumerate(curve.steps) if step.end == curve.own), None),
        rows=(
            *(
                _row(
                    product,
                    step.score,
                    value_words(curve.factor, step.end, product.currency),
                    own=step.end == curve.own,
                )
                for step in curve.steps
            ),
            *_unknown_row(product, curve),
        ),
        unknown=_unknown(product, curve, verdict_at),
    )


def _unknown(product: Product, curve: Curve, verdict_at: VerdictAt) -> Stop | None:
    """Return the stop of a blank value; `None` where the factor must not be blank."""
    score = curve.score_unknown
    return None if score is None else _stop(product, curve, 0.0, None, score, verdict_at)


def _row(product: Product, score: float, words: str, *, own: bool) -> StepRow:
    return StepRow(words, percent(product, score), product.band(score), own)


def _unknown_row(product: Product, curve: Curve) -> Iterator[StepRow]:
    if curve.score_unknown is not None:
        yield _row(
            product, curve.score_unknown, value_words(curve.factor, None, product.currency), own=curve.own is None
        )


def _stop_on(product: Product, curve: Curve, value: float, shown: Window, verdict_at: VerdictAt) -> Stop:
    """Return the stop at a number, which may lie outside what is shown."""
    return _stop(product, curve, shown.x(value), value, curve.step_at(value).score, verdict_at)


def _stop(product: Product, curve: Curve, x: float, value: Value, score: float, verdict_at: VerdictAt) -> Stop:
    words = value_words(curve.factor, value, product.currency)
    return Stop(x, height(score), as_typed(value), words, percent(product, score), verdict_at(value, score))


def _path(steps: list[Step], shown: Window) -> str:
    """Return the step line: across each step, then up or down to the next."""
    starts = [
        shown.x(shown.low),
        *(shown.x(_number(step.end) + shown.half) for step in steps[:-1]),
        shown.x(shown.high),
    ]
    lines = [
        f"{'L' if place else 'M'} {start} {height(step.score)} L {end} {height(step.score)}"
        for place, (step, (start, end)) in enumerate(zip(steps, pairwise(starts), strict=True))
    ]
    return " ".join(lines)


def _resting_value(curve: Curve, step: Step, low: float, high: float) -> float:
    """Return the value at which the marker rests on a step: the customer's own, else a round one."""
    if isinstance(curve.own, int | float) and _holds(curve, step):
        return curve.own
    after, last = max(_number(step.start), low), min(_number(step.end), high)
    below = isinstance(curve.own, int | float) and last < curve.own
    # The very first value is a step of its own.
    value = last if after >= last else roundest(after, last, low=not below)
    return int(value) if getattr(curve.factor.constraint, "whole", False) else float(value)


def roundest(after: float, last: float, *, low: bool) -> float:
    """Return the value above `after`, up to and with `last`, that has the fewest digits; the lowest or the highest.

    >>> roundest(61_234.5, 63_120.25, low=True), roundest(0.31, 0.34, low=False)
    (62000.0, 0.34)
    """
    for digits in range(-9, 16):
        unit = 10.0**-digits
        count = math.floor(after / unit) + 1 if low else math.floor(last / unit)
        value = round(count * unit, max(digits, 0))
        if after < value <= last:
            return value
    return last


def _holds(curve: Curve, step: Step) -> bool:
    if not isinstance(curve.own, int | float):
        return False
    first = step is curve.steps[0] and curve.own == step.start
    return first or _number(step.start) < curve.own <= _number(step.end)


def _range(curve: Curve, step: Step) -> str:
    """Write the range of a number's step: "3 to 50" for whole numbers, else "above 12.25 to 61.5"."""
    start, end = _number(step.start), _number(step.end)
    if step is curve.steps[0]:
        return _written(curve, end) if start == end else f"{_written(curve, start)} to {_written(curve, end)}"
    if getattr(curve.factor.constraint, "whole", False):
        return _written(curve, end) if start + 1 == end else f"{_written(curve, start + 1)} to {_written(curve, end)}"
    return f"above {_written(curve, start)} to {_written(curve, end)}"


def _written(curve: Curve, value: Value) -> str:
    """Write an end of a step, rounded to four decimals."""
    assert isinstance(value, int | float)
    return number(round(value, 4))


def _number(end: float | str) -> float:
    assert not isinstance(end, str)
    return end
