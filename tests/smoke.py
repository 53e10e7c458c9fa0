"""Tries an installed portal from end to end; run it with the Python in which the portal is installed.

    PYTHON tests/smoke.py [ENGINE ...]

It loads every command, trains small forests, scores a file, answers a form and a call of the API on each engine,
verifies the chain and replays it. It needs the standard library alone, and works in the current folder, on the instance
that the settings name.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener, urlopen

FLASK = [sys.executable, "-m", "flask"]
COMMANDS = ("up", "worker", "train", "data", "declarations", "score", "models", "audit")
ROWS = 1500
PATIENCE = 120.0  # seconds that a server may take to start
BASE = {"CreditScore": 650, "Tenure": 3, "Balance": 62000}
CUSTOMERS = {
    "churn": BASE | {"Age": 42},
    "allowance": BASE | {"NumOfProducts": 2, "HasCrCard": 1, "IsActiveMember": 1, "EstimatedSalary": 80000},
}


def flask(arguments: str) -> str:
    """Run a command and return what it printed; it must succeed."""
    done = subprocess.run([*FLASK, *arguments.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"flask {arguments}\n{done.stdout}{done.stderr}"
    return done.stdout


def train(product: str) -> None:
    """Train and activate a small forest."""
    flask(f"data simulate {product}.csv --product {product} --rows {ROWS}")
    assert "is active" in flask(f"train {product} --data {product}.csv")


def score_file(product: str) -> None:
    """Score the file that the forest has learnt from: a row in, a row out."""
    flask(f"score {product} {product}.csv {product}-scored.csv")
    with open(f"{product}-scored.csv", encoding="utf-8") as file:
        assert sum(1 for _ in file) == ROWS + 1


@contextmanager
def serving(engine: str) -> Iterator[str]:
    """Serve the portal; give its address."""
    with subprocess.Popen(
        [*FLASK, "up", f"--engine={engine}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            address = f"http://127.0.0.1:{os.environ['BANKPORTAL_PORT']}"
            wait_for(address, process)
            yield address
        finally:
            process.terminate()
            process.communicate()


def wait_for(address: str, process: subprocess.Popen[str]) -> None:
    """Return when the server answers."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            urlopen(f"{address}/healthz").close()
            return
        except OSError:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
    raise AssertionError("the portal did not answer")


def score_in_form(address: str, product: str) -> str:
    """Post the form with its token, as a browser does; return the score that the page shows."""
    opener = build_opener(HTTPCookieProcessor(CookieJar()))
    page = opener.open(f"{address}/{product}/").read().decode()
    hidden = dict(re.findall(r'<input[^>]*name="(csrf_token|submission)"[^>]*value="([^"]+)"', page))
    assert set(hidden) == {"csrf_token", "submission"}
    answer = opener.open(f"{address}/{product}/", urlencode(CUSTOMERS[product] | hidden).encode()).read().decode()
    assert 'role="meter"' in answer
    (shown,) = set(re.findall(r'data-score="([^"]+)"', answer))
    return shown


def score_by_api(address: str, product: str) -> str:
    """Ask the API for a recorded decision; return its score with every digit."""
    body = json.dumps(CUSTOMERS[product]).encode()
    request = Request(f"{address}/api/v1/{product}/score", body, {"Content-Type": "application/json"})
    return repr(json.load(urlopen(request))["score"])


def main() -> None:
    """Try everything, and say what was tried."""
    engines = sys.argv[1:] or ["flask", "fastapi"]
    commands = flask("--help")
    assert all(re.search(rf"^  {command} ", commands, re.MULTILINE) for command in COMMANDS)
    for product in CUSTOMERS:
        train(product)
    score_file("churn")
    for engine in engines:
        with serving(engine) as address:
            for product in CUSTOMERS:
                assert score_in_form(address, product) == score_by_api(address, product)
    decisions = 2 * len(CUSTOMERS) * len(engines)
    assert f"{decisions} decisions" in flask("audit verify")
    assert f"{decisions} decisions" in flask("audit replay")
    print(f"{decisions} decisions on {' and '.join(engines)}: recorded, verified, replayed")


if __name__ == "__main__":
    main()
