"""`flask train`: read, check, train, evaluate, register."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bankportal.cli.common import EXISTING, PRODUCT, console, reported, services
from bankportal.cli.data import require_simulator, simulate_to
from bankportal.domain.declaration import Kind
from bankportal.domain.errors import DataRefused
from bankportal.domain.products import Product
from bankportal.resources import resource
from bankportal.services.models import ModelVersion
from bankportal.simulation.simulate import simulates
from bankportal.wiring import Services

Report = Callable[[int, int, str], None]
# What a new portal is trained on until the bank has data of its own: shipped, or simulated with this seed.
SHIPPED = {"churn": "Final_bank.csv"}
MADE_ROWS = 10_000
MADE_SEED = 1


@click.command()
@click.argument("key", metavar="[PRODUCT]", required=False)
@click.option(
    "--data",
    "data_file",
    type=EXISTING,
    help="CSV, Parquet, Feather or Stata file with factors and label. Default: simulated customers, for products "
    "that have them.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the split and the forest."
)
@click.option(
    "--activate/--no-activate",
    default=None,
    help="Whether the new version becomes the active one. Default: only where none is active yet.",
)
@click.option(
    "--declaration",
    "declaration_file",
    metavar="FILE",
    type=EXISTING,
    help="Train by this declaration of the product, which is not in force yet. The version does not become active: "
    "flask declarations apply FILE --activate VERSION puts both in force together.",
)
@click.option("--allow-leakage", is_flag=True, help="Train even where one factor alone gives the label away.")
@reported
def train(
    key: str | None,
    data_file: str | None,
    seed: int,
    activate: bool | None,
    declaration_file: str | None,
    allow_leakage: bool,
) -> None:
    """Train a forest for PRODUCT, or for every product, evaluate it on held-out customers and register it."""
    if key is None and (data_file or declaration_file):
        raise click.UsageError("Say which product the file is for: flask train PRODUCT --data FILE")
    if declaration_file and activate:
        raise click.UsageError(
            "A version of a declaration that is not in force cannot be active: leave --activate out."
        )
    portal = services()
    if key:
        product = _declared(portal, key, declaration_file)
        activate = False if declaration_file else activate
        path = Path(data_file) if data_file else None
        train_product(portal, product, path, seed=seed, activate=activate, allow_leakage=allow_leakage)
        return
    for each in portal.declarations.portfolio().values():
        if simulates(each):
            train_product(portal, each, seed=seed, activate=activate, allow_leakage=allow_leakage)
        else:
            click.echo(f"{each.title} is left out: it needs data. flask train {each.key} --data FILE")


def _declared(portal: Services, key: str, file: str | None) -> Product:
    """Return the product of that key that is in force, or with a declaration file the one that it declares."""
    if file is None:
        product: Product = PRODUCT.convert(key, None, None)
        return product
    declaration = portal.declarations.read(file, Path(file).read_bytes())
    if (declaration.kind, declaration.key) != (Kind.PRODUCT, key):
        raise DataRefused(f"{file} declares the {declaration.kind.value} {declaration.key}, not the product {key}.")
    portal.declarations.record(declaration)
    return portal.declarations.product(declaration)


def train_product(
    portal: Services,
    product: Product,
    path: Path | None = None,
    *,
    seed: int = 0,
    activate: bool | None = None,
    allow_leakage: bool = False,
) -> ModelVersion:
    """Train, register and print one product's forest; without a file, from the simulated bank."""
    from bankportal.cli.figures import show_version
    from bankportal.data.report import check
    from bankportal.simulation.recipe import truth_for
    from bankportal.training.frames import read_file
    from bankportal.training.training import train as fit

    path = path or simulated_bank(portal, product)
    screen = console(stderr=True)
    screen.print(f"Training {product.key} on {path}")
    table = read_file(path, product)
    for line in check(table).lines()[:-1]:
        screen.print(f"  {line}")
    simulated = truth_for(path)
    ceiling = {"achievable": simulated.achievable, "truth": simulated.truth} if simulated else None
    with progress_bar(screen, product) as report:
        trained = fit(table, seed=seed, allow_leakage=allow_leakage, progress=report, ceiling=ceiling)
    version = portal.models.add(trained, activate=activate)
    show_version(version)
    click.echo(_next_step(version, portal.declarations.portfolio().get(product.key)))
    return version


def _next_step(version: ModelVersion, in_force: Product | None) -> str:
    key, name = version.product.key, f"{version.product.title} {version.version}"
    if version.active:
        return f"{name} is active.\n"
    use = f"flask models activate {key} {version.version}"
    if in_force is None or in_force.digest != version.product.digest:
        use = f"flask declarations apply FILE --activate {version.version}"
    return f"{name} is registered. To use it: {use}\n"


def simulated_bank(portal: Services, product: Product) -> Path:
    """Return the file a new portal is trained on; simulated in the instance folder where none is shipped.

    Raises `DataRefused` where nobody knows how to simulate the product's customers.
    """
    require_simulator(product)
    if product.key in SHIPPED:
        return resource("migrations_data") / SHIPPED[product.key]
    path = portal.config.data / f"{product.title}.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        simulate_to(path, product, MADE_ROWS, MADE_SEED)
    return path


@contextmanager
def progress_bar(screen: Console, product: Product) -> Iterator[Report]:
    """Show progress: a bar on a terminal, elsewhere a line for each tenth."""
    if not screen.is_terminal:
        yield _Lines(screen)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen) as bar:
        task = bar.add_task(product.key)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)


class _Lines:
    """Progress as lines, for logs."""

    def __init__(self, screen: Console):
        self.screen = screen
        self.last = ""

    def __call__(self, done: int, total: int, text: str) -> None:
        line = f"  {text}: {done * 10 // total * 10}%"
        if line != self.last:
            self.last = line
            self.screen.print(line)
