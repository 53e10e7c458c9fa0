"""Does this release answer as an earlier one did, to the last bit?

Run: python benchmarks/same_bits.py [--before COMMIT] [--customers 5000]

The earlier release, taken from this repository's history, trains both products, scores a file and answers as many API
calls, each recorded. Today's release scores the same file and answers the same calls with those models, then verifies,
replays and exports what the earlier one recorded. Files, answers and export must be the same bytes. Both are used
through what they promise to keep: commands and the API.
"""

import argparse
import configparser
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEFORE = "12961bc"  # the last commit before the rooms were moved
PRODUCTS = ("churn", "allowance")
# Answers each customer of a file through the API, one line each; `record` says whether the answers are recorded.
ANSWER = """
import csv, json, sys
from pathlib import Path
from bankportal import create_app
product, source, target, record = sys.argv[1:]
client = create_app().test_client()
with Path(source).open(newline="", encoding="utf-8") as rows, Path(target).open("w", encoding="utf-8") as answers:
    for row in csv.DictReader(rows):
        customer = {name: json.loads(cell) if name not in {"CustomerId", "Surname", "Geography", "Gender"} else cell
                    for name, cell in row.items() if cell}
        reply = client.post(f"/api/v1/{product}/score?contributions=true&record={record}", json=customer,
                            base_url="http://127.0.0.1")
        assert reply.status_code in {200, 201}, reply.text
        answer = reply.get_json()
        answer.pop("decision")
        answers.write(json.dumps(answer) + "\\n")
"""


class Release:
    """One checkout of the portal, working in one instance folder."""

    def __init__(self, checkout: Path, instance: Path):
        self.environment = os.environ | {
            "PYTHONPATH": str(checkout),
            "FLASK_APP": "bankportal",
            "BANKPORTAL_INSTANCE": str(instance),
            "BANKPORTAL_SECRET_KEY": "for this comparison alone",
            "BANKPORTAL_DATABASE_URL": "",
        }

    def python(self, *arguments: str | Path) -> str:
        """Run Python on this release and return what it printed; what it logged stays on the screen if it fails."""
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment,
            cwd=tempfile.gettempdir(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{' '.join(map(str, arguments[:6]))} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def flask(self, *arguments: str | Path) -> str:
        """Run a `flask` command."""
        return self.python("-m", "flask", *arguments)


def name_commands(checkout: Path) -> None:
    """Tell Python which commands a checkout has: else it would look there for those of the installed release."""
    settings = configparser.ConfigParser()
    settings.read(checkout / "setup.cfg", encoding="utf-8")
    about = checkout / "bankportal-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: bankportal\nVersion: 0\n")
    commands = settings["options.entry_points"]["flask.commands"].strip()
    (about / "entry_points.txt").write_text(f"[flask.commands]\n{commands}\n")


def customers_of(release: Release, product: str, folder: Path, customers: int) -> Path:
    """Return a file of simulated customers without the label, every one with values of all factors that it has."""
    made = folder / f"{product}-made.csv"
    release.flask("data", "simulate", made, "--product", product, "--rows", str(customers), "--seed", "11")
    target = folder / f"{product}.csv"
    with made.open(newline="", encoding="utf-8") as source, target.open("w", newline="", encoding="utf-8") as out:
        rows = csv.DictReader(source)
        names = [name for name in rows.fieldnames or () if name not in {"Churn", "Repaid"}]
        writer = csv.DictWriter(out, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return target


def answered(release: Release, product: str, source: Path, folder: Path, *, record: bool) -> tuple[Path, Path]:
    """Return the scored file and the API's answers."""
    folder.mkdir(exist_ok=True)
    scored, answers = folder / f"{product}-scored.csv", folder / f"{product}-answers.jsonl"
    release.flask("score", product, source, scored)
    release.python("-c", ANSWER, product, source, answers, str(record).lower())
    return scored, answers


def main() -> None:
    """Compare and print a line for each thing compared; the exit code is 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, help="commit of the earlier release")
    parser.add_argument("--customers", type=int, default=5000, help="of each product")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkout = folder / "checkout"
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", ROOT, checkout], check=True)
        subprocess.run(["git", "-C", checkout, "checkout", "--quiet", options.before], check=True)
        name_commands(checkout)
        before, after = Release(checkout, folder / "instance"), Release(ROOT, folder / "instance-after")
        before.flask("up", "--help")  # says early where the earlier release does not start
        before.python(
            "-c",
            "from bankportal import wiring; from bankportal.config import load; "
            "from bankportal.store.migrate import upgrade; upgrade(wiring.build(load()).database)",
        )
        for product in PRODUCTS:
            before.flask("train", product)
        sources = {product: customers_of(before, product, folder, options.customers) for product in PRODUCTS}
        then = {p: answered(before, p, sources[p], folder / "before", record=True) for p in PRODUCTS}
        before.flask("audit", "export", folder / "before.jsonl")
        shutil.copytree(folder / "instance", folder / "instance-after")
        now = {p: answered(after, p, sources[p], folder / "after", record=False) for p in PRODUCTS}
        after.flask("audit", "export", folder / "after.jsonl")
        pairs = {
            f"{product}: {what} of {options.customers:,} customers": pair
            for product in PRODUCTS
            for what, pair in zip(
                ("scored file", "API answers"), zip(then[product], now[product], strict=True), strict=True
            )
        }
        equal = {what: other.read_bytes() == one.read_bytes() for what, (one, other) in pairs.items()}
        # What an upgrade adds to the chain stands after what the earlier release exported.
        one, other = folder / "before.jsonl", folder / "after.jsonl"
        equal["exported receipts"] = other.read_bytes().startswith(one.read_bytes())
        for what, same in equal.items():
            print(f"{what}: {'the same bytes' if same else 'DIFFERENT'}")
        print(after.flask("audit", "verify").strip())
        print(after.flask("audit", "replay").strip())
    sys.exit(not all(equal.values()))


if __name__ == "__main__":
    main()
