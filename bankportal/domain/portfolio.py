"""The portfolio: the products that are in force, each with its policy."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from bankportal.domain.declaration import Declaration, Kind, policy_from, product_from
from bankportal.domain.declarations.files import shipped
from bankportal.domain.errors import NotFound
from bankportal.domain.products import Product

# The order of the shipped products; a bank's own follow by their keys.
FIRST = ("churn", "allowance")


class Portfolio(Mapping[str, Product]):
    """Products by their keys, in their order. It never changes: another declaration makes another portfolio.

    `withdrawn` are the products that were in force before, each as it was declared last.
    """

    def __init__(self, products: Iterable[Product], withdrawn: Iterable[Product] = ()):
        self._products = {product.key: product for product in products}
        self.withdrawn = tuple(withdrawn)

    def __getitem__(self, key: str) -> Product:
        return self._products[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._products)

    def __len__(self) -> int:
        return len(self._products)

    def product(self, key: str) -> Product:
        """Return a product by its key; `NotFound` if there is none in force, which says so where it was withdrawn."""
        if key in self._products:
            return self._products[key]
        for product in self.withdrawn:
            if product.key == key:
                raise NotFound(withdrawn_words(product))
        raise NotFound("There is no such product.")

    def ever(self, key: str) -> Product:
        """Return a product by its key, also where it was withdrawn; `NotFound` if it was never in force."""
        every = {product.key: product for product in self.withdrawn} | self._products
        if key not in every:
            raise NotFound("There is no such product.")
        return every[key]


def portfolio_from(declarations: Iterable[Declaration], withdrawn: Iterable[Product] = ()) -> Portfolio:
    """Return the portfolio of the products that are declared, each with the policy it names, which is among them too.

    The same texts make the same products. The shipped products come first, then the others by key.
    """
    declarations = tuple(declarations)
    policies = {each.key: policy_from(each.text) for each in declarations if each.kind is Kind.POLICY}
    declared = sorted((each for each in declarations if each.kind is Kind.PRODUCT), key=lambda each: _place(each.key))
    products = [product_from(each.text, policies.get(each.content["policy"])) for each in declared]
    return Portfolio(products, withdrawn)


def _place(key: str) -> tuple[int, str]:
    return (FIRST.index(key) if key in FIRST else len(FIRST), key)


def withdrawn_words(product: Product) -> str:
    """Say that a product was withdrawn, to whoever asks for something new of it."""
    return f"{product.title} was withdrawn, so nothing new is scored for it."


@cache
def shipped_portfolio() -> Portfolio:
    """Return the products that this release ships."""
    return portfolio_from(shipped())
