"""`flask worker`: the processes that check and score uploaded files, beside the web server or on other machines.

A supervising process starts the workers and starts those again that died. Each worker is a process of its own, so that
what kills one does not end the others.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import click
import structlog
from sqlalchemy.exc import SQLAlchemyError

from bankportal import logs, wiring
from bankportal.cli.common import reported
from bankportal.config import load

WORK = "import sys; from bankportal.cli.worker import work; work(int(sys.argv[1]))"
WATCH_EVERY = 0.5  # seconds
RESTART_AFTER = 2.0  # seconds, so that a worker that cannot start does not spin
WAIT_FOR_DATABASE = 2.0  # seconds

log = structlog.get_logger()


@click.command()
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of workers at the same time."
)
@click.option("--parent", type=int, hidden=True, help="End when this process is no longer the parent.")
@reported
def worker(processes: int, parent: int | None) -> None:
    """Check and score uploaded files until stopped. Runs on any machine with the same database and storage settings.

    SIGTERM or Ctrl-C ends it once the chunks at work are done. Another worker takes over a chunk whose worker died.
    """
    config = load()
    logs.configure(config)
    stopping = _stopping_on_signals()
    keep(processes, stopping, lambda: parent is None or os.getppid() == parent)


def keep(processes: int, stopping: threading.Event, wanted: Callable[[], bool]) -> None:
    """Keep this many workers running until `stopping` is set or `wanted` says no; then wait until they have ended."""
    kept = [_start() for _ in range(processes)]
    try:
        while not stopping.wait(WATCH_EVERY) and wanted():
            for place, process in enumerate(kept):
                if process.poll() is not None:
                    log.error("worker died", process=process.pid, status=process.returncode)
                    stopping.wait(RESTART_AFTER)
                    kept[place] = _start()
    finally:
        for process in kept:
            process.terminate()
        for process in kept:
            process.wait()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORK, str(os.getpid())])  # noqa: S603  # ourselves


def work(keeper: int) -> None:
    """Work in this process until a signal says stop, or the supervising process is no longer its parent."""
    config = load()
    logs.configure(config)
    stopping = _stopping_on_signals()
    threading.Thread(target=_stop_without, args=(keeper, stopping), daemon=True).start()
    services = wiring.build(config)
    if _wait_for_database(services, stopping):
        services.worker.run(stopping)
    services.database.close()


def _stopping_on_signals() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set.

    A signal handler interrupts the main thread at any point. If it set the event itself while the main thread holds the
    event's lock, it would wait for ever. So a pipe wakes a thread, and the thread sets the event.
    """
    stopping = threading.Event()
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def wait_for_signal() -> None:
        os.read(read_end, 1)
        stopping.set()

    threading.Thread(target=wait_for_signal, daemon=True).start()
    return stopping


def _stop_without(keeper: int, stopping: threading.Event) -> None:
    while os.getppid() == keeper:
        if stopping.wait(WATCH_EVERY):
            return
    stopping.set()


def _wait_for_database(services: wiring.Services, stopping: threading.Event) -> bool:
    """Wait until the database answers and has the tables of this release; `False` where `stopping` is set before."""
    logged = ""
    while not stopping.is_set():
        try:
            why = "" if wiring.is_migrated(services) else "it is not set up yet, or by another release. Run: flask up"
        except SQLAlchemyError as error:
            why = str(getattr(error, "orig", None) or error).strip()
        if not why:
            return True
        if why != logged:
            log.warning("worker waits for the database", why=why)
            logged = why
        stopping.wait(WAIT_FOR_DATABASE)
    return False
