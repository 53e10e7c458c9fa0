"""Under which declaration something stands, and whether that is the one in force."""

from collections.abc import Iterable, Mapping

from bankportal.domain.products import Product
from bankportal.web.current import portfolio
from bankportal.web.drawings.bars import factors_by_name

MARK_DIGITS = 16  # hexadecimal digits of a digest: enough to tell declarations apart


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
