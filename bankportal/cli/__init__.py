"""The portal's commands. setup.cfg names them as Flask's entry points, so that they run without an app."""

from flask import Flask


def register(app: Flask) -> None:
    """Add the commands to an app, for test runners and for checkouts that are not installed."""
    from bankportal.cli.audit import audit
    from bankportal.cli.data import data
    from bankportal.cli.declarations import declarations
    from bankportal.cli.models import models
    from bankportal.cli.score import score
    from bankportal.cli.train import train
    from bankportal.cli.up import up
    from bankportal.cli.worker import worker

    for command in (train, data, declarations, models, score, audit, up, worker):
        app.cli.add_command(command)
