"""`flask score`: a file scored block by block, rejects named; here, or on a Dask cluster."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext

import click

from bankportal.cli.common import PRODUCT, console, refuse_overwriting, reported, services
from bankportal.cli.train import progress_bar
from bankportal.data.locations import Input, input_at, name, writing
from bankportal.data.reading import recognise
from bankportal.domain.errors import DataRefused
from bankportal.domain.products import Product
from bankportal.services.batches import cluster
from bankportal.services.batches.chunks import Part, Work, rejects_header, score_block, scored_header
from bankportal.wiring import Services

FILE_SCHEME = "file://"
AT_ONCE = 2


@click.command()
@click.argument("product", type=PRODUCT)
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--rejects", metavar="FILE", help="Where to write the rows that could not be scored, and why.")
@click.option(
    "--scheduler",
    metavar="local|ADDRESS",
    help="Score on a Dask cluster: at an address such as tcp://10.0.0.7:8786, or `local`, one on this machine.",
)
@reported
def score(product: Product, source: str, target: str, rejects: str | None, scheduler: str | None) -> None:
    """Score the CSV or Parquet file IN and write OUT: a row in, a row out, in the same order. Nothing is recorded.

    IN, OUT and FILE are paths, or any location that fsspec knows, such as s3://bank/customers.parquet. IN may be a
    folder of such files or a pattern such as 'customers/*.parquet': its rows get a column that tells their file,
    and one for each folder named like Geography=Spain. An OUT that is there already is replaced when all is scored.
    """
    rows, rejected = score_file(services(), product, source, target, rejects, scheduler)
    hint = "" if rejects or not rejected else " To have them named: --rejects FILE"
    click.echo(f"{rows:,} rows: {rows - rejected:,} scored, {rejected:,} rejected.{hint}")


def score_file(
    portal: Services, product: Product, source: str, target: str, rejects: str | None, scheduler: str | None = None
) -> tuple[int, int]:
    """Score a file into others; return how many rows it has, and how many of them were rejected."""
    refuse_overwriting(*(location.removeprefix(FILE_SCHEME) for location in (source, target, rejects) if location))
    found = input_at(source, product, *(location for location in (target, rejects) if location))
    work = Work(
        product=product,
        layout=found.layout,
        mapping=mapping_of(found, product),
        model=portal.models.serving(product),
        catalogue=portal.models.catalogue,
        policy=product.policy,
    )
    with (
        closing(_parts(portal, work, found, scheduler)) as parts,
        writing(target) as write_scored,
        writing(rejects) if rejects else nullcontext(_nowhere) as write_rejected,
        progress_bar(console(stderr=True), product) as report,
    ):
        write_scored(scored_header(work))
        write_rejected(rejects_header(work.layout))
        rows = rejected = 0
        for done, part in parts:
            write_scored(part.scored)
            write_rejected(part.rejects)
            rows, rejected = rows + part.rows, rejected + part.rejected
            report(done, found.size, "Scoring")
        return rows, rejected


def mapping_of(found: Input, product: Product) -> dict[str, str]:
    """Map columns to factors by their names; `DataRefused` where two mean one, or a required one is missing."""
    try:
        meant = recognise(list(found.layout.header), product)
    except DataRefused as refused:
        raise DataRefused(f"{name(found.location)} {refused}") from None
    mapping = {column: meaning for column, meaning in meant.items() if meaning != product.label.name}
    required = [entry.factor.name for entry in product.entries if entry.required]
    if missing := [factor for factor in required if factor not in mapping.values()]:
        raise DataRefused(f"{name(found.location)} has no column for {', '.join(missing)}: nothing can be scored.")
    return mapping


def _parts(portal: Services, work: Work, found: Input, scheduler: str | None) -> Generator[tuple[int, Part]]:
    if scheduler:
        yield from cluster.parts(scheduler, work, portal.config.models, found)
    else:
        yield from _here(work, found)


def _here(work: Work, found: Input) -> Generator[tuple[int, Part]]:
    """Score block after block, two at a time: kernels work on one while the other's text is read and written."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        under_way: deque[tuple[int, Future[Part]]] = deque()
        for done, block in found.blocks():
            under_way.append((done, pool.submit(score_block, work, block)))
            if len(under_way) == AT_ONCE:
                read, part = under_way.popleft()
                yield read, part.result()
        for read, part in under_way:
            yield read, part.result()


def _nowhere(line: bytes) -> None:
    """Write nothing: rejects that nobody asked for."""
