"""How fast a whole file is scored, beside pandas, scikit-learn and shap, and how much memory that takes.

    python benchmarks/batch.py [--quick]

From a CSV file to a CSV file, in rows that nobody was trained on. Ours carry reasons and are checked cell by cell; the
million goes through the web pages to two worker processes, as an analyst sends it, and through `flask score`. Prints
tables and writes them to `results.md` beside it; `--quick` takes fewer rows and writes nothing.
"""

import argparse
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import CHURN, PRODUCTS, Bar, Floats, Peer, bars, ratio_bar, seconds, table, write
from figures import shipped, trained_on
from sklearn.ensemble import RandomForestClassifier

from bankportal import wiring
from bankportal.cli.score import score_file
from bankportal.config import load
from bankportal.model.compiling import processors
from bankportal.simulation.recipe import simulate_file
from bankportal.store.migrate import upgrade
from bankportal.training.training import PARAMETERS

MANY, FEW, SEED = 1_000_000, 10_000, 11
QUICK = 50_000
SHAP_ROWS, TURNS = 400, 5
REASONS = 4
MEGABYTE = 1e6
WORKER, PORTAL = "bankportal, upload to workers", "bankportal, flask score"
OURS, SHAP, BARE = "bankportal", "pandas + scikit-learn + shap", "pandas + scikit-learn, no reasons"
NUMBERS = [factor.name for factor in CHURN.scored if factor.name != "Geography"]
CUTS = {"Low": 0.0, "Moderate": 0.40, "Critical": 0.70}


@dataclass(frozen=True)
class Bank:
    """A trained portal in a folder of its own, and the files to score."""

    folder: Path
    few: Path
    many: Path
    rows: int

    @property
    def environment(self) -> dict[str, str]:
        """The settings for its processes."""
        return {
            "FLASK_APP": "bankportal",
            "BANKPORTAL_INSTANCE": str(self.folder / "instance"),
            "BANKPORTAL_SECRET_KEY": "for a benchmark alone",
        }

    def services(self) -> wiring.Services:
        """Return its services."""
        return wiring.build(load(self.environment))


def make_bank(folder: Path, rows: int) -> Bank:
    """Train every product as `make up` does, and simulate the files."""
    bank = Bank(folder, folder / "few.csv", folder / "many.csv", rows)
    portal = bank.services()
    upgrade(portal.database)
    for product in PRODUCTS.values():
        portal.models.add(trained_on(shipped(product, folder), product))
    portal.explaining.warm_up()
    portal.database.close()
    simulate_file(bank.few, CHURN.key, FEW, SEED)
    simulate_file(bank.many, CHURN.key, rows, SEED + 1)
    return bank


# The peer, as a notebook would have it.


def encoded(frame: pd.DataFrame) -> Floats:
    """Return the forest's columns: numbers as they are, a country a column."""
    countries = pd.get_dummies(frame["Geography"], dtype=float)
    countries[frame["Geography"].isna()] = np.nan
    return np.hstack([frame[NUMBERS].to_numpy(float), countries.to_numpy(float)])


def peer_forest(folder: Path) -> RandomForestClassifier:
    """Grow a forest of the same size and parameters on the same file."""
    frame = pd.read_csv(shipped(CHURN, folder))
    model = RandomForestClassifier(
        PARAMETERS.trees,
        max_depth=PARAMETERS.depth,
        min_samples_leaf=PARAMETERS.rows_in_leaf,
        max_features=PARAMETERS.share_of_columns,
        n_jobs=processors(),
        random_state=0,
    )
    return model.fit(encoded(frame), frame[CHURN.label.name])


def bare(model: RandomForestClassifier, source: Path, target: Path) -> None:
    """Read, score, write the file's columns with score and band: nothing checked, no reasons."""
    frame = pd.read_csv(source)
    scored(model, frame).to_csv(target, index=False)


def scored(model: RandomForestClassifier, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with score and band."""
    score = model.predict_proba(encoded(frame))[:, 1]
    bands = pd.cut(score, [*CUTS.values(), 1.01], right=False, labels=list(CUTS))
    return frame.assign(score=score, band=bands)


def top_factors(explainer: Any, frame: pd.DataFrame) -> list[list[str]]:
    """Return the names of the weightiest factors by shap, countries taken together."""
    values = explainer.shap_values(encoded(frame), check_additivity=False)[:, :, 1]
    together = np.column_stack([values[:, : len(NUMBERS)], values[:, len(NUMBERS) :].sum(axis=1)])
    names = np.array([*NUMBERS, "Geography"])
    return [list(row) for row in names[np.argsort(-np.abs(together), axis=1)[:, :REASONS]]]


def explained_peers(bank: Bank, model: RandomForestClassifier) -> list[Peer]:
    """Return who gives reasons for the small file; shap explains fewer rows, and its time is scaled."""
    from shap import TreeExplainer

    explainer, portal = TreeExplainer(model), bank.services()
    frame, piece = pd.read_csv(bank.few), pd.read_csv(bank.few).head(SHAP_ROWS)

    def ours(repeat: int) -> None:
        score_file(portal, CHURN, str(bank.few), str(bank.folder / "ours.csv"), str(bank.folder / "rejects.csv"))

    def whole(repeat: int) -> None:
        """Do all but explain: on all rows, not scaled."""
        names = pd.DataFrame([NUMBERS[:REASONS]] * len(frame), columns=[f"reason_{n}" for n in range(REASONS)])
        scored(model, pd.read_csv(bank.few)).join(names).to_csv(bank.folder / "peer.csv", index=False)

    shap = Peer("shap's part", lambda repeat: top_factors(explainer, piece), scale=FEW / SHAP_ROWS, most=2)
    return [Peer(OURS, ours), Peer("all but shap", whole), shap]


def small_file(bank: Bank, model: RandomForestClassifier) -> tuple[list[Bar], str]:
    """Compare on the small file, reasons included."""
    found = explained_peers(bank, model)
    taken = seconds(found, TURNS)
    taken[SHAP] = taken.pop("all but shap") + taken.pop("shap's part")
    note = f"path-dependent, explained on {SHAP_ROWS} rows and scaled; the rest on all"
    shown = [found[0], Peer(SHAP, None, note=note)]
    title = f"{FEW:,} rows from file to file, with reasons"
    return [ratio_bar(title, taken, OURS, SHAP, 50)], table(title, shown, taken, "s")


# Memory, as Linux counts it: resident, a page that processes share counted in each; or each page's share of them.


def read(path: str) -> str:
    """Return what the system says of a process; nothing where it has ended."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _kilobytes(path: str, name: str) -> float:
    """Return a figure of a process in MB; 0 where it has ended."""
    found = re.search(rf"^{name}:\s+(\d+) kB", read(path), re.MULTILINE)
    return int(found[1]) * 1024 / MEGABYTE if found else 0.0


def peak(pid: int) -> float:
    """Return a process's largest resident memory since it began, or since `forget`, in MB."""
    return _kilobytes(f"/proc/{pid}/status", "VmHWM")


def share(pid: int) -> float:
    """Return a process's memory now, in MB: of the pages it shares with others its share."""
    return _kilobytes(f"/proc/{pid}/smaps_rollup", "Pss")


def forget(pid: int) -> None:
    """Count a process's peak from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def descendants(pid: int) -> list[int]:
    """Return a process and all below it."""
    children = [int(child) for thread in threads(pid) for child in read(f"{thread}/children").split()]
    return [pid, *(below for child in children for below in descendants(child))]


def threads(pid: int) -> list[Path]:
    """Return where each thread of a process is described: a process belongs to the thread that started it."""
    return list(Path(f"/proc/{pid}/task").glob("*"))


@dataclass
class Peaks:
    """The largest memory that each process of a command took, and all together at one look, in MB."""

    root: int
    found: dict[int, float] = field(default_factory=dict)
    together: float = 0.0

    def look(self) -> None:
        """Look at all processes there are now."""
        processes = descendants(self.root)
        self.together = max(self.together, sum(share(pid) for pid in processes))
        for pid in processes:
            self.found[pid] = max(self.found.get(pid, 0.0), peak(pid))

    @property
    def each(self) -> list[float]:
        """The processes' own peaks, largest first."""
        return sorted(self.found.values(), reverse=True)


@contextmanager
def running(bank: Bank, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of the portal's commands, and end it by the signal that operators send."""
    log = (bank.folder / "log.txt").open("ab")
    environment = {**os.environ, **bank.environment, **settings}
    process = subprocess.Popen([sys.executable, "-m", *arguments], env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log.close()


# The browser.


class Form(HTMLParser):
    """What one form of a page would send, unchanged: hidden fields and chosen options."""

    def __init__(self, page: str, action: str):
        super().__init__()
        self.action, self.fields = action, {}
        self._inside, self._select = False, ""
        self.feed(page)

    def handle_starttag(self, tag: str, given: list[tuple[str, str | None]]) -> None:
        """Take note of a field."""
        found = dict(given)
        if tag == "form":
            self._inside = (found.get("action") or "").endswith(self.action)
        if not self._inside:
            return
        if tag == "input" and found.get("type") == "hidden":
            self.fields[found["name"]] = found.get("value") or ""
        if tag == "select":
            self._select = found["name"] or ""
        if tag == "option" and "selected" in found:
            self.fields[self._select] = found.get("value") or ""


class Browser:
    """Sends forms and follows to the next page."""

    def __init__(self, port: int):
        self.port, self.cookie = port, ""

    def get(self, path: str) -> str:
        """Return a page."""
        return self._ask("GET", path)[1]

    def send(self, path: str, fields: dict[str, str]) -> str:
        """Send a form; return where it leads."""
        body = urllib.parse.urlencode(fields).encode()
        return self._ask("POST", path, [body], "application/x-www-form-urlencoded", len(body))[0]

    def upload(self, path: str, fields: dict[str, str], file: Path) -> str:
        """Send a form with a file; return where it leads."""
        mark = "boundary-of-a-benchmark"
        parts = [f'--{mark}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items()]
        named = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n\r\n'
        start, end = "".join([*parts, named]).encode(), f"\r\n--{mark}--\r\n".encode()
        size = len(start) + file.stat().st_size + len(end)
        with file.open("rb") as content:
            body = (piece for pieces in ([start], iter(lambda: content.read(1 << 20), b""), [end]) for piece in pieces)
            return self._ask("POST", path, body, f"multipart/form-data; boundary={mark}", size)[0]

    def _ask(self, method: str, path: str, body: Any = None, kind: str = "", size: int = 0) -> tuple[str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        headers = {"Cookie": self.cookie}
        if body is not None:
            headers |= {"Content-Type": kind, "Content-Length": str(size)}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        if given := answer.getheader("Set-Cookie"):
            self.cookie = given.split(";")[0]
        page = answer.read().decode()
        connection.close()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status}\n{re.sub('<[^>]+>', ' ', page)[:2000]}")
        return urllib.parse.urlsplit(answer.getheader("Location") or path).path, page


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(ready: Callable[[], bool], wait: float = 0.2, longest: float = 3600) -> None:
    """Wait."""
    end = time.monotonic() + longest
    while not ready():
        if time.monotonic() > end:
            raise SystemExit("waited in vain")
        time.sleep(wait)


@dataclass(frozen=True)
class Run:
    """How long a file took, and the memory in MB: of the workers, and of each web process above its idle."""

    seconds: float
    steps: dict[str, float]
    workers: Peaks
    web: list[float]


def through_the_pages(bank: Bank) -> Run:
    """Upload the large file, confirm its columns, start it, watch it, and read its table by score."""
    port = free_port()
    with (
        running(bank, "gunicorn", "--config=python:bankportal.serving", BANKPORTAL_PORT=str(port)) as web,
        running(bank, "flask", "worker", "--processes", "2") as worker,
    ):
        until(lambda: listening(port), longest=60)
        browser = Browser(port)
        idle = settle(browser, web.pid)
        watched = Peaks(worker.pid)
        steps = analyst(bank, browser, watched)
        above = above_idle(web.pid, idle)
    return Run(sum(steps.values()), steps, watched, above)


def above_idle(pid: int, idle: dict[int, float]) -> list[float]:
    """Return by how much the peak of each web process exceeds its idle, in MB; one that came later had none."""
    now = descendants(pid)
    if gone := set(idle) - set(now):
        raise SystemExit(f"web processes ended on the way: {gone}")
    return [peak(each) - idle.get(each, 0.0) for each in now]


def listening(port: int) -> bool:
    """Say whether somebody answers at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def settle(browser: Browser, pid: int) -> dict[int, float]:
    """Return the web processes' memory once the models are loaded and pages were shown; peaks count from here."""
    time.sleep(10)
    for _ in range(20):
        browser.get("/")
        browser.get("/batches/")
    time.sleep(2)
    processes = descendants(pid)
    for each in processes:
        forget(each)
    return {each: peak(each) for each in processes}


def analyst(bank: Bank, browser: Browser, watched: Peaks) -> dict[str, float]:
    """Take the file through; return the seconds of each step."""
    steps, start = {}, time.perf_counter()

    def done(step: str) -> None:
        nonlocal start
        steps[step], start = time.perf_counter() - start, time.perf_counter()

    def reached(state: str) -> Callable[[], bool]:
        def look() -> bool:
            watched.look()
            facts = json.loads(browser.get(f"{job}/progress"))
            if facts["state"] in {"failed", "refused", "cancelled"}:
                raise SystemExit(f"the job is {facts['state']}: {facts.get('message')}")
            return facts["state"] == state

        return look

    form = Form(browser.get("/batches/"), "/batches/")
    job = browser.upload("/batches/", {**form.fields, "product": CHURN.key}, bank.many)
    done("upload")
    browser.send(f"{job}/check", Form(browser.get(job), "/check").fields)
    until(reached("checked"))
    done("check")
    browser.send(f"{job}/start", Form(browser.get(job), "/start").fields)
    until(reached("done"))
    done("score and finish")
    read_table(browser, job, bank.rows)
    return steps


def read_table(browser: Browser, job: str, rows: int) -> None:
    """Open the result's table here and there: by score, by band, by reason."""
    pages = [1, 2, rows // 100, rows // 50 - 1]
    for query in [f"sort=score&descending=1&page={page}" for page in pages]:
        browser.get(f"{job}?{query}")
    for query in ("band=Critical&sort=score", "factor=Age&sort=score&descending=1"):
        browser.get(f"{job}?{query}")


def command(bank: Bank) -> tuple[float, Peaks]:
    """Run `flask score` on the large file; return its seconds, start-up included, and its memory."""
    start = time.perf_counter()
    target, rejects = str(bank.folder / "scored.csv"), str(bank.folder / "rejects.csv")
    arguments = ("flask", "score", CHURN.key, str(bank.many), target, "--rejects", rejects)
    with running(bank, *arguments) as process:
        watched = Peaks(process.pid)
        while process.poll() is None:
            watched.look()
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit((bank.folder / "log.txt").read_text()[-2000:])
    return time.perf_counter() - start, watched


def large_file(bank: Bank, model: RandomForestClassifier) -> tuple[list[Bar], list[str]]:
    """Compare on the large file, and look at the memory."""
    peer = Peer(BARE, lambda repeat: bare(model, bank.many, bank.folder / "peer.csv"))
    taken = seconds([peer], 2)
    run = through_the_pages(bank)
    taken[PORTAL], alone = command(bank)
    taken[WORKER] = run.seconds
    taken |= seconds([peer], 1)
    title = f"{bank.rows:,} rows from file to file"
    steps = ", ".join(f"{step} {took:.1f} s" for step, took in run.steps.items())
    notes = {WORKER: steps, PORTAL: "one process, start-up included", BARE: "nothing checked; imports not counted"}
    shown = [Peer(name, None, note=note) for name, note in notes.items()]
    found = [within(title, taken, name) for name in (WORKER, PORTAL)] + memory(bank, run, alone)
    return found, [table(title, shown, taken, "s")]


def within(title: str, taken: dict[str, float], name: str, most: float = 4) -> Bar:
    """Ask that ours, with reasons, take at most so many times as long as the peer without."""
    ratio = taken[name] / taken[BARE]
    measure = f"{title}, with reasons, {name.partition(', ')[2]}"
    return Bar(measure, f"within {most:g} × {BARE}", f"{ratio:.2f} ×", ratio <= most)


def memory(bank: Bank, run: Run, alone: Peaks) -> list[Bar]:
    """Ask that memory stay within its bounds."""
    each = ", ".join(f"{found:.0f}" for found in run.workers.each)
    together, above, alone_most = run.workers.together, max(run.web), max(alone.each)
    of_web = f"{above:.1f} MB; all {len(run.web)}, master included: {sum(run.web):.1f}"
    said = f"{bank.rows:,} rows: peak memory"
    measured = f"{together:.0f} MB; resident, each: {each}"
    return [
        Bar(f"{said} of `flask worker --processes 2`, its keeper included", "< 600 MB", measured, together < 600),
        Bar(f"{said} of a web process above its idle", "< 64 MB", of_web, above < 64),
        Bar(f"{said} of `flask score`, resident", "< 600 MB", f"{alone_most:.0f} MB", alone_most < 600),
    ]


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} rows in place of {MANY:,}; nothing is kept")
    quick: bool = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        bank = make_bank(Path(folder), QUICK if quick else MANY)
        model = peer_forest(Path(folder))
        small, small_table = small_file(bank, model)
        large, large_tables = large_file(bank, model)
    intro = (
        f"Simulated churn customers, {len(CHURN.factors)} factors; forests of {PARAMETERS.trees} trees of depth "
        f"{PARAMETERS.depth} grown on the shipped file. Memory is the peak. Of several processes together it is "
        "looked at 5 times a second, pages they share counted once; of each it is resident, shared pages included."
    )
    parts = [intro, bars([*small, *large]), small_table, *large_tables]
    if quick:
        print("\n\n".join(parts))
    else:
        write("python benchmarks/batch.py", parts)


if __name__ == "__main__":
    main()
