"""The factors a bank knows about a customer, each declared once.

Forms, API schema, CSV checks and template, training, explanation, documentation and the tests' bad values derive from
these declarations. To change a bound, a label or a choice, change it here and nowhere else.

Names are spelled as in the public data sets. Bounds are those of the field or generous ones: they catch slips, they do
not judge. What a forest was trained on is narrower and is kept with each model version.
"""

from dataclasses import dataclass
from enum import Enum

from bankportal.domain.constraints import Choice, Constraint, Flag, Number, Text

CURRENCY = "EUR"


class Group(Enum):
    """How forms and documents group the factors; the value is the heading."""

    PROFILE = "Profile"
    ACCOUNTS = "Accounts"
    ACTIVITY = "Activity"
    RELATIONSHIP = "Relationship"


class Protection(Enum):
    """Where a factor must not be scored."""

    NONE = "may be scored"
    CREDIT = "never scored in a credit decision"
    ALWAYS = "never scored"


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One declared fact about a customer.

    `unit` is what the number counts ("EUR", "years", "a month"); `example` is a legal value as typed; `aliases` are
    other names seen in files (case, spaces, `_` and `-` never matter); `behavioural` factors describe what the customer
    did lately: a base file lacks them and `flask data augment` adds them.
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

    def barred(self, *, credit: bool) -> bool:
        """Say whether a product that does or does not decide credit must not score this factor."""
        return self.protection is Protection.ALWAYS or (credit and self.protection is Protection.CREDIT)


def squeeze(name: str) -> str:
    """Reduce a column name to what identifies it: letters and digits, lower case.

    >>> squeeze("credit_score") == squeeze("Credit Score") == squeeze("CreditScore")
    True
    """
    return "".join(character for character in name.casefold() if character.isalnum())


CUSTOMER_ID = Factor(
    name="CustomerId",
    label="Customer number",
    group=Group.PROFILE,
    constraint=Text(longest=64),
    help="Travels along so that you find the customer again. Never scored.",
    example="15634602",
    aliases=("customer", "client_id", "id"),
)
SURNAME = Factor(
    name="Surname",
    label="Surname",
    group=Group.PROFILE,
    constraint=Text(longest=100),
    help="Travels along so that you find the customer again. Never scored.",
    example="Hargrave",
    aliases=("last_name", "family_name"),
)
CREDIT_SCORE = Factor(
    name="CreditScore",
    label="Credit score",
    group=Group.PROFILE,
    constraint=Number(minimum=300, maximum=850, whole=True),
    help="From the credit bureau, on the 300 to 850 scale.",
    example="650",
    unit="points",
    aliases=("bureau_score", "fico"),
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
)
HAS_CR_CARD = Factor(
    name="HasCrCard",
    label="Has a credit card",
    group=Group.ACCOUNTS,
    constraint=Flag(),
    help="A credit card of this bank.",
    example="1",
    aliases=("credit_card", "has_credit_card"),
)
HAS_LOAN = Factor(
    name="HasLoan",
    label="Has a loan",
    group=Group.ACCOUNTS,
    constraint=Flag(),
    help="A loan or mortgage of this bank that is not paid back yet.",
    example="0",
    aliases=("loan",),
    behavioural=True,
)
SALARY_DEPOSITED = Factor(
    name="SalaryDeposited",
    label="Salary paid in here",
    group=Group.ACCOUNTS,
    constraint=Flag(),
    help="The customer's salary arrives on an account of this bank.",
    example="1",
    aliases=("salary_account", "direct_deposit"),
    behavioural=True,
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
)
REQUESTED_LIMIT = Factor(
    name="RequestedLimit",
    label="Requested limit",
    group=Group.ACCOUNTS,
    constraint=Number(minimum=1, maximum=100_000_000),
    help="What the customer asks for. Used by the limit policy, not by the forest.",
    example="5000",
    unit=CURRENCY,
    aliases=("limit_requested",),
)
IS_ACTIVE_MEMBER = Factor(
    name="IsActiveMember",
    label="Active member",
    group=Group.ACTIVITY,
    constraint=Flag(),
    help="The customer used an account in the last quarter.",
    example="1",
    aliases=("active_member", "active"),
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
)
CUSTOMER_SATISFACTION = Factor(
    name="CustomerSatisfaction",
    label="Satisfaction",
    group=Group.RELATIONSHIP,
    constraint=Number(minimum=1, maximum=5),
    help="Latest survey answer or their mean: 1 very unhappy, 5 very happy.",
    example="4",
    unit="of 5",
    aliases=("satisfaction", "satisfaction_score"),
    behavioural=True,
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
)
