"""Numbers of the smaller drawings: the bar of verdicts, the reliability chart. Templates only draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bankportal.domain.products import Product, Tone, Verdict

# Which drawing goes with which tone, so that colour never stands alone.
ICONS: Mapping[Tone, str] = {Tone.GOOD: "check", Tone.FAIR: "middle", Tone.BAD: "alert"}

CHART_LEFT, CHART_TOP, CHART_SIDE = 66.0, 12.0, 200.0
CHART_WIDTH, CHART_HEIGHT = 290, 240


@dataclass(frozen=True)
class Slice:
    """One verdict's part of a bar, in percent of its width, and how many decisions have it.

    `verdict` is `None` where only an earlier declaration of the product has it.
    """

    name: str
    verdict: Verdict | None
    count: int
    start: float
    width: float

    @property
    def tone(self) -> str:
        """Whether the verdict is good news: a word for the style sheet."""
        return self.verdict.tone.value if self.verdict else "none"

    @property
    def icon(self) -> str:
        """The name of its icon."""
        return ICONS[self.verdict.tone] if self.verdict else "empty"


def slices(product: Product, counts: Mapping[str, int]) -> tuple[Slice, ...]:
    """Return the bar of a product's decisions by verdict; all widths are 0 where there is none.

    Verdicts that only earlier declarations have come last, as far as there are decisions.
    """
    verdicts: dict[str, Verdict | None] = {verdict.name: verdict for verdict in product.verdicts}
    verdicts |= {name: None for name, count in counts.items() if count and name not in verdicts}
    total = sum(counts.get(name, 0) for name in verdicts)
    pieces, start = [], 0.0
    for name, verdict in verdicts.items():
        count = counts.get(name, 0)
        width = 100 * count / total if total else 0.0
        pieces.append(Slice(name, verdict, count, round(start, 3), round(width, 3)))
        start += width
    return tuple(pieces)


@dataclass(frozen=True)
class Dot:
    """One bin of predictions: where it lies in the drawing, and its figures."""

    x: float
    y: float
    predicted: float
    observed: float
    count: int


@dataclass(frozen=True)
class Tick:
    """A label beside an axis."""

    x: float
    y: float
    anchor: str
    text: str


@dataclass(frozen=True)
class Chart:
    """A square with predicted shares to the right and observed ones upwards."""

    dots: tuple[Dot, ...]
    left: float = CHART_LEFT
    top: float = CHART_TOP
    side: float = CHART_SIDE

    @property
    def view_box(self) -> str:
        """The drawing's coordinate system."""
        return f"0 0 {CHART_WIDTH} {CHART_HEIGHT}"

    @property
    def diagonal(self) -> str:
        """The path where predicted shares are what happened."""
        return f"M {across(0)} {upwards(0)} L {across(1)} {upwards(1)}"

    @property
    def line(self) -> str:
        """The path from dot to dot."""
        return " ".join(f"{'L' if number else 'M'} {dot.x} {dot.y}" for number, dot in enumerate(self.dots))

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """The labels of both axes."""
        middle = across(0.5)
        return (
            *(Tick(across(at), upwards(0) + 16, "middle", f"{at:.0%}") for at in (0, 1)),
            *(Tick(across(0) - 6, upwards(at) + 4, "end", f"{at:.0%}") for at in (0, 1)),
            Tick(middle, upwards(0) + 16, "middle", "predicted"),
            Tick(across(0) - 6, upwards(0.5) + 4, "end", "happened"),
        )


def across(share: float) -> float:
    """Return the x of a predicted share."""
    return round(CHART_LEFT + share * CHART_SIDE, 2)


def upwards(share: float) -> float:
    """Return the y of an observed share."""
    return round(CHART_TOP + (1 - share) * CHART_SIDE, 2)


def reliability(bins: Sequence[Mapping[str, Any]]) -> Chart:
    """Return the reliability chart of bins with equally many customers."""
    return Chart(tuple(_dot(float(row["score"]), float(row["label_rate"]), int(row["rows"])) for row in bins))


def _dot(predicted: float, observed: float, count: int) -> Dot:
    return Dot(across(predicted), upwards(observed), predicted, observed, count)
