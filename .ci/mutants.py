"""Changes functions at one spot at a time and says which share of the changes the tests notice.

setup.cfg says under `mutmut` which functions, and which tests try them. Arguments go to `mutmut run`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

MUTMUT = Path(sys.executable).with_name("mutmut")
FOLDER = Path("mutants")  # where mutmut works; it would take results from there that newer tests may change
MIN_SHARE = 0.9
# Each change is tried in a process of its own: a PostgreSQL database for each would take hours.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "BANKPORTAL_TEST_DATABASE_URL"}


def mutmut(*arguments: str) -> str:
    """Run mutmut and return what it writes; that is shown where it fails."""
    done = subprocess.run([MUTMUT, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Print each change that no test noticed, and the share that was noticed; fail below nine in ten."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    mutmut("run", *sys.argv[1:])
    print(mutmut("results"))
    mutmut("export-cicd-stats")
    counts = json.loads((FOLDER / "mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    killed, total = counts["killed"], counts["total"]
    print(f"{killed} of {total} mutants killed: {killed / total:.1%}")
    sys.exit(killed < MIN_SHARE * total)


if __name__ == "__main__":
    main()
