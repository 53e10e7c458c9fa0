"""What a view reaches through the running application."""

from typing import TYPE_CHECKING, cast

from flask import Flask, current_app, request

from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product

if TYPE_CHECKING:
    from bankportal.wiring import Services

PORTFOLIO = "bankportal.portfolio"


def services() -> "Services":
    """Return the application's services."""
    return cast("Services", current_app.extensions["bankportal"])


def portfolio() -> Portfolio:
    """Return the portfolio that this app was made for: the same one during a whole request."""
    return portfolio_of(current_app)


def portfolio_of(app: Flask) -> Portfolio:
    """Return the portfolio that an app was made for."""
    return cast(Portfolio, app.extensions[PORTFOLIO])


def product_named(key: str) -> Product:
    """Return a product that is in force by its key; raises `NotFound`, which says so where it was withdrawn."""
    return portfolio().product(key)


def product_ever_named(key: str) -> Product:
    """Return a product by its key, also where it was withdrawn: its decisions, batches and models stay; `NotFound`."""
    return portfolio().ever(key)


def wants_json() -> bool:
    """Say whether the client prefers JSON to a page."""
    return request.accept_mimetypes.best_match(["text/html", "application/json"]) == "application/json"
