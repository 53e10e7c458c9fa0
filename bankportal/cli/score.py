"""`flask score`: score a file block by block, in this process or on a Dask cluster."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext

import click

from bankportal.cli.common import PRODUCT, console, refuse_overwriting, reported, services
from bankportal.cli.train import progress_bar
from bankportal.data.locations import Input, file_name, input_at, writing
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
    """Score the CSV or Parquet file IN and write OUT, row by row in the same order. Nothing is recorded.

    IN, OUT and FILE are paths, or any location that fsspec knows, such as s3://bank/customers.parquet. IN may be a
    folder of such files, or a pattern such as 'customers/*.parquet'. The rows of several files get a column that names
    their file, and one for each folder named like Geography=Spain. An existing OUT is replaced once all is scored.
    """
    rows, rejected = score_file(services(), product, source, target, rejects, scheduler)
    hint = "" if rejects or not rejected else " To see which, and why: --rejects FILE"
    click.echo(f"{rows:,} rows: {rows - rejected:,} scored, {rejected:,} rejected.{hint}")


def score_file(
    portal: Services, product: Product, source: str, target: str, rejects: str | None, scheduler: str | None = None
) -> tuple[int, int]:
    """Score a file into others; return how many rows it has, and how many of them were rejected."""
    refuse_overwriting(*(location.removeprefix(FILE_SCHEME) for location in (source, target, rejects) if location))
    input_file = input_at(source, product, *(location for location in (target, rejects) if location))
    work = Work(
        product=product,
        layout=input_file.layout,
        mapping=mapping_of(input_file, product),
        model=portal.models.serving(product),
    )
    with (
        closing(_parts(portal, work, input_file, scheduler)) as parts,
        writing(target) as write_scored,
        writing(rejects) if rejects else nullcontext(_discard) as write_rejected,
        progress_bar(console(stderr=True), product) as report,
    ):
        write_scored(scored_header(work))
        write_rejected(rejects_header(work.layout))
        rows = rejected = 0
        for done, part in parts:
            write_scored(part.scored)
            write_rejected(part.rejects)
            rows, rejected = rows + part.rows, rejected + part.rejected
            report(done, input_file.size, "Scoring")
        return rows, rejected


def mapping_of(input_file: Input, product: Product) -> dict[str, str]:
    """Map columns to factors by their names.

    `DataRefused` where two columns mean the same factor, or a required factor has no column.
    """
    try:
        factors = recognise(list(input_file.layout.header), product)
    except DataRefused as refused:
        raise DataRefused(f"{file_name(input_file.location)} {refused}") from None
    mapping = {column: factor for column, factor in factors.items() if factor != product.label.name}
    required = [entry.factor.name for entry in product.factors if entry.required]
    if missing := [factor for factor in required if factor not in mapping.values()]:
        raise DataRefused(
            f"{file_name(input_file.location)} has no column for {', '.join(missing)}: nothing can be scored."
        )
    return mapping


def _parts(portal: Services, work: Work, input_file: Input, scheduler: str | None) -> Generator[tuple[int, Part]]:
    if scheduler:
        yield from cluster.parts(scheduler, work, portal.config.models, input_file)
    else:
        yield from _here(work, input_file)


def _here(work: Work, input_file: Input) -> Generator[tuple[int, Part]]:
    """Score two blocks at a time: the kernels work on one while the text of the other is read and written."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        under_way: deque[tuple[int, Future[Part]]] = deque()
        for done, block in input_file.blocks():
            under_way.append((done, pool.submit(score_block, work, block)))
            if len(under_way) == AT_ONCE:
                read, part = under_way.popleft()
                yield read, part.result()
        for read, part in under_way:
            yield read, part.result()


def _discard(line: bytes) -> None:
    """Drop a line of rejects, where no file for them was named."""
