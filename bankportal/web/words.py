"""How values, times and outcomes are written on pages."""

from datetime import UTC, date, datetime

from bankportal.domain.constraints import YesNo
from bankportal.domain.errors import FieldProblem
from bankportal.domain.factors import Factor
from bankportal.domain.policy import Limit, LimitPolicy, Value
from bankportal.domain.products import NO_LIMIT, Product

UNKNOWN = "unknown"


def number(value: float, decimals: int | None = None) -> str:
    """Write a number with thousands separators, in full or rounded to so many decimals.

    >>> number(1234567.5), number(-3), number(0.91234, 3)
    ('1,234,567.5', '-3', '0.912')
    """
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    text = f"{value:,.10f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def money(amount: float, currency: str) -> str:
    r"""Write an amount on one line: whole, or with cents where it has any.

    >>> money(7750.0, "EUR"), money(48200.5, "PLN")
    ('EUR\xa07,750', 'PLN\xa048,200.50')
    """
    return f"{currency}\u00a0{number(amount, 0 if amount == int(amount) else 2)}"


def limit_words(amount: float, currency: str) -> str:
    """Write a limit with its currency; a limit of 0 is "No limit"."""
    return money(amount, currency) if amount else NO_LIMIT


def limit_name(product: Product) -> str:
    """Name what a product's policy suggests, after the policy's key: "card limit" for `card-limit`; else "limit"."""
    words = product.policy.key.replace("-", " ") if product.policy else ""
    return words if words.endswith(" limit") else "limit"


def capitalised(text: str) -> str:
    """Write the first letter large and leave the rest."""
    return text[:1].upper() + text[1:]


def lowered(title: str) -> str:
    """Write a title inside a sentence: with a small letter, but for abbreviations.

    >>> lowered("Churn"), lowered("SME loan")
    ('churn', 'SME loan')
    """
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def share(value: float, decimals: int = 1) -> str:
    """Write a share from 0 to 1 as a percentage.

    >>> share(0.2), share(0.98765)
    ('20%', '98.8%')
    """
    return f"{number(round(value * 100, decimals))}%"


def value_words(factor: Factor, value: Value, currency: str) -> str:
    """Write a customer's value with its unit, as a table shows it; `currency` is the product's."""
    if value is None:
        return UNKNOWN
    if isinstance(factor.constraint, YesNo):
        return "Yes" if value else "No"
    if isinstance(value, str):
        return value
    return with_unit(factor, _amount(factor, value, currency))


def with_unit(factor: Factor, amount: str) -> str:
    """Put a factor's unit behind an amount: "85%", "62,000 EUR a year", "2 products", "1 product"."""
    if factor.unit == "percent":
        return f"{amount}%"
    counted = amount == "1" and " " not in factor.unit
    return f"{amount} {factor.unit.removesuffix('s') if counted else factor.unit}".strip()


def _amount(factor: Factor, value: float, currency: str) -> str:
    """Write a number in full, with both digits of its cents where it counts money and has any."""
    text = number(value)
    one_decimal = text[-2:-1] == "."
    return f"{text}0" if one_decimal and factor.unit.startswith(currency) else text


def as_typed(value: Value) -> str:
    """Write a value as it would be typed into the form, to the last bit; blank where unknown."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return "" if value is None else str(value)


def problem_sentence(product: Product, problem: FieldProblem) -> str:
    """Return a problem as a whole sentence: "Credit score must be 850 or less."."""
    labels = {entry.factor.name: entry.factor.label for entry in product.factors}
    text = f"{labels.get(problem.field, problem.field)} {problem.message}".strip()
    return text if text.endswith(".") else f"{text}."


def moment(at: datetime) -> str:
    """Write a time for people, with its zone."""
    return f"{at.astimezone(UTC):%-d %b %Y, %H:%M} UTC"


def day(at: date) -> str:
    """Write a date for people: "5 March 2026"."""
    return f"{at:%-d %B %Y}"


def customer_name(identifiers: dict[str, Value]) -> str:
    """Name a customer by the identifiers: "Hargrave, 15634602"; blank where there are none."""
    return ", ".join(str(value) for value in reversed(identifiers.values()) if value)


def limit_facts(limit: Limit, currency: str) -> tuple[tuple[str, str], ...]:
    """Return the request and the ability to pay, between which a limit lies, each with its label."""
    requested = money(limit.requested, currency) if limit.requested is not None else "nothing in particular"
    ceiling = f"up to {money(int(limit.ceiling), currency)}"
    return ("Requested", requested), ("Ability to pay, after living costs and obligations", ceiling)


def limit_sentences(limit: Limit, product: Product) -> tuple[str, ...]:
    """Explain a limit that a product's policy suggested: the counteroffer, the rule that decided, what was assumed."""
    policy = product.policy
    if policy is None:
        return ()
    rule, smallest = policy.rules.get(limit.rule, ""), _smallest(limit, policy.smallest, product.currency)
    sentences = (_counteroffer(limit, product.currency), rule, smallest, _assumed(limit, policy))
    return tuple(sentence for sentence in sentences if sentence)


def _counteroffer(limit: Limit, currency: str) -> str:
    if not limit.counteroffer or limit.requested is None:
        return ""
    requested, offered = money(limit.requested, currency), money(limit.amount, currency)
    return f"This is a counteroffer: {requested} was requested, {offered} can be offered."


def _smallest(limit: Limit, smallest: float, currency: str) -> str:
    too_small = limit.amount == 0 and limit.rule != "ineligible"
    return f"Limits below {money(smallest, currency)} are not granted." if too_small else ""


def _assumed(limit: Limit, policy: LimitPolicy) -> str:
    if not limit.obligations_assumed:
        return ""
    assumed = share(policy.unknown_obligations_share)
    return f"Monthly obligations are unknown, so {assumed} of the monthly salary was assumed."
