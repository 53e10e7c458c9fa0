import json
import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bankportal.data.reading import read, read_bytes
from bankportal.data.report import (
    LEAK_ABOVE,
    LevelRates,
    area_under_curve,
    check,
    leaks,
    refuse_leaks,
    repeated,
    separation,
)
from bankportal.domain.errors import DataRefused
from tests.shipped import ALLOWANCE, CHURN

REAL = Path(__file__).parents[2] / "shared" / "data"
HEADER = "CustomerId,CreditScore,Age,Tenure,Balance,Geography,SupportCalls,shoes,Churn"


def table(*rows: str, header: str = HEADER, product=CHURN):
    return read_bytes("\n".join([header, *rows]).encode(), "bank.csv", product)


def real(name: str):
    if not (REAL / name).exists():
        pytest.skip(f"the public data set {name} is not beside this checkout")
    return read(REAL / name, CHURN)


ROWS = [
    "1,650,42,5,0,France,0,9,0",
    "1,650,42,5,0,France,0,9,0",  # in all the same
    "2,650,42,5,0,France,0,9,0",  # the same but for the customer
    "2,700,50,5,10,Spain,,9,1",  # the same customer
    "3,900,50,5,10,Spain,,9,1",  # CreditScore above
    "4,901,50,5,10,Spain,,9,1",
    "5,700,50,5,10,Atlantis,,9,1",
    "6,700,50,5,10",
    "7,700,50,5,10,Spain,,9,",
]


def test_it_works():
    report = check(table(*ROWS))
    assert (report.rows, report.rows_in_file) == (3, 9)
    assert report.unknown == ("shoes",)
    assert report.missing_required == ()
    assert "HasLoan" in report.missing
    assert (report.duplicates, report.same_factors, report.same_customer) == (1, 2, 2)
    assert report.label_rate == 0.25
    assert [(one.column, one.code, one.count, one.example.line) for one in report.rejected] == [
        ("CreditScore", "above", 2, 6),
        ("Geography", "not-a-choice", 1, 8),
        ("", "ragged", 1, 9),
        ("Churn", "no-label", 1, 10),
    ]


def test_it_is_plain_data_and_sentences():
    report = check(table(*ROWS))
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["leak_above"] == LEAK_ABOVE
    assert content["rejected"][0]["example"]["text"] == "900"
    text = "\n".join(report.lines())
    assert "bank.csv: 3 usable rows of 9." in text
    assert "Bad cells: 2 × CreditScore above; first line 6: CreditScore must be 850 or less (found: 900)." in text
    assert "Unknown, not used: shoes." in text
    assert "Label Churn: 1 in 25.0% of the rows." in text


def test_required_columns_that_are_missing_are_named_as_such():
    report = check(table("650,0", "700,1", header="CreditScore,Churn"))
    assert report.missing_required == ("Age", "Tenure", "Balance")
    assert "Missing and required: Age, Tenure, Balance." in report.lines()
    assert not report.fit_for_training


def test_without_labels_there_is_no_leak_to_find():
    report = check(table("650,42", header="CreditScore,Age"))
    assert report.label_rate is None
    assert report.separations == ()
    assert any("nothing can be learned" in line for line in report.lines())


def test_without_good_rows_it_still_reports():
    report = check(table("650,42,x", "650,42,y", header="CreditScore,Age,Churn"))
    assert (report.rows, report.label_rate, report.duplicates) == (0, None, 0)
    json.dumps(report.to_json(), allow_nan=False)


def test_rows_that_repeat_an_earlier_one():
    assert repeated(table(*ROWS)).tolist() == [False, True, False, False]


def test_area_under_curve_is_scikit_learns():
    draws = np.random.default_rng(0)
    score, label = np.round(draws.normal(size=500), 1), (draws.random(500) < 0.3).astype(float)
    assert area_under_curve(score, label) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


LABEL = np.repeat([0.0, 1.0], 500)
DRAWS = np.random.default_rng(1)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        pytest.param(LABEL + DRAWS.normal(0, 0.1, 1000), 0.99, 1, id="rises with the label"),
        pytest.param(-LABEL + DRAWS.normal(0, 0.1, 1000), 0.99, 1, id="falls with the label"),
        pytest.param(
            np.where(LABEL == 1, DRAWS.uniform(-1, 1, 1000), DRAWS.choice([-2, 2], 1000)), 0.85, 1, id="middle"
        ),
        pytest.param(np.where(LABEL == 1, np.nan, DRAWS.normal(size=1000)), 0.99, 1, id="blank gives it away"),
        pytest.param(np.where(LABEL == 1, "France", "Spain").astype(object), 1, 1, id="choice"),
        pytest.param(np.where(LABEL == 1, None, "Spain").astype(object), 1, 1, id="blank choice"),
        pytest.param(DRAWS.normal(size=1000), 0.5, 0.6, id="noise"),
        pytest.param(np.full(1000, np.nan), 0.5, 0.5, id="all blank"),
        pytest.param(np.full(1000, 3.0), 0.5, 0.5, id="constant"),
    ],
)
def test_how_well_one_factor_separates(values, low, high):
    assert low <= separation(values, LABEL) <= high


def test_level_rates_on_values_they_never_saw():
    numbers = LevelRates.fit(np.array([1.0, 1.0, 2.0, math.nan]), np.array([1.0, 0.0, 1.0, 1.0]))
    assert numbers.score(np.array([1.0, 2.0, 7.0, math.nan])).tolist() == [0.5, 1.0, 0.75, 1.0]
    ranges = LevelRates.fit(np.arange(100.0), (np.arange(100) >= 50).astype(float))
    assert ranges.score(np.array([-5.0, 200.0, math.nan])).tolist() == [0.0, 1.0, 0.5]
    nothing = LevelRates.fit(np.full(4, math.nan), np.array([1.0, 0.0, 0.0, 0.0]))
    assert nothing.score(np.array([3.0, math.nan])).tolist() == [0.25, 0.25]


def test_the_leaks_of_the_public_augmented_file_are_named():
    found = real("Final_bank.csv")
    assert [leak.factor for leak in check(found).leaks] == ["CustomerSatisfaction", "ComplaintsFiled"]
    assert any(line.startswith("Leak: CustomerSatisfaction alone") for line in check(found).lines())
    with pytest.raises(DataRefused, match=r"CustomerSatisfaction \(AUC 0\.979\), ComplaintsFiled \(AUC 0\.873\)"):
        refuse_leaks(leaks(found), found)


def test_the_public_base_file_has_no_leak():
    report = check(real("Churn.csv"))
    assert report.leaks == ()
    assert (report.duplicates, report.same_customer) == (0, 0)
    assert report.fit_for_training


def test_factors_that_are_not_scored_are_not_judged():
    rows = [f"{label},{'Female' if label else 'Male'},650" for label in (0, 1) * 20]
    report = check(table(*rows, header="Repaid,Gender,CreditScore", product=ALLOWANCE))
    assert [one.factor for one in report.separations] == ["CreditScore"]
