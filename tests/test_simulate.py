"""The simulated banks: their shape, their truth, and the best that can be achieved on them."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from bankportal.data.measures import area_under_curve
from bankportal.domain.constraints import Source
from bankportal.domain.schema import validate
from bankportal.simulation import applicants, customers, simulate
from bankportal.simulation.likelihoods import Bernoulli, Count, LogNormal, Normal, Ordinal, sigmoid
from bankportal.simulation.recipe import columns_sha256, write_csv
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS

ROWS = 40_000


@pytest.fixture(scope="module")
def churn():
    return simulate.churn(ROWS, seed=5)


@pytest.fixture(scope="module")
def allowance():
    return simulate.allowance(ROWS, seed=5)


def share(churn, rows) -> float:
    """Return how many of some rows leave."""
    return float(churn.labels[rows].mean())


def test_it_works():
    assert len(simulate.churn(10, seed=1).labels) == 10


@pytest.mark.parametrize("key", PRODUCTS)
def test_columns_are_the_product_s_factors_and_its_label(key):
    product = PRODUCTS[key]
    columns = simulate.SIMULATORS[key](5, 1).columns
    assert set(columns) == {entry.factor.name for entry in product.factors} | {product.label.name}


def test_a_base_file_has_the_public_file_s_columns():
    assert list(simulate.base(5, 1).columns) == [
        *("RowNumber", "CustomerId", "Surname", "CreditScore", "Geography", "Gender", "Age", "Tenure", "Balance"),
        *("NumOfProducts", "HasCrCard", "IsActiveMember", "EstimatedSalary", "Exited"),
    ]


def test_a_base_file_has_the_customers_of_the_full_one():
    base, full = simulate.base(50, 1), simulate.churn(50, 1)
    assert all(np.array_equal(base.columns[name], full.columns[name]) for name in customers.BASE_ORDER)
    assert np.array_equal(base.labels, full.labels)


@pytest.mark.parametrize("simulator", [simulate.churn, simulate.base, simulate.allowance])
def test_same_rows_and_seed_give_the_same_bytes(simulator):
    first = columns_sha256(simulator(500, 3).columns)
    assert first == columns_sha256(simulator(500, 3).columns)
    assert first != columns_sha256(simulator(500, 4).columns)


@pytest.mark.parametrize("key", PRODUCTS)
def test_every_value_is_legal_as_written(key, tmp_path):
    product, path = PRODUCTS[key], tmp_path / "bank.csv"
    write_csv(path, simulate.SIMULATORS[key](400, 2).columns)
    names, *rows = (line.split(",") for line in path.read_text().splitlines())
    for row in rows:
        values = dict(zip(names, row, strict=True))
        assert values.pop(product.label.name) in {"0", "1"}
        validate(product, values, Source.TEXT)


@pytest.mark.parametrize("rows", [0, -1, 1_000_001])
def test_too_few_and_too_many_rows_are_refused(rows):
    with pytest.raises(ValueError, match="rows must be from 1 to 1,000,000"):
        simulate.churn(rows, 1)


@pytest.mark.parametrize("simulator", [simulate.churn, simulate.base, simulate.allowance])
def test_one_row_is_enough(simulator):
    simulated = simulator(1, 1)
    assert 0 < simulated.achievable[0] < 1
    assert np.isnan(simulated.achievable_ceiling().auc)


def test_the_marginals_are_the_public_file_s(churn):
    columns = churn.columns
    assert churn.labels.mean() == pytest.approx(0.2037, abs=0.01)
    assert np.mean(columns["Geography"] == "Germany") == pytest.approx(0.251, abs=0.01)
    assert np.mean(columns["Gender"] == "Female") == pytest.approx(0.454, abs=0.01)
    assert np.mean(columns["Balance"] == 0) == pytest.approx(0.362, abs=0.012)
    assert np.mean(columns["IsActiveMember"]) == pytest.approx(0.515, abs=0.012)
    assert np.mean(columns["HasCrCard"]) == pytest.approx(0.7055, abs=0.01)
    assert np.quantile(columns["Age"], (0.05, 0.25, 0.5, 0.75, 0.95)) == pytest.approx((25, 32, 37, 44, 60), abs=1)
    assert np.quantile(columns["CreditScore"], (0.05, 0.5, 0.95)) == pytest.approx((489, 652, 812), abs=6)
    held = np.bincount(columns["NumOfProducts"])[1:] / ROWS
    assert held == pytest.approx((0.508, 0.459, 0.027, 0.006), abs=0.01)


def test_german_balances_are_never_zero(churn):
    columns = churn.columns
    german, two = columns["Geography"] == "Germany", columns["NumOfProducts"] == 2
    zero = columns["Balance"] == 0
    assert not zero[german].any()
    assert zero[~german & two].mean() > 2.5 * zero[~german & (columns["NumOfProducts"] == 1)].mean()


def test_two_products_hold_three_and_four_leave(churn):
    one, two, three, four = (share(churn, churn.columns["NumOfProducts"] == held) for held in (1, 2, 3, 4))
    assert two == pytest.approx(0.076, abs=0.015)
    assert one == pytest.approx(0.277, abs=0.02)
    assert three == pytest.approx(0.83, abs=0.05)
    assert four > 0.95


def test_age_acts_most_between_45_and_60(churn):
    age = churn.columns["Age"]
    middle = share(churn, (age >= 45) & (age <= 60))
    assert middle > 0.4
    assert share(churn, age < 35) < 0.12
    assert share(churn, age > 70) < 0.2


def test_inactive_members_germans_and_women_leave_more(churn):
    columns = churn.columns
    assert share(churn, columns["IsActiveMember"] == 0) == pytest.approx(0.269, abs=0.02)
    assert share(churn, columns["IsActiveMember"] == 1) == pytest.approx(0.143, abs=0.02)
    assert share(churn, columns["Geography"] == "Germany") == pytest.approx(0.324, abs=0.025)
    assert share(churn, columns["Gender"] == "Female") - share(churn, columns["Gender"] == "Male") > 0.05


def test_the_dissatisfaction_loop(churn):
    """Low satisfaction with many complaints raises the odds more than the two apart, by more than chance would."""
    low, many = churn.columns["CustomerSatisfaction"] <= 2, churn.columns["ComplaintsFiled"] >= 2
    cells = [(rows & (churn.labels == left)).sum() for rows in (low & many, ~low & ~many) for left in (1, 0)]
    one_alone = [(rows & (churn.labels == left)).sum() for rows in (low & ~many, ~low & many) for left in (1, 0)]
    both, neither = np.log(cells[0] / cells[1]), np.log(cells[2] / cells[3])
    loop = both + neither - np.log(one_alone[0] / one_alone[1]) - np.log(one_alone[2] / one_alone[3])
    error = np.sqrt(np.sum(1 / np.array(cells + one_alone)))
    assert loop > 0.2
    assert loop / error > 4


def test_the_behaviours_are_all_declared_and_one_by_one_tell_little(churn):
    behavioural = {factor.name for factor in CHURN.scored if factor.behavioural}
    assert {behaviour.name for behaviour in customers.BEHAVIOURS} == behavioural
    for name in behavioural:
        values = churn.columns[name].astype(float)
        known = ~np.isnan(values)
        auc = area_under_curve(values[known], churn.labels[known])
        assert 0.02 < abs(auc - 0.5) < 0.3, name


def test_blanks_stand_where_there_is_nothing_to_know(churn):
    columns = churn.columns
    assert np.array_equal(np.isnan(columns["ComplaintResolutionDays"]), columns["ComplaintsFiled"] == 0)
    assert np.array_equal(np.isnan(columns["BalanceChange3M"]), columns["Balance"] == 0)


def test_active_members_used_an_account_within_the_quarter(churn):
    days, active = churn.columns["DaysSinceLastTransaction"], churn.columns["IsActiveMember"] == 1
    assert (days[~active] > 90).all()
    assert np.mean(days[active] <= 90) > 0.999


@pytest.mark.parametrize("name", ["churn", "allowance"])
@pytest.mark.parametrize("kind", ["truth", "achievable"])
def test_probabilities_are_calibrated(name, kind, request):
    simulated = request.getfixturevalue(name)
    chances = getattr(simulated, kind)
    for rows in np.array_split(np.argsort(chances), 20):
        error = np.sqrt(np.mean(chances[rows] * (1 - chances[rows])) / len(rows))
        assert abs(simulated.labels[rows].mean() - chances[rows].mean()) < 4 * error


def test_knowing_more_is_better(churn):
    base = customers.best_chance_of_leaving({name: churn.columns[name] for name in customers.BASE_ORDER})
    aucs = [area_under_curve(chances, churn.labels) for chances in (base, churn.achievable, churn.truth)]
    briers = [simulate.ceiling(churn.labels, chances).brier for chances in (base, churn.achievable, churn.truth)]
    assert aucs == sorted(aucs)
    assert briers == sorted(briers, reverse=True)
    assert aucs[1] > 0.92


def test_achievable_is_the_posterior_mean(churn):
    """The quadrature agrees with averaging over many drawn states, weighted by independently written likelihoods."""
    row = {name: values[7:8] for name, values in churn.columns.items()}
    state = customers.draw_state(400_000, np.random.default_rng(0))
    weight = np.zeros(len(state))
    for behaviour in customers.BEHAVIOURS:
        weight += behaviour.log_likelihood(row, state[:, behaviour.axis])[0]
    weight = np.exp(weight - weight.max())
    women = customers.women_share(row)[0]
    leaving = sum(
        portion * sigmoid(customers.base_logit(row, women=woman)[0] + customers.push(state[:, 0], state[:, 1]))
        for woman, portion in ((True, women), (False, 1 - women))
    )
    assert churn.achievable[7] == pytest.approx(np.average(leaving, weights=weight), abs=0.01)


def test_achievable_does_not_look_at_gender_or_label(churn):
    few = {name: values[:500] for name, values in churn.columns.items()}
    other = few | {"Gender": few["Gender"][::-1], "Churn": few["Churn"][::-1]}
    assert np.array_equal(customers.best_chance_of_leaving(few), customers.best_chance_of_leaving(other))


def test_customers_leave_as_often_as_the_fit_says_with_the_state_averaged_out():
    columns = customers.draw_base(20, np.random.default_rng(0))
    state = customers.draw_state(200_000, np.random.default_rng(1))
    for row in range(20):
        one = {name: values[row : row + 1] for name, values in columns.items()}
        chances = sigmoid(customers.base_logit(one) + customers.push(state[:, 0], state[:, 1]))
        assert chances.mean() == pytest.approx(sigmoid(customers.leaving_logit(one))[0], abs=0.004)


@pytest.mark.parametrize(
    ("family", "values", "expected"),
    [
        (Bernoulli(), np.array([0.0, 1.0]), lambda v, m: stats.bernoulli.logpmf(v, 1 / (1 + np.exp(-m)))),
        (Count(3.0), np.arange(9.0), lambda v, m: stats.nbinom.logpmf(v, 3.0, 3.0 / (3.0 + np.exp(m)))),
        (Normal(7.0, 1), np.linspace(-9, 9, 5), lambda v, m: stats.norm.logpdf(v, m, 7.0)),
        (LogNormal(0.5, 2), np.linspace(0.5, 9, 5), lambda v, m: stats.lognorm.logpdf(v, 0.5, scale=np.exp(m))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_likelihoods_are_the_textbook_s(family, values, expected):
    """Up to a constant free of the location, which cancels."""
    ours = family.log_likelihood(values, np.array(0.7)) - family.log_likelihood(values, np.array(-0.4))
    assert ours == pytest.approx(expected(values, 0.7) - expected(values, -0.4), abs=1e-9)


@pytest.mark.parametrize("family", [Bernoulli(), Count(3.0), Ordinal((-1.0, 0.0, 2.0))], ids=lambda f: type(f).__name__)
def test_draws_follow_the_likelihood(family):
    location = np.full(40_000, 0.4)
    values, counts = np.unique(family.draw(location, np.random.default_rng(2)), return_counts=True)
    # The same values at another location: the ratio of frequencies is the ratio of likelihoods.
    others = family.draw(location - 0.8, np.random.default_rng(3))
    for value, count in zip(values, counts, strict=True):
        other = np.sum(others == value)
        if min(count, other) > 500:
            ratio = family.log_likelihood(np.array(value), np.array(0.4)) - family.log_likelihood(
                np.array(value), np.array(-0.4)
            )
            assert np.log(count / other) == pytest.approx(ratio, abs=4 * np.sqrt(1 / count + 1 / other))


def test_a_fifth_does_not_repay_and_the_ceiling_is_a_field_s(allowance):
    assert allowance.labels.mean() == pytest.approx(0.80, abs=0.02)
    assert 0.80 < allowance.achievable_ceiling().auc < 0.90
    assert 0.3 < np.mean(allowance.truth > 0.92) < 0.6
    assert 0.2 < np.mean(allowance.truth < 0.80) < 0.4


@pytest.mark.parametrize("factor", [*ALLOWANCE.protected, *ALLOWANCE.policy_factors], ids=lambda factor: factor.name)
def test_what_is_not_scored_has_no_effect_on_repaying(allowance, factor):
    few = {name: values[:500] for name, values in allowance.columns.items()}
    other = few | {factor.name: few[factor.name][::-1]}
    state = applicants.draw_state(500, np.random.default_rng(0))
    assert np.array_equal(applicants.chance_of_repaying(few, state), applicants.chance_of_repaying(other, state))
    assert np.array_equal(applicants.best_chance_of_repaying(few), applicants.best_chance_of_repaying(other))


def test_every_scored_factor_group_separates_those_who_repay(allowance):
    burden = allowance.columns["MonthlyObligations"] / np.maximum(allowance.columns["EstimatedSalary"] / 12, 1)
    for values, least in (
        (-burden, 0.57),
        (allowance.columns["CreditScore"], 0.6),
        (allowance.columns["Tenure"], 0.52),
        (-allowance.columns["LatePayments"], 0.6),
    ):
        assert area_under_curve(values, allowance.labels) > least


def test_rank_auc_is_scikit_learn_s():
    generator = np.random.default_rng(0)
    labels, scores = generator.integers(0, 2, 500).astype(float), generator.integers(0, 9, 500) / 9
    assert area_under_curve(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_simulating_loads_neither_pandas_nor_scikit_learn():
    modules = "bankportal.simulation.simulate, bankportal.simulation.recipe"
    code = f"import sys, {modules}; print({{'pandas', 'sklearn'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
