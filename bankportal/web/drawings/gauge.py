"""The gauge: a half circle whose numbers are all computed here; the template only draws them.

Angles run from 0 (left, a score of 0) to 180 degrees (right, a score of 1). Coordinates are those of the drawing's view
box, with y growing downwards.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from bankportal.domain.constraints import plain
from bankportal.domain.outcome import Outcome, percent
from bankportal.domain.products import Band, Product, Verdict
from bankportal.web.words import capitalised

WIDTH, HEIGHT = 320, 196
CENTRE_X, CENTRE_Y = 160.0, 166.0
BAND_RADIUS = 134.0
TRACK_RADIUS = 110.0
MARK_FROM, MARK_TO = 127.0, 143.0
LABEL_RADIUS = 152.0
NEEDLE_FROM, NEEDLE_TO = 92.0, 141.0
END_LABEL_Y = CENTRE_Y + 22
GAP = 0.6  # degrees left free on each side of a cut-off, so that neighbours are told apart without colour
MIDDLE = 8.0  # a label this close to the centre line is centred


@dataclass(frozen=True)
class Arc:
    """One band's arc, with its range in words; `current` where the score lies in it."""

    band: Band
    path: str
    words: str
    current: bool


@dataclass(frozen=True)
class CutOff:
    """A cut-off: a short line across the bands' ring, and its label."""

    x1: str
    y1: str
    x2: str
    y2: str
    x: str
    y: str
    anchor: str
    text: str


@dataclass(frozen=True)
class Gauge:
    """Everything the template needs. `score`, `verdict` are `None` while there is nothing to show; `note` says why."""

    product: Product
    score: float | None
    verdict: Verdict | None
    sentence: str
    note: str = ""

    @property
    def arcs(self) -> tuple[Arc, ...]:
        """The bands from left to right."""
        return tuple(_arcs(self.product, None if self.score is None else self.product.band(self.score)))

    @property
    def cut_offs(self) -> tuple[CutOff, ...]:
        """The cut-offs between the bands."""
        return tuple(_cut_offs(self.product))

    @property
    def track(self) -> str:
        """The path from a score of 0 to one of 1."""
        return arc_path(TRACK_RADIUS, 0, 180)

    @property
    def filled(self) -> str:
        """How much of the track is filled, of a length of 100: a dash and the gap behind it."""
        return f"{_number((self.score or 0) * 100)} 100"

    @property
    def angle(self) -> str:
        """Where the needle points, in degrees from the left."""
        return _number((self.score or 0) * 180)

    @property
    def text(self) -> str:
        """The score in percent, for people."""
        return "" if self.score is None else percent(self.product, self.score)

    @property
    def view_box(self) -> str:
        """The drawing's coordinate system."""
        return f"0 0 {WIDTH} {HEIGHT}"

    @property
    def pivot(self) -> str:
        """Where the needle turns, as a transform."""
        return f"translate({_number(CENTRE_X)} {_number(CENTRE_Y)})"

    @property
    def needle(self) -> tuple[str, str]:
        """The needle's ends on its own axis, pointing left."""
        return _number(-NEEDLE_FROM), _number(-NEEDLE_TO)

    @property
    def ends(self) -> tuple[tuple[str, str], ...]:
        """The scale's ends: x and text."""
        return tuple((_number(point(TRACK_RADIUS, share * 180)[0]), cut_off_text(share)) for share in (0, 1))

    @property
    def ends_y(self) -> str:
        """The height at which the scale's ends are written."""
        return _number(END_LABEL_Y)

    @property
    def tone(self) -> str:
        """Whether the verdict is good news: a word for the style sheet."""
        return self.verdict.tone.value if self.verdict else "none"

    @property
    def now(self) -> str:
        """The score in percent, as ARIA wants it."""
        return "" if self.score is None else plain(self.score * 100)

    @property
    def label(self) -> str:
        """What is measured: the product's quantity without its article, as a label."""
        return capitalised(self.product.quantity.removeprefix("the "))

    @property
    def exact(self) -> str:
        """The score to the last bit, for clients that read the page."""
        return "" if self.score is None else repr(self.score)


def gauge(outcome: Outcome) -> Gauge:
    """Return the gauge of an outcome: the arcs show in which band the score lies, colour and word are the verdict's."""
    product, score, verdict = outcome.product, outcome.score, outcome.verdict
    band = product.band(score)
    sentence = (
        f"On a scale from 0% to 100%, {product.quantity} is {percent(product, score)}. "
        f"That is {band.name}, {range_words(product, band)}."
    )
    return Gauge(product, score, verdict, f"{sentence} No limit can be granted." if outcome.declined else sentence)


def neutral_gauge(product: Product, note: str) -> Gauge:
    """Return the gauge while there is no score; `note` says what is missing."""
    return Gauge(product, None, None, f"No score yet. {note}".strip(), note)


def point(radius: float, angle: float) -> tuple[float, float]:
    """Return the point at a distance from the centre and an angle in degrees."""
    turn = math.radians(angle)
    return CENTRE_X - radius * math.cos(turn), CENTRE_Y - radius * math.sin(turn)


def arc_path(radius: float, start: float, end: float) -> str:
    """Return the SVG path of an arc between two angles in degrees."""
    (x1, y1), (x2, y2) = point(radius, start), point(radius, end)
    size = _number(radius)
    return f"M {_number(x1)} {_number(y1)} A {size} {size} 0 0 1 {_number(x2)} {_number(y2)}"


def cut_off_text(share: float) -> str:
    """Write a cut-off as a percentage without needless decimals."""
    return f"{plain(round(share * 100, 8))}%"


def range_words(product: Product, band: Band) -> str:
    """Say a band's range: "from 40% up to 70%"."""
    return f"from {cut_off_text(band.start)} up to {cut_off_text(product.end(band))}"


def _arcs(product: Product, current: Band | None) -> Iterator[Arc]:
    for band in product.bands:
        start = band.start * 180 + (GAP if band.start > 0 else 0)
        end = product.end(band) * 180 - (GAP if product.end(band) < 1 else 0)
        yield Arc(band, arc_path(BAND_RADIUS, start, end), range_words(product, band), band is current)


def _cut_offs(product: Product) -> Iterator[CutOff]:
    for share in product.cut_offs:
        (x1, y1), (x2, y2) = point(MARK_FROM, share * 180), point(MARK_TO, share * 180)
        x, y = point(LABEL_RADIUS, share * 180)
        a, b, c, d, e, f = map(_number, (x1, y1, x2, y2, x, y))
        yield CutOff(a, b, c, d, e, f, _anchor(x), cut_off_text(share))


def _anchor(x: float) -> str:
    if abs(x - CENTRE_X) <= MIDDLE:
        return "middle"
    return "end" if x < CENTRE_X else "start"


def _number(value: float) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
