"""The FastAPI engine: `uvicorn bankportal.asgi:app` serves the API natively and the pages through the same process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from a2wsgi import WSGIMiddleware
from fastapi import FastAPI
from flask import Flask
from starlette.types import ASGIApp, Receive, Scope, Send

from bankportal import app as flask_app
from bankportal.api.api import Api
from bankportal.api.fastapi_adapter import BeforeRoutes, Engine
from bankportal.config import Config
from bankportal.version import BRAND, __version__
from bankportal.wiring import Services


class Others:
    """All that is no operation: the API's document and what it refuses; else a page, through WSGI."""

    def __init__(self, engine: Engine, pages: Flask, threads: int):
        self.engine = engine
        self.pages = WSGIMiddleware(cast(Any, pages), workers=threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the half it belongs to."""
        of_api = scope["type"] == "http" and self.engine.api.owns(scope["path"])
        half: Any = self.engine if of_api else self.pages
        await half(scope, receive, send)


class PortalApp(FastAPI):
    """A FastAPI app before whose routes `engine` answers the API's calls.

    Where middleware was added, every request goes through it and comes to the engine by its route.
    """

    engine: Engine

    def build_middleware_stack(self) -> ASGIApp:
        """Put the engine before what FastAPI builds when the first request comes."""
        routes = super().build_middleware_stack()
        return routes if self.user_middleware else BeforeRoutes(self.engine, routes)


def create_app(config: Config | None = None) -> FastAPI:
    """Make the FastAPI app; `SettingsRefused` where the settings do not allow it to start.

    Each operation of the API is a path operation, and these follow the portfolio. `app.state` holds the `services`, and
    as `pages` the Flask app.
    """
    pages = flask_app.create_app(config)
    services: Services = pages.extensions["bankportal"]
    engine = Engine(Api(services), flask_app.HEADERS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.explaining.warm_up_later()
        yield
        services.database.close()

    app = PortalApp(
        title=BRAND,
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,  # the document is the API's own: the same bytes as on Flask
    )
    app.engine = engine
    engine.route(app)
    # As FastAPI's own manual extends it.
    app.openapi = lambda: engine.api.table().document  # type: ignore[method-assign]
    app.router.default = Others(engine, pages, services.config.threads)
    app.state.services, app.state.pages = services, pages
    return app


def __getattr__(name: str) -> FastAPI:
    """Make `app` when a server asks for it: importing this module starts nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = globals()["app"] = create_app()
    return app
