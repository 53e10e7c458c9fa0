"""Both engines behind one kind of client, for the tests that must pass on each."""

import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from flask import Flask

from bankportal import asgi
from bankportal.app import create_app
from bankportal.config import Config
from bankportal.wiring import Services
from tests.conftest import PATIENCE, config_for, listening
from tests.shipped import PRODUCTS

ENGINES = ("flask", "fastapi")


@dataclass(frozen=True)
class Engine:
    """A running portal: its client, its services, its Flask app, and on FastAPI that app too."""

    name: str
    client: httpx.Client
    services: Services
    app: Flask
    asgi: FastAPI | None = None


@contextmanager
def running(name: str, config: Config) -> Iterator[Engine]:
    """Run a portal on an engine: Flask in process, FastAPI under uvicorn on a port of its own."""
    with {"flask": _flask, "fastapi": _fastapi}[name](config) as engine:
        yield engine


@contextmanager
def _flask(config: Config) -> Iterator[Engine]:
    app = create_app(config)
    app.config.update(WTF_CSRF_ENABLED=False, PROPAGATE_EXCEPTIONS=False)
    services = app.extensions["bankportal"]
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://localhost") as client:
        yield Engine("flask", client, services, app)
    services.database.close()


@contextmanager
def _fastapi(config: Config) -> Iterator[Engine]:
    app = asgi.create_app(config)
    app.state.pages.config.update(WTF_CSRF_ENABLED=False, PROPAGATE_EXCEPTIONS=False)
    with served(app) as address, httpx.Client(base_url=address, timeout=PATIENCE) as client:
        yield Engine("fastapi", client, app.state.services, app.state.pages, app)


@contextmanager
def address_of(engine: Engine) -> Iterator[str]:
    """Give the address of a running portal; Flask gets a server of its own for that."""
    if engine.name == "fastapi":
        yield str(engine.client.base_url).rstrip("/")
        return
    with listening(engine.app) as port:
        yield f"http://localhost:{port}"


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an ASGI app in a thread and give its address."""
    # Idle connections are for the client to end: one that the server ends may just be in use again.
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_keep_alive=int(PATIENCE)))
    with socket.socket(proto=socket.IPPROTO_TCP) as listener:  # else asyncio leaves small packets waiting
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server does not start"
                time.sleep(0.01)
            yield f"http://localhost:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


@pytest.fixture(scope="module")
def instance(ready_instance, tmp_path_factory) -> Callable[[], Config]:
    """Makes a new instance folder with models, for one portal of a module's."""

    def make(**settings: Any) -> Config:
        folder = tmp_path_factory.mktemp("portal") / "instance"
        shutil.copytree(ready_instance, folder)
        return replace(config_for(folder), **settings)

    return make


@pytest.fixture(scope="module", params=ENGINES)
def engine(request, instance) -> Iterator[Engine]:
    """One portal on each engine, for all tests of a module."""
    with running(request.param, instance()) as found:
        yield found


@pytest.fixture(params=list(PRODUCTS.values()), ids=list(PRODUCTS))
def product(request):
    """Each product."""
    return request.param
