"""How the training customers spread over a factor's values, and which bar a customer stands in."""

import json
import math

import numpy as np
import pytest

from bankportal.model.histograms import from_json, histograms_of, to_json
from tests.shipped import CHURN


@pytest.fixture
def counted():
    draws = np.random.default_rng(1)
    age = draws.integers(20, 90, 1000).astype(float)
    age[:10], age[10], age[11] = math.nan, 18.0, 118.0
    country = np.array(["Spain", "France", None, "Spain"] * 250, dtype=object)
    return histograms_of(CHURN, {"Age": age, "Geography": country, "Tenure": np.full(1000, math.nan)})


def test_it_works(counted) -> None:
    age, country = counted["Age"], counted["Geography"]
    assert (sum(age.counts), age.unknown, len(age.edges)) == (990, 10, len(age.counts) + 1)
    assert (country.options, country.counts, country.unknown) == (("France", "Spain"), (250, 500), 250)
    assert "Tenure" not in counted, "nothing is known of it"
    assert from_json(json.loads(json.dumps(to_json(counted)))) == counted


def test_a_bar_holds_its_lower_edge_and_the_last_one_both(counted) -> None:
    age = counted["Age"]
    for number, (low, high) in enumerate(zip(age.edges, age.edges[1:], strict=False)):
        assert age.bar(low) == number
        assert age.bar(math.nextafter(high, -math.inf)) == number
    assert age.bar(age.edges[-1]) == len(age.counts) - 1


@pytest.mark.parametrize(("value", "place"), [(-1e9, 0), (0.0, 0), (1e9, -1)])
def test_what_lies_beyond_the_edges_stands_in_the_outermost_bar(counted, value, place) -> None:
    age = counted["Age"]
    assert age.bar(value) == range(len(age.counts))[place]


def test_an_option_that_nobody_had_has_no_bar(counted) -> None:
    assert counted["Geography"].bar("Spain") == 1
    assert counted["Geography"].bar("Atlantis") is None
