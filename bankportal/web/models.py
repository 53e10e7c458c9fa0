"""The model versions and their honest figures."""

from flask import Blueprint, render_template

from bankportal.web.current import portfolio, product_ever_named, services
from bankportal.web.drawings.charts import reliability
from bankportal.web.figures import facts, figures

blueprint = Blueprint("models", __name__, url_prefix="/models")


@blueprint.get("/")
def index() -> str:
    """List every product's versions; those of a withdrawn product last."""
    present = portfolio()
    versions = {each.key: services().models.versions(each) for each in (*present.values(), *present.withdrawn)}
    listed = [*present.values(), *(product for product in present.withdrawn if versions[product.key])]
    refusals = {product.key: services().models.refusal(product) for product in present.values()}
    return render_template("models.html", listed=listed, versions=versions, refusals=refusals, figures=figures)


@blueprint.get("/<key>/<version>")
def show(key: str, version: str) -> str:
    """Show one version: how it was measured, against what, on which data."""
    product = product_ever_named(key)
    measured = figures(services().models.get(product, version))
    return render_template(
        "model.html",
        product=product,
        model=measured.model,
        figures=measured,
        extra_rows=measured.extra_rows,
        chart=reliability(measured.reliability),
        facts=facts,
    )
