"""The decisions: a list, newest first, and one page each."""

from collections.abc import Mapping

from flask import Blueprint, render_template, request

from bankportal.domain.outcome import Decision
from bankportal.domain.policy import Value
from bankportal.domain.products import Product
from bankportal.web.current import product_named, services
from bankportal.web.gauge import gauge
from bankportal.web.words import UNKNOWN, limit_facts, limit_sentences, value_words, who

PAGE_SIZE = 25

Rows = list[tuple[str, str]]

blueprint = Blueprint("decisions", __name__, url_prefix="/decisions")


@blueprint.get("/")
def index() -> str:
    """List decisions, of one product if asked, a page at a time."""
    product = product_named(request.args["product"]) if request.args.get("product") else None
    key = product.key if product else None
    page = services().decisions.page(key, request.args.get("before") or None, PAGE_SIZE)
    return render_template("decisions.html", page=page, product=product, before=request.args.get("before"))


@blueprint.get("/<decision_id>")
def show(decision_id: str) -> str:
    """Show one decision in full."""
    decision = services().decisions.get(decision_id)
    outcome = decision.outcome
    return render_template(
        "decision.html",
        decision=decision,
        outcome=outcome,
        product=outcome.product,
        customer=who(decision.customer.carried),
        gauge=gauge(outcome.product, outcome.score),
        limit_facts=limit_facts,
        limit_sentences=limit_sentences,
        tables=tables(decision),
        unknown=UNKNOWN,
    )


def tables(decision: Decision) -> list[tuple[str, Rows]]:
    """Return the values a decision stands on, under a caption each. The protected ones are not among them."""
    customer = decision.customer
    return [
        ("Scored by the forest", rows(customer.product, customer.scored)),
        ("Used by the limit policy", rows(customer.product, customer.policy)),
    ]


def rows(product: Product, values: Mapping[str, Value]) -> Rows:
    """Label values and write them out; one whose factor is no longer declared keeps its plain name."""
    factors = {entry.factor.name: entry.factor for entry in product.entries}
    return [
        (factors[name].label, value_words(factors[name], value)) if name in factors else (name, str(value))
        for name, value in values.items()
    ]
