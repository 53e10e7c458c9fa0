"""`flask audit`: prove past decisions."""

import re
from pathlib import Path

import click

from bankportal.cli.common import FILE, reported, services, writing
from bankportal.files import replacing
from bankportal.services.audit import Head

HEAD = re.compile(r"([1-9][0-9]*):([0-9a-f]{64})")


class HeadType(click.ParamType[Head]):
    """An exported head on the command line, as `flask audit head` prints it."""

    name = "NUMBER:DIGEST"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Head:
        """Return the head."""
        if isinstance(value, Head):
            return value
        if not (found := HEAD.fullmatch(str(value))):
            self.fail("a head is NUMBER:DIGEST, as flask audit head prints it", param, ctx)
        return Head(int(found[1]), found[2])


@click.group()
def audit() -> None:
    """Check, recompute and export the recorded decisions."""


@audit.command()
@click.option("--head", type=HeadType(), help="A head exported earlier: finds a chain that was cut since.")
@reported
def verify(head: Head | None) -> None:
    """Check the chain of receipts; exit with 1 and name the first decision that is not as recorded."""
    last = services().audit.verify(head)
    click.echo(
        f"{last.number:,} receipts are right. Head: {last.number}:{last.digest}" if last else "No decisions yet."
    )


@audit.command()
@reported
def replay() -> None:
    """Recompute every decision from its input and model version; exit with 1 and name the first that differs."""
    click.echo(f"{services().audit.replay():,} decisions recomputed, equal to the last bit.")


@audit.command()
@reported
def head() -> None:
    """Print the chain's newest receipt; keep it where the portal cannot reach."""
    newest = services().decisions.head()
    click.echo(f"{newest.number}:{newest.digest}" if newest else "No decisions yet.")


@audit.command()
@click.argument("target", metavar="OUT", type=FILE)
@reported
def export(target: str) -> None:
    """Write the chain to OUT, a receipt a line; docs/verify_receipts.py checks it without the portal."""
    count = 0
    chain = services().audit.export()
    with writing(Path(target)), replacing(Path(target)) as file:
        for line in chain:
            file.write(f"{line}\n")
            count += 1
    click.echo(f"{target}: {count:,} receipts.")
