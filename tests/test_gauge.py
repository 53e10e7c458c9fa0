import math
import re

import pytest

from bankportal.domain.products import ALLOWANCE, CHURN, PRODUCTS
from bankportal.web import gauge as g

ALL = list(PRODUCTS.values())
SCORES = (0.0, 0.001, 0.25, 0.3999, 0.4, 0.634, 0.7, 0.8, 0.92, 0.99999, 1.0)


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


def test_it_works() -> None:
    drawn = g.gauge(CHURN, 0.634)
    assert drawn.text == "63.4%"
    assert drawn.filled == "63.4 100"
    assert drawn.angle == "114.12"
    assert drawn.now == "63.4"
    assert drawn.sentence == (
        "On a scale from 0% to 100%, the risk of leaving is 63.4%. That is Moderate, from 40% up to 70%."
    )


@pytest.mark.parametrize("product", ALL, ids=lambda product: product.key)
@pytest.mark.parametrize("score", SCORES)
def test_the_score_is_exact_and_in_its_band(product, score) -> None:
    drawn = g.gauge(product, score)
    assert float(drawn.exact) == score
    assert drawn.band is product.band(score)
    assert [arc.band for arc in drawn.arcs if arc.current] == [drawn.band]
    assert float(drawn.angle) == pytest.approx(score * 180, abs=1e-3)
    assert 0 <= float(drawn.now) <= 100


def test_rounding_never_crosses_a_cut_off() -> None:
    assert g.gauge(CHURN, 0.39999).text == "39.999%"
    assert "Low" in g.gauge(CHURN, 0.39999).sentence


def test_the_scale_runs_from_left_over_the_top_to_the_right() -> None:
    assert g.point(100, 0) == pytest.approx((g.CENTRE_X - 100, g.CENTRE_Y))
    assert g.point(100, 90) == pytest.approx((g.CENTRE_X, g.CENTRE_Y - 100))
    assert g.point(100, 180) == pytest.approx((g.CENTRE_X + 100, g.CENTRE_Y))


@pytest.mark.parametrize("product", ALL, ids=lambda product: product.key)
def test_arcs_follow_the_bands_in_order_without_overlap(product) -> None:
    angles = []
    for arc in g.gauge(product, None).arcs:
        x1, y1, *_, x2, y2 = numbers(arc.path)
        for x, y in ((x1, y1), (x2, y2)):
            assert math.hypot(x - g.CENTRE_X, y - g.CENTRE_Y) == pytest.approx(g.BAND_RADIUS, abs=0.01)
            angles.append(math.degrees(math.atan2(g.CENTRE_Y - y, g.CENTRE_X - x)))
    assert angles == sorted(angles)
    assert angles[0] == pytest.approx(0, abs=0.01)
    assert angles[-1] == pytest.approx(180, abs=0.01)


@pytest.mark.parametrize("product", ALL, ids=lambda product: product.key)
def test_every_cut_off_is_marked(product) -> None:
    marks = g.gauge(product, 0.5).marks
    assert len(marks) == len(product.cut_offs)
    for mark, share in zip(marks, product.cut_offs, strict=True):
        assert float(mark.text.removesuffix("%")) == pytest.approx(share * 100)
        assert (mark.anchor == "end") == (float(mark.x) < g.CENTRE_X - g.MIDDLE)
        assert 0 < float(mark.y) < g.HEIGHT


def test_a_label_at_the_top_is_centred() -> None:
    assert g._anchor(g.point(g.LABEL_RADIUS, 90)[0]) == "middle"


def test_neutral() -> None:
    drawn = g.gauge(ALLOWANCE, None, "2 required values to go: Tenure, Balance.")
    assert (drawn.exact, drawn.text, drawn.now, drawn.tone) == ("", "", "", "none")
    assert drawn.sentence == "No score yet. 2 required values to go: Tenure, Balance."
    assert not any(arc.current for arc in drawn.arcs)


def test_tone_is_the_products_own() -> None:
    assert g.gauge(CHURN, 0.95).tone == "bad"
    assert g.gauge(ALLOWANCE, 0.95).tone == "good"
