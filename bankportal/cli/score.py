"""`flask score`: a file scored row by row, rejects named."""

import csv
from collections.abc import Iterator
from pathlib import Path

import click

from bankportal.cli.common import EXISTING, FILE, PRODUCT, reported, services
from bankportal.domain.constraints import Door
from bankportal.domain.errors import DataRefused, InvalidInput
from bankportal.domain.outcome import Outcome
from bankportal.domain.products import Product
from bankportal.domain.schema import validate
from bankportal.files import replacing
from bankportal.services.scoring import Scoring

SCORED = ("CustomerId", "Surname", "score", "band", "limit", "counteroffer", "model_version", "policy_version")
REJECTED = ("line", "column", "code", "message", "found")


@click.command()
@click.argument("product", type=PRODUCT)
@click.argument("source", type=EXISTING)
@click.argument("target", type=FILE)
@click.option("--rejects", type=FILE, help="Where to write the rows that could not be scored, with line and reason.")
@reported
def score(product: Product, source: str, target: str, rejects: str | None) -> None:
    """Score a CSV file: SOURCE in, TARGET out, one row for each customer."""
    scoring = services().scoring
    scored: list[tuple[object, ...]] = []
    rejected: list[tuple[object, ...]] = []
    for line, values in rows(Path(source), product):
        try:
            scored.append(_answer(scoring, product, values))
        except InvalidInput as error:
            rejected += [(line, p.field, p.code, p.message, p.found) for p in error.problems]
    _write(target, SCORED, scored)
    if rejects:
        _write(rejects, REJECTED, rejected)
    bad = len({row[0] for row in rejected})
    click.echo(
        f"{len(scored):,} scored, {bad:,} rejected{'' if rejects or not bad else ' (name them with --rejects FILE)'}."
    )


def _answer(scoring: Scoring, product: Product, values: dict[str, str]) -> tuple[object, ...]:
    customer = validate(product, values, Door.TEXT)
    return (customer.carried["CustomerId"], customer.carried["Surname"], *_columns(scoring.score(customer)))
