import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold

from bankportal.data.reading import Table, read, read_bytes
from bankportal.data.report import area_under_curve
from bankportal.domain.errors import DataRefused
from bankportal.model.encoding import MAX_FLOAT32, Encoding
from bankportal.model.forest import DTYPES, EVERY_KNOWN_VALUE
from bankportal.training import training
from bankportal.training.training import PARAMETERS, forest_from_sklearn, grow, split, train, with_blanks
from tests.shipped import CHURN

REAL = Path(__file__).parents[2] / "shared" / "data"


def made(rows: int = 600, *, seed: int = 0, **changes: object) -> Table:
    """A small bank: age and complaints drive leaving, the country a little; some cells are blank."""
    draws = np.random.default_rng(seed)
    age = draws.integers(18, 80, rows)
    complaints = draws.poisson(0.8, rows)
    country = draws.choice(["France", "Germany", "Spain"], rows)
    left = draws.random(rows) < 1 / (1 + np.exp(3.5 - 0.05 * age - 0.6 * complaints - 0.5 * (country == "Germany")))
    columns = {
        "CustomerId": np.arange(rows),
        "CreditScore": draws.integers(300, 851, rows),
        "Age": age,
        "Tenure": draws.integers(0, 11, rows),
        "Balance": np.round(draws.uniform(0, 200_000, rows), 2),
        "Geography": np.where(draws.random(rows) < 0.1, "", country),
        "NumOfProducts": draws.integers(1, 4, rows),
        "ComplaintsFiled": np.where(draws.random(rows) < 0.1, "", complaints.astype(str)),
        "Churn": left.astype(int),
    }
    columns = {name: values for name, values in (columns | changes).items() if values is not None}
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    return read_bytes("\n".join(lines).encode(), "made.csv", CHURN)


@pytest.fixture(scope="module")
def bank() -> Table:
    return made()


@pytest.fixture(scope="module")
def trained(bank):
    reports = []
    found = train(bank, seed=3, jobs=1, progress=lambda *report: reports.append(report))
    return found, reports


def arrays(forest):
    return [getattr(forest, name).tobytes() for name in DTYPES]


def test_it_works(trained):
    found, _ = trained
    found.forest.check(len(found.encoding.columns))
    assert found.forest.depth <= 8
    assert len(found.forest.roots) == PARAMETERS.trees
    assert found.product is CHURN
    assert found.evaluation["auc"]["value"] > 0.65
    assert found.data["rows_train"] + found.data["rows_test"] == found.data["rows_used"] == 600
    assert found.seed == 3
    assert set(found.libraries) == {"python", "numpy", "scikit-learn"}
    json.dumps([found.evaluation, found.parameters, found.data, found.libraries], allow_nan=False)


def test_progress_is_reported_from_the_first_trees_to_the_last(trained):
    _, reports = trained
    done = [report[0] for report in reports]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (training.STEP, PARAMETERS.trees)
    assert {report[1] for report in reports} == {PARAMETERS.trees}


def test_same_data_and_seed_give_the_same_forest_for_any_number_of_jobs(bank, trained):
    again = train(bank, seed=3, jobs=2)
    assert arrays(again.forest) == arrays(trained[0].forest)
    assert again.evaluation == trained[0].evaluation


def test_another_seed_gives_another_forest(bank, trained):
    assert arrays(train(bank, seed=4).forest) != arrays(trained[0].forest)


def test_what_was_seen_is_that_of_the_training_rows(bank, trained):
    learned = bank.take(split(bank, 3)[0])
    seen = trained[0].seen
    assert seen.ranges["Balance"] == (learned.columns["Balance"].min(), learned.columns["Balance"].max())
    assert "HasLoan" not in seen.ranges


def test_columns_without_values_take_no_part(trained):
    found, _ = trained
    split_on = {found.encoding.columns[number].factor for number in found.forest.feature if number >= 0}
    assert "Age" in split_on
    assert split_on <= {"CreditScore", "Age", "Tenure", "Balance", "Geography", "NumOfProducts", "ComplaintsFiled"}


def fitted(rows: int = 1500, columns: int = 6) -> tuple[RandomForestClassifier, np.ndarray]:
    draws = np.random.default_rng(5)
    matrix = np.round(draws.normal(size=(rows, columns)), 2)
    matrix[:, 0] = np.where(matrix[:, 0] > 0, 1.0, 0.0)
    matrix[draws.random((rows, columns)) < 0.25] = np.nan
    matrix[:, 5] = np.round(draws.normal(size=rows), 2)  # never blank in training
    known = np.nan_to_num(matrix, nan=0.8)
    label = (known[:, 1] + known[:, 2] * known[:, 0] + draws.normal(size=rows) > 0.5).astype(int)
    model = RandomForestClassifier(n_estimators=30, max_depth=8, min_samples_leaf=3, random_state=0)
    return model.fit(matrix, label), matrix


def hostile_rows(model: RandomForestClassifier, matrix: np.ndarray) -> np.ndarray:
    draws = np.random.default_rng(6)
    blanks = matrix.copy()
    blanks[draws.random(matrix.shape) < 0.5] = np.nan
    thresholds = np.concatenate([tree.tree_.threshold[tree.tree_.feature >= 0] for tree in model.estimators_])
    thresholds = thresholds[np.isfinite(thresholds)]
    exact = draws.choice(thresholds, size=(500, matrix.shape[1]))
    near = np.nextafter(exact.astype(np.float32), draws.choice([-np.inf, np.inf], exact.shape).astype(np.float32))
    huge = draws.choice([MAX_FLOAT32, -MAX_FLOAT32, 1e30, 0.0, np.nan], size=(200, matrix.shape[1]))
    return np.vstack([matrix, blanks, np.full((1, matrix.shape[1]), np.nan), exact, near.astype(float), huge])


def test_the_arrays_score_as_scikit_learn_does():
    model, matrix = fitted()
    rows = hostile_rows(model, matrix)
    forest = forest_from_sklearn(model)
    forest.check(matrix.shape[1])
    wanted = model.predict_proba(rows)[:, 1]
    np.testing.assert_allclose(forest.score(rows), wanted, rtol=0, atol=1e-12)


def test_splits_on_blankness_alone_are_kept_finite():
    draws = np.random.default_rng(0)
    matrix = np.where(draws.random((400, 1)) < 0.5, np.nan, draws.normal(size=(400, 1)))
    label = np.isnan(matrix[:, 0]).astype(int)
    model = RandomForestClassifier(n_estimators=5, max_depth=1, random_state=0).fit(matrix, label)
    forest = forest_from_sklearn(model)
    forest.check(1)
    rows = np.array([[np.nan], [0.0], [MAX_FLOAT32], [-MAX_FLOAT32]])
    np.testing.assert_allclose(forest.score(rows), model.predict_proba(rows)[:, 1], rtol=0, atol=1e-12)
    assert forest.threshold.max() <= EVERY_KNOWN_VALUE


def test_columns_are_renumbered_where_the_model_saw_only_some():
    model, matrix = fitted()
    wide = np.full((len(matrix), 20), np.nan)
    places = np.array([1, 3, 5, 8, 13, 19])
    wide[:, places] = matrix
    np.testing.assert_array_equal(
        forest_from_sklearn(model, places).score(wide), forest_from_sklearn(model).score(matrix)
    )


def test_values_beyond_float32_are_scored_as_the_largest(trained):
    found, _ = trained
    customer = {"CreditScore": 650, "Age": 40, "Tenure": 3, "Balance": 1e300}
    largest = found.encoding.row(customer | {"Balance": MAX_FLOAT32})
    assert found.forest.score(found.encoding.row(customer)[None])[0] == found.forest.score(largest[None])[0]


def test_blanks_are_drawn_as_declared(bank):
    encoding = Encoding.of(CHURN)
    matrix = encoding.matrix(bank.columns)
    copy = with_blanks(matrix, encoding, CHURN, 0)
    required = encoding.positions(*(factor.name for factor in CHURN.required))
    np.testing.assert_array_equal(copy[:, required], matrix[:, required])
    country = np.isnan(copy[:, encoding.positions("Geography")])
    assert (country.all(axis=1) == country.any(axis=1)).all()
    complaints = np.isnan(copy[:, encoding.positions("ComplaintsFiled")]).mean()
    assert complaints == pytest.approx(
        1 - 0.9 * (1 - PARAMETERS.blank_behaviour) * (1 - PARAMETERS.blank_optional), abs=0.05
    )
    np.testing.assert_array_equal(copy, with_blanks(matrix, encoding, CHURN, 0))


def test_the_test_set_is_a_fifth_and_alike(bank):
    learned, held_out = split(bank, 0)
    assert sorted([*learned, *held_out]) == list(range(len(bank)))
    assert len(held_out) == len(bank) // 5
    assert bank.label[held_out].mean() == pytest.approx(bank.label[learned].mean(), abs=0.01)


def test_a_customer_stands_on_one_side_only():
    bank = made(900, CustomerId=np.arange(900) // 3)
    learned, held_out = split(bank, 0)
    ids = bank.columns["CustomerId"]
    assert not set(ids[learned]) & set(ids[held_out])
    assert len(held_out) == pytest.approx(180, abs=9)


def test_customers_without_a_number_are_their_own():
    bank = made(600, CustomerId=np.where(np.arange(600) < 300, "", np.arange(600).astype(str)))
    assert len(split(bank, 0)[1]) == 120


def test_without_numbers_look_alikes_stand_on_one_side():
    bank = made(600, CustomerId=None)
    twins = bank.take(np.repeat(np.arange(600), 2))
    learned, held_out = split(twins, 0)
    assert not set(learned // 2) & set(held_out // 2)


def test_rows_that_repeat_are_dropped_and_counted():
    bank = made()
    doubled = bank.take(np.concatenate([np.arange(600), np.arange(100)]))
    found = train(doubled)
    assert (found.data["duplicates_dropped"], found.data["rows_used"]) == (100, 600)


LABELS = np.arange(600)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"Age": None, "Balance": None}, "lacks columns that churn requires: Age, Balance", id="required"),
        pytest.param({"Churn": None}, "has no label: a column Churn", id="no label column"),
        pytest.param({"Churn": np.zeros(600, int)}, "0 rows with Churn 1 and 600 with 0", id="one class"),
        pytest.param({"Churn": (LABELS < 49).astype(int)}, "49 rows with Churn 1", id="too few of one"),
        pytest.param(
            {"Churn": np.where(LABELS < 199, LABELS % 2, 7)}, "199 usable rows.*401 were rejected.*line 201", id="few"
        ),
        pytest.param(
            {"Churn": (LABELS < 60).astype(int), "CustomerId": np.maximum(LABELS, 59)},
            "1 different customers with Churn 1",
            id="ids",
        ),
    ],
)
def test_unfit_data_are_refused(changes, message):
    if "CustomerId" in changes:
        changes["CustomerId"] = np.where(LABELS < 60, 1, LABELS)
    with pytest.raises(DataRefused, match=message):
        train(made(**changes))


def test_leaks_are_refused_unless_allowed():
    honest = made()
    leak = honest.columns | {"SupportCalls": honest.label * 5 + 1}
    leaking = dataclasses.replace(honest, columns=leak)
    with pytest.raises(DataRefused, match=r"SupportCalls \(AUC 1\.000\)"):
        train(leaking)
    found = train(leaking, allow_leakage=True)
    assert [one["factor"] for one in found.data["leaks"]] == ["SupportCalls"]
    assert any(warning.startswith("SupportCalls alone") for warning in found.evaluation["warnings"])


def test_the_leaking_public_file_is_refused():
    if not (REAL / "Final_bank.csv").exists():
        pytest.skip("the public data set Final_bank.csv is not beside this checkout")
    with pytest.raises(DataRefused, match=r"CustomerSatisfaction.*ComplaintsFiled"):
        train(read(REAL / "Final_bank.csv", CHURN))


def test_base_columns_alone_still_score_well_in_cross_validation():
    """Issue 2, "it must show" 3: at least 0.860 on the public base file, Gender never scored."""
    if not (REAL / "Churn.csv").exists():
        pytest.skip("the public data set Churn.csv is not beside this checkout")
    table, encoding = read(REAL / "Churn.csv", CHURN), Encoding.of(CHURN)
    areas = []
    for learned, held_out in StratifiedKFold(5, shuffle=True, random_state=0).split(table.lines, table.label):
        forest = grow(table.take(learned), encoding)
        score = forest.score(encoding.matrix(table.take(held_out).columns))
        areas.append(area_under_curve(score, table.label[held_out]))
    assert np.mean(areas) >= 0.860


def test_no_tree_may_be_deeper_than_the_explanation_allows():
    assert PARAMETERS.depth <= 8
