"""The numbers of the bars and of the what-if curve."""

import json
import math
import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankportal.domain.outcome import Reason
from bankportal.explanation.curve import Curve, Step
from bankportal.model.histograms import Histogram
from bankportal.web.drawings import bars, curves
from tests.shipped import ALLOWANCE, BALANCE, CARD_UTILISATION, CHURN, GEOGRAPHY, HAS_LOAN, NUM_OF_PRODUCTS, TENURE

UTILISATION = (Step(0.0, 12.25, 0.95), Step(12.25, 61.5, 0.85), Step(61.5, 1000.0, 0.3))


def curve_of(factor=CARD_UTILISATION, steps=UTILISATION, own=35.0, seen=(0.0, 200.0), unknown=0.7) -> Curve:
    return Curve(factor, steps, own, 0.85, unknown, seen)


def drawing_of(product, curve, amount=None) -> curves.Drawing:
    return curves.drawing(product, curve, lambda _, score: product.verdict(product.band(score), amount))


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


# --- bars -----------------------------------------------------------------------------------------------------------


def outcome_of(**contributions: float):
    base = 0.3
    score = base + sum(contributions.values())
    band, reasons = CHURN.band(score), (Reason("Age", None, contributions["Age"], "Age."),)
    return SimpleNamespace(
        product=CHURN, base=base, score=score, contributions=contributions, band=band, reasons=reasons
    )


def test_bars() -> None:
    drawn = bars.bars(outcome_of(Age=0.2, Balance=-0.1, Tenure=0.0, Dropped=0.04), {"Age": 60, "Dropped": 3}, None)
    assert [bar.label for bar in drawn.moving] == ["Age", "Balance", "Dropped"]
    assert [bar.label for bar in drawn.idle] == ["Tenure"]
    assert [(bar.x, bar.width) for bar in drawn.moving] == [(50.0, 48.0), (26.0, 24.0), (50.0, 9.6)]
    assert [bar.points for bar in drawn.moving] == ["+20.0", "−10.0", "+4.0"]
    assert [bar.mark.tone for bar in drawn.moving] == ["bad", "good", "bad"]
    assert [bar.value for bar in drawn.moving] == ["60 years", "unknown", "3"]
    assert (drawn.base, drawn.score) == ("30.0%", "44.0%")


def test_each_bar_says_whether_it_is_a_reason_and_why_not() -> None:
    drawn = bars.bars(outcome_of(Age=0.2, Balance=-0.1, HasLoan=0.003), {}, None)
    assert [(bar.label, bar.reason, bar.omission) for bar in drawn.moving] == [
        ("Age", 1, ""),
        ("Balance", None, "Not a reason: it lowers the risk only together with other values."),
        ("Has a loan", None, "Too small to be a reason."),
    ]
    assert "at least 0.5 points and 5% of the weightiest" in drawn.rule


def test_a_named_rule_is_not_counted_among_what_weighs_more() -> None:
    outcome = outcome_of(Age=0.2, Balance=-0.1, HasLoan=0.05, Tenure=0.04)
    factors = [Reason(name, None, outcome.contributions[name], "") for name in ("Age", "Balance", "HasLoan")]
    outcome.reasons = (Reason(None, "band", 0.0, ""), *factors)
    drawn = bars.bars(SimpleNamespace(**{**vars(outcome), "product": CHURN}), {}, None)
    assert [bar.omission for bar in drawn.moving] == ["", "", "", "Not a reason: those that are named weigh more."]


def test_nothing_moves() -> None:
    drawn = bars.bars(outcome_of(Age=0.0), {}, {})
    assert drawn.moving == ()
    assert drawn.idle[0].width == 0
    assert drawn.idle[0].mark.tone == "none"


@pytest.mark.parametrize(("product", "tone"), [(CHURN, "bad"), (ALLOWANCE, "good")])
def test_what_is_good_depends_on_the_product(product, tone) -> None:
    other = {"bad": "good", "good": "bad"}[tone]
    assert bars.direction(product, 0.1) == bars.Mark("up", "Raises the score", tone)
    assert bars.direction(product, -0.1) == bars.Mark("down", "Lowers the score", other)
    assert bars.reason_mark(product, Reason(None, "band", 0.0, "")).icon == "notice"
    assert bars.reason_mark(product, Reason(None, None, 0.0, "")).tone == "none"


def test_points() -> None:
    given_ = (0.1234, -0.1234, 0.0004, -0.0006, 0.0, 0.00001, 1.0)
    assert [bars.points(part) for part in given_] == ["+12.3", "−12.3", "+0.04", "−0.1", "0", "0", "+100.0"]


def test_a_histogram_marks_the_customers_bar() -> None:
    histogram = Histogram((10, 40, 0, 1), 49, edges=(0.0, 1.0, 2.0, 3.0, 4.0))
    drawn = bars.histogram_drawing(TENURE, 1.5, histogram)
    assert [bar.own for bar in drawn.bars] == [False, True, False, False]
    assert [bar.height for bar in drawn.bars] == [6.0, 24.0, 0.0, 1.5]
    assert all(bar.y + bar.height == 24 for bar in drawn.bars)
    assert drawn.words == "about the same for 40%"
    assert bars.histogram_drawing(TENURE, 2.5, histogram).bars[2].height > 0
    assert bars.histogram_drawing(TENURE, None, histogram).words == "unknown for 49%"
    assert not any(bar.own for bar in bars.histogram_drawing(TENURE, None, histogram).bars)


def test_a_histogram_of_options() -> None:
    histogram = Histogram((3, 997), 0, options=("France", "Spain"))
    assert bars.histogram_drawing(GEOGRAPHY, "Spain", histogram).words == "the same for 100%"
    assert bars.histogram_drawing(GEOGRAPHY, "France", histogram).words == "the same for under 1%"
    assert bars.histogram_drawing(GEOGRAPHY, "Germany", histogram).words == "a value that no training customer has"
    assert bars.histogram_drawing(HAS_LOAN, 1, Histogram((5, 5), 0, options=("0", "1"))).bars[1].own


# --- curve ----------------------------------------------------------------------------------------------------------


def test_a_curve() -> None:
    drawn = drawing_of(ALLOWANCE, curve_of())
    assert (drawn.low, drawn.high) == ("0", "220")
    assert drawn.trained == (0.0, pytest.approx(100 * 200 / 220, abs=1e-3))
    points = numbers(drawn.path)
    assert points[0] == 0
    assert points[-2] == 100
    assert points[1::2] == [5, 5, 15, 15, 70, 70]
    assert points[2] == points[4] == pytest.approx(100 * 12.25 / 220, abs=1e-3)
    assert drawn.own == 1
    assert drawn.at.typed == "35"
    assert drawn.at.words == "35%: 85.0%, Standard"
    assert [stop.typed for stop in drawn.stops] == ["10", "35", "100"]
    assert [row.range for row in drawn.rows] == [
        "0 to 12.25",
        "above 12.25 to 61.5",
        "above 61.5 to 1,000",
        "unknown",
    ]
    assert [row.own for row in drawn.rows] == [False, True, False, False]
    assert drawn.unknown.score == "70.0%"


def test_zones_cover_the_height_and_name_the_cut_offs() -> None:
    zones = curves.zones(ALLOWANCE)
    assert sum(zone.height for zone in zones) == pytest.approx(100)
    assert [zone.text for zone in zones] == ["Ineligible from 0%", "Standard from 80%", "Elite from 92%"]
    assert zones[1].y == pytest.approx(8)


def test_the_script_gets_what_is_drawn() -> None:
    drawn = drawing_of(ALLOWANCE, curve_of())
    stops = json.loads(drawn.data)
    assert [stop["score"] for stop in stops] == ["95.0%", "85.0%", "30.0%"]
    assert {"x", "y", "typed", "value", "score", "words", "verdict", "tone"} == set(stops[0])


def test_a_value_far_off_is_marked_at_the_side() -> None:
    drawn = drawing_of(ALLOWANCE, curve_of(own=990.0))
    assert drawn.high == "220"
    assert drawn.at.typed == "990"
    assert drawn.at.x == 100
    assert drawn.anchor == "end"
    steps = (Step(-10_000_000.0, 5.0, 0.2), Step(5.0, 1e9, 0.6))
    low = drawing_of(CHURN, curve_of(BALANCE, steps, own=-9e6, seen=(0.0, 1000.0)))
    assert low.at.typed == "-9000000"
    assert (low.own, low.at.x, low.anchor) == (0, 0, "start")


@pytest.mark.parametrize(
    ("own", "right", "anchor"),
    [(1.0, True, "start"), (20.0, True, "start"), (60.0, False, "start"), (150.0, False, "end"), (199.0, False, "end")],
)
def test_labels_stand_apart(own, right, anchor) -> None:
    drawn = drawing_of(ALLOWANCE, curve_of(steps=(Step(0.0, 1000.0, 0.3),), own=own))
    assert (drawn.labels_right, drawn.anchor) == (right, anchor)


def test_labels_leave_the_curve_free() -> None:
    high_left = (Step(0.0, 20.0, 0.83), Step(20.0, 1000.0, 0.3))
    drawn = drawing_of(ALLOWANCE, curve_of(steps=high_left, own=100.0))
    assert drawn.labels_right
    assert drawn.anchor == "end"


def test_a_value_near_by_widens_the_window() -> None:
    assert drawing_of(ALLOWANCE, curve_of(own=390.0)).high == "420"


def test_whole_numbers_take_half_a_unit_on_each_side() -> None:
    steps = (Step(1, 1, 0.6), Step(1, 2, 0.2), Step(2, 50, 0.9))
    drawn = drawing_of(CHURN, curve_of(NUM_OF_PRODUCTS, steps, own=2, seen=(1.0, 4.0)))
    assert [stop.typed for stop in drawn.stops] == ["1", "2", "3"]
    assert [stop.x for stop in drawn.stops] == [10, 30, 50]
    assert [row.range for row in drawn.rows] == ["1", "2", "3 to 50", "unknown"]
    assert numbers(drawn.path) == [0, 40, 20, 40, 20, 80, 40, 80, 40, 10, 100, 10]


def test_options() -> None:
    steps = tuple(
        Step(name, name, score) for name, score in zip(("France", "Germany", "Spain"), (0.1, 0.5, 0.9), strict=True)
    )
    drawn = drawing_of(CHURN, curve_of(GEOGRAPHY, steps, own="Spain", seen=("France", "Spain")))
    assert [text for _, text in drawn.options] == ["France", "Germany", "Spain"]
    assert drawn.own == 2
    assert [stop.typed for stop in drawn.stops] == ["France", "Germany", "Spain"]
    flag = drawing_of(CHURN, curve_of(HAS_LOAN, (Step(0, 0, 0.3), Step(1, 1, 0.4)), own=None))
    assert [stop.value for stop in flag.stops] == ["No", "Yes"]
    assert flag.own is None
    assert flag.at is flag.stops[0]


def test_an_unknown_value_has_no_mark() -> None:
    drawn = drawing_of(ALLOWANCE, curve_of(own=None))
    assert drawn.own is None
    assert [row.range for row in drawn.rows if row.own] == ["unknown"]
    required = drawing_of(ALLOWANCE, curve_of(unknown=None))
    assert required.unknown is None


def test_the_marker_says_what_the_policy_grants_at_each_value() -> None:
    drawn = curves.drawing(
        ALLOWANCE,
        curve_of(),
        lambda value, score: ALLOWANCE.verdict(ALLOWANCE.band(score), 0.0 if value == 35.0 else 900.0),
    )
    assert [stop.verdict.name for stop in drawn.stops] == ["Elite", "No limit", "No limit"]
    assert [stop["tone"] for stop in json.loads(drawn.data)] == ["good", "bad", "bad"]
    assert [row.band.name for row in drawn.rows] == ["Elite", "Standard", "Ineligible", "Ineligible"]


def test_never_seen_in_training() -> None:
    drawn = drawing_of(ALLOWANCE, curve_of(seen=None))
    assert drawn.trained is None
    assert (drawn.low, drawn.high) == ("0", "1,000")


@given(
    after=st.floats(-1e7, 1e7, allow_subnormal=False),
    width=st.floats(1e-6, 1e7),
    low=st.booleans(),
)
def test_a_round_value_lies_in_its_step(after, width, low) -> None:
    last = after + width
    if after < last:
        value = curves.roundest(after, last, low=low)
        assert after < value <= last
        assert math.isfinite(value)


def test_a_step_one_float_wide() -> None:
    after = 0.1
    last = math.nextafter(after, 1)
    assert curves.roundest(after, last, low=True) == last
