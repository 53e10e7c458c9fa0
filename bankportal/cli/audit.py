"""`flask audit`: prove past decisions."""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.progress import Progress

from bankportal.cli.common import FILE, console, reported, services, writing
from bankportal.domain.receipt import Kind
from bankportal.files import replacing
from bankportal.services.audit import Audit, Head, Report

FILES_GONE = 3  # the exit code where all that could be recomputed is equal, and something could not
NOTHING_YET = "Nothing was recorded yet."
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
@click.option(
    "--since",
    metavar="NUMBER:DIGEST",
    callback=_head,
    help="A head that was verified before: only what follows it is checked.",
)
@reported
def verify(head: Head | None, since: Head | None) -> None:
    """Check the chain of receipts; exit with 1 and name the first entry that is not as recorded.

    Entries are decisions, batches and events. Model versions, activations and declarations are compared with their
    events.
    """
    if head and since:
        raise click.UsageError("--since checks its head as well: give one of --head and --since.")
    portal = services().audit
    with _progress(portal, "Verifying") as report:
        verified = portal.verify(head, since, report)
    if verified.head is None:
        click.echo(NOTHING_YET)
        return
    newest = f"{verified.head.number}:{verified.head.digest}"
    counts = _counted_all(verified.decisions, verified.batches, verified.events)
    receipts = f"since receipt {since.number:,}" if since else f"{verified.head.number:,} receipts"
    click.echo(f"{counts}, {receipts}: all right. Head: {newest}")


@audit.command()
@reported
def replay() -> None:
    """Recompute every decision and batch with its model version; exit with 1 and name the first that differs.

    A batch whose file was deleted is named and left out; exit with 3 if everything else is equal.
    """
    portal = services().audit
    with _progress(portal, "Recomputing") as report:
        replayed = portal.replay(report)
    for message in replayed.skipped:
        click.echo(message)
    click.echo(f"{_counted(replayed.decisions, replayed.batches)} recomputed, equal to the last bit.")
    if replayed.skipped:
        click.get_current_context().exit(FILES_GONE)


@contextmanager
def _progress(portal: Audit, description: str) -> Iterator[Report]:
    """Show on a terminal how many receipts are done; elsewhere nothing."""
    screen, newest = console(stderr=True), portal.head()
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task(description, total=newest.number if newest else 0)
        yield lambda number: bar.update(task, completed=number)


def _counted(decisions: int, batches: int) -> str:
    return f"{decisions:,} decisions and {batches:,} batches"


def _counted_all(decisions: int, batches: int, events: int) -> str:
    return f"{decisions:,} decisions, {batches:,} batches and {events:,} events"


@audit.command()
@reported
def head() -> None:
    """Print the newest receipt of the chain. Keep it where the portal cannot write."""
    newest = services().audit.head()
    click.echo(f"{newest.number}:{newest.digest}" if newest else NOTHING_YET)


@audit.command()
@click.argument("target", metavar="OUT", type=FILE)
@reported
def export(target: str) -> None:
    """Write the chain to OUT, one receipt a line. docs/verify_receipts.py checks it without the portal."""
    counts = Counter[Kind]()
    with writing(Path(target)), replacing(Path(target)) as file:
        for kind, line in services().audit.export():
            file.write(f"{line}\n")
            counts[kind] += 1
    click.echo(f"{target}: {_counted_all(counts[Kind.DECISION], counts[Kind.BATCH], counts[Kind.EVENT])}.")
