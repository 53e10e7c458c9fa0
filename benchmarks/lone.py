"""What one lone decision costs: bytes written and processor time, beside the release before decisions became compact.

    python benchmarks/lone.py [--before COMMIT] [--decisions 20000] [--lone 600]

The earlier release, taken from this repository's history, trains both products. Each release then fills a SQLite
database of its own through its services, and takes decisions one by one as the API takes a call that comes alone:
validated from typed values, scored, recorded and committed. Bytes are those of /proc/self/io, so this needs Linux; what
a checkpoint of SQLite's log writes later counts too. Writes `results.md` beside it.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from common import Bar, bars, write
from same_bits import PRODUCTS, ROOT, Release, customers_of, name_commands

BEFORE = "ce396aa"  # the last commit before decisions became compact
# Kilobytes (of 1,000 bytes) and milliseconds of processor time, user and system, for one decision.
MAX_KILOBYTES, MAX_MILLISECONDS = 40, 1.5
# The customers of the files, those of the two products in turn, again and again, each time as new submissions.
BEGIN = """
import csv, itertools, json, secrets, sys, time
from pathlib import Path
from bankportal import wiring
from bankportal.config import load
from bankportal.domain.constraints import Source
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.schema import validate
services = wiring.build(load())
wiring.upgrade(services)
products = services.declarations.portfolio()
count, without_key, keys = int(sys.argv[1]), sys.argv[2], sys.argv[3:5]
files = [list(csv.DictReader(open(path, newline="", encoding="utf-8"))) for path in sys.argv[5:]]
by_program = Provenance(Door.API, "a program")
customers = itertools.cycle(
    [validate(products[key], row, Source.TEXT) for rows in zip(*files) for key, row in zip(keys, rows)]
)

def token():
    return secrets.token_urlsafe(16)

def no_token():
    # What a release makes of a call of the API without an idempotency key, which nothing can repeat.
    return token() if without_key == "token" else None
"""
FILL = (
    BEGIN
    + """
for _ in range(0, count, 100):
    services.scoring.decide_all([(each, token(), by_program) for each in itertools.islice(customers, 100)])
"""
)
# Prints what one decision costs on average, then what parts of it cost that can be measured alone.
MEASURE = (
    BEGIN
    + """
TURNS = 3
typed = [(each.product, each.all_values()) for each in itertools.islice(customers, count)]
cost = {}

def written():
    services.database.close()  # the last connection brings SQLite's log into the database
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(number) for name, number in (line.split(": ") for line in lines)}

def milliseconds(work):
    turns = []
    for _ in range(TURNS):
        start = time.process_time()
        work()
        turns.append(time.process_time() - start)
    return min(turns) / count * 1e3

def validated():
    return [validate(product, values, Source.TYPED) for product, values in typed]

def decide(submission):
    for product, values in typed:
        services.scoring.decide(validate(product, values, Source.TYPED), submission(), by_program)

decide(token)  # loads the kernels, and what is loaded once
for who, submission in (("program", no_token), ("form", token)):
    before = written()
    cost[f"{who}, ms"] = milliseconds(lambda: decide(submission))
    after = written()
    for name in ("wchar", "write_bytes"):
        cost[f"{who}, {name}"] = (after[name] - before[name]) / (TURNS * count) / 1e3
cost["validate"] = milliseconds(validated)
known = validated()
cost["score"] = milliseconds(lambda: [services.scoring.score(each) for each in known])
by_product = sorted(known, key=lambda each: each.product.key)
groups = [by_product[first : first + 16] for first in range(0, count, 16)]
services.scoring.score_all(groups[0])  # loads the kernels of groups
cost["score a group"] = milliseconds(lambda: [services.scoring.score_all(group) for group in groups])
print(json.dumps(cost))
"""
)
WHO = {"program": "a call of the API without an idempotency key", "form": "a form, or a call with a key"}


def costs(release: Release, without_key: str, decisions: int, lone: int, files: list[Path]) -> dict[str, float]:
    """Fill a release's database and return what its lone decisions cost, in kilobytes and milliseconds."""
    release.python("-c", FILL, str(decisions), without_key, *PRODUCTS, *files)
    printed = release.python("-c", MEASURE, str(lone), without_key, *PRODUCTS, *files)
    measured: dict[str, float] = json.loads(printed.splitlines()[-1])
    measured["record"] = measured["program, ms"] - measured["validate"] - measured["score"]
    return measured


def limits(measured: dict[str, float], who: str) -> list[Bar]:
    """Return the bars of one kind of lone decision."""
    # What a process hands to the system, or the pages that then go to the disk: the larger of the two.
    kilobytes = max(measured[f"{who}, wchar"], measured[f"{who}, write_bytes"])
    milliseconds = measured[f"{who}, ms"]
    return [
        Bar(f"written: {WHO[who]}", f"≤ {MAX_KILOBYTES} kB", f"{kilobytes:.1f} kB", kilobytes <= MAX_KILOBYTES),
        Bar(
            f"processor time: {WHO[who]}",
            f"≤ {MAX_MILLISECONDS} ms",
            f"{milliseconds:.2f} ms",
            milliseconds <= MAX_MILLISECONDS,
        ),
    ]


def report(now: dict[str, float], then: dict[str, float], decisions: int, lone: int) -> list[str]:
    """Return the bars, and what both releases cost."""
    rows = [
        (f"{WHO[who]}: {what}", f"{who}, {key}")
        for who in WHO
        for what, key in (
            ("written by the process, kB", "wchar"),
            ("sent to the disk, kB", "write_bytes"),
            ("processor time, ms", "ms"),
        )
    ]
    rows += [
        ("of the first: validating, ms", "validate"),
        ("of the first: scoring, with contributions and reasons, ms", "score"),
        ("of the first: recording and committing, ms", "record"),
        ("beside it: scoring one of a group of 16, ms", "score a group"),
    ]
    lines = ["| a lone decision | before | now | share |", "|---|---:|---:|---:|"]
    lines += [f"| {what} | {then[key]:.3f} | {now[key]:.3f} | {now[key] / then[key]:.2f} |" for what, key in rows]
    what = (
        f"SQLite with {decisions:,} decisions of both products and more; {lone:,} decisions one by one, three times:"
        " the mean of what is written, the least processor time."
    )
    return [what, bars([bar for who in WHO for bar in limits(now, who)]), "\n".join(lines)]


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, help="commit of the earlier release")
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--lone", type=int, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkout = folder / "checkout"
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", ROOT, checkout], check=True)
        subprocess.run(["git", "-C", checkout, "checkout", "--quiet", options.before], check=True)
        name_commands(checkout)
        before, after = Release(checkout, folder / "before"), Release(ROOT, folder / "after")
        for product in PRODUCTS:
            before.flask("train", product)
        files = [customers_of(before, product, folder, 1_000) for product in PRODUCTS]
        shutil.copytree(folder / "before", folder / "after")
        then, now = (
            costs(release, without_key, options.decisions, options.lone, files)
            for release, without_key in ((before, "token"), (after, "no token"))
        )
    write("python benchmarks/lone.py", report(now, then, options.decisions, options.lone))


if __name__ == "__main__":
    main()
