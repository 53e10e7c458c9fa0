"""The what-if curve: every step's score to the last bit, at both its ends and anywhere in between."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankportal.data.reading import read
from bankportal.domain.constraints import Choice, Number, YesNo
from bankportal.explanation.cells import Multiples, last_left
from bankportal.explanation.curve import curve
from bankportal.model.encoding import MAX_FLOAT32, Encoding
from bankportal.model.forest import Forest
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS
from tests.test_kernels import forest_of


def customers_of(bank_files, product, count):
    """The first customers of a product's file, as validated values."""
    table = read(bank_files[product.key], product)
    names = [factor.name for factor in product.scored if factor.name in table.columns]
    for number in range(count):
        values = {name: table.columns[name][number] for name in names}
        yield {name: None if value is None or value != value else value for name, value in values.items()}


def score(forest, encoding, values, name, changed):
    rows = [encoding.row(values | {name: value}) for value in changed]
    return forest.score(np.array(rows)).tolist()


def points_in(step, *, first, whole, random):
    """Both ends of a step as its rule has them, and some values in between."""
    start = step.start if first else step.start + 1 if whole else math.nextafter(step.start, math.inf)
    if whole:
        return [start, step.end, *random.integers(start, step.end, 3, endpoint=True).tolist()]
    inside = [min(max(start + share * (step.end - start), start), step.end) for share in random.random(3)]
    return [start, step.end, *inside]


def check_number(made, forest, encoding, values, random):
    """Ends, their neighbours and random points score as their step says; the steps cover the range."""
    number, name = made.factor.constraint, made.factor.name
    assert made.steps[0].start == number.minimum
    assert made.steps[-1].end == number.maximum
    for one, other in pairwise(made.steps):
        assert one.end == other.start
        assert one.score != other.score
    for step in made.steps:
        points = points_in(step, first=step is made.steps[0], whole=number.whole, random=random)
        assert set(score(forest, encoding, values, name, points)) == {step.score}
        assert {made.step_at(point) for point in points} == {step}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
def test_it_works(product, trained, bank_files):
    forest, encoding, seen = trained[product.key].forest, trained[product.key].encoding, trained[product.key].seen
    random = np.random.default_rng(0)
    for values in customers_of(bank_files, product, 4):
        own_score = float(forest.score(encoding.row(values)[None, :])[0])
        for factor in product.scored:
            made = curve(product, forest, encoding, values, factor.name, seen)
            assert (made.own, made.score) == (values.get(factor.name), own_score)
            if made.own is not None:
                assert made.step_at(made.own).score == own_score
            if isinstance(factor.constraint, Number):
                check_number(made, forest, encoding, values, random)
            else:
                ends = [step.end for step in made.steps]
                assert ends == [step.start for step in made.steps]
                scores = score(forest, encoding, values, factor.name, ends)
                assert [step.score for step in made.steps] == scores


def test_flags_and_choices_have_a_step_a_value(trained, bank_files):
    model = trained["churn"]
    (values,) = customers_of(bank_files, CHURN, 1)
    for factor in CHURN.scored:
        made = curve(CHURN, model.forest, model.encoding, values, factor.name)
        if isinstance(factor.constraint, YesNo):
            assert [step.end for step in made.steps] == [0, 1]
        if isinstance(factor.constraint, Choice):
            assert [step.end for step in made.steps] == list(factor.constraint.options)


def test_whole_numbers_have_steps_at_whole_numbers(trained, bank_files):
    model = trained["churn"]
    (values,) = customers_of(bank_files, CHURN, 1)
    made = curve(CHURN, model.forest, model.encoding, values, "Age")
    assert len(made.steps) > 1
    assert all(isinstance(end, int) for step in made.steps for end in (step.start, step.end))


def test_unknown_is_scored_unless_required(trained, bank_files):
    model = trained["allowance"]
    (values,) = customers_of(bank_files, ALLOWANCE, 1)
    for factor in ALLOWANCE.scored:
        made = curve(ALLOWANCE, model.forest, model.encoding, values, factor.name)
        blank = score(model.forest, model.encoding, values, factor.name, [None])[0]
        assert made.score_unknown == (None if factor in ALLOWANCE.required else blank)


def test_seen_range_comes_along(trained, bank_files):
    model = trained["churn"]
    (values,) = customers_of(bank_files, CHURN, 1)

    def seen(name, given=model.seen):
        return curve(CHURN, model.forest, model.encoding, values, name, given).seen

    assert seen("Age") == model.seen.ranges["Age"]
    assert seen("Geography") == model.seen.options["Geography"]
    assert seen("Age", None) is None


def test_outside_the_range_there_is_no_step(trained, bank_files):
    model = trained["churn"]
    (values,) = customers_of(bank_files, CHURN, 1)
    for name, value in (("Age", 17), ("Age", 121), ("Age", "old"), ("HasLoan", 2), ("Geography", "Atlantis")):
        with pytest.raises(ValueError, match=f"not in the range of {name}"):
            curve(CHURN, model.forest, model.encoding, values, name).step_at(value)


def test_a_factor_of_another_product_is_refused(trained):
    model = trained["allowance"]
    with pytest.raises(KeyError):
        curve(ALLOWANCE, model.forest, model.encoding, {}, "Geography")


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), blank=st.booleans())
def test_any_forest(seed, blank):
    """Thresholds on both sides of what float32 can hold, infinite ones, blanks."""
    encoding = Encoding.of(ALLOWANCE)
    forest = forest_of(5, len(encoding.columns), seed, depth=5)
    random = np.random.default_rng(seed)
    values = {} if blank else {factor.name: float(random.normal()) for factor in ALLOWANCE.scored}
    for factor in ALLOWANCE.scored:
        if isinstance(factor.constraint, Number):
            check_number(curve(ALLOWANCE, forest, encoding, values, factor.name), forest, encoding, values, random)


def test_a_forest_of_leaves_has_one_step():
    one = np.array([-1], np.int32)
    leaf = Forest(one, np.zeros(1), one, one, np.zeros(1, bool), np.array([0.25]), np.zeros(1, np.int32))
    made = curve(ALLOWANCE, leaf, Encoding.of(ALLOWANCE), {}, "Balance")
    assert [step.score for step in made.steps] == [0.25]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(-3, 3))
def test_last_left(threshold, small):
    def compared(value):
        return float(np.float32(max(-MAX_FLOAT32, min(value, MAX_FLOAT32))))

    for limit in (threshold, small, float(np.float32(small))):
        (last,) = last_left(np.array([limit]))
        assert last == -math.inf or compared(last) <= limit
        assert limit >= MAX_FLOAT32 or compared(math.nextafter(last, math.inf)) > limit


@given(st.sampled_from([0.1, 0.25, 0.5, 1, 5, 10, 100, 2.5]), st.floats(-1e6, 1e6), st.booleans())
def test_multiples(step, value, whole):
    multiples = Multiples.of(Number(minimum=0, maximum=1, whole=whole), step)
    below, above = float(multiples.at_most(np.array([value]))[0]), float(multiples.at_least(np.array([value]))[0])
    assert below <= value <= above
    assert above - below <= (max(step, 10 * step if whole else 0)) * (1 + 1e-6)
    for multiple in (below, above):
        assert (
            float(multiples.at_most(np.array([multiple]))[0])
            == multiple
            == float(multiples.at_least(np.array([multiple]))[0])
        )
        assert not whole or multiple == int(multiple)
        assert round(multiple, 6) == multiple


@pytest.mark.parametrize("step", [0, -1, math.nan])
def test_a_step_that_leads_nowhere_is_refused(step):
    with pytest.raises(ValueError, match="above 0"):
        Multiples.of(Number(minimum=0, maximum=1), step)
