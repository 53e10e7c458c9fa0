"""The simulated customers: their base factors, the latent state behind what they do, and what makes them leave.

One generative model, drawn in this order: base factors, latent state, label, behaviours. To augment a real file, the
latent state is drawn from its posterior given factors and label, and the behaviours by the same declarations. The best
achievable probability averages over the latent state given the behaviours. No behaviour depends on the label itself.

Source of the numbers: the public "Churn_Modelling" bank file (10,000 customers of France, Germany and Spain). Shares
and quantiles are its marginals, rounded; what makes customers leave is a logistic fit to it (the knots, tables and
steps below; 5-fold AUC 0.869), rounded to two places. It contains no row of that file. Behaviours are not in the file:
their numbers are assumptions, chosen so that no behaviour alone predicts who leaves and all of them together help.

One generator draws every column for all rows before the next one, in the order of this module. A new draw goes after
the last one, so that the columns of a seed stay what they are.
"""

import math
from collections.abc import Mapping
from functools import cache

import numpy as np

from bankportal.simulation.likelihoods import (
    TYPICAL,
    Behaviour,
    Bernoulli,
    Column,
    Columns,
    Count,
    Floats,
    LogNormal,
    Normal,
    OfCustomer,
    Ordinal,
    as_floats,
    log_likelihoods,
    number,
    rows_of,
    sigmoid,
)

# The product that these customers are for, and the label of its files.
PRODUCT, LABEL = "churn", "Churn"

# ---- base factors: marginals of the public file -------------------------------------------------------------------

# The base factors as the public file orders them, and its name for the label.
BASE_ORDER = (
    *("CustomerId", "Surname", "CreditScore", "Geography", "Gender", "Age", "Tenure", "Balance"),
    *("NumOfProducts", "HasCrCard", "IsActiveMember", "EstimatedSalary"),
)
BASE_LABEL = "Exited"
COUNTRIES = ("France", "Germany", "Spain")
COUNTRY_SHARES = (0.501, 0.251, 0.248)
# More women among Germans, among customers with three and more products, among inactive and among older ones.
WOMEN_SHARE, WOMEN_GERMANS, WOMEN_MANY_PRODUCTS, WOMEN_ACTIVE, WOMEN_PER_YEAR = 0.440, 0.025, 0.11, -0.022, 0.0012
# The share of customers younger than an age.
AGES = (18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 52, 56, 60, 65, 70, 75, 80, 93)
YOUNGER_SHARES = (
    *(0.0, 0.009, 0.033, 0.081, 0.164, 0.279, 0.415, 0.556, 0.679, 0.766, 0.829, 0.886, 0.920, 0.947, 0.972),
    *(0.985, 0.995, 0.9985, 1.0),
)
AGE_BY_COUNTRY = {"France": -0.4, "Germany": 0.8, "Spain": 0.0}
# One to four products held, by age; Germans hold two less often and three or four more often.
PRODUCT_AGES = (22, 28, 33, 38, 43, 48, 53, 58, 63, 68, 75)
PRODUCT_SHARES = (
    (0.466, 0.462, 0.491, 0.488, 0.512, 0.583, 0.655, 0.589, 0.572, 0.525, 0.500),
    (0.518, 0.522, 0.493, 0.487, 0.438, 0.360, 0.267, 0.340, 0.375, 0.430, 0.480),
    (0.015, 0.015, 0.013, 0.021, 0.040, 0.041, 0.063, 0.054, 0.047, 0.038, 0.018),
    (0.001, 0.001, 0.003, 0.004, 0.010, 0.016, 0.015, 0.017, 0.006, 0.007, 0.002),
)
PRODUCT_TILTS = {"France": (1.0, 1.04, 0.85, 0.95), "Germany": (1.05, 0.9, 1.4, 1.5), "Spain": (1.0, 1.03, 1.0, 0.6)}
ACTIVE_AGES = (20, 35, 47, 53, 60, 67, 75, 85)
ACTIVE_SHARES = (0.53, 0.50, 0.46, 0.53, 0.68, 0.82, 0.91, 0.92)
# Between 50 and 65 it depends on the number of products held.
ACTIVE_OLDER, ACTIVE_OLDER_BY_PRODUCTS = (50, 65), (-0.05, 0.12, -0.20, -0.10)
# Balances of 0 by products held: one to four. German balances are never 0.
ZERO_BALANCE_SHARES = (0.242, 0.732, 0.57, 0.38)
BALANCE_MEAN, BALANCE_DEVIATION, MIN_BALANCE = 119_800.0, 30_100.0, 1_000.0
SCORE_MEAN, SCORE_DEVIATION = 650.5, 96.7
SCORE_SHARES = (0.0, 0.002, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.977, 1.0)
SCORE_QUANTILES = (350, 404, 432, 489, 521, 584, 652, 718, 778, 812, 850, 850)
MAX_TENURE = 10
CARD_SHARE = 0.7055
MAX_SALARY = 200_000.0
FIRST_CUSTOMER = 20_000_001
# fmt: off
SURNAMES = (
    "Abbott", "Adler", "Albrecht", "Alonso", "Andre", "Arnold", "Baker", "Barbier", "Bauer", "Becker", "Benitez",
    "Bernard", "Blanc", "Bonnet", "Brandt", "Brown", "Carlson", "Castillo", "Chevalier", "Clark", "Cook", "Cruz",
    "Delgado", "Diaz", "Dubois", "Dupont", "Ebert", "Engel", "Faure", "Fernandez", "Fischer", "Fontaine", "Franke",
    "Garcia", "Garnier", "Gomez", "Graf", "Gray", "Hahn", "Hall", "Herrera", "Hoffmann", "Hughes", "Iglesias",
    "Jansen", "Jimenez", "Keller", "Klein", "Kramer", "Lambert", "Lange", "Laurent", "Leroy", "Lopez", "Marchand",
    "Martin", "Mercier", "Meyer", "Molina", "Moore", "Moreno", "Muller", "Navarro", "Neumann", "Ortega", "Parker",
    "Perez", "Perrin", "Ramos", "Renard", "Richter", "Rivera", "Robin", "Romero", "Rossi", "Ruiz", "Sanchez",
    "Schmidt", "Schulz", "Simon", "Taylor", "Torres", "Vidal", "Wagner", "Walker", "Weber", "Wolf", "Wood", "Young",
    "Zimmer",
)
# fmt: on

# ---- what makes customers leave: log odds fitted to the public file -------------------------------------------------

AGE_KNOTS = (18, 25, 32, 38, 44, 50, 56, 63, 70, 80)
LEAVING_BY_AGE_ACTIVE = (-0.95, -1.54, -1.23, -0.65, 0.36, 1.11, 1.00, -0.12, -0.88, -3.19)
LEAVING_BY_AGE_INACTIVE = (-0.40, -0.72, -0.66, -0.02, 1.00, 2.14, 3.70, 4.65, 1.87, -0.33)
# By products held (one, two, three, four and more): with a balance, without one, and in Germany.
LEAVING_BY_PRODUCTS = (
    (-2.01, -2.22, 5.03, 3.54),
    (-0.99, -3.73, 0.27, 3.05),
    (-0.72, -2.42, 1.78, 3.56),
)
LEAVING_SPAIN = 0.05
LEAVING_WOMEN = 0.51
LEAVING_POOR_SCORE, POOR_SCORE = 4.4, 404
LEAVING_PER_SCORE_POINT = -0.0004
LEAVING_LOW_BALANCE, LOW_BALANCE = 0.64, 57_000
LEAVING_HIGH_BALANCE, HIGH_BALANCE = 1.02, 183_000
# The fit has seen no log odds beyond these; those of other files are cut to them.
MAX_LEAVING_LOGIT = 6.0

# ---- the latent state: dissatisfaction u and grievance v, standard normal, correlated -------------------------------

STATE_CORRELATION = 0.4
PUSH_DISSATISFACTION = 1.0
PUSH_GRIEVANCE = 0.6
# Dissatisfaction and grievance both above average push more than the sum of the two.
PUSH_LOOP = 1.0

DISSATISFACTION, GRIEVANCE = 0, 1
GRID = np.arange(-4.5, 4.51, 0.3)
BLOCK = 2048


def _active(columns: Columns) -> Floats:
    return number(columns, "IsActiveMember")


def _level(active: float, inactive: float) -> OfCustomer:
    """Return the logarithm of a typical value, for active and for inactive members."""
    logarithms = math.log(active), math.log(inactive)
    return lambda columns: np.where(_active(columns) > 0, *logarithms)


def _constant(value: float) -> OfCustomer:
    return lambda columns: np.full(rows_of(columns), value)


def _loan(columns: Columns) -> Floats:
    return as_floats(-0.6 + 0.3 * (number(columns, "NumOfProducts") > 1))


def _salary_account(columns: Columns) -> Floats:
    return 0.3 + 0.7 * _active(columns)


def _transactions(columns: Columns) -> Floats:
    return _level(24.0, 12.0)(columns) + 0.1 * (np.clip(number(columns, "NumOfProducts"), 1, 4) - 1)


def amount(columns: Columns) -> Floats:
    """Return the logarithm of the typical transaction in EUR: it grows slower than the salary."""
    return math.log(20.0) + 0.35 * np.log1p(np.maximum(number(columns, "EstimatedSalary"), 0.0) / 1_000)


def _logins(columns: Columns) -> Floats:
    return _level(15.0, 7.0)(columns) - 0.015 * (np.clip(number(columns, "Age"), 18, 90) - 38)


def _quarter(columns: Columns) -> Floats:
    """Return the days since which an inactive member, by definition, has used no account: a quarter; 0 for others."""
    return np.where(_active(columns) > 0, 0.0, 91.0)


def _has_balance(columns: Columns) -> Column:
    """Say who has a balance: a change in percent of 0 is unknown."""
    return np.asarray(number(columns, "Balance") != 0)


def _complained(columns: Columns) -> Column:
    return as_floats(columns["ComplaintsFiled"]) > 0


BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour(name="HasLoan", family=Bernoulli(), axis=DISSATISFACTION, slope=-0.35, location=_loan),
    Behaviour(name="SalaryDeposited", family=Bernoulli(), axis=DISSATISFACTION, slope=-1.2, location=_salary_account),
    Behaviour(
        name="TransactionFrequency",
        bounds=(0, 10_000),
        family=Count(5.0),
        axis=DISSATISFACTION,
        slope=-0.4,
        location=_transactions,
    ),
    Behaviour(
        name="AvgTransactionAmount",
        bounds=(0, 10_000_000),
        family=LogNormal(0.45, 2),
        axis=DISSATISFACTION,
        slope=-0.1,
        location=amount,
    ),
    Behaviour(
        name="DaysSinceLastTransaction",
        bounds=(0, 36_500),
        family=Count(1.5),
        axis=DISSATISFACTION,
        slope=0.45,
        location=_level(5.0, 45.0),
        origin=_quarter,
    ),
    Behaviour(
        name="DigitalLogins", bounds=(0, 10_000), family=Count(8.0), axis=DISSATISFACTION, slope=-0.5, location=_logins
    ),
    Behaviour(
        name="BalanceChange3M",
        bounds=(-1_000, 100_000),
        family=Normal(7.0, 1),
        axis=DISSATISFACTION,
        slope=-9.0,
        location=_constant(1.0),
        known=_has_balance,
    ),
    Behaviour(
        name="ComplaintsFiled",
        bounds=(0, 1_000),
        family=Count(6.0),
        axis=GRIEVANCE,
        slope=1.1,
        location=_constant(math.log(0.5)),
    ),
    Behaviour(
        name="CustomerSatisfaction",
        bounds=(1, 5),
        family=Ordinal((-6.0, -3.7, -1.0, 2.2)),
        axis=DISSATISFACTION,
        slope=-3.4,
        location=_constant(0.0),
    ),
    Behaviour(
        name="SupportCalls", bounds=(0, 1_000), family=Count(6.0), axis=GRIEVANCE, slope=0.75, location=_level(1.4, 1.8)
    ),
    Behaviour(
        name="ComplaintResolutionDays",
        bounds=(0, 3_650),
        family=LogNormal(0.5, 1),
        axis=GRIEVANCE,
        slope=0.4,
        location=_constant(math.log(7.0)),
        known=_complained,
    ),
    Behaviour(
        name="LatePayments",
        bounds=(0, 1_000),
        family=Count(1.5),
        axis=GRIEVANCE,
        slope=0.65,
        location=_constant(math.log(0.4)),
    ),
)


def draw_base(rows: int, generator: np.random.Generator) -> dict[str, Column]:
    """Draw customers: identity and base factors in the public file's order, without a label."""
    country = np.array(COUNTRIES)[_pick(np.cumsum(COUNTRY_SHARES), generator.random(rows))]
    age = _ages(country, generator.random(rows))
    products = _products(country, age, generator.random(rows))
    active = generator.random(rows) < _active_share(age, products)
    balance = _draw_balance(country, products, generator)
    score = np.round(np.interp(generator.random(rows), SCORE_SHARES, SCORE_QUANTILES))
    tenure = np.floor(generator.random(rows) * MAX_TENURE + 0.5).astype(np.int64)
    card = generator.random(rows) < CARD_SHARE
    salary = np.round(generator.uniform(0.0, MAX_SALARY, rows), 2)
    gender_chance = generator.random(rows)
    customer = FIRST_CUSTOMER + generator.permutation(rows)
    surname = np.array(SURNAMES)[generator.integers(len(SURNAMES), size=rows)]
    columns: dict[str, Column] = {
        "CustomerId": customer,
        "Surname": surname,
        "CreditScore": score.astype(np.int64),
        "Geography": country,
        "Age": age,
        "Tenure": tenure,
        "Balance": balance,
        "NumOfProducts": products,
        "HasCrCard": card.astype(np.int64),
        "IsActiveMember": active.astype(np.int64),
        "EstimatedSalary": salary,
    }
    columns["Gender"] = np.where(gender_chance < women_share(columns), "Female", "Male")
    return {name: columns[name] for name in BASE_ORDER}


def women_share(columns: Columns) -> Floats:
    """Return the probability that a customer is a woman given the scored base factors, (rows,)."""
    many = number(columns, "NumOfProducts") >= 3
    years = np.clip(number(columns, "Age"), 18, 90) - TYPICAL["Age"]
    share = WOMEN_SHARE + WOMEN_MANY_PRODUCTS * many + WOMEN_ACTIVE * (_active(columns) - 0.5) + WOMEN_PER_YEAR * years
    return share + _by_country(columns, {"Germany": WOMEN_GERMANS})


def _pick(cumulative: Floats, chance: Floats) -> Column:
    """Return the index of the share in which a number from 0 to 1 falls; rounding at the end counts as the last."""
    return np.minimum(np.searchsorted(cumulative, chance, side="right"), len(cumulative) - 1)


def _by_country_name(country: Column, table: Mapping[str, float]) -> Floats:
    """Return the table's value for every row's country, 0 where it is none of them."""
    return np.select([country == name for name in table], list(table.values()), 0.0)


def _ages(country: Column, chance: Floats) -> Column:
    years = np.interp(chance, YOUNGER_SHARES, AGES) + _by_country_name(country, AGE_BY_COUNTRY)
    return np.maximum(np.floor(years), AGES[0]).astype(np.int64)


def _products(country: Column, age: Column, chance: Floats) -> Column:
    shares = np.array([np.interp(age, PRODUCT_AGES, share) for share in PRODUCT_SHARES])
    for name, tilt in PRODUCT_TILTS.items():
        shares = np.where(country == name, shares * np.array(tilt)[:, None], shares)
    cumulative = np.cumsum(shares / shares.sum(axis=0), axis=0)
    return np.asarray(1 + (chance >= cumulative[:-1]).sum(axis=0))


def _active_share(age: Column, products: Column) -> Floats:
    older = (age > ACTIVE_OLDER[0]) & (age <= ACTIVE_OLDER[1])
    by_products = np.array(ACTIVE_OLDER_BY_PRODUCTS)[products - 1]
    return np.asarray(np.interp(age, ACTIVE_AGES, ACTIVE_SHARES) + older * by_products, dtype=np.float64)


def _draw_balance(country: Column, products: Column, generator: np.random.Generator) -> Floats:
    zero_share = np.where(country == "Germany", 0.0, np.array(ZERO_BALANCE_SHARES)[products - 1])
    zero = generator.random(len(products)) < zero_share
    balance = np.round(generator.normal(BALANCE_MEAN, BALANCE_DEVIATION, len(products)), 2)
    return np.where(zero, 0.0, np.maximum(balance, MIN_BALANCE))


def draw_state(rows: int, generator: np.random.Generator) -> Floats:
    """Draw latent states from the prior: (rows, 2), dissatisfaction and grievance."""
    first, second = generator.standard_normal(rows), generator.standard_normal(rows)
    grievance = STATE_CORRELATION * first + math.sqrt(1 - STATE_CORRELATION**2) * second
    return np.column_stack([first, grievance])


def draw_state_given(columns: Columns, labels: Floats, generator: np.random.Generator) -> Floats:
    """Draw latent states given base factors and label, exactly: (rows, 2).

    Rejection sampling: a state drawn from the prior is kept with probability p(label | factors, state). A blank label
    (NaN) keeps the first draw. The fewer rows are left, the more states are tried for each at once.
    """
    base = base_logit(columns)
    states = np.empty((len(labels), 2))
    waiting = np.arange(len(labels))
    while len(waiting):
        tries = max(1, BLOCK // len(waiting))
        proposed = draw_state(len(waiting) * tries, generator).reshape(len(waiting), tries, 2)
        leaving = sigmoid(base[waiting, None] + push(proposed[..., 0], proposed[..., 1]))
        label = labels[waiting, None]
        seen = np.where(np.isnan(label), 1.0, np.where(label == 1, leaving, 1.0 - leaving))
        kept = generator.random(seen.shape) < seen
        done = kept.any(axis=1)
        states[waiting[done]] = proposed[done, kept[done].argmax(axis=1)]
        waiting = waiting[~done]
    return states


def push(dissatisfaction: Floats, grievance: Floats) -> Floats:
    """Return the latent state's share of the log odds of leaving; it rises in both, and in both together."""
    loop = np.maximum(dissatisfaction, 0.0) * np.maximum(grievance, 0.0)
    return PUSH_DISSATISFACTION * dissatisfaction + PUSH_GRIEVANCE * grievance + PUSH_LOOP * loop


def leaving_logit(columns: Columns, *, women: bool | None = None) -> Floats:
    """Return the log odds of leaving given the base factors alone, averaged over the latent state; (rows,).

    `women` overrides the Gender column for everybody. Unknown values count as the typical customer's.
    """
    age, balance, score = (number(columns, name) for name in ("Age", "Balance", "CreditScore"))
    by_age = np.where(
        _active(columns) > 0,
        np.interp(age, AGE_KNOTS, LEAVING_BY_AGE_ACTIVE),
        np.interp(age, AGE_KNOTS, LEAVING_BY_AGE_INACTIVE),
    )
    by_score = LEAVING_POOR_SCORE * (score <= POOR_SCORE) + LEAVING_PER_SCORE_POINT * (score - SCORE_MEAN)
    by_balance = LEAVING_LOW_BALANCE * ((balance != 0) & (balance < LOW_BALANCE))
    by_balance = by_balance + LEAVING_HIGH_BALANCE * (balance > HIGH_BALANCE)
    total = by_age + by_score + by_balance + _by_products(columns) + _by_gender(columns, women)
    total = total + _by_country(columns, {"Spain": LEAVING_SPAIN})
    return as_floats(np.clip(total, -MAX_LEAVING_LOGIT, MAX_LEAVING_LOGIT))


def _by_products(columns: Columns) -> Floats:
    held = np.clip(number(columns, "NumOfProducts"), 1, 4).astype(np.int64) - 1
    zero = number(columns, "Balance") == 0
    german = _by_country(columns, {"Germany": 1.0}) > 0
    return np.array(LEAVING_BY_PRODUCTS)[np.where(german, 2, zero.astype(np.int64)), held]


def _by_country(columns: Columns, table: Mapping[str, float]) -> Floats:
    if "Geography" not in columns:
        return np.zeros(rows_of(columns))
    return _by_country_name(columns["Geography"], table)


def _by_gender(columns: Columns, women: bool | None) -> Floats:
    """Return the effect of gender; an unknown one counts as the average over all customers."""
    if women is not None:
        return np.full(rows_of(columns), LEAVING_WOMEN * women)
    if "Gender" not in columns:
        return np.full(rows_of(columns), LEAVING_WOMEN * WOMEN_SHARE)
    gender = columns["Gender"]
    return np.select([gender == "Female", gender == "Male"], [LEAVING_WOMEN, 0.0], LEAVING_WOMEN * WOMEN_SHARE)


def base_logit(columns: Columns, *, women: bool | None = None) -> Floats:
    """Return the base factors' part of the log odds, to which `push` is added.

    It is `leaving_logit` shifted so that the average over the latent state is the probability of `leaving_logit`.
    """
    shares, averaged = _averaged()
    return np.interp(leaving_logit(columns, women=women), averaged, shares)


def chance_of_leaving(columns: Columns, state: Floats) -> Floats:
    """Return the true probability of leaving given all base factors and the latent state (rows, 2)."""
    return sigmoid(base_logit(columns) + push(state[:, 0], state[:, 1]))


@cache
def _prior() -> Floats:
    """Return the latent state's prior on the grid, (points, points), dissatisfaction first; it adds up to 1."""
    first, second = GRID[:, None], GRID[None, :]
    spread = 1 - STATE_CORRELATION**2
    weight = np.exp(-(first**2 - 2 * STATE_CORRELATION * first * second + second**2) / (2 * spread))
    return np.asarray(weight / weight.sum(), dtype=np.float64)


@cache
def _averaged() -> tuple[Floats, Floats]:
    """Return log odds before and after averaging over the latent state, both rising: a table to interpolate in."""
    shares = np.linspace(-16.0, 16.0, 641)
    pushes = push(GRID[:, None], GRID[None, :])
    chances = np.array([(sigmoid(share + pushes) * _prior()).sum() for share in shares])
    return shares, np.log(chances) - np.log1p(-chances)


def best_chance_of_leaving(columns: Columns) -> Floats:
    """Return the best probability of leaving that the scored factors allow, (rows,).

    The posterior mean over the latent state given the behaviours (Bayes, by quadrature on a grid), and over Gender,
    which is never scored. Rows are taken in blocks.
    """
    blocks = [_best_chance(block_from(columns, start)) for start in range(0, rows_of(columns), BLOCK)]
    return np.concatenate(blocks) if blocks else np.empty(0)


def block_from(columns: Columns, start: int) -> dict[str, Column]:
    """Return the block of rows that begins at `start`."""
    return {name: values[start : start + BLOCK] for name, values in columns.items()}


def _best_chance(columns: Columns) -> Floats:
    first = np.exp(log_likelihoods(BEHAVIOURS, DISSATISFACTION, columns, GRID))
    second = np.exp(log_likelihoods(BEHAVIOURS, GRIEVANCE, columns, GRID))
    weight = first[:, :, None] * second[:, None, :] * _prior()
    pushes = push(GRID[:, None], GRID[None, :])
    chance = np.zeros(len(first))
    share_of_women = women_share(columns)
    for women, share in ((True, share_of_women), (False, 1 - share_of_women)):
        leaving = sigmoid(base_logit(columns, women=women)[:, None, None] + pushes)
        chance += share * np.einsum("rij,rij->r", weight, leaving)
    return np.asarray(chance / weight.sum(axis=(1, 2)), dtype=np.float64)
