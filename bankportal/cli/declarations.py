"""`flask declarations`: what the bank decides with, and how it changes that."""

from collections.abc import Iterable
from pathlib import Path

import click
from rich.table import Table

from bankportal.cli.common import EXISTING, console, no_model_yet, reported, services
from bankportal.domain.declaration import Declaration, Kind, needs_new_model
from bankportal.services.declaration_text import differences
from bankportal.services.declarations import DIGEST_SHOWN, Change, Declarations, Plan

FILES = click.argument("files", metavar="FILE…", type=EXISTING, nargs=-1, required=True)


@click.group()
def declarations() -> None:
    """List, check, compare, apply and withdraw the declarations of products and policies."""


@declarations.command("list")
@reported
def list_() -> None:
    """List what is in force, and what was withdrawn."""
    portal = services().declarations
    table = Table("kind", "key", "digest", "origin", "since", "")
    for change in portal.in_force():
        table.add_row(*_row(change), "")
    for change in portal.withdrawn():
        table.add_row(*_row(change), "withdrawn")
    console().print(table)


def _row(change: Change) -> tuple[str, ...]:
    at = f"{change.at:%Y-%m-%d %H:%M} UTC"
    return change.kind.value, change.key, change.digest[:DIGEST_SHOWN], change.origin.value, at


@declarations.command()
@click.argument("name", metavar="KEY|DIGEST")
@reported
def show(name: str) -> None:
    """Print a declaration as the file that a bank edits and applies: what is in force under KEY, or any by its DIGEST.

    A digest may be cut to its first six characters or more.
    """
    portal = services().declarations
    click.echo(portal.as_file(portal.find(name)), nl=False)


@declarations.command()
@FILES
@reported
def check(files: tuple[str, ...]) -> None:
    """Check declaration files together and print what they would change. Nothing is written."""
    plan = services().declarations.check(_read(files))
    _print_plan(plan, "would change")
    for why in plan.misfits.values():
        click.echo(f"A new model is needed: {why}")


@declarations.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@reported
def diff(before: str, after: str) -> None:
    """Print what differs between two declarations, each given as a file, a key in force or a digest."""
    portal = services().declarations
    one, other = _find(portal, before), _find(portal, after)
    lines = differences(one.content, other.content)
    for line in lines or ["Nothing differs."]:
        click.echo(line)
    if one.kind is other.kind is Kind.PRODUCT:
        for why in needs_new_model(portal.product(one), portal.product(other)):
            click.echo(f"A new model is needed: {why}.")


@declarations.command()
@FILES
@click.option(
    "--activate",
    metavar="VERSION",
    multiple=True,
    help="Model version that becomes active with the declaration; PRODUCT:VERSION where the files declare several.",
)
@click.option("--without-model", is_flag=True, help="Apply although no model can score by it: none does until then.")
@reported
def apply(files: tuple[str, ...], activate: tuple[str, ...], without_model: bool) -> None:
    """Put declaration files in force, all together or none. Running portals notice within a second."""
    portal, contents = services().declarations, _read(files)
    versions = _versions(portal, contents, activate)
    plan = portal.apply(contents, activate=versions, without_model=without_model)
    _print_plan(plan, "is in force")
    for product, version in versions.items():
        click.echo(f"{product} {version} is active.")
    for declared in (each.declaration for each in plan.changes if each.of_product and not each.before):
        product_in_force = portal.portfolio().get(declared.key)
        if product_in_force and not services().models.versions(product_in_force):
            click.echo(no_model_yet(product_in_force))


@declarations.command()
@click.argument("key")
@reported
def withdraw(key: str) -> None:
    """Take the product or policy KEY out of force. What was recorded under it stays; applying it brings it back."""
    declaration = services().declarations.withdraw(key)
    click.echo(f"{declaration.kind.value.capitalize()} {key} is withdrawn. It was {declaration.digest[:DIGEST_SHOWN]}.")


@declarations.command()
@click.argument("key")
@reported
def history(key: str) -> None:
    """List all that happened to the declarations of KEY, newest first."""
    table = Table("when", "what", "kind", "digest", "origin", "by")
    for change in services().declarations.history(key):
        kind, _, digest, origin, at = _row(change)
        table.add_row(at, "applied" if change.applied else "withdrawn", kind, digest, origin, change.actor)
    console().print(table)


def _read(files: Iterable[str]) -> dict[str, bytes]:
    return {file: Path(file).read_bytes() for file in files}


def _find(portal: Declarations, name: str) -> Declaration:
    """Return the declaration of a file, of a key in force or of a digest."""
    return portal.read(name, Path(name).read_bytes()) if Path(name).is_file() else portal.find(name)


def _versions(portal: Declarations, files: dict[str, bytes], texts: Iterable[str]) -> dict[str, str]:
    """Read `--activate`: a version alone is of the one product that the files declare."""
    versions = {}
    for text in texts:
        product, colon, version = text.rpartition(":")
        if not colon:
            products = [each.key for each in portal.check(files).declared if each.kind is Kind.PRODUCT]
            if len(products) != 1:
                raise click.UsageError(
                    f"--activate {text}: say of which product, as PRODUCT:VERSION. The files declare "
                    f"{', '.join(products) or 'none'}."
                )
            (product,) = products
        versions[product] = version
    return versions


def _print_plan(plan: Plan, what: str) -> None:
    """Print what a plan changes: a line for each declaration, and under it a line for each key."""
    if not plan.changes:
        click.echo("Nothing to do: all of it is in force.")
    for change in plan.changes:
        declaration = change.declaration
        name = f"{declaration.kind.value.capitalize()} {declaration.key}"
        new = "" if change.before else ", which is new"
        click.echo(f"{name} {what}: {declaration.digest[:DIGEST_SHOWN]}{new}.")
        for line in change.differences:
            click.echo(f"  {line}")
