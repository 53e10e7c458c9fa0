"""`flask data`: simulate customers, add behavioural factors to a real file, check a file before training."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table as Printed

from bankportal.cli.common import EXISTING, FILE, KNOWN_PRODUCT, console, refuse_overwriting, reported, writing
from bankportal.domain.errors import DataRefused
from bankportal.domain.products import Product
from bankportal.simulation import customers
from bankportal.simulation.recipe import Recipe, augment_file, simulate_file, write_csv
from bankportal.simulation.simulate import simulates

if TYPE_CHECKING:
    from bankportal.data.reading import Table
    from bankportal.data.report import Report

SEED = click.IntRange(0, 2**31 - 1)
BEST_SHOWN = 5


@click.group()
def data() -> None:
    """Simulate, augment and check data files."""


@data.command()
@click.argument("target", metavar="OUT", type=FILE)
@click.option(
    "--product",
    type=KNOWN_PRODUCT,
    default=customers.PRODUCT,
    show_default=True,
    help="Product whose customers are simulated.",
)
@click.option(
    "--rows", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="Number of customers."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="The same seed and rows give the same bytes.")
@click.option("--base", is_flag=True, help="Only the base factors, as in the public Churn.csv.")
@reported
def simulate(target: str, product: Product, rows: int, seed: int, base: bool) -> None:
    """Write simulated customers to OUT, and beside it the recipe that they were made by."""
    if base and product.key != customers.PRODUCT:
        raise click.UsageError(f"--base goes with --product {customers.PRODUCT} alone.")
    require_simulator(product)
    simulate_to(Path(target), product, rows, seed, base=base)


def require_simulator(product: Product) -> None:
    """Raise `DataRefused` where nobody knows how to simulate a product's customers."""
    if not simulates(product):
        raise DataRefused(
            f"There are no simulated customers for {product.title}. Train on the bank's own: "
            f"flask train {product.key} --data FILE"
        )


def simulate_to(path: Path, product: Product, rows: int, seed: int, *, base: bool = False) -> None:
    """Write a simulated file and print how well the best model could do on it."""
    with writing(path):
        _, recipe = simulate_file(path, product.key, rows, seed, base=base)
    click.echo(f"{path}: {rows:,} simulated customers, seed {seed}.")
    _print_ceilings(recipe)


@data.command()
@click.argument("source", metavar="IN", type=EXISTING)
@click.argument("target", metavar="OUT", type=FILE)
@click.option("--seed", type=SEED, default=0, show_default=True, help="The same seed and file give the same bytes.")
@reported
def augment(source: str, target: str, seed: int) -> None:
    """Add the behavioural factors that the churn file IN lacks, drawn from the simulator's model, and write OUT.

    IN is CSV, Parquet, Feather or Stata; OUT is CSV.
    """
    from bankportal.training.frames import read_file

    refuse_overwriting(source, target)
    product = KNOWN_PRODUCT.convert(customers.PRODUCT, None, None)
    require_simulator(product)
    table = read_file(source, product)
    if table.problems:  # rows are not dropped in silence
        raise DataRefused(
            f"{table.name} has {table.rejected:,} rows that cannot be read, the first at {table.problems[0]}. "
            f"All of them: flask data check {source} --product {product.key} --problems FILE"
        )
    if table.label is None:
        raise DataRefused(
            f"{table.name} has no label column {product.label.name}, on which the behaviours to draw depend."
        )
    with writing(Path(target)):
        recipe = augment_file(Path(source), table, Path(target), seed)
    added = [factor.name for factor in product.scored if factor.behavioural and factor.name not in table.columns]
    click.echo(f"{target}: {recipe.rows:,} customers; added {', '.join(added) or 'nothing'}.")
    if table.unknown:
        click.echo(f"  left out, as they are no factors: {', '.join(table.unknown)}")
    _print_ceilings(recipe)


@data.command()
@click.argument("file", type=EXISTING)
@click.option(
    "--product", type=KNOWN_PRODUCT, default=customers.PRODUCT, show_default=True, help="Product that the file is for."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--problems", metavar="OUT", type=FILE, help="Write every bad cell to this CSV file.")
@reported
def check(file: str, product: Product, as_json: bool, problems: str | None) -> None:
    """Report what FILE holds, what is wrong with it, and which factors give the label away.

    FILE is CSV, Parquet, Feather or Stata. Exits with 1 where it is not fit for training.
    """
    from bankportal.data.report import check as report_on
    from bankportal.training.frames import read_file

    refuse_overwriting(file, problems)
    table = read_file(file, product)
    report = report_on(table)
    if problems:
        _write_problems(table, Path(problems))
    _print_report(report, as_json=as_json)
    if not report.fit_for_training:
        click.get_current_context().exit(1)


def _write_problems(table: "Table", path: Path) -> None:
    from bankportal.training import frames

    with writing(path):
        write_csv(path, {str(name): column.to_numpy() for name, column in frames.problems(table).items()})


def _print_report(report: "Report", *, as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1, default=str))
        return
    for line in report.lines():
        click.echo(line)
    separations = Printed("factor", "AUC alone", title="What separates the label best")
    for separation in report.separations[:BEST_SHOWN]:
        separations.add_row(separation.factor, f"{separation.auc:.3f}{' leak' if separation.leaks else ''}")
    console().print(separations)
    click.echo("Fit for training." if report.fit_for_training else "Not fit for training as it is.")


def _print_ceilings(recipe: Recipe) -> None:
    if recipe.achievable and recipe.truth:
        click.echo(
            f"  best achievable from its columns: AUC {recipe.achievable.auc:.4f}, Brier {recipe.achievable.brier:.4f}"
        )
        click.echo(f"  knowing the latent state:         AUC {recipe.truth.auc:.4f}, Brier {recipe.truth.brier:.4f}")
