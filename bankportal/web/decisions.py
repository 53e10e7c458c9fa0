"""The decisions: a list, newest first, and one page each."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, render_template, request
from flask.typing import ResponseReturnValue

from bankportal.domain.errors import NotFound
from bankportal.domain.outcome import Decision
from bankportal.domain.policy import Value
from bankportal.domain.products import Product
from bankportal.domain.receipt import Receipt
from bankportal.web import forms, letters
from bankportal.web.comparing import comparison, recorded_values
from bankportal.web.current import product_ever_named, product_named, services
from bankportal.web.drawings.bars import bars, factors_by_name
from bankportal.web.drawings.gauge import gauge
from bankportal.web.explanations import explain_decision
from bankportal.web.words import UNKNOWN, customer_name, limit_facts, limit_sentences, problem_sentence, value_words

PAGE_SIZE = 25

Rows = list[tuple[str, str]]

blueprint = Blueprint("decisions", __name__, url_prefix="/decisions")


@blueprint.get("/")
def index() -> str:
    """List decisions, of all products or one, a page at a time."""
    product = product_ever_named(request.args["product"]) if request.args.get("product") else None
    key = product.key if product else None
    page = services().decisions.page(key, request.args.get("before") or None, PAGE_SIZE)
    return render_template("decisions.html", page=page, product=product, before=request.args.get("before"))


@blueprint.get("/<decision_id>")
def show(decision_id: str) -> str:
    """Show one decision in full; `what-if` chooses the factor of the curve."""
    decision = services().decisions.get(decision_id)
    return render_template(
        "decision.html",
        **explanation_context(decision, request.args.get("what-if") or None),
        begin={"from": decision.id},
        receipt=receipt_of(decision),
        letter_due=letters.is_due(decision),
    )


@blueprint.get("/<decision_id>/compare")
def compare(decision_id: str) -> ResponseReturnValue:
    """Show a decision beside what the same customer with changed values would get now; nothing is recorded."""
    decision = services().decisions.get(decision_id)
    product = product_named(decision.outcome.product.key)
    changes = [forms.decisive_values(each, request.args) for each in (decision.outcome.product, product)]
    compared = comparison(decision, product, changes[0] | changes[1])
    form = forms.make_form(product, compared.raw)
    form.show(product, compared.problems)
    page = render_template(
        "compare.html",
        decision=decision,
        product=product,
        comparison=compared,
        form=form,
        sections=forms.decisive_sections(product),
        problems={problem.field: problem_sentence(product, problem) for problem in compared.problems},
    )
    return page, 422 if compared.problems else 200


@blueprint.get("/<decision_id>/letter")
def letter(decision_id: str) -> str:
    """Show the letter about a declined or countered limit, ready to print."""
    decision = services().decisions.get(decision_id)
    customer = customer_name(decision.customer.identifiers)
    return render_template("letter.html", letter=letters.letter(decision), decision=decision, customer=customer)


def explanation_context(decision: Decision, factor: str | None) -> dict[str, Any]:
    """Return what the templates need to explain an outcome, recorded or not; `factor` chooses the curve."""
    outcome, explanation = decision.outcome, explain_decision(decision, factor)
    return {
        "decision": decision,
        "outcome": outcome,
        "product": outcome.product,
        "customer": customer_name(decision.customer.identifiers),
        "gauge": gauge(outcome),
        "limit_facts": limit_facts,
        "limit_sentences": limit_sentences,
        "explanation": explanation,
        "bars": bars(outcome, decision.customer.scored, explanation.histograms if explanation else None),
        "form": forms.make_form(outcome.product, recorded_values(decision)),
        "tables": tables(decision),
        "unknown": UNKNOWN,
    }


def receipt_of(decision: Decision) -> Receipt | None:
    """Return a decision's receipt; `None` where it has none, which `flask audit verify` reports."""
    try:
        return services().decisions.receipt(decision.id)
    except NotFound:
        return None


def tables(decision: Decision) -> list[tuple[str, Rows]]:
    """Return the values that decided as tables, each with its caption. Protected values are not among them."""
    customer = decision.customer
    return [
        ("Scored by the forest", rows(customer.product, customer.scored)),
        ("Used by the limit policy", rows(customer.product, customer.policy)),
    ]


def rows(product: Product, values: Mapping[str, Value]) -> Rows:
    """Return values with their labels; a factor that is no longer declared keeps its name."""
    factors = factors_by_name(product)
    return [
        (factors[name].label, value_words(factors[name], value, product.currency))
        if name in factors
        else (name, str(value))
        for name, value in values.items()
    ]
