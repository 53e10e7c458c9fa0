"""Processor time of `flask audit verify` and `flask audit replay`, beside release 0.1.0 on the same records.

    python benchmarks/audit.py [--before COMMIT] [--decisions 20000]

The earlier release, taken from this repository's history, trains both products and records the decisions through its
own services, in groups of 16; it verifies and replays them, and today's release then does the same on the same
database. On SQLite, and on PostgreSQL where BANKPORTAL_TEST_DATABASE_URL names a server. Writes `results.md` beside it.
"""

import argparse
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import Bar, bars, write
from same_bits import BEFORE, PRODUCTS, ROOT, Release, customers_of, name_commands
from sqlalchemy import create_engine, text

POSTGRES = os.environ.get("BANKPORTAL_TEST_DATABASE_URL")
# Milliseconds of processor time a decision: a quarter of what was measured when the bars were set (0.26 and 0.84 ms).
BARS = {"verify": 0.07, "replay": 0.21}
# Records the customers of the files, those of the two products in turn.
FILL = """
import csv, itertools, sys
from bankportal import wiring
from bankportal.config import load
from bankportal.domain import constraints
from bankportal.domain.products import PRODUCTS
from bankportal.domain.schema import validate
text = (getattr(constraints, "Source", None) or constraints.Door).TEXT
services = wiring.build(load())
files = [csv.DictReader(open(path, newline="", encoding="utf-8")) for path in sys.argv[1:]]
customers = (validate(product, row, text) for rows in zip(*files) for product, row in zip(PRODUCTS.values(), rows))
submissions = map(str, itertools.count())
while group := [(customer, next(submissions)) for customer in itertools.islice(customers, 16)]:
    services.scoring.decide_all(group)
"""
# Prints each command's processor seconds, the least of three turns: the first one compiles or loads the kernels.
MEASURE = """
import json, time
from bankportal import wiring
from bankportal.config import load
from bankportal.store.migrate import upgrade
services = wiring.build(load())
upgrade(services.database)
for work in (services.audit.verify, services.audit.replay):
    turns = []
    for _ in range(3):
        start = time.process_time()
        decisions = work().decisions
        turns.append(time.process_time() - start)
    print(json.dumps([work.__name__, decisions, min(turns)]))
"""


@contextmanager
def addresses(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the addresses of empty databases, by the name of what keeps them."""
    found = {"SQLite": f"sqlite:///{folder / 'audit.sqlite3'}"}
    if not POSTGRES:
        yield found
        return
    name = f"bankportal_audit_{secrets.token_hex(6)}"
    server = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield found | {"PostgreSQL": server.url.set(database=name).render_as_string(hide_password=False)}
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def milliseconds(release: Release) -> dict[str, float]:
    """Return each command's processor time a decision."""
    lines = map(json.loads, release.python("-c", MEASURE).splitlines()[-2:])
    return {command: seconds / decisions * 1e3 for command, decisions, seconds in lines}


def measured(folder: Path, checkout: Path, address: str, decisions: int) -> tuple[dict[str, float], dict[str, float]]:
    """Fill a database by the earlier release and return what both releases take."""
    before, after = Release(checkout, folder), Release(ROOT, folder)
    for release in (before, after):
        release.environment["BANKPORTAL_DATABASE_URL"] = address
    for product in PRODUCTS:
        before.flask("train", product)
    before.python("-c", FILL, *(customers_of(before, product, folder, decisions // 2) for product in PRODUCTS))
    return milliseconds(before), milliseconds(after)


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, help="commit of the earlier release")
    parser.add_argument("--decisions", type=int, default=20_000)
    options = parser.parse_args()
    results, lines = [], ["| | 0.1.0, ms | now, ms | share |", "|---|---:|---:|---:|"]
    with tempfile.TemporaryDirectory() as name, addresses(Path(name)) as databases:
        checkout = Path(name) / "checkout"
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", ROOT, checkout], check=True)
        subprocess.run(["git", "-C", checkout, "checkout", "--quiet", options.before], check=True)
        name_commands(checkout)
        for database, address in databases.items():
            folder = Path(name) / database
            folder.mkdir()
            then, now = measured(folder, checkout, address, options.decisions)
            for command, most in BARS.items():
                what, taken = f"flask audit {command}, {database}", now[command]
                results.append(Bar(what, f"≤ {most} ms a decision", f"{taken:.3f} ms", taken <= most))
                lines.append(f"| {what} | {then[command]:.3f} | {taken:.3f} | {taken / then[command]:.2f} |")
    what = f"Processor time a decision, {options.decisions:,} decisions of both products; the least of three turns."
    write("python benchmarks/audit.py", [what, bars(results), "\n".join(lines)])


if __name__ == "__main__":
    main()
