"""The products that the portal ships, and their factors, as tests name them."""

from bankportal.domain.portfolio import shipped_portfolio
from bankportal.domain.provenance import Door, Provenance
from bankportal.resources import resource

PRODUCTS = shipped_portfolio()
CHURN, ALLOWANCE = PRODUCTS["churn"], PRODUCTS["allowance"]
CARD_LIMIT_POLICY = ALLOWANCE.policy
FACTORS = {entry.factor.name: entry.factor for product in PRODUCTS.values() for entry in product.factors}
AGE = FACTORS["Age"]
BALANCE = FACTORS["Balance"]
CARD_UTILISATION = FACTORS["CardUtilisation"]
CREDIT_SCORE = FACTORS["CreditScore"]
ESTIMATED_SALARY = FACTORS["EstimatedSalary"]
GENDER = FACTORS["Gender"]
GEOGRAPHY = FACTORS["Geography"]
HAS_LOAN = FACTORS["HasLoan"]
LATE_PAYMENTS = FACTORS["LatePayments"]
NUM_OF_PRODUCTS = FACTORS["NumOfProducts"]
REQUESTED_LIMIT = FACTORS["RequestedLimit"]
TENURE = FACTORS["Tenure"]
BY_PAGE = Provenance(Door.PAGE)


def shipped_file(key: str, *edits: tuple[str, str]) -> bytes:
    """Return a declaration file that the portal ships, with some texts replaced."""
    text = (resource("declarations") / f"{key}.toml").read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return text.encode()
