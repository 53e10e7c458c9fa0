"""The simulated applicants for a credit-card allowance, and which of them repay.

"Allowance" is a credit-limit allowance, never a loan-loss allowance. Applicants are the bank's customers
(`customers.draw_base`). A latent financial strain, partly visible in the credit score, drives what they owe and how
they pay. Repaying comes from capacity (obligations against salary), stability (score, tenure, products, activity,
balance), behaviour (late payments, card utilisation) and the strain itself. Age, Geography and Gender have no effect of
their own.

Source of the numbers: assumptions; there is no public file behind them. They are chosen so that a fifth does not repay
and even the best model errs, as in real credit scoring.
"""

import math

import numpy as np

from bankportal.simulation import customers
from bankportal.simulation.likelihoods import (
    Behaviour,
    Bernoulli,
    Column,
    Columns,
    Count,
    Floats,
    LogNormal,
    as_floats,
    log_likelihoods,
    number,
    rows_of,
    sigmoid,
)

# The product that these applicants are for, and the label of its files.
PRODUCT, LABEL = "allowance", "Repaid"

# The correlation of the strain with the credit score; the rest of the strain is the latent state.
STRAIN_IN_SCORE = 0.5
STRAIN_HIDDEN = math.sqrt(1 - STRAIN_IN_SCORE**2)
STRAIN = 0

REPAYING = 2.65
REPAYING_PER_STRAIN = -0.5
# Capacity: obligations as a share of the monthly salary count from a bearable share up to a crushing one.
REPAYING_PER_BURDEN, BURDEN_BEARABLE, BURDEN_CRUSHING = -8.0, 0.35, 0.6
REPAYING_PER_SCORE_DEVIATION = 0.5
REPAYING_PER_TENURE_YEAR, TENURE_COUNTED = 0.06, 10
REPAYING_BY_PRODUCTS = (0.0, 0.2, -0.3, -0.6)
REPAYING_ACTIVE = 0.25
REPAYING_WITH_BALANCE, BALANCE_CUSHION = 0.25, 10_000
# The first late payment weighs most, as in scorecards; up to three more add to it.
REPAYING_ONCE_LATE, REPAYING_PER_LATE_PAYMENT, LATE_PAYMENTS_COUNTED = -1.5, -0.4, 3
REPAYING_PER_UTILISATION_POINT, UTILISATION_BEARABLE, UTILISATION_FULL = -0.04, 50, 100
# Obligations in EUR a month: a floor and a share of the monthly salary.
MIN_OBLIGATIONS, OBLIGATIONS_SHARE, OBLIGATIONS_LOAN = 100.0, 0.16, 0.35
# The request in monthly salaries, in steps of EUR; nobody asks for less than the smallest.
REQUEST_SALARIES, REQUEST_DEVIATION, REQUEST_STEP, SMALLEST_REQUEST = 1.2, 0.6, 100, 500


def _monthly_salary(columns: Columns) -> Floats:
    return np.maximum(number(columns, "EstimatedSalary"), 0.0) / 12


def _score_deviations(columns: Columns) -> Floats:
    return (number(columns, "CreditScore") - customers.SCORE_MEAN) / customers.SCORE_DEVIATION


def _strain_seen(columns: Columns) -> Floats:
    return -STRAIN_IN_SCORE * _score_deviations(columns)


def _loan(columns: Columns) -> Floats:
    return -0.6 + 0.3 * (number(columns, "NumOfProducts") > 1) + 0.3 * _strain_seen(columns)


def _transactions(columns: Columns) -> Floats:
    return np.where(number(columns, "IsActiveMember") > 0, math.log(24.0), math.log(12.0))


def _late(columns: Columns) -> Floats:
    return math.log(0.45) + 0.7 * _strain_seen(columns)


def _utilisation(columns: Columns) -> Floats:
    return math.log(26.0) + 0.5 * _strain_seen(columns)


def _has_card(columns: Columns) -> Column:
    """Say who has a card of this bank: it does not know how other banks' cards are used."""
    return number(columns, "HasCrCard") > 0


def _obligations(columns: Columns) -> Floats:
    bound = np.log(MIN_OBLIGATIONS + OBLIGATIONS_SHARE * _monthly_salary(columns))
    return bound + OBLIGATIONS_LOAN * as_floats(columns["HasLoan"]) + 0.25 * _strain_seen(columns)


BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour(name="HasLoan", family=Bernoulli(), axis=STRAIN, slope=0.3 * STRAIN_HIDDEN, location=_loan),
    Behaviour(
        name="TransactionFrequency",
        bounds=(0, 10_000),
        family=Count(5.0),
        axis=STRAIN,
        slope=-0.1,
        location=_transactions,
    ),
    Behaviour(
        name="AvgTransactionAmount",
        bounds=(0, 10_000_000),
        family=LogNormal(0.45, 2),
        axis=STRAIN,
        slope=-0.1,
        location=customers.amount,
    ),
    Behaviour(
        name="LatePayments",
        bounds=(0, 1_000),
        family=Count(1.5),
        axis=STRAIN,
        slope=0.7 * STRAIN_HIDDEN,
        location=_late,
    ),
    Behaviour(
        name="CardUtilisation",
        bounds=(0, 1_000),
        family=LogNormal(0.6, 1),
        axis=STRAIN,
        slope=0.5 * STRAIN_HIDDEN,
        location=_utilisation,
        known=_has_card,
    ),
    Behaviour(
        name="MonthlyObligations",
        bounds=(0, 10_000_000),
        family=LogNormal(0.45, 2),
        axis=STRAIN,
        slope=0.25 * STRAIN_HIDDEN,
        location=_obligations,
    ),
)


def draw_state(rows: int, generator: np.random.Generator) -> Floats:
    """Draw the hidden part of the strain from its prior, standard normal: (rows, 1)."""
    return generator.standard_normal((rows, 1))


def draw_request(columns: Columns, generator: np.random.Generator) -> Floats:
    """Draw the requested limit in EUR: it depends on the salary, and not on the strain."""
    usual = np.log(np.maximum(REQUEST_SALARIES * _monthly_salary(columns), REQUEST_STEP))
    request = np.exp(generator.normal(usual, REQUEST_DEVIATION))
    return np.maximum(np.round(request / REQUEST_STEP) * REQUEST_STEP, SMALLEST_REQUEST)


def repaying_logit(columns: Columns) -> Floats:
    """Return the scored factors' part of the log odds of repaying, (rows,); unknown utilisation counts as bearable."""
    return REPAYING + _capacity(columns) + _stability(columns) + _behaviour(columns)


def _capacity(columns: Columns) -> Floats:
    burden = as_floats(columns["MonthlyObligations"]) / np.maximum(_monthly_salary(columns), 1.0)
    return REPAYING_PER_BURDEN * (np.clip(burden, BURDEN_BEARABLE, BURDEN_CRUSHING) - BURDEN_BEARABLE)


def _stability(columns: Columns) -> Floats:
    held = np.clip(number(columns, "NumOfProducts"), 1, 4).astype(np.int64) - 1
    strain = REPAYING_PER_STRAIN * _strain_seen(columns)
    years = np.clip(number(columns, "Tenure"), 0, TENURE_COUNTED) - TENURE_COUNTED / 2
    return as_floats(
        strain
        + REPAYING_PER_SCORE_DEVIATION * _score_deviations(columns)
        + REPAYING_PER_TENURE_YEAR * years
        + np.array(REPAYING_BY_PRODUCTS)[held]
        + REPAYING_ACTIVE * number(columns, "IsActiveMember")
        + REPAYING_WITH_BALANCE * (number(columns, "Balance") >= BALANCE_CUSHION)
    )


def _behaviour(columns: Columns) -> Floats:
    late = as_floats(columns["LatePayments"])
    further = np.clip(late - 1, 0, LATE_PAYMENTS_COUNTED)
    used = np.nan_to_num(as_floats(columns["CardUtilisation"]), nan=UTILISATION_BEARABLE)
    points = np.clip(used, UTILISATION_BEARABLE, UTILISATION_FULL) - UTILISATION_BEARABLE
    return as_floats(
        REPAYING_ONCE_LATE * (late > 0) + REPAYING_PER_LATE_PAYMENT * further + REPAYING_PER_UTILISATION_POINT * points
    )


def chance_of_repaying(columns: Columns, state: Floats) -> Floats:
    """Return the true probability of repaying given the factors and the latent state (rows, 1)."""
    return sigmoid(repaying_logit(columns) + REPAYING_PER_STRAIN * STRAIN_HIDDEN * state[:, 0])


def best_chance_of_repaying(columns: Columns) -> Floats:
    """Return the best probability of repaying that the scored factors allow, (rows,).

    The posterior mean over the hidden strain given the factors, by quadrature on a grid, in blocks of rows.
    """
    blocks = [
        _best_chance(customers.block_from(columns, start)) for start in range(0, rows_of(columns), customers.BLOCK)
    ]
    return np.concatenate(blocks) if blocks else np.empty(0)


def _best_chance(columns: Columns) -> Floats:
    prior = np.exp(-0.5 * customers.GRID**2)
    weight = np.exp(log_likelihoods(BEHAVIOURS, STRAIN, columns, customers.GRID)) * prior
    repaying = sigmoid(repaying_logit(columns)[:, None] + REPAYING_PER_STRAIN * STRAIN_HIDDEN * customers.GRID)
    return np.asarray((weight * repaying).sum(axis=1) / weight.sum(axis=1), dtype=np.float64)
