"""`flask score`: a file scored row by row, rejects named."""

import csv
from collections.abc import Iterable
from pathlib import Path

import click

from bankportal.cli.common import EXISTING, FILE, PRODUCT, refuse_overwriting, reported, services, writing
from bankportal.domain.constraints import Door
from bankportal.domain.errors import InvalidInput
from bankportal.domain.outcome import Outcome
from bankportal.domain.products import Product
from bankportal.domain.schema import Customer, validate
from bankportal.files import replacing
from bankportal.ml.read import Rows, read_rows
from bankportal.services.scoring import Scoring

REJECTED = ("line", "column", "code", "message", "found")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\x00")
Line = tuple[object, ...]


@click.command()
@click.argument("product", type=PRODUCT)
@click.argument("source", metavar="IN", type=EXISTING)
@click.argument("target", metavar="OUT", type=FILE)
@click.option("--rejects", type=FILE, help="Where to write the rows that could not be scored, with line and reason.")
@reported
def score(product: Product, source: str, target: str, rejects: str | None) -> None:
    """Score the CSV file IN and write OUT: a row in, a row out, in the same order. Nothing is recorded."""
    refuse_overwriting(source, target, rejects)
    rows = read_rows(source, product)
    scored, rejected = score_rows(services().scoring, product, rows)
    _write(Path(target), ("line", *_answer_columns(product)), scored)
    if rejects:
        _write(Path(rejects), REJECTED, rejected)
    bad = len({line[0] for line in rejected})
    hint = "" if rejects or not bad else " To have them named: --rejects FILE"
    click.echo(f"{rows.rows_in_file:,} rows: {len(scored):,} scored, {bad:,} rejected.{hint}")


def score_rows(scoring: Scoring, product: Product, rows: Rows) -> tuple[list[Line], list[Line]]:
    """Return a line for each scored row and one for each problem of a rejected row, in the file's order."""
    scored: list[Line] = []
    rejected: list[Line] = [(p.line, p.column, p.code, p.message, _neutral(p.text)) for p in rows.problems]
    names = [rows.recognised.get(column) for column in rows.header]
    known = {entry.factor.name for entry in product.entries}
    columns = {name: column for column, name in rows.recognised.items()}
    for line, fields in zip(rows.lines, rows.rows, strict=True):
        raw = {name: text for name, text in zip(names, fields, strict=True) if name in known}
        try:
            customer = validate(product, raw, Door.TEXT)
        except InvalidInput as error:
            rejected += [
                (line, columns.get(p.field, p.field), p.code, p.message, _neutral(p.found)) for p in error.problems
            ]
        else:
            scored.append((line, *_answer(customer, scoring.score(customer))))
    return scored, sorted(rejected, key=lambda problem: problem[0])  # type: ignore[arg-type, return-value]


def _answer_columns(product: Product) -> Line:
    limit = ("limit", "limit_rule", "counteroffer", "policy_version") if product.policy else ()
    carried = tuple(factor.name for factor in product.carried)
    return (*carried, "score", "band", *limit, "flags", "model_version")


def _answer(customer: Customer, outcome: Outcome) -> Line:
    limit = outcome.limit
    about_limit = (limit.amount, limit.rule, int(limit.counteroffer), outcome.policy_version) if limit else ()
    carried = (_neutral(value) for value in customer.carried.values())
    flags = " ".join(flag.message for flag in outcome.flags)
    return (*carried, outcome.score, outcome.band.name, *about_limit, flags, outcome.model_version)


def _neutral(value: object) -> object:
    """Keep a spreadsheet from running a text as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _write(path: Path, header: Line, lines: Iterable[Line]) -> None:
    with writing(path), replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
