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
    "--head",
    metavar="NUMBER:DIGEST",
    callback=_head,
    help="What `flask audit head` printed earlier: a chain that was cut since then is named.",
)
@reported
def verify(head: Head | None) -> None:
    """Check the chain of receipts; exit with 1 and name the first decision or batch that is not as recorded."""
    verified = services().audit.verify(head)
    if verified.head is None:
        click.echo("No decisions yet.")
        return
    newest = f"{verified.head.number}:{verified.head.digest}"
    counts = _counted(verified.decisions, verified.batches)
    click.echo(f"{counts}, {verified.head.number:,} receipts: all right. Head: {newest}")


@audit.command()
@reported
def replay() -> None:
    """Recompute every decision and batch with its model version; exit with 1 and name the first that differs.

    A batch whose file was deleted is named and left out; exit with 3 if everything else is equal.
    """
    replayed = services().audit.replay()
    for message in replayed.gone:
        click.echo(message)
    click.echo(f"{_counted(replayed.decisions, replayed.batches)} recomputed, equal to the last bit.")
    if replayed.gone:
        click.get_current_context().exit(FILES_GONE)


def _counted(decisions: int, batches: int) -> str:
    return f"{decisions:,} decisions and {batches:,} batches"


@audit.command()
@reported
def head() -> None:
    """Print the newest receipt of the chain. Keep it where the portal cannot write."""
    newest = services().audit.head()
    click.echo(f"{newest.number}:{newest.digest}" if newest else "No decisions yet.")


@audit.command()
@click.argument("target", metavar="OUT", type=FILE)
@reported
def export(target: str) -> None:
    """Write the chain to OUT, one receipt a line. docs/verify_receipts.py checks it without the portal."""
    batches = count = 0
    with writing(Path(target)), replacing(Path(target)) as file:
        for entry, line in services().audit.export():
            file.write(f"{line}\n")
            batches, count = batches + isinstance(entry, Job), count + 1
    click.echo(f"{target}: {_counted(count - batches, batches)}.")
