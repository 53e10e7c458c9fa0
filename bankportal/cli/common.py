"""What the commands share: services, product arguments, errors as one line."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from flask import current_app, has_app_context

from bankportal import wiring
from bankportal.config import load
from bankportal.domain.errors import PortalError
from bankportal.domain.products import PRODUCTS, Product
from bankportal.store.migrate import upgrade

FILE = click.Path(dir_okay=False)
EXISTING = click.Path(exists=True, dir_okay=False)


class ProductType(click.Choice[str]):
    """A product's name on the command line; the command gets the product."""

    def __init__(self) -> None:
        super().__init__(list(PRODUCTS))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the product of that name."""
        return value if isinstance(value, Product) else PRODUCTS[super().convert(value, param, ctx)]


PRODUCT = ProductType()


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print an expected error as one line and exit with 1, in place of a stack trace."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except PortalError as error:
            raise click.ClickException(str(error)) from error

    return run


def services() -> wiring.Services:
    """Return the app's services, or build them from the settings; the database is migrated."""
    built: wiring.Services = current_app.extensions["bankportal"] if has_app_context() else wiring.build(load())
    upgrade(built.database)
    return built
