"""`flask audit`: prove past decisions."""

import re
from pathlib import Path

import click

from bankportal.cli.common import FILE, reported, services, writing
from bankportal.domain.batch import Job
from bankportal.files import replacing
from bankportal.services.audit import Head

FILES_GONE = 3  # the exit code where all that could be recomputed is equal, and something could not
HEAD = re.compile(r"([1-9][0-9]*):([0-9a-f]{64})")


def _head(_context: click.Context, _option: click.Parameter, text: str | None) -> Head | None:
    """Read a head as `flask audit head` prints it."""
    if text is None:
        return None
    if not (match := HEAD.fullmatch(text)):
        raise click.BadParameter("a head is NUMBER:DIGEST, as flask audit head prints it")
    return Head(int(match[1]), match[2])


@click.group()
def audit() -> None:
    """Check, recompute and export the recorded decisions and batches."""


@audit.command()
@click.option(
    "--head", metavar="NUMBER:DIGEST", callback=_head, help="A head exported earlier: finds a chain that was cut since."
)
@reported
def verify(head: Head | None) -> None:
    """Check the chain of receipts; exit with 1 and name the first decision or batch that is not as recorded."""
    found = services().audit.verify(head)
    if found.head is None:
        click.echo("No decisions yet.")
        return
    last = f"{found.head.number}:{found.head.digest}"
    click.echo(f"{_counted(found.decisions, found.batches)}, {found.head.number:,} receipts: all right. Head: {last}")


@audit.command()
@reported
def replay() -> None:
    """Recompute every decision and batch with its model version; exit with 1 and name the first that differs.

    A batch of which a file was deleted is named and passed over; where all others are equal, exit with 3.
    """
    found = services().audit.replay()
    for gone in found.gone:
        click.echo(gone)
    click.echo(f"{_counted(found.decisions, found.batches)} recomputed, equal to the last bit.")
    if found.gone:
        click.get_current_context().exit(FILES_GONE)


def _counted(decisions: int, batches: int) -> str:
    return f"{decisions:,} decisions and {batches:,} batches"


@audit.command()
@reported
def head() -> None:
    """Print the chain's newest receipt; keep it where the portal cannot reach."""
    newest = services().audit.head()
    click.echo(f"{newest.number}:{newest.digest}" if newest else "No decisions yet.")


@audit.command()
@click.argument("target", metavar="OUT", type=FILE)
@reported
def export(target: str) -> None:
    """Write the chain to OUT, a receipt a line; docs/verify_receipts.py checks it without the portal."""
    batches = count = 0
    with writing(Path(target)), replacing(Path(target)) as file:
        for entry, line in services().audit.export():
            file.write(f"{line}\n")
            batches, count = batches + isinstance(entry, Job), count + 1
    click.echo(f"{target}: {_counted(count - batches, batches)}.")
