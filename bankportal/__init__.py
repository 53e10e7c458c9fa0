"""Elite Financial Intelligence Portal: churn and credit-limit allowance, run by the bank itself."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask


def create_app(*args: Any, **kwargs: Any) -> "Flask":
    """Make the Flask app; see `bankportal.app.create_app`. Importing the package alone loads nothing."""
    import click
    from flask.cli import NoAppException

    from bankportal.app import create_app
    from bankportal.domain.errors import SettingsRefused

    try:
        return create_app(*args, **kwargs)
    except SettingsRefused as error:
        if click.get_current_context(silent=True):  # on the command line one line says more than a stack trace
            raise NoAppException(str(error)) from None
        raise
