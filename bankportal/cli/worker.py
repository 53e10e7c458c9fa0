"""`flask worker`: the processes that check and score uploaded files, beside the web server or on other machines.

One process keeps the others: each works in a process of its own, so that what kills one worker does not end the rest,
and one that died is started again.
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
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="How many work at the same time."
)
@click.option("--parent", type=int, hidden=True, help="End when the process of this number is no longer the parent.")
@reported
def worker(processes: int, parent: int | None) -> None:
    """Check and score uploaded files until stopped. Runs anywhere with the same database and storage settings.

    Ends on SIGTERM or Ctrl-C when the chunks in hand are done. A chunk that was lost goes to another worker.
    """
    config = load()
    logs.configure(config)
    stopping = _stopping_on_signals()
    keep(processes, stopping, lambda: parent is None or os.getppid() == parent)


def keep(processes: int, stopping: threading.Event, wanted: Callable[[], bool]) -> None:
    """Keep so many workers running until told to stop, or no longer wanted; then wait until they have ended."""
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
    """Work in this process until told to stop or the process that keeps it is no longer its parent."""
    config = load()
    logs.configure(config)
    stopping = _stopping_on_signals()
    threading.Thread(target=_stop_without, args=(keeper, stopping), daemon=True).start()
    services = wiring.build(config)
    if _wait_for_database(services, stopping):
        services.worker.run(stopping)
    services.database.close()


def _stopping_on_signals() -> threading.Event:
    """Return what SIGTERM and Ctrl-C set.

    Through a pipe and a thread: a handler runs in the midst of whatever the main thread does, and would wait for ever
    for a lock of the event that is held there.
    """
    stopping = threading.Event()
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def take() -> None:
        os.read(told, 1)
        stopping.set()

    threading.Thread(target=take, daemon=True).start()
    return stopping


def _stop_without(keeper: int, stopping: threading.Event) -> None:
    while os.getppid() == keeper:
        if stopping.wait(WATCH_EVERY):
            return
    stopping.set()


def _wait_for_database(services: wiring.Services, stopping: threading.Event) -> bool:
    """Wait until the database answers and has today's tables; `False` where told to stop before."""
    said = ""
    while not stopping.is_set():
        try:
            why = "" if wiring.is_migrated(services) else "it is not set up yet, or by another release. Run: flask up"
        except SQLAlchemyError as error:
            why = str(getattr(error, "orig", None) or error).strip()
        if not why:
            return True
        if why != said:
            log.warning("worker waits for the database", why=why)
            said = why
        stopping.wait(WAIT_FOR_DATABASE)
    return False
