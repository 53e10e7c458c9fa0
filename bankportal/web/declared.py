"""Under which declaration something stands, and whether that is the one in force."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from bankportal.domain.errors import NotFound
from bankportal.domain.products import Product
from bankportal.web.current import portfolio, services
from bankportal.web.drawings.bars import factors_by_name

MARK_DIGITS = 16  # hexadecimal digits of a digest: enough to tell declarations apart


@dataclass(frozen=True)
class Standing:
    """The declaration that a decision or batch stands on: when it was applied (`None`: unknown), and if it still is."""

    digest: str
    at: datetime | None
    words: str


def standing(product: Product) -> Standing:
    """Return what a product of a decision or batch stands on, in the words of its page."""
    at = applied_at(product)
    if is_in_force(product):
        return Standing(product.digest, at, "in force")
    return Standing(product.digest, at, "an earlier declaration" if product.key in portfolio() else "withdrawn")


def applied_at(product: Product) -> datetime | None:
    """Return when a product's declaration was first applied; `None` where that is not recorded."""
    try:
        history = services().declarations.history(product.key)
    except NotFound:
        return None
    return next((change.at for change in reversed(history) if change.applied and change.digest == product.digest), None)


def is_in_force(product: Product) -> bool:
    """Say whether a product, of a decision or batch, is declared so today, its policy included."""
    present = portfolio().get(product.key)
    return present is not None and mark_of(present) == mark_of(product)


def mark_of(product: Product) -> str:
    """Return a short text that differs between any two declarations of a product or of its policy."""
    digests = [product.digest, *([product.policy.digest] if product.policy else [])]
    return "-".join(digest[:MARK_DIGITS] for digest in digests)


def no_longer_asked(product: Product, values: Mapping[str, str], words: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values, as typed, of factors that a product does not ask for, each with its name: "Region: North".

    `words` has the labels of names, as far as they are known.
    """
    left = (name for name, value in values.items() if value.strip() and name not in factors_by_name(product))
    return tuple(f"{words.get(name, name)}: {values[name]}" for name in left)


def labels(product: Product, names: Iterable[str]) -> dict[str, str]:
    """Return the labels of those of the names that a product declares."""
    factors = factors_by_name(product)
    return {name: factors[name].label for name in names if name in factors}
