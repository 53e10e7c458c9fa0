"""Examples for the document, made from the declarations: customers, a file of them, an answer's shape."""

import csv
import io
from datetime import UTC, datetime
from functools import cache
from typing import Any

from bankportal.api import conversion
from bankportal.api.schemas import example
from bankportal.domain.constraints import Number, Source
from bankportal.domain.ids import ID_LENGTH
from bankportal.domain.outcome import Decision, Outcome
from bankportal.domain.products import Product
from bankportal.domain.reasons import Attribution, reasons
from bankportal.domain.schema import Customer, validate
from bankportal.services.scoring import limit

ABOUT_OUTCOME = (
    "The shape of an answer, not a forest's: a score in the middle of its band, to which each required factor "
    "contributes the same. Bands, limit and words are as declared."
)
BELOW = 201  # how far the value that is not acceptable is below the smallest one
AT = datetime(2026, 1, 1, tzinfo=UTC)


def required(product: Product) -> dict[str, Any]:
    """Return the example customer with the required factors alone."""
    return {entry.factor.name: example(product)[entry.factor.name] for entry in product.factors if entry.required}


def refused(product: Product) -> dict[str, Any]:
    """Return the example of another customer, of whom one value is not acceptable."""
    customer, identifier = example(product), product.identifiers[0].name if product.identifiers else ""
    if str(customer.get(identifier, "")).isdigit():
        customer = customer | {identifier: str(int(customer[identifier]) + 1)}
    factor = next((each for each in product.scored if isinstance(each.constraint, Number)), product.scored[0])
    if isinstance(factor.constraint, Number):
        return customer | {factor.name: int(factor.constraint.minimum) - BELOW}
    return customer | {factor.name: []}


@cache
def file(product: Product) -> str:
    """Return a CSV file of one customer, with the required factors alone."""
    values = required(product)
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([values.keys(), values.values()])
    return written.getvalue()


@cache
def outcome(product: Product) -> dict[str, Any]:
    """Return an answer about the example customer, as `ABOUT_OUTCOME` says: its figures are not a forest's."""
    customer = validate(product, example(product), Source.TYPED)
    outcome = _outcome(product, customer)
    decision = Decision("0" * ID_LENGTH, AT, customer, outcome)
    return conversion.outcome(outcome, contributions=False, decision=decision).model_dump(mode="json")


def _outcome(product: Product, customer: Customer) -> Outcome:
    band = product.bands[min(1, len(product.bands) - 1)]
    score = round((band.start + product.end(band)) / 2, 3)
    named = [factor.name for factor in product.required or product.scored]
    contributions = dict.fromkeys(named, round((score - band.start) / len(named), 6))
    allowed = limit(customer, band)
    attribution = Attribution(contributions, contributions)
    return Outcome(
        product=product,
        score=score,
        band=band,
        limit=allowed,
        flags=(),
        base=band.start,
        contributions=contributions,
        reasons=reasons(product, band, customer.scored, attribution, allowed),
        model_version="v1",
        model_digest="0" * 64,
        policy_version=product.policy_version,
    )
