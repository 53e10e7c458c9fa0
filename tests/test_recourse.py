"""The least change that reaches a better band: what brute force over all legal values finds, and nothing else."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from bankportal.data.reading import read
from bankportal.domain.constraints import Choice, Number, YesNo
from bankportal.domain.factors import Changeability, Direction, Factor, Group
from bankportal.domain.products import Band, Label, Tone
from bankportal.explanation import recourse as module
from bankportal.explanation import recourse_kernels
from bankportal.explanation.recourse import MAX_SINGLES, MIN_SAVING, recourse
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest
from bankportal.model.seen_ranges import SeenRanges
from bankportal.simulation import simulate
from bankportal.training.training import forest_from_sklearn, train
from tests import shipped as f
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS

UP, DOWN, EITHER = Direction.UP, Direction.DOWN, Direction.EITHER
GOOD, FAIR, BAD = Tone.GOOD, Tone.FAIR, Tone.BAD
DECLINED = 500


def factor(name, constraint, change=None):
    return Factor(name=name, label=name, group=Group.PROFILE, constraint=constraint, help="", example="", change=change)


def product_of(tones, starts=(0, 0.4, 0.7)):
    """A product of every kind of factor, with bands in any order of tones."""
    bands = [
        Band(name=str(start), start=start, tone=tone, meaning="") for start, tone in zip(starts, tones, strict=True)
    ]
    return replace(
        ALLOWANCE,
        key="test",
        policy=None,
        policy_factors=(),
        required=(
            factor(
                "Whole", Number(minimum=0, maximum=30, whole=True), Changeability(direction=UP, effort=1 / 3, step=2)
            ),
            factor("Tenths", Number(minimum=-2, maximum=2), Changeability(direction=EITHER, effort=5 / 7, step=0.1)),
            factor("Fixed", Number(minimum=-2, maximum=2)),
        ),
        optional=(
            factor("Raised", YesNo(), Changeability(direction=UP, effort=2)),
            factor("Lowered", YesNo(), Changeability(direction=DOWN, effort=3)),
            factor("Either", YesNo(), Changeability(direction=EITHER, effort=1)),
            factor("Option", Choice(options=("a", "b")), Changeability(direction=EITHER, effort=0.1)),
            factor(
                "Halves", Number(minimum=0, maximum=20, whole=True), Changeability(direction=DOWN, effort=0.5, step=2.5)
            ),
        ),
        protected=(),
        label=Label(name="Label", meaning=""),
        bands=tuple(bands),
    )


def forest_of(encoding, seed, trees=4, depth=4):
    """Random trees whose scores often fall on a cut-off or next to it."""
    random = np.random.default_rng(seed)
    scale = {"Whole": (0, 30), "Tenths": (-2, 2), "Fixed": (-2, 2), "Halves": (0, 20)}
    nodes = []

    def grow(level):
        number = len(nodes)
        nodes.append((-1, 0.0, -1, -1, False, random.integers(11) / 10))
        if level < depth and (level == 0 or random.random() < 0.9):
            column = int(random.integers(len(encoding.columns)))
            low, high = scale.get(encoding.columns[column].factor, (0, 1))
            threshold = random.choice([random.uniform(low, high), round(random.uniform(low, high), 1)])
            nodes[number] = (column, threshold, grow(level + 1), grow(level + 1), random.random() < 0.5, 0.0)
        return number

    roots = [grow(0) for _ in range(trees)]
    kinds = (np.int32, float, np.int32, np.int32, bool, float)
    arrays = [np.array(values, kind) for values, kind in zip(zip(*nodes, strict=True), kinds, strict=True)]
    forest = Forest(*arrays, roots=np.array(roots, np.int32))
    forest.check(len(encoding.columns))
    return forest


# ---- brute force ----------------------------------------------------------------------------------------------------


def legal_values(changed, own, limits):
    """Every value a factor may be changed to, by its declaration alone."""
    constraint, change = changed.constraint, changed.change
    low, high = limits[changed.name] if limits else (-np.inf, np.inf)
    if isinstance(constraint, YesNo):
        values = [0, 1]
    else:
        low, high = max(low, constraint.minimum), min(high, constraint.maximum)
        tenths = round(change.step * 10)
        count = range(int(low * 10 // tenths) - 1, int(high * 10 // tenths) + 2)
        values = [number * tenths / 10 for number in count]
        values = [value for value in values if not constraint.whole or value == int(value)]
    sign = {UP: 1, DOWN: -1, EITHER: 0}[change.direction]
    return np.array([v for v in values if low <= v <= high and v != own and sign * (v - own) >= 0], dtype=float)


def one_a_cell(values, own, thresholds):
    """Of values that no threshold tells apart, the one nearest to the customer's own."""
    nearest = values[np.argsort(np.abs(values - own), kind="stable")]
    code = np.searchsorted(np.sort(thresholds), nearest.astype(np.float32).astype(float), side="left")
    return np.sort(nearest[np.unique(code, return_index=True)[1]])


class Brute:
    """All legal values of one customer, one by one and pair by pair, each scored by the forest."""

    def __init__(self, product, forest, encoding, values, limits, *, thin=False):
        self.product, self.forest = product, forest
        self.row = encoding.row(values)
        self.score = forest.score(self.row[None, :])[0]
        ranks = {BAD: 0, FAIR: 1, GOOD: 2}
        own_rank = ranks[product.band(self.score).tone]
        self.better = np.array([ranks[band.tone] > own_rank for band in product.bands])
        self.tried = []
        for one in product.scored:
            own = values.get(one.name)
            if one.change and not isinstance(one.constraint, Choice) and own is not None:
                column = encoding.positions(one.name)[0]
                legal = legal_values(one, own, limits)
                legal = one_a_cell(legal, own, forest.threshold[forest.feature == column]) if thin else legal
                self.tried.append((one.name, column, legal, np.abs(legal - own) * one.change.effort))

    def is_better(self, columns, grids):
        rows = np.repeat(self.row[None, :], grids[0].size, axis=0)
        for column, grid in zip(columns, grids, strict=True):
            rows[:, column] = grid.ravel()
        bands = np.searchsorted(self.product.cut_offs, self.forest.score(rows), side="right")
        return self.better[bands]

    def singles(self):
        suggestions = []
        for name, column, legal, effort in self.tried:
            good = self.is_better([column], [legal])
            if good.any():
                best = np.where(good, effort, np.inf).argmin()
                suggestions.append((effort[best], ((name, legal[best]),)))
        return sorted(suggestions, key=lambda suggestion: suggestion[0])

    def pair(self, limit):
        best = None
        for (name, column, legal, effort), (name2, column2, legal2, effort2) in combinations(self.tried, 2):
            efforts = (effort[:, None] + effort2[None, :]).ravel()
            cheap = efforts < limit
            first, second = (grid.ravel()[cheap] for grid in np.meshgrid(legal, legal2, indexing="ij"))
            good = self.is_better([column, column2], [first, second])
            if good.any():
                number = np.where(good, efforts[cheap], np.inf).argmin()
                limit = efforts[cheap][number]
                best = (limit, ((name, first[number]), (name2, second[number])))
        return best

    def suggestions(self):
        singles = self.singles()
        pair = self.pair(singles[0][0] - MIN_SAVING if singles else np.inf)
        return [*([pair] if pair else []), *singles[:MAX_SINGLES]]


def plain(answer):
    """Suggestions as brute force gives them."""
    return [
        (suggestion.effort, tuple((change.factor.name, change.new) for change in suggestion.changes))
        for suggestion in answer.suggestions
    ]


def check_promises(product, forest, encoding, values, answer):
    """What must hold of any suggestion, whatever brute force says."""
    ranks = {BAD: 0, FAIR: 1, GOOD: 2}
    for suggestion in answer.suggestions:
        changed = dict(values) | {change.factor.name: change.new for change in suggestion.changes}
        assert suggestion.score == forest.score(encoding.row(changed)[None, :])[0]
        assert suggestion.band is product.band(suggestion.score)
        assert ranks[suggestion.band.tone] > ranks[answer.band.tone]
        for change in suggestion.changes:
            assert change.factor in product.scored
            assert change.old == values[change.factor.name]
            assert change.factor.change is not None
            assert not change.factor.barred(credit=product.decides_credit)
            assert (change.new > change.old) == (change.factor.change.direction is not DOWN) or (
                change.factor.change.direction is EITHER
            )
            validated = change.factor.constraint.validate(change.new, None)
            assert (validated, type(validated)) == (change.new, type(change.new))


# ---- banks to try it on ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bank():
    """Simulated applicants as values, their matrix and what is seen of them, and a small forest."""
    simulated = simulate.allowance(2500, 11)
    encoding = Encoding.of(ALLOWANCE)
    columns = {
        name: values.astype(np.float64 if values.dtype.kind in "biuf" else object)
        for name, values in simulated.columns.items()
        if name in encoding.factors
    }
    matrix = encoding.matrix(columns)
    model = RandomForestClassifier(8, max_depth=5, max_features=0.5, random_state=0).fit(matrix, simulated.labels)
    return encoding, matrix, SeenRanges.of(ALLOWANCE, columns).ranges, forest_from_sklearn(model)


def values_of(encoding, row):
    whole = {
        one.name for one in ALLOWANCE.scored if getattr(one.constraint, "whole", isinstance(one.constraint, YesNo))
    }
    return {
        column.factor: None if np.isnan(cell) else int(cell) if column.factor in whole else float(cell)
        for column, cell in zip(encoding.columns, row, strict=True)
    }


@pytest.fixture(params=["compiled", "NumPy"])
def path(request, monkeypatch):
    """Both ways to search."""
    if request.param == "NumPy":
        monkeypatch.setenv("BANKPORTAL_NO_NUMBA", "1")
    elif not recourse_kernels.available():
        pytest.skip("Numba is not installed")
    return request.param


def test_it_works(bank, path):
    encoding, matrix, limits, forest = bank
    declined = matrix[forest.score(matrix) < 0.8][:20]
    for row in declined:
        values = values_of(encoding, row)
        answer = recourse(ALLOWANCE, forest, encoding, values, limits)
        assert answer.band.name == "Ineligible"
        assert plain(answer) == Brute(ALLOWANCE, forest, encoding, values, limits, thin=True).suggestions()
        check_promises(ALLOWANCE, forest, encoding, values, answer)


def test_as_brute_force_on_declined_applicants(bank):
    encoding, matrix, limits, forest = bank
    declined = matrix[forest.score(matrix) < 0.8][:DECLINED]
    assert len(declined) == DECLINED
    kinds = set()
    for row in declined:
        values = values_of(encoding, row)
        answer = recourse(ALLOWANCE, forest, encoding, values, limits)
        assert plain(answer) == Brute(ALLOWANCE, forest, encoding, values, limits, thin=True).suggestions()
        check_promises(ALLOWANCE, forest, encoding, values, answer)
        kinds |= {len(suggestion.changes) for suggestion in answer.suggestions} | (
            {"nothing"} if answer.nothing else set()
        )
    assert kinds == {1, 2, "nothing"}


@pytest.fixture(scope="module")
def trained(bank_files):
    """Both products' forests, of full size."""
    return {key: train(read(path, PRODUCTS[key]), seed=1) for key, path in bank_files.items()}


@pytest.mark.parametrize("key", ["allowance", "churn"])
def test_as_brute_force_on_a_forest_of_full_size(key, trained):
    model, product = trained[key], {"allowance": ALLOWANCE, "churn": CHURN}[key]
    encoding, forest, limits = model.encoding, model.forest, model.seen.ranges
    simulated = getattr(simulate, key)(400, 5).columns
    checked = 0
    for number in range(400):
        values = {name: simulated[name][number] for name in encoding.factors if name in simulated}
        values = {name: None if v is None or v != v else v for name, v in values.items()}
        values = {name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()}
        brute = Brute(product, forest, encoding, values, limits, thin=True)
        if checked < 5 and product.band(brute.score).tone is BAD:
            answer = recourse(product, forest, encoding, values, limits)
            assert plain(answer) == brute.suggestions()
            check_promises(product, forest, encoding, values, answer)
            checked += 1
    assert checked == 5


VALUES = st.fixed_dictionaries(
    {
        "Whole": st.integers(0, 30),
        "Tenths": st.integers(-200, 200).map(lambda number: number / 100),
        "Fixed": st.floats(-2, 2),
        "Raised": st.sampled_from([0, 1, None]),
        "Lowered": st.sampled_from([0, 1, None]),
        "Either": st.sampled_from([0, 1, None]),
        "Option": st.sampled_from(["a", "b", None]),
        "Halves": st.one_of(st.none(), st.integers(0, 20)),
    }
)
LIMITS = {"Whole": (3, 21), "Tenths": (-1.15, 1.3), "Fixed": (0, 1), "Raised": (0, 1), "Lowered": (0, 1)} | {
    "Either": (1, 1),
    "Halves": (4.5, 20),
}


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    values=VALUES,
    limits=st.sampled_from([None, LIMITS]),
    tones=st.sampled_from(
        [(BAD, FAIR, GOOD), (GOOD, FAIR, BAD), (GOOD, BAD, GOOD), (FAIR, GOOD, BAD), (BAD, BAD, FAIR)]
    ),
)
def test_as_brute_force_on_any_forest(seed, values, limits, tones):
    product = product_of(tones)
    encoding = Encoding.of(product)
    forest = forest_of(encoding, seed)
    brute = Brute(product, forest, encoding, values, limits)
    expected = brute.suggestions() if brute.better.any() else []
    for off in ("1", "0"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("BANKPORTAL_NO_NUMBA", off)
            answer = recourse(product, forest, encoding, values, limits)
        assert plain(answer) == expected
        assert (answer.score, answer.best) == (brute.score, not brute.better.any())
        assert answer.nothing == (brute.better.any() and not expected)
        check_promises(product, forest, encoding, values, answer)
        assert all(
            values[change.factor.name] is not None for suggestion in answer.suggestions for change in suggestion.changes
        )


# ---- one rule at a time ---------------------------------------------------------------------------------------------

PRODUCT = product_of((BAD, FAIR, GOOD))
ENCODING = Encoding.of(PRODUCT)
START = {"Whole": 10, "Tenths": 0.05, "Fixed": 0.0, "Raised": 0, "Lowered": 1, "Either": 1, "Option": "a", "Halves": 12}


def stump(name, threshold, low, high, missing_left=True):
    """A tree of one split: `low` up to the threshold, `high` above it."""
    column = int(ENCODING.positions(name)[0])
    return [(column, threshold, 1, 2, missing_left, 0.0), (-1, 0.0, -1, -1, False, low), (-1, 0.0, -1, -1, False, high)]


def stumps(*trees):
    nodes, roots = [], []
    for tree in trees:
        roots.append(len(nodes))
        nodes += [
            (c, t, a + roots[-1] if a > 0 else a, b + roots[-1] if b > 0 else b, m, v) for c, t, a, b, m, v in tree
        ]
    kinds = (np.int32, float, np.int32, np.int32, bool, float)
    arrays = [np.array(values, kind) for values, kind in zip(zip(*nodes, strict=True), kinds, strict=True)]
    return Forest(*arrays, roots=np.array(roots, np.int32))


def ask(forest, values=START, limits=None):
    return recourse(PRODUCT, forest, ENCODING, values, limits)


@pytest.mark.parametrize(
    ("name", "threshold", "rising", "expected"),
    [
        ("Whole", 16.5, True, 18),  # a multiple of 2 above the threshold
        ("Whole", 9.5, False, None),  # can only rise
        ("Tenths", 0.42, True, 0.5),
        ("Tenths", -0.42, False, -0.5),
        ("Tenths", 1.99, True, 2.0),
        ("Halves", 7.5, False, 5),  # a whole multiple of 2.5
        ("Halves", 12.5, True, None),  # can only fall
        ("Raised", 0.5, True, 1),
        ("Lowered", 0.5, False, 0),
        ("Either", 0.5, False, 0),
        ("Fixed", 0.5, True, None),
        ("Option", 0.5, False, None),
    ],
)
def test_direction_step_and_what_never_changes(path, name, threshold, rising, expected):
    answer = ask(stumps(stump(name, threshold, *((0.1, 0.5) if rising else (0.5, 0.1)))))
    assert [(c.factor.name, c.new) for suggestion in answer.suggestions for c in suggestion.changes] == (
        [] if expected is None else [(name, expected)]
    )
    assert answer.nothing == (expected is None)


def test_unknown_stays_unknown(path):
    forest = stumps(stump("Halves", 7.5, 0.5, 0.1, missing_left=False))
    assert ask(forest).suggestions
    assert ask(forest, START | {"Halves": None}).nothing


def test_limits_hold_and_a_factor_without_limits_stays(path):
    forest = stumps(stump("Whole", 16.5, 0.1, 0.5))
    assert ask(forest, limits={"Whole": (0, 18)}).suggestions[0].changes[0].new == 18
    assert ask(forest, limits={"Whole": (0, 17)}).nothing
    assert ask(forest, limits={"Whole": (19.5, 25)}).suggestions[0].changes[0].new == 20
    assert ask(forest, limits={}).nothing


def test_a_pair_where_no_single_does(path):
    forest = stumps(stump("Whole", 16.5, 0.1, 0.5), stump("Either", 0.5, 0.4, 0.0))
    (suggestion,) = ask(forest).suggestions
    assert [(change.factor.name, change.old, change.new) for change in suggestion.changes] == [
        ("Whole", 10, 18),
        ("Either", 1, 0),
    ]
    assert (suggestion.score, suggestion.effort) == (0.45, 8 * (1 / 3) + 1)
    assert suggestion.band.name == "0.4"


def test_a_pair_comes_first_where_it_is_cheaper(path):
    forest = stumps(stump("Whole", 29.5, 0.2, 1.0), stump("Either", 0.5, 0.5, 0.1), stump("Raised", 0.5, 0.2, 0.6))
    pair, single = ask(forest).suggestions
    assert [change.factor.name for change in pair.changes] == ["Raised", "Either"]
    assert pair.effort < single.effort
    assert single.changes[0].new == 30


@pytest.mark.parametrize(("threshold", "sizes"), [(1.35, [1]), (1.25, [2, 1])])
def test_a_pair_no_cheaper_than_a_single_is_left_out(path, threshold, sizes):
    """Raised alone costs 2; Either costs 1, and so does moving Tenths from 0 to 1.4."""
    others = stump("Either", 0.5, 0.6, 0.15), stump("Tenths", threshold, 0.15, 0.6)
    suggestions = ask(stumps(stump("Raised", 0.5, 0.1, 1.0), *others), START | {"Tenths": 0.0}).suggestions
    assert [len(suggestion.changes) for suggestion in suggestions] == sizes
    assert suggestions[-1].effort == 2


def test_three_singles_at_most_cheapest_first(path):
    names = ("Whole", "Raised", "Lowered", "Either", "Halves")
    rising = {"Whole": (16.5, 0.0, 1.0), "Raised": (0.5, 0.0, 1.0), "Lowered": (0.5, 1.0, 0.0)}
    falling = {"Either": (0.5, 1.0, 0.0), "Halves": (7.5, 1.0, 0.0)}
    answer = ask(stumps(*(stump(name, *(rising | falling)[name]) for name in names), *[stump("Fixed", -3, 1, 1)] * 2))
    assert answer.score == pytest.approx(2 / 7)
    assert [suggestion.changes[0].factor.name for suggestion in answer.suggestions] == ["Either", "Raised", "Whole"]


def test_of_equal_efforts_the_earlier_factor_and_the_lower_value(path):
    answer = ask(stumps(stump("Tenths", 0.15, 0.0, 0.9), stump("Tenths", -0.15, 0.9, 0.0)), START | {"Tenths": 0.0})
    assert [suggestion.changes[0].new for suggestion in answer.suggestions] == [-0.2]


def test_the_best_band_has_nothing_to_suggest(path):
    answer = ask(stumps(stump("Whole", 16.5, 0.7, 0.9)))
    assert (answer.best, answer.nothing, answer.suggestions) == (True, False, ())


def test_a_cut_off_met_exactly_is_met(path):
    """0.1 + 0.3 in floating point, halved and halved again, on either side of what the whole numbers round to."""
    for high in (0.4, np.nextafter(0.4, 1), np.nextafter(0.4, 0)):
        answer = ask(stumps(stump("Raised", 0.5, 0.1, high)))
        assert bool(answer.suggestions) == (high >= 0.4)


def test_the_same_question_has_the_same_answer(bank, path):
    encoding, matrix, limits, forest = bank
    copy = Forest.from_bytes(forest.to_bytes(), len(encoding.columns))
    for row in matrix[forest.score(matrix) < 0.8][:10]:
        values = values_of(encoding, row)
        again = dict(reversed(values.items()))
        assert recourse(ALLOWANCE, forest, encoding, values, limits) == recourse(
            ALLOWANCE, copy, encoding, again, limits
        )


def test_both_paths_agree_on_the_whole(bank, trained, monkeypatch):
    encoding, matrix, limits, _ = bank
    forest = trained["allowance"].forest
    for row in matrix[forest.score(matrix) < 0.92][:15]:
        values = values_of(encoding, row)
        monkeypatch.setenv("BANKPORTAL_NO_NUMBA", "0")
        compiled = recourse(ALLOWANCE, forest, encoding, values, limits)
        monkeypatch.setenv("BANKPORTAL_NO_NUMBA", "1")
        assert recourse(ALLOWANCE, forest, encoding, values, limits) == compiled


@pytest.mark.skipif(not recourse_kernels.available(), reason="Numba is not installed")
def test_one_compilation_serves_all(bank):
    encoding, matrix, limits, forest = bank
    assert module.kernels() is recourse_kernels
    compiled_for = len(recourse_kernels.cheapest.signatures)
    loaded = Forest.from_bytes(forest.to_bytes(), len(encoding.columns))
    for array in (loaded.left, loaded.value):
        array.setflags(write=False)
    recourse(ALLOWANCE, loaded, encoding, values_of(encoding, matrix[0]), limits)
    assert len(recourse_kernels.cheapest.signatures) == compiled_for


def test_protected_factors_are_no_candidates():
    """Every changeable factor is one a credit decision may score; the rest of the declarations cannot slip in."""
    protected = {one.name for one in vars(f).values() if isinstance(one, Factor) and one.barred(credit=True)}
    values = {one.name: one.constraint.minimum for one in ALLOWANCE.scored if isinstance(one.constraint, Number)}
    values |= dict.fromkeys(protected, 50)
    encoding = Encoding.of(ALLOWANCE)
    forest = stumps(stump("Whole", 16.5, 0.1, 0.5))
    offered = module.candidates(ALLOWANCE, forest, encoding, values, None)
    assert not {one.factor.name for one in offered} & protected
