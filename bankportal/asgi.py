"""The FastAPI engine: `uvicorn bankportal.asgi:app` serves the API natively and the pages through the same process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from a2wsgi import WSGIMiddleware
from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bankportal import app as flask_app
from bankportal.api.api import Api
from bankportal.api.fastapi_adapter import Engine
from bankportal.api.operations import OPERATIONS
from bankportal.config import Config
from bankportal.version import BRAND, __version__


class Portal:
    """Both halves of the portal behind one address: the API as it is, pages through WSGI."""

    def __init__(self, config: Config | None = None):
        self.flask = flask_app.create_app(config)
        self.services = self.flask.extensions["bankportal"]
        self.api = Api(self.services)
        self.engine = Engine(self.api, flask_app.HEADERS)
        self.pages = WSGIMiddleware(cast(Any, self.flask), workers=self.services.config.threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the half it belongs to."""
        half: Any = self.engine if self.api.owns(scope["path"]) else self.pages
        await half(scope, receive, send)


def create_app(config: Config | None = None) -> FastAPI:
    """Make the FastAPI app; `SettingsRefused` where the settings do not allow it to start."""
    portal = Portal(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        portal.services.explaining.warm_up_later()
        yield
        portal.services.database.close()

    # The document and its page are the API's own: the same as on Flask.
    app = FastAPI(title=BRAND, version=__version__, openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.portal = portal
    for path in dict.fromkeys(operation.path for operation in OPERATIONS):
        app.router.routes.append(Route(path, portal.engine))
    app.router.redirect_slashes = False
    app.router.default = portal
    return app


def __getattr__(name: str) -> FastAPI:
    """Make `app` when a server asks for it: importing this module starts nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    app = globals()["app"] = create_app()
    return app
