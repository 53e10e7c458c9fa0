import json
import math
import statistics

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, roc_auc_score

from bankportal.data.reading import Table
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest
from bankportal.training.evaluation import auc_interval, brier, confusion, evaluate, one_factor_rule, reliability
from tests.shipped import CHURN

ENCODING = Encoding.of(CHURN)


def made(rows: int, *, seed: int, behaviour: bool = True) -> tuple[Table, np.ndarray]:
    """A bank in which age and, where asked, complaints raise the true probability that comes with it."""
    draws = np.random.default_rng(seed)
    columns = {
        "CreditScore": draws.integers(300, 851, rows).astype(float),
        "Age": draws.integers(18, 80, rows).astype(float),
        "Tenure": np.zeros(rows),
        "Balance": draws.uniform(0, 1000, rows),
        "Geography": draws.choice(np.array(["France", "Germany", "Spain", None], dtype=object), rows),
    }
    push = 0.08 * (columns["Age"] - 60)
    if behaviour:
        columns["ComplaintsFiled"] = np.where(draws.random(rows) < 0.1, math.nan, draws.poisson(1, rows))
        push = push + 0.8 * np.nan_to_num(columns["ComplaintsFiled"])
    truth = 1 / (1 + np.exp(-push))
    label = (draws.random(rows) < truth).astype(float)
    numbers = np.arange(rows)
    table = Table(CHURN, "made.csv", "0" * 64, columns, label, numbers + 2, numbers, {}, (), (), (), rows)
    return table, truth


def stump(column: str = "Age", threshold: float = 60.0, low: float = 0.2, high: float = 0.7) -> Forest:
    """One tree with one split."""
    return Forest(
        feature=np.array([ENCODING.positions(column)[0], -1, -1], dtype=np.int32),
        threshold=np.array([threshold, 0.0, 0.0]),
        left=np.array([1, -1, -1], dtype=np.int32),
        right=np.array([2, -1, -1], dtype=np.int32),
        missing_left=np.array([True, False, False]),
        value=np.array([0.4, low, high]),
        roots=np.array([0], dtype=np.int32),
    )


@pytest.fixture(scope="module")
def bank() -> Table:
    return made(1000, seed=1)[0]


@pytest.fixture(scope="module")
def held_out() -> Table:
    return made(400, seed=2)[0]


def test_it_works(bank, held_out):
    found = evaluate(stump(), ENCODING, bank, held_out, None)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    score = np.where(held_out.columns["Age"] <= 60, 0.2, 0.7)
    assert (found["rows_train"], found["rows_test"]) == (1000, 400)
    assert found["label_rate"] == pytest.approx(held_out.label.mean(), abs=1e-6)
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(held_out.label, score), abs=1e-6)
    assert found["average_precision"] == pytest.approx(average_precision_score(held_out.label, score), abs=1e-6)
    assert found["brier"] == pytest.approx(brier_score_loss(held_out.label, score), abs=1e-6)
    assert [one["cut_off"] for one in found["confusion"]] == list(CHURN.cut_offs)
    assert sum(one["rows"] for one in found["reliability"]) == 400
    assert found["ceiling"] is None


def test_the_baselines_know_the_training_rows_alone(bank, held_out):
    baselines = evaluate(stump(), ENCODING, bank, held_out, None)["baselines"]
    assert [one["name"] for one in baselines] == ["base rate", "best one-factor rule", "logistic regression"]
    base, rule, logistic = baselines
    assert base["auc"] == 0.5
    assert base["brier"] == pytest.approx(brier(np.full(400, bank.label.mean()), held_out.label), abs=1e-6)
    assert rule["detail"].startswith("Age in 10 ranges")
    assert 0.5 < rule["auc"] < logistic["auc"]


def test_the_one_factor_rule_is_chosen_on_training_rows(bank, held_out):
    swapped = bank.take(np.arange(1000))
    swapped.columns["Balance"] = swapped.label * 100.0
    rule = one_factor_rule(swapped, held_out)
    assert rule.detail == "Balance in 2 levels"
    assert rule.score.shape == (400,)


def test_a_forest_that_does_not_beat_its_baselines_is_warned_about(bank, held_out):
    warnings = evaluate(stump("Balance", 500.0), ENCODING, bank, held_out, None)["warnings"]
    assert any(warning.startswith("The forest does not beat the logistic regression in AUC") for warning in warnings)
    assert any(warning.startswith("The forest does not beat the base rate in Brier") for warning in warnings)


def test_the_better_forest_is_not_warned_about():
    rows, truth = made(3000, seed=3)
    swing = np.where(rows.columns["Balance"] < 500, 0.95, 0.05)  # no line and no ten ranges of another factor
    label = (np.random.default_rng(0).random(3000) < swing).astype(float)
    assert len(truth) == len(label)
    rows = Table(**{**vars(rows), "label": label})
    train, test = rows.take(np.arange(2000)), rows.take(np.arange(2000, 3000))
    good = evaluate(stump("Balance", 500.0, low=0.95, high=0.05), ENCODING, train, test, None)
    assert not any("base rate" in warning for warning in good["warnings"])
    assert not any("in Brier" in warning and "logistic" in warning for warning in good["warnings"])


def test_the_ceiling_is_taken_at_the_test_rows_of_the_file(bank):
    rows, truth = made(1000, seed=4)
    part = rows.take(np.arange(0, 1000, 2))
    found = evaluate(stump(), ENCODING, bank, part, {"truth": truth, "achievable": truth * 0.9})
    assert found["ceiling"]["truth"]["auc"] == pytest.approx(roc_auc_score(part.label, truth[::2]), abs=1e-6)
    assert found["ceiling"]["truth"]["brier"] == pytest.approx(brier(truth[::2], part.label), abs=1e-6)
    share = found["auc"]["value"] / found["ceiling"]["achievable"]["auc"]
    assert found["ceiling"]["share_of_ceiling"] == pytest.approx(share, abs=1e-5)
    with pytest.raises(ValueError, match="not aligned"):
        evaluate(stump(), ENCODING, bank, part, {"truth": truth[:10], "achievable": truth})


def test_without_behaviour_the_same_rows_are_judged_on_base_columns(bank, held_out):
    forest = stump("ComplaintsFiled", 1.0)
    found = evaluate(forest, ENCODING, bank, held_out, None)
    assert found["auc"]["value"] > 0.55
    assert found["without_behaviour"] == {"auc": 0.5, "brier": pytest.approx(brier(np.full(400, 0.2), held_out.label))}


def test_a_file_of_base_columns_alone_has_no_behaviour_to_leave_out():
    train, test = made(500, seed=5, behaviour=False)[0], made(200, seed=6, behaviour=False)[0]
    assert evaluate(stump(), ENCODING, train, test, None)["without_behaviour"] is None


def test_the_interval_covers_what_it_promises():
    draws = np.random.default_rng(7)
    true_auc = 0.7602499389065233  # two normals one standard deviation apart: Phi(1 / sqrt 2)
    hits = 0
    for _ in range(300):
        label = np.repeat([0.0, 1.0], [160, 40])
        found = auc_interval(draws.normal(size=200) + label, label)
        hits += found["low"] <= true_auc <= found["high"]
    assert 0.91 <= hits / 300 <= 0.98


def test_the_interval_is_that_of_delong():
    """By the definition: the share of the other label that each row is on the right side of, and its variance."""
    ones, zeros = [0.3, 0.6, 0.9, 0.9], [0.1, 0.6, 0.7]
    of_ones = [statistics.mean((one > zero) + (one == zero) / 2 for zero in zeros) for one in ones]
    of_zeros = [statistics.mean((one > zero) + (one == zero) / 2 for one in ones) for zero in zeros]
    error = math.sqrt(statistics.variance(of_ones) / len(ones) + statistics.variance(of_zeros) / len(zeros))
    found = auc_interval(np.array([*ones, *zeros]), np.array([1.0] * 4 + [0.0] * 3))
    assert found["value"] == pytest.approx(statistics.mean(of_ones), abs=1e-12)
    assert found["value"] - found["low"] == pytest.approx(1.959963984540054 * error, abs=1e-12)


def test_the_interval_stays_between_nought_and_one():
    label = np.repeat([0.0, 1.0], 20)
    assert auc_interval(label, label) == {"value": 1.0, "low": 1.0, "high": 1.0}
    nearly = np.where(np.arange(40) == 0, 5.0, label)
    assert auc_interval(nearly, label)["high"] <= 1.0


def test_confusion_counts_as_scikit_learn_does_and_the_cut_off_belongs_to_the_upper_band():
    draws = np.random.default_rng(8)
    score, label = np.round(draws.random(300), 1), (draws.random(300) < 0.4).astype(float)
    found = confusion(score, label, 0.4)
    tn, fp, fn, tp = confusion_matrix(label, score >= 0.4).ravel()
    assert (found["tp"], found["fp"], found["tn"], found["fn"]) == (tp, fp, tn, fn)
    assert found["recall"] == pytest.approx(tp / (tp + fn))
    assert confusion(np.array([0.4]), np.array([1.0]), 0.4)["tp"] == 1


def test_shares_of_nothing_are_none():
    nobody = confusion(np.zeros(3), np.array([0.0, 0.0, 1.0]), 0.5)
    assert (nobody["precision"], nobody["recall"]) == (None, 0.0)
    assert confusion(np.ones(2), np.zeros(2), 0.5)["recall"] is None


def test_reliability_has_ten_bins_with_equally_many_rows():
    score = np.linspace(0, 1, 200)
    bins = reliability(score, (score > 0.5).astype(float))
    assert [one["rows"] for one in bins] == [20] * 10
    assert [one["score"] for one in bins] == sorted(one["score"] for one in bins)
    assert (bins[0]["label_rate"], bins[-1]["label_rate"]) == (0.0, 1.0)


def test_a_calibrated_score_has_a_small_calibration_error():
    rows, truth = made(4000, seed=9)
    bins = reliability(truth, rows.label)
    error = sum(one["rows"] * abs(one["score"] - one["label_rate"]) for one in bins) / 4000
    assert error < 0.03
