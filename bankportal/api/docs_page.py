"""`/docs`: the API's interactive documentation. Script and style come from a Python package, nothing from elsewhere."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import resources

from bankportal.api.calls import Reply
from bankportal.version import BRAND

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
FOLDER = "/docs/assets/"
START = """\
window.addEventListener("load", () => {
  SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    displayRequestDuration: true,
    defaultModelExpandDepth: 3,
    defaultModelRendering: "model",
    validatorUrl: null,
  });
});
"""
STYLE = """\
body { margin: 0; background: #fff; }
.back { display: block; padding: 1rem 1.5rem 0; font: 1rem/1.5 system-ui, sans-serif; }
.swagger-ui .response-col_links { display: none; }
.swagger-ui .response:not([data-code^="2"]) .model-container { max-height: 12rem; overflow: auto; }
@media (max-width: 40rem) {
  .swagger-ui .responses-inner, .swagger-ui .opblock-description-wrapper { padding: 0.5rem; }
  .swagger-ui .responses-table, .swagger-ui .responses-table > tbody, .swagger-ui .response { display: block; }
  .swagger-ui .responses-table > thead { display: none; }
  .swagger-ui .response > td:not(.response-col_links) { display: block; max-width: none; width: auto; }
  .swagger-ui .json-schema-2020-12-body { margin-left: 0.25rem; padding-left: 0.5rem; }
}
"""
PAGE = f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API · {BRAND}</title>
<link rel="icon" href="{FOLDER}favicon-32x32.png">
<link rel="stylesheet" href="{FOLDER}swagger-ui.css">
<link rel="stylesheet" href="{FOLDER}start.css">
<script src="{FOLDER}swagger-ui-bundle.js" defer></script>
<script src="{FOLDER}start.js" defer></script>
</head>
<body>
<a class="back" href="/">{BRAND}</a>
<main id="swagger-ui"></main>
<noscript>
<p class="back">This page needs JavaScript. The document itself: <a href="/openapi.json">openapi.json</a>.</p>
</noscript>
</body>
</html>
"""
KEPT = {"Cache-Control": "public, max-age=3600"}


@cache
def _asset(name: str) -> bytes:
    return (resources.files("flask_swagger_ui") / "dist" / name).read_bytes()


def _served(name: str, media: str) -> Reply:
    return Reply(200, _asset(name), media, KEPT)


def _written(content: str, media: str) -> Reply:
    return Reply(200, content.encode(), f"{media}; charset=utf-8")


DOCUMENTS: Mapping[str, Callable[[], Reply]] = {
    "/docs": partial(_written, PAGE, "text/html"),
    "/docs/": partial(_written, PAGE, "text/html"),
    f"{FOLDER}start.js": partial(_written, START, "text/javascript"),
    f"{FOLDER}start.css": partial(_written, STYLE, "text/css"),
    **{FOLDER + name: partial(_served, name, media) for name, media in ASSETS.items()},
}
