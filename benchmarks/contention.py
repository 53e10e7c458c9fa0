"""How long 8 writers and 16 readers wait for each other, and whether `kill -9` among them loses anything answered.

    python benchmarks/contention.py [--seconds 180] [--writers 8] [--readers 16] [--kill-every 3]

Each is a process that works without a pause, through the portal's own services: a writer scores and records one
decision after the other, a reader reads the overview's counts, a page of decisions and one decision in turn. A writer
is killed every few seconds and started anew. Writers note the number of each decision after it was answered; at the end
every noted decision must be there, and the chain of receipts must verify. On SQLite with the driver that the portal
chooses, beside the standard library's driver where that is another one, and on PostgreSQL where
BANKPORTAL_TEST_DATABASE_URL names a server. Writes `results.md` beside it.
"""

import argparse
import gc
import json
import multiprocessing
import os
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count, cycle
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from common import CHURN, Bar, bars, write
from sqlalchemy import create_engine, text

from bankportal import logs, wiring
from bankportal.cli.train import train_product
from bankportal.config import Config, load
from bankportal.domain.constraints import Source
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.schema import Customer, validate
from bankportal.outages import OUTAGE_ERRORS
from bankportal.simulation.simulate import SIMULATORS
from bankportal.sqlite import driver
from bankportal.store.migrate import upgrade

CUSTOMERS, SEED = 200, 17
PAGE = 50
WRITERS_BAR, READERS_BAR = 1.0, 0.3  # seconds, 99th percentile
CHOSEN, PYTHONS, POSTGRESQL = "SQLite", "SQLite of Python", "PostgreSQL"
POSTGRES = os.environ.get("BANKPORTAL_TEST_DATABASE_URL")
END, REFUSED = "end", "refused"
PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Waited:
    """What one kind of process did: how often, how long it took (seconds), and how often it was refused."""

    done: int
    p50: float
    p95: float
    p99: float
    most: float
    refused: int


@dataclass(frozen=True)
class Measured:
    """What came of one database."""

    library: str
    journal: str
    writers: Waited
    readers: Waited
    kills: int
    answered: int
    lost: int
    whole: bool


def customers() -> list[Customer]:
    """Return simulated customers."""
    columns = SIMULATORS["churn"](CUSTOMERS, SEED).columns
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    texts = (
        {name: "" if value is None or value != value else str(value) for name, value in row.items()} for row in rows
    )
    return [
        validate(CHURN, {name: row[name] for name in row if name != CHURN.label.name}, Source.TEXT) for row in texts
    ]


def writer(config: Config, folder: Path) -> None:
    """Decide, again and again."""
    portal, known, own, numbers = wiring.build(config), cycle(customers()), secrets.token_hex(8), count()
    portal.scoring.score(next(known))  # reads the model
    by = Provenance(Door.COMMAND)
    work(folder / f"writer-{own}", [lambda: portal.scoring.decide(next(known), f"{own} {next(numbers)}", by).id])


def reader(config: Config, folder: Path) -> None:
    """Read what pages read, again and again."""
    decisions = wiring.build(config).decisions
    read = [decisions.latest(1)[0].id]

    def counts() -> None:
        decisions.counts()

    def page() -> None:
        read[0] = decisions.page(None, None, PAGE).items[-1].id

    def decision() -> None:
        decisions.get(read[0])

    work(folder / f"reader-{secrets.token_hex(8)}", [counts, page, decision])


def work(notes: Path, acts: Sequence[Callable[[], str | None]]) -> None:
    """Do the acts in turn until the end; note how long each took, and what it answered or that it was refused.

    Each note is written at once: what stands there was answered, whatever becomes of the process.
    """
    gc.freeze()  # else the first full collection copies all memory that the processes share, as no server's would
    with notes.open("ab", buffering=0) as file:
        end = awaited_end(notes.with_name(END))
        for act in cycle(acts):
            if (begun := time.monotonic()) > end:
                break
            try:
                answer = act()
            except OUTAGE_ERRORS:
                answer = REFUSED
            file.write(f"{time.monotonic() - begun} {answer or ''}\n".encode())


def awaited_end(path: Path) -> float:
    """Wait until the work begins, and return when it ends."""
    while not path.exists():
        time.sleep(0.01)
    return float(path.read_text())


def noted(folder: Path, role: str) -> tuple[Waited, list[str]]:
    """Return what the processes of a role noted, and their answers; a last line that a kill cut off is no note."""
    texts = (path.read_text().rpartition("\n")[0] for path in folder.glob(f"{role}-*"))
    notes = [line.partition(" ") for text in texts for line in text.splitlines()]
    answers = [answer for _, _, answer in notes if answer not in {"", REFUSED}]
    p50, p95, p99, most = np.percentile([float(seconds) for seconds, _, _ in notes], [50, 95, 99, 100]).tolist()
    return Waited(len(notes), p50, p95, p99, most, sum(answer == REFUSED for _, _, answer in notes)), answers


def run(config: Config, folder: Path, options: argparse.Namespace) -> int:
    """Have all work, and kill one writer after the other; return how many were killed."""
    started = [_start(target, config, folder) for target, many in _roles(options) for _ in range(many)]
    while len(list(folder.iterdir())) < len(started):
        time.sleep(0.1)
    end = time.monotonic() + options.seconds
    unfinished = folder / f"{END}-unfinished"
    unfinished.write_text(str(end))
    unfinished.rename(folder / END)
    for kills in count():
        time.sleep(max(0, min(options.kill_every, end - time.monotonic())))
        if time.monotonic() >= end:
            break
        place = kills % options.writers
        started[place].kill()
        started[place].join()
        started[place] = _start(writer, config, folder)
    for process in started:
        process.join()
    return kills


def _roles(options: argparse.Namespace) -> list[tuple[Callable[[Config, Path], None], int]]:
    return [(writer, options.writers), (reader, options.readers)]


def _start(target: Callable[[Config, Path], None], config: Config, folder: Path) -> BaseProcess:
    process = PROCESSES.Process(target=target, args=(config, folder), daemon=True)
    process.start()
    return process


def measure(options: argparse.Namespace) -> Measured:
    """Measure one database, in this process's own settings."""
    PROCESSES.set_forkserver_preload(["bankportal.wiring", "bankportal.cli.train", "bankportal.training.training"])
    config = load()
    logs.configure(config)
    portal = wiring.build(config)
    upgrade(portal.database)
    version, digest = options.model
    portal.models.store.register(CHURN.key, version, digest, activate=True)
    some = [(customer, str(number), Provenance(Door.COMMAND)) for number, customer in enumerate(customers()[:PAGE])]
    portal.scoring.decide_all(some)
    with tempfile.TemporaryDirectory() as name:
        kills = run(config, Path(name), options)
        (writers, answered), (readers, _) = noted(Path(name), "writer"), noted(Path(name), "reader")
    ids = set(recorded(portal))
    sqlite = portal.database.engine.dialect.name == "sqlite"
    with portal.database.read() as connection:
        journal = connection.execute(text("PRAGMA journal_mode")).scalar_one() if sqlite else ""
        library = driver.sqlite_version if sqlite else connection.execute(text("SHOW server_version")).scalar_one()
    verified = portal.audit.verify().decisions
    portal.database.close()
    lost = sum(answer not in ids for answer in answered)
    return Measured(library, journal, writers, readers, kills, len(answered), lost, verified == len(ids))


def recorded(portal: wiring.Services) -> Iterator[str]:
    """Yield the numbers of all recorded decisions."""
    before = None
    while items := portal.decisions.page(None, before, 1_000).items:
        yield from (item.id for item in items)
        before = items[-1].id


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, dict[str, str]]]:
    """Yield the environment of each database that is measured."""
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "pysqlite3.py").write_text("raise ImportError('left out, to measure the standard library')\n")
    found = {CHOSEN: {"BANKPORTAL_DATABASE_URL": f"sqlite:///{folder / 'chosen.sqlite3'}"}}
    if driver is not sqlite3:
        address = f"sqlite:///{folder / 'python.sqlite3'}"
        found[PYTHONS] = {"BANKPORTAL_DATABASE_URL": address, "PYTHONPATH": str(hidden)}
    if not POSTGRES:
        yield found
        return
    name = f"bankportal_contention_{secrets.token_hex(6)}"
    server = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            address = server.url.set(database=name).render_as_string(hide_password=False)
            yield found | {POSTGRESQL: {"BANKPORTAL_DATABASE_URL": address}}
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def measured(options: argparse.Namespace) -> dict[str, Measured]:
    """Train a model and measure every database with it, each in a process of its own: the driver is one a process."""
    found = {}
    with tempfile.TemporaryDirectory() as name, databases(Path(name)) as environments:
        os.environ |= {"BANKPORTAL_INSTANCE": f"{name}/instance", "BANKPORTAL_SECRET_KEY": "for this benchmark alone"}
        portal = wiring.build(load())
        upgrade(portal.database)
        trained = train_product(portal, CHURN, activate=True)
        portal.explaining.warm_up()
        portal.database.close()
        arguments = [*sys.argv[1:], "--model", trained.version, trained.manifest_digest]
        for database in [each for each in environments if each in (options.only or environments)]:
            command = [sys.executable, __file__, *arguments]
            environment = os.environ | environments[database]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
            fields = json.loads(done.stdout.splitlines()[-1])
            fields |= {role: Waited(**fields[role]) for role in ("writers", "readers")}
            found[database] = Measured(**fields)
    return found


def table(found: dict[str, Measured]) -> str:
    """Write what each database's writers and readers waited."""
    heading = "| | | done | p50, ms | p95, ms | p99, ms | longest, ms | refused |"
    lines = [heading, "|---|---|---:|---:|---:|---:|---:|---:|"]
    for database, each in found.items():
        name = f"{database} ({each.library}{', ' if each.journal else ''}{each.journal})"
        for role, waited in (("writers", each.writers), ("readers", each.readers)):
            times = (waited.p50, waited.p95, waited.p99, waited.most)
            figures = " | ".join(f"{seconds * 1e3:,.1f}" for seconds in times)
            lines.append(f"| {name} | {role} | {waited.done:,} | {figures} | {waited.refused:,} |")
            name = ""
    return "\n".join(lines)


def required(database: str, each: Measured) -> list[Bar]:
    """Return what a database that is ours to choose must hold."""
    lost = f"{each.lost:,} of {each.answered:,}, {each.kills} kills"
    refused = each.writers.refused + each.readers.refused
    writers, readers = each.writers.p99, each.readers.p99
    return [
        Bar(f"{database}: writers, p99", f"< {WRITERS_BAR:g} s", f"{writers:.3f} s", writers < WRITERS_BAR),
        Bar(f"{database}: readers, p99", f"< {READERS_BAR:g} s", f"{readers:.3f} s", readers < READERS_BAR),
        Bar(f"{database}: refused", "0", f"{refused:,}", refused == 0),
        Bar(f"{database}: answered and lost", "0", lost, each.lost == 0),
        Bar(f"{database}: the chain verifies", "all", "all" if each.whole else "not all", each.whole),
    ]


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--readers", type=int, default=16)
    parser.add_argument("--kill-every", type=float, default=3, help="seconds between two kills of a writer")
    parser.add_argument("--only", action="append", choices=[CHOSEN, PYTHONS, POSTGRESQL], help="may be repeated")
    parser.add_argument("--model", nargs=2, help=argparse.SUPPRESS)  # measure this process's database
    options = parser.parse_args()
    if options.model:
        print(json.dumps(asdict(measure(options))))
        return
    found = measured(options)
    results = [bar for database, each in found.items() if database != PYTHONS for bar in required(database, each)]
    what = f"{options.writers} writers and {options.readers} readers for {options.seconds:g} s, without a pause."
    write("python benchmarks/contention.py", [what, bars(results), table(found)])


if __name__ == "__main__":
    main()
