"""`flask models`: which versions are registered, which is active, whether their files are as registered."""

from pathlib import Path

import click
from rich.table import Table

from bankportal.cli.common import FILE, PRODUCT, console, reported, services, writing
from bankportal.domain import reasons_file
from bankportal.domain.products import Product
from bankportal.services.models import ModelVersion


@click.group()
def models() -> None:
    """List, show, activate and verify model versions."""


@models.command("list")
@reported
def list_() -> None:
    """List all registered versions, newest first."""
    table = Table("product", "version", "active", "trained", "AUC on held-out customers", "customers")
    portal = services()
    for product in portal.declarations.portfolio().values():
        for version in portal.models.versions(product):
            table.add_row(*_row(version))
    console().print(table)


def _row(version: ModelVersion) -> tuple[str, ...]:
    auc = version.evaluation["auc"]
    return (
        version.product.key,
        version.version,
        "active" if version.active else "",
        f"{version.trained_at:%Y-%m-%d %H:%M} UTC",
        f"{auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f})",
        f"{version.evaluation['rows_train'] + version.evaluation['rows_test']:,}",
    )


@models.command()
@click.argument("product", type=PRODUCT)
@click.argument("version", required=False)
@reported
def show(product: Product, version: str | None) -> None:
    """Show the figures of a version, by default the active one."""
    from bankportal.cli.figures import show_version

    portal = services()
    show_version(portal.models.get(product, version) if version else portal.models.active(product))


@models.command()
@click.argument("product", type=PRODUCT)
@click.argument("version")
@reported
def activate(product: Product, version: str) -> None:
    """Make VERSION the active one. Running portals notice without a restart."""
    activated = services().models.activate(product, version)
    click.echo(f"{product.title} {activated.version} is active.")


@models.command()
@click.argument("product", type=PRODUCT)
@click.argument("version")
@click.argument("target", metavar="OUT", type=FILE)
@reported
def export(product: Product, version: str, target: str) -> None:
    """Write VERSION to OUT for use outside the portal, in a notebook for instance.

    joblib.load(OUT) is a scikit-learn classifier. Its predict_proba takes a data frame of the product's factors and
    gives the portal's scores, to the last bit. What joblib loads may run code: the portal never loads such a file.
    """
    from bankportal.training.export import export_model

    portal = services()
    known = portal.models.get(product, version)
    model = portal.models.registry.model(product, version, known.manifest_digest)
    with writing(Path(target)):
        export_model(product, model, Path(target))
    click.echo(f"{target}: {product.title} model {version}.")


@models.command()
@reported
def reasons() -> None:
    """Print the words of all reasons in the form of reasons.toml.

    A bank edits that file and puts it into the instance folder.
    """
    click.echo(reasons_file.to_toml(services().declarations.portfolio()), nl=False)


@models.command()
@reported
def verify() -> None:
    """Check the files of all versions; exit with 1 if one is not as registered."""
    portal = services()
    faults = 0
    for product in portal.declarations.portfolio().values():
        for version, fault in portal.models.verify(product).items():
            click.echo(fault or f"{product.title} model {version} is right.", err=bool(fault))
            faults += bool(fault)
    if faults:
        raise SystemExit(1)
