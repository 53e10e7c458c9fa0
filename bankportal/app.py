"""The Flask app factory. Reads top to bottom: settings, services, pages, errors, headers."""

import hashlib
import secrets
import time
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import structlog
from flask import Flask, Response, current_app, g, jsonify, render_template, request
from flask_wtf.csrf import CSRFProtect
from werkzeug.exceptions import HTTPException, InternalServerError, RequestEntityTooLarge, SecurityError

from bankportal import cli, logs, web, wiring
from bankportal.answers import Health
from bankportal.api import flask_adapter
from bankportal.api.handlers import state
from bankportal.config import PREFIX, Config, load, require_secret
from bankportal.domain.errors import (
    Conflict,
    DataRefused,
    ForeignOrigin,
    InvalidInput,
    NoActiveModel,
    NotFound,
    PortalError,
    TooLarge,
    VersionRefused,
)
from bankportal.domain.portfolio import Portfolio
from bankportal.origins import is_foreign, origin_of
from bankportal.outages import DATABASE, DISK_FULL, OUTAGE_ERRORS, STORAGE, Outage, outage_of
from bankportal.resources import resource
from bankportal.services.batches.replaying import FilesGone, ReplayDiffers
from bankportal.services.batches.uploads import upload_limit
from bankportal.version import __version__
from bankportal.web import live, streams

MAX_REQUEST_BYTES = 1_000_000  # bytes: a form has a few thousand; uploads have a limit of their own
UPLOAD = "batches.receive"
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

# How an expected failure is shown; others are logged, and their words are not shown.
ERRORS: Mapping[str, tuple[int, str]] = {
    NotFound.code: (404, "Not found"),
    ForeignOrigin.code: (403, "Not for pages of another origin"),
    NoActiveModel.code: (503, "No model to answer with"),
    VersionRefused.code: (503, "No model to answer with"),
    InvalidInput.code: (422, "This cannot be done as asked"),
    DataRefused.code: (422, "The file cannot be read"),
    TooLarge.code: (413, "The file is too large"),
    Conflict.code: (409, "This cannot be done now"),
    FilesGone.code: (410, "A file of this batch is gone"),
    ReplayDiffers.code: (409, "The recorded answer does not come out again"),
}

ADVICE = {
    DATABASE: "Nothing was recorded. If the portal is new, run: flask up.",
    STORAGE: "Nothing was kept. Whoever runs the portal finds in its log which folder it is.",
    DISK_FULL: "Nothing was recorded or kept. It works again once whoever runs the portal has made room.",
}

log = structlog.get_logger()


def create_app(config: Config | None = None) -> Flask:
    """Make the portal's app; `SettingsRefused` where the settings do not allow it to start.

    Its pages follow the portfolio that is in force: another one makes another app, to which new requests go.
    """
    config = config or load()
    settings = {
        "SECRET_KEY": require_secret(config),
        "TRUSTED_HOSTS": list(config.trusted_hosts),
        "MAX_CONTENT_LENGTH": MAX_REQUEST_BYTES,
        "SEND_FILE_MAX_AGE_DEFAULT": YEAR,
        "SESSION_COOKIE_NAME": "bankportal",
        "SESSION_COOKIE_SAMESITE": "Lax",
        "WTF_CSRF_TIME_LIMIT": None,  # as long as the session: forms stay open over lunch
    }
    services = wiring.build(config)
    logs.configure(config)
    shared = {"bankportal": services, streams.SLOTS: streams.slots(config)}
    app = _app_for(services.declarations.portfolio(), settings, shared)
    app.jinja_env.bytecode_cache = live.CompiledTemplates()
    cli.register(app)
    live.follow(app, services.declarations, partial(_app_after, app, shared))
    flask_adapter.register(app, HEADERS)
    return app


def _app_after(first: Flask, shared: Mapping[str, Any], portfolio: Portfolio) -> Flask:
    """Make the app of another portfolio, with the settings and compiled templates of the first app."""
    app = _app_for(portfolio, first.config, shared)
    app.jinja_env.bytecode_cache = first.jinja_env.bytecode_cache
    return app


def _app_for(portfolio: Portfolio, settings: Mapping[str, Any], shared: Mapping[str, Any]) -> Flask:
    """Make the app of a portfolio's pages; `shared` is what the apps of all portfolios have in common."""
    services: wiring.Services = shared["bankportal"]
    app = Flask(
        "bankportal",
        instance_path=str(services.config.instance),
        template_folder=str(resource("templates")),
        static_folder=str(resource("static")),
    )
    app.config.from_mapping(settings)
    app.extensions.update(shared)
    app.before_request(_begin)
    app.before_request(_refuse_other_origins)  # as the API does: see bankportal.origins
    app.before_request(_allow_upload)  # before anything reads the form
    CSRFProtect(app)
    web.register(app, portfolio)
    app.add_url_rule("/healthz", "healthz", healthz)
    app.url_defaults(_name_static_version)
    app.after_request(_finish)
    _handle_errors(app)
    _handle_outages(app)
    return app


def healthz() -> tuple[Response, int]:
    """Say whether the portal can score and record: what is written is kept, and each product has a model."""
    try:
        services: wiring.Services = current_app.extensions["bankportal"]
        health = state(services, services.declarations.portfolio())
    except OUTAGE_ERRORS as error:
        outage = _logged(error)
        health = Health(status=outage.title, models={}, refused={}, version=__version__)
        return jsonify(health.model_dump()), outage.status
    return jsonify(health.model_dump()), 200 if all(health.models.values()) else 503


def _refuse_other_origins() -> None:
    own = origin_of(request.scheme, request.host)
    if is_foreign(request.method, cast(Mapping[str, str], request.headers), own):
        raise ForeignOrigin(own)


def _allow_upload() -> None:
    if request.endpoint == UPLOAD:
        request.max_content_length = _config().upload_bytes + MAX_REQUEST_BYTES


def _config() -> Config:
    services: wiring.Services = current_app.extensions["bankportal"]
    return services.config


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
        if error.code in ERRORS:
            status, title = ERRORS[error.code]
            return _error_page(status, title, str(error))
        log.error("unexpected", exc_info=error)
        return _error_page(500, "Something went wrong", f"Nothing was recorded. Reference: {g.request_id}")

    @app.errorhandler(SecurityError)
    def host_error(error: SecurityError) -> Any:
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
        if isinstance(error, RequestEntityTooLarge) and request.endpoint == UPLOAD:
            return portal_error(TooLarge(upload_limit(_config())))
        page, _ = _error_page(status, error.name, error.description or "")
        return page, status, [(k, v) for k, v in error.get_headers() if k not in {"Content-Type", "Content-Length"}]


def _handle_outages(app: Flask) -> None:
    def outage_page(error: Exception) -> tuple[str, int]:
        outage = _logged(error)
        return _error_page(outage.status, outage.title, f"{ADVICE[outage]} Reference: {g.request_id}")

    for kind in OUTAGE_ERRORS:
        app.register_error_handler(kind, outage_page)


def _logged(error: Exception) -> Outage:
    outage = outage_of(error)
    assert outage is not None
    log.error(outage.code, exc_info=error)
    return outage


def _error_page(status: int, title: str, message: str) -> tuple[str, int]:
    return render_template("error.html", status=status, title=title, message=message), status
