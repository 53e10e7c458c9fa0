"""How long the databases of the release before take to be migrated, and that nothing is lost, interrupted or not.

    python benchmarks/migrate.py [--decisions 1000000]

The release before (from this repository's history) trains both products and records decisions through its own services;
its database is then brought to this release's tables by a process that is killed once in the middle and started again.
Verified before by the old release and after by this one, with the same head. On SQLite, and with 100,000 at most on
PostgreSQL where BANKPORTAL_TEST_DATABASE_URL names a server. Writes `results.md` beside it.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from audit import addresses
from common import Bar, bars, write
from same_bits import PRODUCTS, ROOT, Release, customers_of, name_commands

BEFORE = "ce396aa"  # the last commit before decisions became compact
MINUTES = 5.0  # a million decisions
POSTGRESQL_DECISIONS = 100_000  # at most: the release before takes its time to record them
# Records the customers of the files again and again, those of the two products in turn.
FILL = """
import csv, itertools, sys
from bankportal import wiring
from bankportal.config import load
from bankportal.domain.constraints import Source
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.schema import validate
services, by = wiring.build(load()), Provenance(Door.COMMAND)
portfolio = services.declarations.portfolio()
rows = [list(csv.DictReader(open(path, newline="", encoding="utf-8"))) for path in sys.argv[2:4]]
customers = [[validate(portfolio[key], row, Source.TEXT) for row in own] for key, own in zip(sys.argv[4:], rows)]
turns = itertools.cycle(itertools.chain.from_iterable(zip(*customers)))
for start in range(0, int(sys.argv[1]), 500):
    services.scoring.decide_all([(next(turns), str(start + place), by) for place in range(500)])
"""
# Prints how far it is after each transaction that copies rows.
MIGRATE = """
from bankportal import wiring
from bankportal.config import load
from bankportal.store.migrate import upgrade
upgrade(wiring.build(load()).database, lambda done, total: print(done, total, flush=True))
"""
HEAD = """
from bankportal import wiring
from bankportal.config import load
verified = wiring.build(load()).audit.verify()
print(verified.decisions, f"{verified.head.number}:{verified.head.digest}")
"""


def migrated(release: Release, kill_at: float) -> tuple[float, int]:
    """Migrate, or be killed at a share of the way; return the seconds and how many reports of progress came."""
    reports, started = 0, time.perf_counter()
    command = [sys.executable, "-c", MIGRATE]
    with subprocess.Popen(command, env=release.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done, total = map(int, line.split())
            reports += 1
            if done > kill_at * total:
                process.send_signal(signal.SIGKILL)
                break
    if process.returncode not in {0, -signal.SIGKILL}:
        raise SystemExit(f"migrating ended with {process.returncode}")
    return time.perf_counter() - started, reports


def measured(folder: Path, checkout: Path, address: str, decisions: int) -> tuple[float, bool, str]:
    """Return the minutes a million decisions took, whether the chain is what it was, and the facts in words."""
    before, after = Release(checkout, folder), Release(ROOT, folder)
    for release in (before, after):
        release.environment["BANKPORTAL_DATABASE_URL"] = address
    for product in PRODUCTS:
        before.flask("train", product)
    sources = [customers_of(before, product, folder, 10_000) for product in PRODUCTS]
    before.python("-c", FILL, str(decisions), *sources, *PRODUCTS)
    then = before.python("-c", HEAD).split()
    halves = [migrated(after, kill_at) for kill_at in (0.5, 1.0)]
    now = after.python("-c", HEAD).split()
    seconds, reports = (sum(each) for each in zip(*halves, strict=True))
    facts = f"{decisions:,} decisions: {seconds:.0f} s, killed once on the way, {reports} reports of progress"
    return seconds / 60 / decisions * 1e6, then == now and then[0] == str(decisions), facts


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    options = parser.parse_args()
    results, lines = [], []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, addresses(Path(name)) as databases:
        checkout = Path(name) / "checkout"
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", ROOT, checkout], check=True)
        subprocess.run(["git", "-C", checkout, "checkout", "--quiet", BEFORE], check=True)
        name_commands(checkout)
        for database, address in databases.items():
            folder = Path(name) / database
            folder.mkdir()
            decisions = options.decisions if database == "SQLite" else min(options.decisions, POSTGRESQL_DECISIONS)
            minutes, whole, facts = measured(folder, checkout, address, decisions)
            bar = f"≤ {MINUTES:g} minutes a million decisions"
            results.append(Bar(f"migrating, {database}", bar, f"{minutes:.1f} minutes", minutes <= MINUTES))
            what = "the same decisions verify, with the same head"
            results.append(Bar(f"afterwards, {database}", what, "so it is" if whole else "not so", whole))
            lines.append(f"- {database}: {facts}")
    what = f"From the tables of {BEFORE} by this release's migrations; wall-clock time of both halves, start included."
    write("python benchmarks/migrate.py", [what, bars(results), "\n".join(lines)])


if __name__ == "__main__":
    main()
