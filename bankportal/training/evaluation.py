"""Evaluate a forest on held-out customers: beside three baselines, and the best achievable where that is known.

Training side only: this module imports scikit-learn.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bankportal.data.measures import area_under_curve, brier, middle_ranks
from bankportal.data.reading import Table
from bankportal.data.report import LevelRates
from bankportal.domain.products import Product
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest

BINS = 10
# Two-sided 95 % of the normal distribution.
NORMAL_95 = 1.959963984540054
# So few that the last bits of a sum cannot make two trainings on equal data differ.
DECIMALS = 6

Numbers = NDArray[np.float64]
Ceiling = Mapping[str, Numbers]


@dataclass(frozen=True, eq=False)
class Baseline:
    """A simple model, fitted on the training rows; `score` (test rows,) holds its scores on the test rows."""

    name: str
    detail: str
    score: Numbers


def evaluate(forest: Forest, encoding: Encoding, train: Table, test: Table, ceiling: Ceiling | None) -> dict[str, Any]:
    """Evaluate a forest on the test rows and return plain JSON data without NaN, numbers to six decimals.

    `train` and `test` are the labelled rows of each side. `ceiling` may hold probabilities under `achievable` (the best
    that the factors allow) and `truth`, each aligned with all rows of the file, rejected ones included; `ValueError`
    where they are not as long.

    `auc` has a 95 % interval after DeLong; `calibration_error` is the expected calibration error over ten bins with
    equally many rows, the bins of `reliability`; `confusion` is at each cut-off of the product's bands.
    """
    label = _label(test)
    matrix = encoding.matrix(test.columns)
    score = forest.score(matrix)
    bins = reliability(score, label)
    results = {
        "rows_train": len(train),
        "rows_test": len(test),
        "label_rate": float(label.mean()),
        "auc": auc_interval(score, label),
        **_measures(score, label),
        "calibration_error": sum(one["rows"] * abs(one["score"] - one["label_rate"]) for one in bins) / len(label),
        "reliability": bins,
        "confusion": [confusion(score, label, cut_off) for cut_off in test.product.cut_offs],
        "baselines": [_evaluated(baseline, label) for baseline in baselines(encoding, train, test)],
        "ceiling": _against_ceiling(score, label, test, ceiling),
        "without_behaviour": _without_behaviour(forest, encoding, test),
    }
    return _rounded(results | {"warnings": list(_warnings(results))})  # type: ignore[no-any-return]


def _label(table: Table) -> Numbers:
    if table.label is None:
        raise ValueError(f"{table.name} has no label")
    return table.label


def _measures(score: Numbers, label: Numbers) -> dict[str, float]:
    return {"average_precision": float(average_precision_score(label, score)), "brier": brier(score, label)}


def auc_interval(score: Numbers, label: Numbers) -> dict[str, float]:
    """Return the ROC AUC as `value` with its 95 % interval `low` to `high`.

    Source: DeLong, DeLong and Clarke-Pearson 1988, with the ranks of Sun and Xu 2014. Needs two rows of each label.
    """
    ones = label == 1
    ranks, positive, negative = middle_ranks(score), int(ones.sum()), int((~ones).sum())
    of_ones = (ranks[ones] - middle_ranks(score[ones])) / negative
    of_zeros = 1 - (ranks[~ones] - middle_ranks(score[~ones])) / positive
    value = float(of_ones.mean())
    margin = NORMAL_95 * math.sqrt(of_ones.var(ddof=1) / positive + of_zeros.var(ddof=1) / negative)
    return {"value": value, "low": max(0.0, value - margin), "high": min(1.0, value + margin)}


def reliability(score: Numbers, label: Numbers) -> list[dict[str, Any]]:
    """Return ten bins with equally many rows, by rising score: mean `score`, `label_rate` and `rows` of each."""
    parts = np.array_split(np.argsort(score, kind="stable"), min(BINS, len(score)))
    return [
        {"score": float(score[part].mean()), "label_rate": float(label[part].mean()), "rows": len(part)}
        for part in parts
    ]


def confusion(score: Numbers, label: Numbers, cut_off: float) -> dict[str, Any]:
    """Count right and wrong answers when a score at or above the cut-off says 1; `None` for a share of nothing."""
    says, ones = score >= cut_off, label == 1
    counts = {
        "tp": int((says & ones).sum()),
        "fp": int((says & ~ones).sum()),
        "tn": int((~says & ~ones).sum()),
        "fn": int((~says & ones).sum()),
    }
    precision, recall = _share(counts["tp"], int(says.sum())), _share(counts["tp"], int(ones.sum()))
    return {"cut_off": cut_off, **counts, "precision": precision, "recall": recall}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def baselines(encoding: Encoding, train: Table, test: Table) -> Iterator[Baseline]:
    """Yield the base rate, the best one-factor rule and a logistic regression, all fitted on the training rows."""
    rate = float(_label(train).mean())
    yield Baseline("base rate", f"everyone gets {rate:.1%}", np.full(len(test), rate))
    yield one_factor_rule(train, test)
    yield logistic_regression(encoding, train, test)


def one_factor_rule(train: Table, test: Table) -> Baseline:
    """Return the rule on the one factor whose levels or ranges separate the training rows best."""
    label = _label(train)
    names = [factor.name for factor in train.product.scored if factor.name in train.columns]
    rules = {name: LevelRates.fit(train.columns[name], label) for name in names}
    areas = {name: area_under_curve(rule.score(train.columns[name]), label) for name, rule in rules.items()}
    best = max(areas, key=areas.__getitem__)
    parts = f"{len(rules[best].levels)} {'ranges' if rules[best].as_ranges else 'levels'}"
    return Baseline("best one-factor rule", f"{best} in {parts}", rules[best].score(test.columns[best]))


def logistic_regression(encoding: Encoding, train: Table, test: Table) -> Baseline:
    """Return a logistic regression on the forest's columns: blanks become the median and are marked, all scaled."""
    matrix = encoding.matrix(train.columns)
    used = ~np.isnan(matrix).all(axis=0)
    model = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True), StandardScaler(), LogisticRegression(max_iter=2000)
    )
    model.fit(matrix[:, used], _label(train))
    score = model.predict_proba(encoding.matrix(test.columns)[:, used])[:, 1]
    return Baseline("logistic regression", "standardised, blanks at the median and marked", score)


def _evaluated(baseline: Baseline, label: Numbers) -> dict[str, Any]:
    auc = area_under_curve(baseline.score, label)
    return {"name": baseline.name, "detail": baseline.detail, "auc": auc, **_measures(baseline.score, label)}


def _against_ceiling(score: Numbers, label: Numbers, test: Table, ceiling: Ceiling | None) -> dict[str, Any] | None:
    if ceiling is None:
        return None
    results: dict[str, Any] = {}
    for name in ("achievable", "truth"):
        if len(ceiling[name]) != test.rows_in_file:
            raise ValueError(f"the ceiling's {name} is not aligned with the file's {test.rows_in_file} rows")
        best = ceiling[name][test.positions]
        results[name] = {"auc": area_under_curve(best, label), "brier": brier(best, label)}
    return results | {"share_of_ceiling": area_under_curve(score, label) / results["achievable"]["auc"]}


def behaviour_columns(encoding: Encoding, product: Product) -> NDArray[np.intp]:
    """Return the numbers of the columns that hold behavioural factors."""
    return encoding.positions(*(factor.name for factor in product.scored if factor.behavioural))


def _without_behaviour(forest: Forest, encoding: Encoding, test: Table) -> dict[str, float] | None:
    """Evaluate the same rows as if the file had base columns alone; `None` where it has."""
    matrix, behaviour = encoding.matrix(test.columns), behaviour_columns(encoding, test.product)
    if np.isnan(matrix[:, behaviour]).all():
        return None
    matrix[:, behaviour] = np.nan
    score, label = forest.score(matrix), _label(test)
    return {"auc": area_under_curve(score, label), "brier": brier(score, label)}


def _warnings(results: Mapping[str, Any]) -> Iterator[str]:
    """Say each baseline that the forest does not beat, and in what."""
    for baseline in results["baselines"]:
        if (auc := results["auc"]["value"]) <= baseline["auc"]:
            yield f"The forest does not beat the {baseline['name']} in AUC: {auc:.4f} against {baseline['auc']:.4f}."
        if results["brier"] >= baseline["brier"]:
            yield (
                f"The forest does not beat the {baseline['name']} in Brier score (lower is better): "
                f"{results['brier']:.4f} against {baseline['brier']:.4f}."
            )


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, DECIMALS)
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
        case _:
            return value
