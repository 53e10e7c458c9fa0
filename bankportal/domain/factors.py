"""The factors a bank knows about a customer, each declared once.

Forms, API schema, CSV validation and template, training, explanation, documentation and the tests' bad values derive
from these declarations. To change a bound, a label or a choice, change it here and nowhere else.

Names are spelled as in the public data sets. Bounds are wide: they catch typing errors and nothing else. The narrower
ranges that a forest was trained on are recorded with each model version.
"""

from dataclasses import dataclass
from enum import Enum

from bankportal.domain.constraints import Choice, Constraint, Number, Text, YesNo
from bankportal.domain.policy import MIN_LIMIT

CURRENCY = "EUR"


class Group(Enum):
    """How forms and documents group the factors; the value is the heading."""

    PROFILE = "Profile"
    ACCOUNTS = "Accounts"
    ACTIVITY = "Activity"
    RELATIONSHIP = "Relationship"


class Protection(Enum):
    """Which decisions must not score a factor."""

    NONE = "may be scored"
    CREDIT = "never scored in a credit decision"
    ALWAYS = "never scored"


class Direction(Enum):
    """The direction in which a factor can be changed."""

    UP = "up"
    DOWN = "down"
    EITHER = "either"


@dataclass(frozen=True, kw_only=True)
class Changeability:
    """How a customer can change a factor within about a year.

    `effort` is what a change by one unit costs the customer: 1 is about a month of trying. Changed values are whole
    multiples of `step`.
    """

    direction: Direction
    effort: float
    step: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """The subject of a reason's sentence: how it names the customer's value.

    `many` contains `{value}`. `one` is used instead for the value 1, `zero` for 0, and `unknown` for a blank value.
    `plural` says that `many` and `zero` take a plural verb.
    """

    unknown: str
    many: str = ""
    one: str = ""
    zero: str = ""
    plural: bool = False


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One declared fact about a customer.

    `unit` is what the number counts ("EUR", "years", "a month"). `example` is a legal value as typed. `aliases` are
    other names for the column in files; case, spaces, `_` and `-` do not matter. `behavioural` factors describe what
    the customer did recently: a base file lacks them, and `flask data augment` adds them. `phrase` names the value in a
    reason: a model that scores a factor without a phrase cannot be activated. `change` is `None` where the customer
    cannot change the factor.
    """

    name: str
    label: str
    group: Group
    constraint: Constraint
    help: str
    example: str
    unit: str = ""
    aliases: tuple[str, ...] = ()
    protection: Protection = Protection.NONE
    behavioural: bool = False
    phrase: Phrase | None = None
    change: Changeability | None = None

    def barred(self, *, credit: bool) -> bool:
        """Return whether a product must not score this factor; `credit`: whether the product decides on credit."""
        return self.protection is Protection.ALWAYS or (credit and self.protection is Protection.CREDIT)


def normalised_name(name: str) -> str:
    """Return a column name reduced to its letters and digits, in lower case, for comparison.

    >>> normalised_name("credit_score") == normalised_name("Credit Score") == normalised_name("CreditScore")
    True
    """
    return "".join(character for character in name.casefold() if character.isalnum())


CUSTOMER_ID = Factor(
    name="CustomerId",
    label="Customer number",
    group=Group.PROFILE,
    constraint=Text(longest=64),
    help="Identifies the customer in lists and files. Never scored.",
    example="15634602",
    aliases=("customer", "client_id", "id"),
)
SURNAME = Factor(
    name="Surname",
    label="Surname",
    group=Group.PROFILE,
    constraint=Text(longest=100),
    help="Identifies the customer in lists and files. Never scored.",
    example="Hargrave",
    aliases=("last_name", "family_name"),
)
CREDIT_SCORE = Factor(
    name="CreditScore",
    label="Credit score",
    group=Group.PROFILE,
    constraint=Number(minimum=300, maximum=850, whole=True),
    help="From the credit bureau; higher is better.",
    example="650",
    unit="points",
    aliases=("bureau_score", "fico"),
    phrase=Phrase(many="A credit score of {value}", unknown="An unknown credit score"),
    change=Changeability(direction=Direction.UP, effort=1 / 15, step=5),
)
AGE = Factor(
    name="Age",
    label="Age",
    group=Group.PROFILE,
    constraint=Number(minimum=18, maximum=120, whole=True),
    help="In full years.",
    example="42",
    unit="years",
    protection=Protection.CREDIT,
    phrase=Phrase(many="An age of {value}", unknown="An unknown age"),
)
GENDER = Factor(
    name="Gender",
    label="Gender",
    group=Group.PROFILE,
    constraint=Choice(options=("Female", "Male", "Other")),
    help="Kept apart for the fairness audit. Never scored.",
    example="Female",
    aliases=("sex",),
    protection=Protection.ALWAYS,
)
GEOGRAPHY = Factor(
    name="Geography",
    label="Country",
    group=Group.PROFILE,
    constraint=Choice(options=("France", "Germany", "Spain")),
    help="Where the customer banks.",
    example="France",
    aliases=("country", "nation"),
    protection=Protection.CREDIT,
    phrase=Phrase(many="Banking in {value}", unknown="An unknown country"),
)
ESTIMATED_SALARY = Factor(
    name="EstimatedSalary",
    label="Estimated salary",
    group=Group.PROFILE,
    constraint=Number(minimum=0, maximum=100_000_000),
    help="Before tax, a year.",
    example="62000",
    unit=f"{CURRENCY} a year",
    aliases=("salary", "annual_income", "income"),
    phrase=Phrase(many=f"A salary of {CURRENCY} {{value}} a year", unknown="An unknown salary"),
    change=Changeability(direction=Direction.UP, effort=1 / 400, step=100),
)
TENURE = Factor(
    name="Tenure",
    label="Tenure",
    group=Group.ACCOUNTS,
    constraint=Number(minimum=0, maximum=80),
    help="How long the customer has banked here.",
    example="5",
    unit="years",
    aliases=("years_with_bank",),
    phrase=Phrase(
        many="A tenure of {value} years",
        one="A tenure of 1 year",
        zero="A tenure below a year",
        unknown="An unknown tenure",
    ),
    change=Changeability(direction=Direction.UP, effort=12, step=0.5),
)
BALANCE = Factor(
    name="Balance",
    label="Balance",
    group=Group.ACCOUNTS,
    constraint=Number(minimum=-10_000_000, maximum=1_000_000_000),
    help="Across all accounts today; below 0 when overdrawn.",
    example="48200.50",
    unit=CURRENCY,
    aliases=("account_balance",),
    phrase=Phrase(many=f"A balance of {CURRENCY} {{value}}", unknown="An unknown balance"),
    change=Changeability(direction=Direction.UP, effort=1 / 2_000, step=100),
)
NUM_OF_PRODUCTS = Factor(
    name="NumOfProducts",
    label="Products held",
    group=Group.ACCOUNTS,
    constraint=Number(minimum=1, maximum=50, whole=True),
    help="Accounts, cards, loans and policies together.",
    example="2",
    unit="products",
    aliases=("products_number", "number_of_products", "products"),
    phrase=Phrase(
        many="{value} products held", one="A single product held", unknown="An unknown number of products", plural=True
    ),
    change=Changeability(direction=Direction.EITHER, effort=2),
)
HAS_CR_CARD = Factor(
    name="HasCrCard",
    label="Has a credit card",
    group=Group.ACCOUNTS,
    constraint=YesNo(),
    help="A credit card of this bank.",
    example="1",
    aliases=("credit_card", "has_credit_card"),
    phrase=Phrase(
        one="A credit card of this bank", zero="No credit card of this bank", unknown="Not knowing of a credit card"
    ),
    change=Changeability(direction=Direction.UP, effort=1),
)
HAS_LOAN = Factor(
    name="HasLoan",
    label="Has a loan",
    group=Group.ACCOUNTS,
    constraint=YesNo(),
    help="A loan or mortgage of this bank that is not paid back yet.",
    example="0",
    aliases=("loan",),
    behavioural=True,
    phrase=Phrase(one="A loan of this bank", zero="No loan of this bank", unknown="Not knowing of a loan"),
    change=Changeability(direction=Direction.DOWN, effort=6),
)
SALARY_DEPOSITED = Factor(
    name="SalaryDeposited",
    label="Salary paid in here",
    group=Group.ACCOUNTS,
    constraint=YesNo(),
    help="The customer's salary arrives on an account of this bank.",
    example="1",
    aliases=("salary_account", "direct_deposit"),
    behavioural=True,
    phrase=Phrase(
        one="A salary paid in here", zero="No salary paid in here", unknown="Not knowing of a salary paid in"
    ),
    change=Changeability(direction=Direction.UP, effort=2),
)
CARD_UTILISATION = Factor(
    name="CardUtilisation",
    label="Card utilisation",
    group=Group.ACCOUNTS,
    constraint=Number(minimum=0, maximum=1_000),
    help="Share of all card limits in use; above 100 when over the limit.",
    example="35",
    unit="percent",
    aliases=("card_utilization", "utilisation", "utilization"),
    phrase=Phrase(many="A card utilisation of {value}%", unknown="An unknown card utilisation"),
    change=Changeability(direction=Direction.DOWN, effort=1 / 10),
)
MONTHLY_OBLIGATIONS = Factor(
    name="MonthlyObligations",
    label="Monthly obligations",
    group=Group.ACCOUNTS,
    constraint=Number(minimum=0, maximum=10_000_000),
    help="Rent, instalments and other payments the customer is bound to.",
    example="1150",
    unit=f"{CURRENCY} a month",
    aliases=("obligations", "monthly_debt"),
    phrase=Phrase(
        many=f"Monthly obligations of {CURRENCY} {{value}}",
        zero="No monthly obligations",
        unknown="Unknown monthly obligations",
        plural=True,
    ),
    change=Changeability(direction=Direction.DOWN, effort=1 / 100, step=10),
)
REQUESTED_LIMIT = Factor(
    name="RequestedLimit",
    label="Requested limit",
    group=Group.ACCOUNTS,
    constraint=Number(minimum=MIN_LIMIT, maximum=100_000_000),
    help="What the customer asks for. Used by the limit policy, not by the forest.",
    example="5000",
    unit=CURRENCY,
    aliases=("limit_requested",),
)
IS_ACTIVE_MEMBER = Factor(
    name="IsActiveMember",
    label="Active member",
    group=Group.ACTIVITY,
    constraint=YesNo(),
    help="The customer used an account in the last quarter.",
    example="1",
    aliases=("active_member", "active"),
    phrase=Phrase(
        one="Account use in the last quarter",
        zero="No account use in the last quarter",
        unknown="Not knowing of account use",
    ),
    change=Changeability(direction=Direction.UP, effort=1),
)
TRANSACTION_FREQUENCY = Factor(
    name="TransactionFrequency",
    label="Transactions",
    group=Group.ACTIVITY,
    constraint=Number(minimum=0, maximum=10_000),
    help="Payments in and out, on average.",
    example="24",
    unit="a month",
    aliases=("transactions_per_month",),
    behavioural=True,
    phrase=Phrase(
        many="{value} transactions a month",
        one="1 transaction a month",
        zero="No transactions",
        unknown="Not knowing of transactions",
        plural=True,
    ),
    change=Changeability(direction=Direction.UP, effort=1 / 5),
)
AVG_TRANSACTION_AMOUNT = Factor(
    name="AvgTransactionAmount",
    label="Average transaction",
    group=Group.ACTIVITY,
    constraint=Number(minimum=0, maximum=10_000_000),
    help="Mean amount of a payment, in or out.",
    example="85.20",
    unit=CURRENCY,
    aliases=("average_transaction_amount",),
    behavioural=True,
    phrase=Phrase(many=f"An average transaction of {CURRENCY} {{value}}", unknown="An unknown average transaction"),
)
DAYS_SINCE_LAST_TRANSACTION = Factor(
    name="DaysSinceLastTransaction",
    label="Days since the last transaction",
    group=Group.ACTIVITY,
    constraint=Number(minimum=0, maximum=36_500, whole=True),
    help="0 when there was one today.",
    example="3",
    unit="days",
    aliases=("days_inactive",),
    behavioural=True,
    phrase=Phrase(
        many="{value} days without a transaction",
        one="1 day without a transaction",
        zero="Transactions today",
        unknown="Not knowing of the last transaction",
        plural=True,
    ),
    change=Changeability(direction=Direction.DOWN, effort=1 / 15),
)
DIGITAL_LOGINS = Factor(
    name="DigitalLogins",
    label="Digital logins",
    group=Group.ACTIVITY,
    constraint=Number(minimum=0, maximum=10_000),
    help="App and online banking together, on average.",
    example="14",
    unit="a month",
    aliases=("logins", "app_logins"),
    behavioural=True,
    phrase=Phrase(
        many="{value} digital logins a month",
        one="1 digital login a month",
        zero="No digital logins",
        unknown="Not knowing of digital logins",
        plural=True,
    ),
    change=Changeability(direction=Direction.UP, effort=1 / 5),
)
BALANCE_CHANGE_3M = Factor(
    name="BalanceChange3M",
    label="Balance change",
    group=Group.ACTIVITY,
    constraint=Number(minimum=-1_000, maximum=100_000),
    help="Against three months ago; below 0 when money left.",
    example="-4.5",
    unit="percent",
    aliases=("balance_change",),
    behavioural=True,
    phrase=Phrase(
        many="A balance change of {value}% in three months",
        zero="An unchanged balance",
        unknown="An unknown balance change",
    ),
    change=Changeability(direction=Direction.UP, effort=1 / 10),
)
COMPLAINTS_FILED = Factor(
    name="ComplaintsFiled",
    label="Complaints filed",
    group=Group.RELATIONSHIP,
    constraint=Number(minimum=0, maximum=1_000, whole=True),
    help="In the last 12 months.",
    example="0",
    unit="in 12 months",
    aliases=("complaints",),
    behavioural=True,
    phrase=Phrase(
        many="{value} complaints in 12 months",
        one="1 complaint in 12 months",
        zero="No complaints in 12 months",
        unknown="Not knowing of complaints",
        plural=True,
    ),
    change=Changeability(direction=Direction.DOWN, effort=3),
)
CUSTOMER_SATISFACTION = Factor(
    name="CustomerSatisfaction",
    label="Satisfaction",
    group=Group.RELATIONSHIP,
    constraint=Number(minimum=1, maximum=5),
    help="Latest survey answer, or the mean of several; higher is happier.",
    example="4",
    aliases=("satisfaction", "satisfaction_score"),
    behavioural=True,
    phrase=Phrase(many="A satisfaction of {value}", unknown="An unknown satisfaction"),
    change=Changeability(direction=Direction.UP, effort=3, step=0.5),
)
SUPPORT_CALLS = Factor(
    name="SupportCalls",
    label="Support calls",
    group=Group.RELATIONSHIP,
    constraint=Number(minimum=0, maximum=1_000, whole=True),
    help="In the last 6 months.",
    example="1",
    unit="in 6 months",
    behavioural=True,
    phrase=Phrase(
        many="{value} support calls in 6 months",
        one="1 support call in 6 months",
        zero="No support calls in 6 months",
        unknown="Not knowing of support calls",
        plural=True,
    ),
    change=Changeability(direction=Direction.DOWN, effort=1),
)
COMPLAINT_RESOLUTION_DAYS = Factor(
    name="ComplaintResolutionDays",
    label="Days to resolve a complaint",
    group=Group.RELATIONSHIP,
    constraint=Number(minimum=0, maximum=3_650),
    help="Mean over the complaints of the last 12 months. Blank without a complaint.",
    example="",
    unit="days",
    aliases=("resolution_days",),
    behavioural=True,
    phrase=Phrase(
        many="{value} days to resolve a complaint",
        one="1 day to resolve a complaint",
        zero="Complaints resolved the same day",
        unknown="No time on record to resolve a complaint",
        plural=True,
    ),
    change=Changeability(direction=Direction.DOWN, effort=1 / 5),
)
LATE_PAYMENTS = Factor(
    name="LatePayments",
    label="Late payments",
    group=Group.RELATIONSHIP,
    constraint=Number(minimum=0, maximum=1_000, whole=True),
    help="In the last 12 months.",
    example="0",
    unit="in 12 months",
    behavioural=True,
    phrase=Phrase(
        many="{value} late payments in 12 months",
        one="1 late payment in 12 months",
        zero="No late payments in 12 months",
        unknown="Not knowing of late payments",
        plural=True,
    ),
    change=Changeability(direction=Direction.DOWN, effort=4),
)
