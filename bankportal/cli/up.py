"""`flask up`: from an empty instance folder to a serving portal."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import click

from bankportal.cli.common import reported
from bankportal.config import HOST, MAX_PORT, MIN_PORT, PREFIX, SETTINGS_FILE, Config, load, require_secret
from bankportal.domain.errors import NoActiveModel, SettingsRefused
from bankportal.files import replacing
from bankportal.simulation.simulate import simulates
from bankportal.version import BRAND


def _gunicorn(_: Config) -> list[str]:
    return ["gunicorn", "--config=python:bankportal.serving"]


def _uvicorn(config: Config) -> list[str]:
    if find_spec("uvicorn") is None:
        raise SettingsRefused("The FastAPI engine is not installed: pip install bankportal[fastapi]")
    return ["uvicorn", "bankportal.asgi:app", f"--host={HOST}", f"--port={config.port}", "--no-access-log"]


ENGINES: Mapping[str, Callable[[Config], list[str]]] = {"flask": _gunicorn, "fastapi": _uvicorn}
PORT_HELP = f"Port of the web server, in place of the setting {PREFIX}PORT."
ENGINE_HELP = "What serves: gunicorn with Flask, or uvicorn with FastAPI for the API and Flask for the pages."


@click.command()
@click.option("--engine", type=click.Choice(list(ENGINES)), default="flask", show_default=True, help=ENGINE_HELP)
@click.option("--port", type=click.IntRange(MIN_PORT, MAX_PORT), help=PORT_HELP)
@reported
def up(engine: str, port: int | None) -> None:
    """Make what is missing (settings, database, data, models), then serve. Run again, it only serves."""
    if port is not None:
        os.environ[f"{PREFIX}PORT"] = str(port)  # the server is another process and reads the settings again
    _require_free(load().port)
    config = prepare()
    click.echo(f"\n  {BRAND}:  http://{HOST}:{config.port}/\n")
    sys.stdout.flush()
    serve(ENGINES[engine](config))


def start_worker() -> None:
    """Start `flask worker` as a process that ends with this one, which becomes the web server."""
    command = [sys.executable, "-m", "flask", "worker", "--parent", str(os.getpid())]
    subprocess.Popen(command)  # noqa: S603  # ourselves


def prepare() -> Config:
    """Make what is missing: the secret key, the database's tables, a model for each product that has data for it."""
    from bankportal.cli.common import no_model_yet, services
    from bankportal.cli.train import train_product

    _ensure_secret(load())
    require_secret(load())
    portal = services()
    for refused in [*portal.declarations.adopt(), *portal.declarations.adopt_folder()]:
        click.echo(f"Not in force, as it cannot be: {refused}")
    for product in portal.declarations.portfolio().values():
        try:
            portal.models.serving(product)
        except NoActiveModel:
            if simulates(product):
                train_product(portal, product, activate=True)
            else:
                click.echo(no_model_yet(product))
    portal.explaining.warm_up()  # compiled kernels are kept on disk: the web server finds them ready
    return load()


def _ensure_secret(config: Config) -> None:
    """Make a secret key where there is none, in the instance folder, readable by its owner alone."""
    if config.secret_key:
        return
    config.instance.mkdir(parents=True, exist_ok=True)
    path = config.instance / SETTINGS_FILE
    written = path.read_text(encoding="utf-8") if path.is_file() else ""
    separator = "" if not written or written.endswith("\n") else "\n"
    with replacing(path, private=True) as file:
        file.write(f"{written}{separator}{PREFIX}SECRET_KEY={secrets.token_hex(32)}\n")


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise SettingsRefused(
                f"Port {port} cannot be used ({error.strerror}). Choose another one: flask up --port, make up PORT=, "
                f"or the setting {PREFIX}PORT."
            ) from error


def serve(server: list[str]) -> None:
    """Start a worker and become the web server: processes that have never loaded the training libraries.

    The worker ends with the server, however that ends.
    """
    start_worker()
    os.execv(sys.executable, [sys.executable, "-m", *server])  # noqa: S606
