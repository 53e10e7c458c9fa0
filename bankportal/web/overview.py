"""The first page: what the portal holds."""

from dataclasses import dataclass

from flask import Blueprint, render_template

from bankportal.domain.errors import NoActiveModel
from bankportal.domain.products import Product
from bankportal.web.current import portfolio, services
from bankportal.web.drawings.charts import Slice, slices
from bankportal.web.figures import Figures, figures

RECENT = 8

blueprint = Blueprint("overview", __name__)


@dataclass(frozen=True)
class Holding:
    """What the portal has for one product: decisions by verdict, the serving model, why the newest is refused."""

    product: Product
    slices: tuple[Slice, ...]
    figures: Figures | None
    refusal: str | None

    @property
    def total(self) -> int:
        """How many decisions there are."""
        return sum(piece.count for piece in self.slices)


@blueprint.get("/")
def index() -> str:
    """Show products, active models and recent decisions."""
    counts = services().decisions.counts()
    holdings = [
        Holding(
            product=product,
            slices=slices(product, counts.get(product.key, {})),
            figures=active_figures(product),
            refusal=services().models.refusal(product),
        )
        for product in portfolio().values()
    ]
    return render_template(
        "overview.html",
        holdings=holdings,
        withdrawn_holdings=[(each, sum(counts.get(each.key, {}).values())) for each in portfolio().withdrawn],
        decisions=services().decisions.latest(RECENT),
    )


def active_figures(product: Product) -> Figures | None:
    """Return the active model's figures, `None` where there is none."""
    try:
        return figures(services().models.active(product))
    except NoActiveModel:
        return None
