"""The portfolio: the products that are in force, each with its policy."""

from collections.abc import Iterable, Iterator, Mapping

from bankportal.domain.errors import NotFound
from bankportal.domain.products import ALLOWANCE, CHURN, Product


class Portfolio(Mapping[str, Product]):
    """Products by their keys, in their order. It never changes: another declaration makes another portfolio."""

    def __init__(self, products: Iterable[Product]):
        self._products = {product.key: product for product in products}

    def __getitem__(self, key: str) -> Product:
        return self._products[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._products)

    def __len__(self) -> int:
        return len(self._products)

    def product(self, key: str) -> Product:
        """Return a product by its key; `NotFound` if there is none in force."""
        if key not in self._products:
            raise NotFound("There is no such product.")
        return self._products[key]


def shipped_portfolio() -> Portfolio:
    """Return the products that this release ships."""
    return Portfolio([CHURN, ALLOWANCE])
