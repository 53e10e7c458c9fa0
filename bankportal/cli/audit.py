"""`flask audit`: prove past decisions."""

import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from rich.progress import Progress

from bankportal.cli.common import FILE, console, reported, services, writing
from bankportal.domain.receipt import Kind, Receipt
from bankportal.files import replacing
from bankportal.services.audit import Audit, Head, Report

FILES_GONE = 3  # the exit code where all that could be recomputed is equal, and something could not
NOTHING_YET = "Nothing was recorded yet."
HEAD = re.compile(r"([1-9][0-9]*):([0-9a-f]{64})")
DOING = {"verify": "Verifying", "replay": "Recomputing"}
REFRESHES = 2  # of a progress bar, a second: each costs milliseconds of processor


def _head(_context: click.Context, _option: click.Parameter, text: str | None) -> Head | None:
    """Read a head as `flask audit head` prints it."""
    if text is None:
        return None
    if not (match := HEAD.fullmatch(text)):
        raise click.BadParameter("a head is NUMBER:DIGEST, as flask audit head prints it")
    return Head(int(match[1]), match[2])


class _Stopped(BaseException):
    """A signal asked the command to end."""

    def __init__(self, number: int):
        self.number = number


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
    help="A head that was verified before: only what follows it is checked, and counts of decisions are not.",
)
@reported
def verify(head: Head | None, since: Head | None) -> None:
    """Check the chain of receipts; exit with 1 and name the first entry that is not as recorded.

    Entries are decisions, batches and events. Model versions, activations and declarations are compared with their
    events. Where the command is stopped, it says how to go on from there.
    """
    if head and since and head.number <= since.number:
        raise click.UsageError("--since checks its head as well: --head must be a later one.")
    portal = services().audit
    with _watched(portal, "verify", since, head) as report:
        verified = portal.verify(head, since, report)
    if verified.head is None:
        click.echo(NOTHING_YET)
        return
    newest = _written(verified.head)
    counts = _counted_all(verified.decisions, verified.batches, verified.events)
    receipts = f"since receipt {since.number:,}" if since else f"{verified.head.number:,} receipts"
    click.echo(f"{counts}, {receipts}: all right. Head: {newest}")


@audit.command()
@click.option(
    "--since",
    metavar="NUMBER:DIGEST",
    callback=_head,
    help="A head up to which all was recomputed before: only what follows it is.",
)
@reported
def replay(since: Head | None) -> None:
    """Recompute every decision and batch with its model version; exit with 1 and name the first that differs.

    A batch whose file was deleted is named and left out; exit with 3 if everything else is equal. Where the command is
    stopped, it says how to go on from there.
    """
    portal = services().audit
    skipped: list[str] = []
    try:
        with _watched(portal, "replay", since) as report:
            replayed = portal.replay(since, report, skipped.append)
    finally:
        for message in skipped:
            click.echo(message)
    place = f" since receipt {since.number:,}" if since else ""
    click.echo(f"{_counted(replayed.decisions, replayed.batches)}{place} recomputed, equal to the last bit.")
    if skipped:
        click.get_current_context().exit(FILES_GONE)


@contextmanager
def _watched(portal: Audit, command: str, since: Head | None, head: Head | None = None) -> Iterator[Report]:
    """Show on a terminal how many receipts are done; where a signal ends the work, say how to go on with it."""
    screen, newest, begin = console(stderr=True), portal.head(), since.number if since else 0
    reached: Head | Receipt | None = since

    def report(receipt: Receipt) -> None:
        nonlocal reached
        reached = receipt
        bar.update(task, completed=receipt.number - begin)

    try:
        with (
            _stopped_by_signals(),
            Progress(
                console=screen, transient=True, disable=not screen.is_terminal, refresh_per_second=REFRESHES
            ) as bar,
        ):
            task = bar.add_task(DOING[command], total=max(newest.number - begin, 0) if newest else 0)
            yield report
    except _Stopped as stopped:
        click.echo(_how_to_go_on(command, reached, head), err=True)
        click.get_current_context().exit(128 + stopped.number)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Raise `_Stopped` where Ctrl-C is pressed or the process is asked to end."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _how_to_go_on(command: str, reached: Head | Receipt | None, head: Head | None) -> str:
    """Say up to where all was right, and the command that does the rest."""
    if reached is None:
        return f"Stopped before much was done. Begin again with: flask audit {command}"
    later = f" --head {_written(head)}" if head and head.number > reached.number else ""
    rest = f"flask audit {command} --since {_written(reached)}{later}"
    return f"Stopped. Up to receipt {reached.number:,} all is right. Go on with: {rest}"


def _written(head: Head | Receipt) -> str:
    """Write a head as the options take it."""
    return f"{head.number}:{head.digest}"


def _counted(decisions: int, batches: int) -> str:
    return f"{decisions:,} decisions and {batches:,} batches"


def _counted_all(decisions: int, batches: int, events: int) -> str:
    return f"{decisions:,} decisions, {batches:,} batches and {events:,} events"


@audit.command()
@reported
def head() -> None:
    """Print the newest receipt of the chain. Keep it where the portal cannot write."""
    newest = services().audit.head()
    click.echo(_written(newest) if newest else NOTHING_YET)


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
