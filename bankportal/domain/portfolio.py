"""The portfolio: the products that are in force, each with its policy."""

from collections.abc import Iterable, Iterator, Mapping

from bankportal.domain.errors import NotFound
from bankportal.domain.products import ALLOWANCE, CHURN, Product


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
                raise NotFound(f"{product.title} was withdrawn, so nothing new is scored for it.")
        raise NotFound("There is no such product.")

    def ever(self, key: str) -> Product:
        """Return a product by its key, also where it was withdrawn; `NotFound` if it was never in force."""
        every = {product.key: product for product in self.withdrawn} | self._products
        if key not in every:
            raise NotFound("There is no such product.")
        return every[key]


def shipped_portfolio() -> Portfolio:
    """Return the products that this release ships."""
    return Portfolio([CHURN, ALLOWANCE])
