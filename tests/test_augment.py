"""Augmenting a base file, and the recipes beside files."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from bankportal.data.measures import area_under_curve
from bankportal.data.reading import read
from bankportal.domain.constraints import Source
from bankportal.domain.schema import validate
from bankportal.resources import resource
from bankportal.simulation import customers, recipe, simulate
from bankportal.simulation.augment import augment, augment_known
from bankportal.simulation.likelihoods import draw_all, sigmoid
from tests.shipped import CHURN

ROWS = 20_000
NAMES = [behaviour.name for behaviour in customers.BEHAVIOURS]
REAL = Path(__file__).parents[2] / "shared" / "data" / "Churn.csv"


@pytest.fixture(scope="module")
def base():
    return simulate.base(ROWS, seed=11)


@pytest.fixture(scope="module")
def augmented(base):
    return augment(base.columns, base.labels, seed=12)


def p_value(first, second) -> float:
    """Test that two samples of a factor come from one distribution, blanks counted as a value of their own."""
    edges = np.unique(np.nanquantile(np.concatenate([first, second]), np.linspace(0, 1, 21)))[1:-1]
    bins = len(edges) + 2
    counts = [
        np.bincount(np.where(np.isnan(values), bins - 1, np.searchsorted(edges, values)).astype(int), minlength=bins)
        for values in (first, second)
    ]
    table = np.array(counts)
    return float(stats.chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)


def test_it_works(base, augmented):
    assert list(augmented) == [*list(base.columns)[:-1], "Churn", *NAMES]
    assert np.array_equal(augmented["Churn"], base.columns["Exited"])


def test_same_seed_gives_the_same_columns():
    small = simulate.base(300, seed=1)
    first, second, other = (augment(small.columns, small.labels, seed) for seed in (1, 1, 2))
    assert recipe.columns_sha256(first) == recipe.columns_sha256(second) != recipe.columns_sha256(other)


def test_columns_that_exist_stay_as_they_are(base):
    few = {name: values[:100] for name, values in base.columns.items()} | {"HasLoan": np.full(100, np.nan)}
    grown = augment(few, base.labels[:100], seed=1)
    assert np.isnan(grown["HasLoan"]).all()
    assert all(np.array_equal(grown[name], few[name]) for name in customers.BASE_ORDER)
    assert list(grown)[-len(NAMES) + 1 :] == NAMES[1:]


def test_what_augmenting_adds_is_distributed_as_what_the_simulator_draws(augmented):
    """Per label, behaviour by behaviour, and for pairs of them, at fixed seeds: the joint law is one."""
    simulated = simulate.churn(ROWS, seed=13).columns
    for left in (0, 1):
        ours, theirs = augmented["Churn"] == left, simulated["Churn"] == left
        for name in NAMES:
            assert p_value(augmented[name][ours], simulated[name][theirs]) > 0.001, (left, name)
        for one, other in (("CustomerSatisfaction", "ComplaintsFiled"), ("DigitalLogins", "SupportCalls")):
            product = [
                columns[one][rows] * 1000 + columns[other][rows]
                for columns, rows in ((augmented, ours), (simulated, theirs))
            ]
            assert p_value(*product) > 0.001, (left, one, other)


def test_that_comparison_can_fail(base):
    """Augmented under shuffled labels the behaviours no longer belong to those who left."""
    shuffled = np.random.default_rng(0).permutation(base.labels)
    wrong, right = augment(base.columns, shuffled, seed=12), simulate.churn(ROWS, seed=13).columns
    left = base.labels == 1
    assert p_value(wrong["CustomerSatisfaction"][left], right["CustomerSatisfaction"][right["Churn"] == 1]) < 1e-6


def test_given_the_state_a_behaviour_knows_nothing_of_the_label(base):
    few = {name: values[:500] for name, values in base.columns.items() if name != "Exited"}
    state = customers.draw_state(500, np.random.default_rng(0))
    left, stayed = (
        draw_all(customers.BEHAVIOURS, few | {"Churn": np.full(500, label)}, state, np.random.default_rng(1))
        for label in (1, 0)
    )
    assert all(np.array_equal(left[name], stayed[name], equal_nan=True) for name in NAMES)


@pytest.mark.parametrize("label", [0.0, 1.0, np.nan])
def test_the_state_is_drawn_from_its_posterior(label):
    """The mean over many copies of one customer is the one by quadrature; without a label it is the prior's, 0."""
    customer = {
        name: np.repeat(values, 20_000) for name, values in customers.draw_base(1, np.random.default_rng(4)).items()
    }
    states = customers.draw_state_given(customer, np.full(20_000, label), np.random.default_rng(5))
    prior = customers.draw_state(400_000, np.random.default_rng(6))
    leaving = sigmoid(customers.base_logit(customer)[0] + customers.push(prior[:, 0], prior[:, 1]))
    weight = {0.0: 1 - leaving, 1.0: leaving}.get(label, np.ones(len(prior)))
    assert states.mean(axis=0) == pytest.approx(np.average(prior, axis=0, weights=weight), abs=0.04)


def test_truth_of_augmented_customers_is_calibrated(base):
    _, truth = augment_known(base.columns, base.labels, seed=12)
    for rows in np.array_split(np.argsort(truth), 10):
        error = np.sqrt(np.mean(truth[rows] * (1 - truth[rows])) / len(rows))
        assert abs(base.labels[rows].mean() - truth[rows].mean()) < 4 * error


@pytest.mark.parametrize("name", [name for name in customers.BASE_ORDER if name not in {"CustomerId", "Surname"}])
def test_unknown_and_absent_base_factors_are_legal(base, name):
    few = {key: values[:200] for key, values in base.columns.items()}
    text = few[name].dtype.kind == "U"
    blank = np.full(200, None, dtype=object) if text else np.full(200, np.nan)
    labels = np.where(np.arange(200) % 3 == 0, np.nan, base.labels[:200])
    for columns in (few | {name: blank}, {key: values for key, values in few.items() if key != name}):
        grown = augment(columns, labels, seed=1)
        assert all(np.isfinite(grown[key]).all() for key in ("CustomerSatisfaction", "AvgTransactionAmount"))


def test_extreme_customers_are_augmented_within_bounds():
    """Values far outside the public file's, with the label the model finds least likely."""
    columns = {
        "CustomerId": np.array(["1", "2"], dtype=object),
        "CreditScore": np.array([300.0, 850.0]),
        "Geography": np.array(["Germany", None], dtype=object),
        "Age": np.array([58.0, 120.0]),
        "Tenure": np.array([80.0, 0.0]),
        "Balance": np.array([1e9, -1e7]),
        "NumOfProducts": np.array([50.0, 2.0]),
        "EstimatedSalary": np.array([1e8, 0.0]),
    }
    grown = augment(columns, np.array([0.0, 1.0]), seed=1)
    for row in range(2):
        values = {name: column[row] for name, column in grown.items()}
        known = {
            name: None if value is None or value != value else recipe._text(value) for name, value in values.items()
        }
        validate(CHURN, known, Source.TEXT)


def test_bad_labels_are_refused(base):
    with pytest.raises(ValueError, match="labels must be"):
        augment({"Age": np.array([40.0])}, np.array([2.0]), seed=1)
    with pytest.raises(ValueError, match="same number of rows"):
        augment(base.columns, base.labels[:5], seed=1)


def test_no_behaviour_alone_gives_the_label_away(augmented):
    for name in NAMES:
        known = ~np.isnan(augmented[name])
        auc = area_under_curve(augmented[name][known], augmented["Churn"][known])
        assert max(auc, 1 - auc) < 0.8, name


@pytest.mark.skipif(not REAL.exists(), reason="the public Churn.csv is not here")
def test_the_real_file_augmented_has_no_factor_that_gives_the_label_away(tmp_path):
    made = recipe.augment_file(REAL, read(REAL, CHURN), tmp_path / "real.csv", seed=1)
    assert made.source is made.achievable is made.truth is None
    assert recipe.truth_for(tmp_path / "real.csv") is None
    table = read(tmp_path / "real.csv", CHURN)
    for factor in CHURN.scored:
        values = table.columns[factor.name]
        if values.dtype.kind == "f":
            known = ~np.isnan(values)
            auc = area_under_curve(values[known], table.label[known])
            assert max(auc, 1 - auc) < 0.8, factor.name


@pytest.fixture(scope="module")
def made_again(tmp_path_factory):
    """The shipped files, made by the same steps as the commands."""
    folder = tmp_path_factory.mktemp("shipped")
    shipped = json.loads(recipe.recipe_path(resource("migrations_data") / "Final_bank.csv").read_text())
    rows, seeds = shipped["rows"], (shipped["source"]["seed"], shipped["seed"])
    recipe.simulate_file(folder / "Churn.csv", "churn", rows, seeds[0], base=True)
    recipe.augment_file(folder / "Churn.csv", read(folder / "Churn.csv", CHURN), folder / "Final_bank.csv", seeds[1])
    return folder


@pytest.mark.parametrize("name", ["Churn.csv", "Final_bank.csv"])
def test_the_shipped_files_are_made_again_to_the_byte(made_again, name):
    shipped = resource("migrations_data") / name
    assert (made_again / name).read_bytes() == shipped.read_bytes()
    assert unversioned(made_again / name) == unversioned(shipped)


def unversioned(path: Path) -> str:
    """Return a file's recipe without the versions of the portal that made it."""
    text = recipe.recipe_path(path).read_text()
    return "\n".join(line for line in text.splitlines() if '"version"' not in line)


def test_the_shipped_files_hold_the_same_10_000_customers():
    base, full = (read(resource("migrations_data") / name, CHURN) for name in ("Churn.csv", "Final_bank.csv"))
    assert len(base) == len(full) == base.rows_in_file == 10_000
    assert all(np.array_equal(base.columns[name], full.columns[name]) for name in customers.BASE_ORDER)
    assert np.array_equal(base.label, full.label)


@pytest.mark.parametrize("name", ["Churn.csv", "Final_bank.csv"])
def test_truth_for_a_shipped_file_stands_in_its_rows_order(made_again, name):
    truth = recipe.truth_for(made_again / name)
    table = read(made_again / name, CHURN)
    assert np.array_equal(truth.labels, table.label)
    assert [str(customer) for customer in truth.columns["CustomerId"]] == list(table.columns["CustomerId"])
    assert truth.true_ceiling().auc > truth.achievable_ceiling().auc > 0.85


def test_truth_for_an_allowance_file(tmp_path):
    simulated, made = recipe.simulate_file(tmp_path / "a.csv", "allowance", 200, 9)
    again = recipe.truth_for(tmp_path / "a.csv")
    assert np.array_equal(again.truth, simulated.truth)
    assert made.achievable == simulated.achievable_ceiling()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"source": 3}', '{"truth": [1]}', None],
    ids=["empty", "broken", "list", "no keys", "odd source", "odd ceiling", "absent"],
)
def test_there_is_no_truth_without_a_recipe(tmp_path, text):
    path = tmp_path / "a.csv"
    recipe.simulate_file(path, "churn", 20, 9)
    recipe.recipe_path(path).unlink() if text is None else recipe.recipe_path(path).write_text(text)
    assert recipe.truth_for(path) is None


def test_there_is_no_truth_for_a_file_that_changed(tmp_path):
    path = tmp_path / "a.csv"
    recipe.simulate_file(path, "churn", 20, 9)
    path.write_text(path.read_text().replace("France", "Spain"))
    assert recipe.truth_for(path) is None


@pytest.mark.parametrize("change", [{"seed": 10}, {"rows": 21}, {"rows": 10**9}, {"product": "moon"}, {"rows": "x"}])
def test_there_is_no_truth_for_a_recipe_that_makes_another_file(tmp_path, change):
    path = tmp_path / "a.csv"
    recipe.simulate_file(path, "churn", 20, 9)
    beside = recipe.recipe_path(path)
    beside.write_text(json.dumps(json.loads(beside.read_text()) | change))
    assert recipe.truth_for(path) is None


def test_a_full_file_augmented_has_no_truth_of_its_own(tmp_path):
    recipe.simulate_file(tmp_path / "full.csv", "churn", 50, 1)
    made = recipe.augment_file(tmp_path / "full.csv", read(tmp_path / "full.csv", CHURN), tmp_path / "again.csv", 1)
    assert made.source is not None
    assert made.truth is None
    assert recipe.truth_for(tmp_path / "again.csv") is None


def test_only_churn_has_base_files(tmp_path):
    with pytest.raises(ValueError, match="only churn"):
        recipe.simulate_file(tmp_path / "a.csv", "allowance", 5, 1, base=True)


def test_files_are_written_plainly(tmp_path):
    columns = {
        "whole": np.array([1, 0]),
        "real": np.array([0.1, 2.0]),
        "blank": np.array([np.nan, -0.0]),
        "text": np.array(['a "b", c', None], dtype=object),
    }
    sha256 = recipe.write_csv(tmp_path / "a.csv", columns)
    assert (tmp_path / "a.csv").read_bytes() == b'whole,real,blank,text\n1,0.1,,"a ""b"", c"\n0,2,0,\n'
    assert sha256 == recipe.columns_sha256(columns) == recipe.file_sha256(tmp_path / "a.csv")


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(ValueError, match="zip"):
        recipe.write_csv(path, {"one": np.arange(3), "two": np.arange(2)})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
