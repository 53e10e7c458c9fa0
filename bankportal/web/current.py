"""What a view reaches through the running application."""

from typing import TYPE_CHECKING, cast

from flask import current_app, request

from bankportal.domain.errors import NotFound
from bankportal.domain.products import PRODUCTS, Product

if TYPE_CHECKING:
    from bankportal.wiring import Services


def services() -> "Services":
    """Return the application's services."""
    return cast("Services", current_app.extensions["bankportal"])


def wants_json() -> bool:
    """Say whether the client prefers JSON to a page."""
    return request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"


def product_named(key: str) -> Product:
    """Return a product by its key; raises `NotFound`."""
    try:
        return PRODUCTS[key]
    except KeyError:
        raise NotFound("There is no such product.") from None
