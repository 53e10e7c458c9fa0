"""Schemathesis against running portals, all its phases: no server error, nothing that the document does not say.

    python benchmarks/fuzz.py http://localhost:8000 --cases 10000

One address for each engine. Records decisions: never point it at a portal that is in use.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import schemathesis
from pydantic import ValidationError

from bankportal.answers import KEY
from bankportal.api.operations import operations_of
from bankportal.api.parameters import ONE_ID, Keyed
from bankportal.domain.portfolio import shipped_portfolio

SEED = 20261122
# Too large (413) is a refusal like others. No schema can say which files are CSV files with these columns, so that a
# refusal of a batch proves nothing.
SETTINGS = """\
[checks]
negative_data_rejection.expected-statuses = ["4xx"]

[[operations]]
include-operation-id = "create-batch"
checks.positive_data_acceptance.enabled = false
"""
# Besides these, the other phases add a thousand cases or so of their own.
OPERATION_COUNT = len(operations_of(shipped_portfolio()))


@dataclass(frozen=True)
class Result:
    """What a run found: how many cases it made, and all it said."""

    passed: bool
    cases: int
    said: str


def run(address: str, cases: int, uncovered: Sequence[str] = ()) -> Result:
    """Try a portal with about `cases` cases, always the same ones; of `uncovered` operations without the coverage."""
    program = str(Path(sys.executable).with_name("schemathesis"))
    examples = max(1, cases // OPERATION_COUNT)
    options = [f"--max-examples={examples}", f"--seed={SEED}", "--generation-database=none", "--continue-on-failure"]
    options += ["--request-timeout=120", "--suppress-health-check=too_slow"]  # how fast is measured elsewhere
    hooks = {"SCHEMATHESIS_HOOKS": Path(__file__).stem, "PYTHONPATH": str(Path(__file__).parent)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "schemathesis.toml").write_text(settings(uncovered), encoding="utf-8")
        done = subprocess.run(
            [program, "run", f"{address}/openapi.json", "--no-color", *options],
            env=os.environ | hooks,
            cwd=folder,
            text=True,
            capture_output=True,
            check=False,
        )
    made = re.search(r"([\d,]+) generated", done.stdout)
    return Result(done.returncode == 0, int(made[1].replace(",", "")) if made else 0, done.stdout + done.stderr)


def settings(uncovered: Sequence[str]) -> str:
    """Return the settings of Schemathesis, in its own format."""
    left_out = (
        f'[[operations]]\ninclude-operation-id = "{each}"\nphases.coverage.enabled = false\n' for each in uncovered
    )
    return "\n".join([SETTINGS, *left_out])


def fresh_keys(context: Any, case: Any, kwargs: Any) -> None:
    """Give each case a key of its own: the same key with other content is refused, as the document says."""
    with suppress(ValidationError):
        if Keyed.model_validate(case.headers or {}).key is not None:
            case.headers[KEY] = str(uuid.uuid4())


def first_pages(context: Any, case: Any, kwargs: Any) -> None:
    """Leave out an id that a list is to go on after: no schema can say which there are."""
    before = (case.query or {}).get("before")
    if isinstance(before, str) and re.fullmatch(ONE_ID, before):
        del case.query["before"]


def main() -> None:
    """Try each address; exit with 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--cases", type=int, default=10_000)
    arguments = parser.parse_args()
    results = {address: run(address, arguments.cases) for address in arguments.addresses}
    for result in results.values():
        print(result.said)
    print(json.dumps({address: {"cases": each.cases, "passed": each.passed} for address, each in results.items()}))
    sys.exit(not all(result.passed for result in results.values()))


if __name__ == "__main__":
    main()
elif os.environ.get("SCHEMATHESIS_HOOKS") == __name__:
    schemathesis.hook("before_call")(fresh_keys)
    schemathesis.hook("before_call")(first_pages)
