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
from bankportal.domain.products import PRODUCTS, Product

FILE = click.Path(dir_okay=False)
LOG_WIDTH = 132
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
    app = _test_app()
    built: wiring.Services = app.extensions["bankportal"] if app else wiring.build(load())
    wiring.upgrade(built)
    return built
