"""The Flask app factory. Reads top to bottom: settings, services, pages, errors, headers."""

import hashlib
import logging
import secrets
import time
from functools import cache
from pathlib import Path
from typing import Any

import structlog
from flask import Flask, Response, g, jsonify, render_template, request
from flask_wtf.csrf import CSRFProtect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, InternalServerError, SecurityError

from bankportal import cli, web, wiring
from bankportal.config import PREFIX, Config, load, require_secret
from bankportal.domain.errors import NoActiveModel, NotFound, PortalError, VersionRefused
from bankportal.domain.products import PRODUCTS
from bankportal.resources import resource
from bankportal.version import __version__

LARGEST_REQUEST = 1_000_000  # bytes; a form is a few thousand
YEAR = 365 * 24 * 3600
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

log = structlog.get_logger()


def create_app(config: Config | None = None) -> Flask:
    """Make the portal's app; `SettingsRefused` where the settings do not allow it to start."""
    config = config or load()
    app = Flask(
        "bankportal",
        instance_path=str(config.instance),
        template_folder=str(resource("templates")),
        static_folder=str(resource("static")),
    )
    app.config.from_mapping(
        SECRET_KEY=require_secret(config),
        TRUSTED_HOSTS=list(config.trusted_hosts),
        MAX_CONTENT_LENGTH=LARGEST_REQUEST,
        SEND_FILE_MAX_AGE_DEFAULT=YEAR,
        SESSION_COOKIE_NAME="bankportal",
        SESSION_COOKIE_SAMESITE="Lax",
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session: forms stay open over lunch
    )
    app.extensions["bankportal"] = wiring.build(config)
    _configure_logs(config)
    CSRFProtect(app)
    web.register(app)
    cli.register(app)
    app.add_url_rule("/healthz", "healthz", healthz)
    app.url_defaults(_name_static_version)
    app.context_processor(lambda: {"portal_version": __version__, "products": tuple(PRODUCTS.values())})
    app.before_request(_begin)
    app.after_request(_finish)
    _handle_errors(app)
    return app


def healthz() -> tuple[Response, int]:
    """Say whether the portal can score: its database answers and each product has a model."""
    from flask import current_app

    services: wiring.Services = current_app.extensions["bankportal"]
    services.database.require_writable()
    models: dict[str, str | None] = {}
    for product in PRODUCTS.values():
        try:
            models[product.key] = services.models.serving(product).version
        except NoActiveModel:
            models[product.key] = None
    ready = all(models.values())
    refused = {product.key: why for product in PRODUCTS.values() if (why := services.models.refusal(product))}
    status = "no model" if not ready else "an older model serves" if refused else "ok"
    return jsonify(status=status, models=models, refused=refused, version=__version__), 200 if ready else 503


def _configure_logs(config: Config) -> None:
    last: Any = structlog.processors.JSONRenderer() if config.log_format == "json" else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.dict_tracebacks] if config.log_format == "json" else []),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


def _begin() -> None:
    g.started = time.perf_counter()
    g.request_id = secrets.token_hex(8)
    structlog.contextvars.bind_contextvars(request_id=g.request_id)


def _finish(response: Response) -> Response:
    response.headers.update(HEADERS)
    if "request_id" in g:
        response.headers["X-Request-Id"] = g.request_id
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "no-store")  # customers' data stays out of caches
        took = round((time.perf_counter() - g.started) * 1000, 1) if "started" in g else None
        log.info("request", method=request.method, path=request.path, status=response.status_code, milliseconds=took)
    structlog.contextvars.clear_contextvars()
    return response


def _name_static_version(endpoint: str, values: dict[str, Any]) -> None:
    """Put a digest into static addresses, so that browsers may keep files for long and still get new ones."""
    if endpoint == "static" and "filename" in values:
        values.setdefault("v", _static_digest(str(values["filename"])))


@cache
def _static_digest(filename: str) -> str:
    path = Path(resource("static")) / filename
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else ""


def _handle_errors(app: Flask) -> None:
    @app.errorhandler(PortalError)
    def portal_error(error: PortalError) -> tuple[str, int]:
        if isinstance(error, NotFound):
            return _error_page(404, "Not found", str(error))
        if isinstance(error, NoActiveModel | VersionRefused):
            return _error_page(503, "No model to answer with", str(error))
        log.error("unexpected", exc_info=error)
        return _error_page(500, "Something went wrong", f"Nothing was recorded. Reference: {g.request_id}")

    @app.errorhandler(DBAPIError)
    @app.errorhandler(FileNotFoundError)
    @app.errorhandler(PoolTimeout)
    def database_error(error: Exception) -> tuple[str, int]:
        log.error("database", exc_info=error)
        message = f"Nothing was recorded. If the portal is new, run: flask up. Reference: {g.request_id}"
        return _error_page(503, "The database does not answer", message)

    @app.errorhandler(SecurityError)
    def host_error(error: SecurityError) -> tuple[str, int, dict[str, str]]:
        # No page: without a trusted host no address can be built.
        return f"Not a host of this portal; see {PREFIX}TRUSTED_HOSTS.\n", 400, {"Content-Type": "text/plain"}

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Any:
        status = error.code or 500
        if status < 400:
            return error
        if isinstance(error, InternalServerError):
            message = f"Nothing was recorded. Reference: {g.get('request_id', 'none')}"
            return _error_page(500, "Something went wrong", message)
        page, _ = _error_page(status, error.name, error.description or "")
        return page, status, [(k, v) for k, v in error.get_headers() if k not in {"Content-Type", "Content-Length"}]


def _error_page(status: int, title: str, message: str) -> tuple[str, int]:
    return render_template("error.html", status=status, title=title, message=message), status
