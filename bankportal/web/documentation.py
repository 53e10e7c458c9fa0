"""The documentation of the API, drawn by Swagger UI: script and style come from a Python package of this machine."""

from importlib import resources
from pathlib import Path

from flask import Blueprint, Response, render_template, send_from_directory

ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css")
HOUR = 3600

blueprint = Blueprint("documentation", __name__, url_prefix="/docs")


@blueprint.get("/", strict_slashes=False)
def show() -> str:
    """Show every operation of the API, to be tried from the page."""
    return render_template("documentation.html", assets=ASSETS)


@blueprint.get(f"/assets/<any{ASSETS}:name>")
def asset(name: str) -> Response:
    """Send a file of Swagger UI."""
    return send_from_directory(Path(str(resources.files("flask_swagger_ui"))) / "dist", name, max_age=HOUR)
