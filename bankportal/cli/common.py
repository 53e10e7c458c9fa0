"""What the commands share: services, product arguments, errors as one line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import click
from alembic.util import CommandError
from flask import Flask
from flask.cli import ScriptInfo
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from bankportal import wiring
from bankportal.config import load
from bankportal.domain.errors import DataRefused, PortalError
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product

FILE = click.Path(dir_okay=False)
LOG_WIDTH = 132
EXISTING = click.Path(exists=True, dir_okay=False)


class ProductType(click.ParamType):  # type: ignore[type-arg]  # the oldest click takes no brackets
    """A product's key on the command line; the command gets the product.

    `portfolio` is asked when a command runs, not before: help needs no database.
    """

    name = "product"

    def __init__(self, portfolio: Callable[[], Portfolio]):
        self.portfolio = portfolio

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the product of that key."""
        if isinstance(value, Product):
            return value
        portfolio = reported(self.portfolio)()
        if value not in portfolio:
            self.fail(f"{value!r} is no product in force. There are: {', '.join(portfolio) or 'none'}.", param, ctx)
        return portfolio[value]


def reported(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print an expected error as one line and exit with 1, in place of a stack trace."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except PortalError as error:
            raise click.ClickException(str(error)) from error
        except (SQLAlchemyError, CommandError) as error:
            cause = str(getattr(error, "orig", None) or error).strip()
            raise click.ClickException(f"The database does not answer as it should: {cause}") from error
        except OSError as error:
            raise click.ClickException(f"{error.filename or 'A file'}: {error.strerror}.") from error

    return run


def console(*, stderr: bool = False) -> Console:
    """Return a console for tables and progress: as wide as the terminal, or wide enough for a log."""
    printer = Console(stderr=stderr, highlight=False, soft_wrap=True)
    if not printer.is_terminal:
        printer.width = LOG_WIDTH
    return printer


def refuse_overwriting(source: str, *targets: str | None) -> None:
    """Raise `DataRefused` where an output would overwrite the input or another output."""
    paths = [Path(path).resolve() for path in (source, *targets) if path]
    if len(set(paths)) < len(paths):
        raise DataRefused("Input and outputs must be different files.")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `DataRefused` where a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataRefused(f"{path} cannot be written: {error.strerror}.") from error


def _test_app() -> Flask | None:
    """Return the app that a test runner hands over; on the command line there is none, and none is needed."""
    context = click.get_current_context(silent=True)
    script_info = context.find_object(ScriptInfo) if context else None
    return script_info.load_app() if script_info and script_info.create_app else None


def services() -> wiring.Services:
    """Return the running app's services, or build them from the settings; the database is migrated."""
    return _once("upgraded", _upgraded)


def _upgraded() -> wiring.Services:
    built = _built()
    wiring.upgrade(built, _copied())
    return built


def _copied() -> Callable[[int, int], None]:
    """Return what says how far the rows of an earlier release are copied: a line for each tenth of the way."""
    told = 0

    def report(done: int, total: int) -> None:
        nonlocal told
        if (tenths := done * 10 // total) > told:
            told = tenths
            click.echo(f"Bringing the database to this release: {tenths}0% of {total:,} receipts are copied.", err=True)

    return report


def _built() -> wiring.Services:
    """Return the running app's services, or build them from the settings; the database stays as it is."""
    app = _test_app()
    built: wiring.Services = _once("built", lambda: app.extensions["bankportal"] if app else wiring.build(load()))
    return built


def _once(name: str, make: Callable[[], wiring.Services]) -> wiring.Services:
    """Return what `make` made earlier in this command, else what it makes now."""
    context = click.get_current_context(silent=True)
    if context is None:
        return make()
    key = f"{__name__}.{name}"
    if key not in context.meta:
        context.meta[key] = make()
    made: wiring.Services = context.meta[key]
    return made


def no_model_yet(product: Product) -> str:
    """Say that nothing scores a product yet, and what to do."""
    return f"{product.title} has no model yet. Train one: flask train {product.key} --data FILE"


# A product in force in a command that works with the database, and in one that needs none: where the database is not
# there, or not of this release, the second knows the shipped products.
PRODUCT = ProductType(lambda: services().declarations.portfolio())
KNOWN_PRODUCT = ProductType(lambda: _built().declarations.portfolio())
