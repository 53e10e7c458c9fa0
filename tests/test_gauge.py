import math
import re
from types import SimpleNamespace

import pytest

from bankportal.domain.products import NO_LIMIT
from bankportal.web.drawings import gauge as g
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS

ALL = list(PRODUCTS.values())
SCORES = (0.0, 0.001, 0.25, 0.3999, 0.4, 0.634, 0.7, 0.8, 0.92, 0.99999, 1.0)


def gauge_of(product, score, amount=None) -> g.Gauge:
    verdict = product.verdict(product.band(score), amount)
    outcome = SimpleNamespace(product=product, score=score, verdict=verdict, declined=verdict.name == NO_LIMIT)
    return g.gauge(outcome)


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


def test_it_works() -> None:
    drawn = gauge_of(CHURN, 0.634)
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
    drawn = gauge_of(product, score)
    assert float(drawn.exact) == score
    assert drawn.verdict == product.verdict(product.band(score), None)
    assert [arc.band for arc in drawn.arcs if arc.current] == [product.band(score)]
    assert float(drawn.angle) == pytest.approx(score * 180, abs=1e-3)
    assert 0 <= float(drawn.now) <= 100


def test_rounding_never_crosses_a_cut_off() -> None:
    assert gauge_of(CHURN, 0.39999).text == "39.999%"
    assert "Low" in gauge_of(CHURN, 0.39999).sentence


def test_the_scale_runs_from_left_over_the_top_to_the_right() -> None:
    assert g.point(100, 0) == pytest.approx((g.CENTRE_X - 100, g.CENTRE_Y))
    assert g.point(100, 90) == pytest.approx((g.CENTRE_X, g.CENTRE_Y - 100))
    assert g.point(100, 180) == pytest.approx((g.CENTRE_X + 100, g.CENTRE_Y))


@pytest.mark.parametrize("product", ALL, ids=lambda product: product.key)
def test_arcs_follow_the_bands_in_order_without_overlap(product) -> None:
    angles = []
    for arc in g.neutral_gauge(product, "").arcs:
        x1, y1, *_, x2, y2 = numbers(arc.path)
        for x, y in ((x1, y1), (x2, y2)):
            assert math.hypot(x - g.CENTRE_X, y - g.CENTRE_Y) == pytest.approx(g.BAND_RADIUS, abs=0.01)
            angles.append(math.degrees(math.atan2(g.CENTRE_Y - y, g.CENTRE_X - x)))
    assert angles == sorted(angles)
    assert angles[0] == pytest.approx(0, abs=0.01)
    assert angles[-1] == pytest.approx(180, abs=0.01)


@pytest.mark.parametrize("product", ALL, ids=lambda product: product.key)
def test_every_cut_off_is_marked(product) -> None:
    drawn = gauge_of(product, 0.5).cut_offs
    assert len(drawn) == len(product.cut_offs)
    for mark, share in zip(drawn, product.cut_offs, strict=True):
        assert float(mark.text.removesuffix("%")) == pytest.approx(share * 100)
        assert (mark.anchor == "end") == (float(mark.x) < g.CENTRE_X - g.MIDDLE)
        assert 0 < float(mark.y) < g.HEIGHT


def test_a_label_at_the_top_is_centred() -> None:
    assert g._anchor(g.point(g.LABEL_RADIUS, 90)[0]) == "middle"


def test_neutral() -> None:
    drawn = g.neutral_gauge(ALLOWANCE, "2 required values to go: Tenure, Balance.")
    assert (drawn.exact, drawn.text, drawn.now, drawn.tone) == ("", "", "", "none")
    assert drawn.sentence == "No score yet. 2 required values to go: Tenure, Balance."
    assert not any(arc.current for arc in drawn.arcs)


def test_tone_is_the_products_own() -> None:
    assert gauge_of(CHURN, 0.95).tone == "bad"
    assert gauge_of(ALLOWANCE, 0.95).tone == "good"


@pytest.mark.parametrize("score", [0.1, 0.85, 0.95])
def test_without_a_limit_the_word_and_the_colour_are_those_of_a_refusal(score) -> None:
    drawn = gauge_of(ALLOWANCE, score, 0.0)
    assert (drawn.verdict.name, drawn.tone) == ("No limit", "bad")
    assert drawn.sentence.endswith(" No limit can be granted.")
    assert [arc.band for arc in drawn.arcs if arc.current] == [ALLOWANCE.band(score)]
