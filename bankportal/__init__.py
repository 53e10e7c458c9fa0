"""Elite Financial Intelligence Portal: churn and credit-limit allowance, run by the bank itself."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flask import Flask


def create_app(*args: Any, **kwargs: Any) -> "Flask":
    """Make the Flask app; see `bankportal.app.create_app`. Importing the package alone loads nothing."""
    from bankportal.app import create_app

    return create_app(*args, **kwargs)
