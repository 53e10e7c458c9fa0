"""How many recorded and explained scores a second the API answers, beside empty routes, committed rows and the usual.

    python benchmarks/api.py [--rounds 5] [--seconds 3] [--connections 32]

Everything runs here, one worker process each, under the same load generator (`load.py`); the servers take turns. The
portal is set up anew in a temporary folder and records every answer there; at the end the decisions are counted and the
chain of receipts is verified. Prints a table and writes it to `results.md`.
"""

import argparse
import json
import os
import pickle
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import CHURN, Bar, bars, write
from services import PICKLE, ROWS
from sklearn.ensemble import RandomForestClassifier

from bankportal import wiring
from bankportal.cli.train import simulated_bank, train_product
from bankportal.config import load
from bankportal.data.reading import read
from bankportal.domain.constraints import Text
from bankportal.domain.factors import Factor
from bankportal.simulation import simulate
from bankportal.store.migrate import upgrade

HERE = Path(__file__).parent
HOST, PATIENCE = "127.0.0.1", 60.0
CUSTOMERS, SEED = 5_000, 11
SCORE = "/api/v1/churn/score"
SCORE_ONLY = f"{SCORE}?record=false"
GUNICORN, UVICORN = "bankportal on Flask, gunicorn", "bankportal on FastAPI, uvicorn"
FLASK_SCORES, FASTAPI_SCORES = f"{GUNICORN}, record=false", f"{UVICORN}, record=false"
FLASK_ROW, FASTAPI_ROW = "one row committed, Flask, gunicorn", "one row committed, FastAPI, uvicorn"
FAR_GOAL = 0.5  # of the empty Flask route
EMPTY_FLASK, EMPTY_FASTAPI = "empty Flask route, gunicorn", "empty FastAPI route, uvicorn"
PICKLED, UNPICKLING = "pickled forest, FastAPI", "pickled forest, unpickled each time"


@dataclass
class Server:
    """One that is measured: its process, where it listens, the requests for it, and what came of each round."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    requests: Path
    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    answered: int = 0

    @property
    def rate(self) -> float:
        """Requests a second, of the median round."""
        return statistics.median(self.rates)


def prepare(instance: Path) -> wiring.Services:
    """Set up a portal with a model trained on the shipped customers."""
    os.environ |= {
        "BANKPORTAL_INSTANCE": str(instance),
        "BANKPORTAL_SECRET_KEY": "for this benchmark alone",
        "BANKPORTAL_LOG_FORMAT": "json",
    }
    portal = wiring.build(load())
    upgrade(portal.database)
    train_product(portal, CHURN, activate=True)
    portal.explaining.warm_up()
    return portal


def customers() -> list[dict[str, Any]]:
    """Return simulated customers as a caller sends them."""
    columns = simulate.churn(CUSTOMERS, SEED).columns
    factors = [entry.factor for entry in CHURN.factors if entry.factor.name in columns]
    rows = zip(*(columns[factor.name].tolist() for factor in factors), strict=True)
    return [{factor.name: sent(factor, value) for factor, value in zip(factors, row, strict=True)} for row in rows]


def sent(factor: Factor, value: Any) -> Any:
    """Return a value as JSON has it: numbers that are names as text, whole ones whole, unknown ones null."""
    if value is None or value != value:
        return None
    if isinstance(factor.constraint, Text):
        return str(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def pickle_forest(portal: wiring.Services, path: Path) -> None:
    """Train 100 trees on the numbers of the same customers, as such services do, and pickle them."""
    table = read(simulated_bank(portal, CHURN), CHURN)
    numbers = {name: values for name, values in table.columns.items() if values.dtype == np.float64}
    forest = RandomForestClassifier(100, random_state=0).fit(np.column_stack(list(numbers.values())), table.label)
    path.write_bytes(pickle.dumps((forest, list(numbers))))


def request_file(folder: Path, name: str, path: str, bodies: Sequence[Mapping[str, Any]] | None) -> Path:
    """Write down whole requests: a GET, or a POST of each body."""
    common = f"{path} HTTP/1.1\r\nHost: {HOST}\r\n"
    texts = [f"GET {common}\r\n"]
    if bodies is not None:
        written = [json.dumps(body) for body in bodies]
        headers = "Content-Type: application/json\r\nContent-Length"
        texts = [f"POST {common}{headers}: {len(text.encode())}\r\n\r\n{text}" for text in written]
    file = folder / f"{name}.json"
    file.write_text(json.dumps(texts), encoding="utf-8")
    return file


@contextmanager
def serving(name: str, command: Sequence[str], requests: Path, healthy: str) -> Iterator[Server]:
    """Start a server on a port of its own and wait until it answers; end it with all its workers."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    log = (requests.parent / f"{port}.log").open("wb")
    environ = os.environ | {"BANKPORTAL_PORT": str(port)}
    arguments = [sys.executable, "-m", *(word.format(port=port) for word in command)]
    process = subprocess.Popen(arguments, cwd=HERE, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        await_answer(f"http://{HOST}:{port}{healthy}", process)
        yield Server(name, port, process, requests)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        log.close()


def await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE):
                return
        except OSError:
            if time.monotonic() > until or process.poll() is not None:
                raise
            time.sleep(0.1)


def gunicorn(app: str, threads: int) -> list[str]:
    """Return the command for an app under gunicorn as the portal is served, one worker."""
    return f"gunicorn --worker-class=gthread --workers=1 --threads={threads} --bind={HOST}:{{port}} {app}".split()


def uvicorn(app: str) -> list[str]:
    """Return the command for an app under uvicorn, one worker, without its log of requests."""
    return f"uvicorn {app} --host={HOST} --port={{port}} --no-access-log --log-level=warning".split()


def measure(server: Server, seconds: float, connections: int, *, keep: bool = True) -> None:
    """Load a server for a while."""
    before = processor_seconds(server.process.pid)
    command = [sys.executable, "load.py", str(server.port), str(seconds), str(connections), str(server.requests)]
    done = subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE)
    measured = json.loads(done.stdout)
    server.answered += measured["answered"]
    if keep:
        server.rates.append(measured["answered"] / measured["seconds"])
        server.p50.append(measured["p50"])
        server.p99.append(measured["p99"])
        server.cpu.append((processor_seconds(server.process.pid) - before) / measured["answered"])


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process and its children until now; 0 where the system does not tell."""
    seconds = 0.0
    for task in Path("/proc").glob(f"{pid}/task/{pid}"):
        used = (task.parent.parent / "stat").read_text().rpartition(")")[2].split()
        seconds += (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")
        seconds += sum(processor_seconds(int(child)) for child in (task / "children").read_text().split())
    return seconds


def table(servers: Sequence[Server]) -> str:
    """Write what was measured."""
    lines = ["| | requests/s | median ms | p99 ms | processor ms each |", "|---|---:|---:|---:|---:|"]
    for each in servers:
        p50, p99, cpu = statistics.median(each.p50), statistics.median(each.p99), statistics.median(each.cpu) * 1e3
        lines.append(f"| {each.name} | {each.rate:,.0f} | {p50:.1f} | {p99:.1f} | {cpu:.2f} |")
    return "\n".join(lines)


def where_time_goes(requests: Path, threads: int, seconds: float, connections: int) -> str:
    """Measure by step where the processor time of each running server goes; see `steps.py`."""
    counted = {}
    for name, command in (
        ("Flask, gunicorn", gunicorn("steps:flask_app()", threads)),
        ("FastAPI, uvicorn", uvicorn("--factory steps:fastapi_app")),
    ):
        with serving(name, command, requests, "/api/v1/products") as server:
            measure(server, seconds, connections, keep=False)
            steps(server)
            before = server.answered
            measure(server, seconds, connections)
            counted[name] = steps(server) | {"answered": server.answered - before}
    return step_table(counted) + "\n\n" + "\n\n".join(map(group_sizes, counted, counted.values()))


def steps(server: Server) -> dict[str, Any]:
    """Ask a server what it counted since it was last asked."""
    with urllib.request.urlopen(f"http://{HOST}:{server.port}/steps", timeout=PATIENCE) as answered:
        return dict(json.load(answered))


def step_table(counted: Mapping[str, Mapping[str, Any]]) -> str:
    """Write each step's processor time for one answer; the last but one row is what no step accounts for."""
    names = list(dict.fromkeys(name for each in counted.values() for name in each["steps"]))
    rows = {name: [each["steps"].get(name, 0.0) for each in counted.values()] for name in sorted(names)}
    rows["the rest: server, event loop or threads, sockets"] = [
        each["processor"] - sum(each["steps"].values()) for each in counted.values()
    ]
    rows["**the whole process**"] = [each["processor"] for each in counted.values()]
    lines = ["**Where the time goes, processor ms each**", "", f"| | {' | '.join(counted)} |"]
    lines += ["|---|" + "---:|" * len(counted)]
    for name, seconds in rows.items():
        each = (spent / server["answered"] * 1e3 for spent, server in zip(seconds, counted.values(), strict=True))
        lines.append(f"| {name} | {' | '.join(f'{ms:.3f}' for ms in each)} |")
    return "\n".join(lines)


def group_sizes(name: str, counted: Mapping[str, Any]) -> str:
    """Say how large the groups were in which a server's calls were answered."""
    groups = sorted((int(size), count) for size, count in counted["groups"].items())
    calls = sorted(size for size, count in groups for _ in range(size * count))
    common = ", ".join(f"{count} of {size}" for size, count in sorted(groups, key=lambda each: -each[1])[:5])
    return (
        f"Groups, {name}: {sum(count for _, count in groups):,}; half of the calls in one of {calls[len(calls) // 2]}"
        f" or more; most often {common}."
    )


def comparisons(by_name: Mapping[str, Server]) -> list[Bar]:
    """Compare with the peers."""
    pairs = (
        (GUNICORN, EMPTY_FLASK, 0.4),
        (UVICORN, EMPTY_FASTAPI, 0.2),
        (GUNICORN, FLASK_ROW, 0.8),
        (UVICORN, FASTAPI_ROW, 0.8),
        (UVICORN, PICKLED, 15),
        (GUNICORN, PICKLED, 15),
    )
    compared = []
    for ours, peer, minimum in pairs:
        ratio = by_name[ours].rate / by_name[peer].rate
        compared.append(Bar(f"churn score, {ours}", f"≥ {minimum:g} × {peer}", f"{ratio:.2f} ×", ratio >= minimum))
    for ours in (GUNICORN, UVICORN):
        ratio = statistics.median(by_name[ours].p99) / statistics.median(by_name[ours].p50)
        compared.append(Bar(f"p99 under load, {ours}", "≤ 10 × p50", f"{ratio:.1f} ×", ratio <= 10))
    return compared


def far_goal(by_name: Mapping[str, Server]) -> str:
    """Say how far the goal is that lies beyond the bars."""
    ratio = by_name[GUNICORN].rate / by_name[EMPTY_FLASK].rate
    reached = "reached" if ratio >= FAR_GOAL else "not reached"
    return f"Far goal: churn score, {GUNICORN}, ≥ {FAR_GOAL:g} × {EMPTY_FLASK}: {ratio:.2f} ×, {reached}."


def verified(portal: wiring.Services, answered: int) -> str:
    """Say that every answer was recorded, once, in an unbroken chain; else end with an error."""
    recorded = sum(portal.decisions.counts()[CHURN.key].values())
    if recorded != answered:
        raise SystemExit(f"{answered} answers, {recorded} decisions")
    portal.audit.verify()
    return f"All {recorded:,} answers were recorded, once each, and the chain of receipts is whole."


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, ExitStack() as running:
        folder = Path(name)
        portal = prepare(folder / "instance")
        os.environ |= {PICKLE: str(folder / "forest.pickle"), ROWS: str(folder / "rows.sqlite")}
        pickle_forest(portal, folder / "forest.pickle")
        empty = request_file(folder, "empty", "/", None)
        requests = {
            path: request_file(folder, path.replace("/", "-"), path, customers())
            for path in (SCORE, SCORE_ONLY, "/row", "/score", "/score-unpickling")
        }
        threads = portal.config.threads
        servers = [
            running.enter_context(serving(*each))
            for each in (
                (GUNICORN, gunicorn("bankportal.app:create_app()", threads), requests[SCORE], "/api/v1/products"),
                (EMPTY_FLASK, gunicorn("services:flask_app", threads), empty, "/"),
                (UVICORN, uvicorn("bankportal.asgi:app"), requests[SCORE], "/api/v1/products"),
                (EMPTY_FASTAPI, uvicorn("services:fastapi_app"), empty, "/"),
                (FLASK_ROW, gunicorn("services:flask_app", threads), requests["/row"], "/"),
                (FASTAPI_ROW, uvicorn("services:fastapi_app"), requests["/row"], "/"),
                (PICKLED, uvicorn("services:pickled_app"), requests["/score"], "/docs"),
                (UNPICKLING, uvicorn("services:pickled_app"), requests["/score-unpickling"], "/docs"),
            )
        ]
        for name, portal_server in ((FLASK_SCORES, servers[0]), (FASTAPI_SCORES, servers[2])):
            servers.append(Server(name, portal_server.port, portal_server.process, requests[SCORE_ONLY]))
        for turn in range(arguments.rounds + 1):
            for server in servers:
                measure(server, arguments.seconds, arguments.connections, keep=turn > 0)
        by_name = {server.name: server for server in servers}
        proof = verified(portal, by_name[GUNICORN].answered + by_name[UVICORN].answered)
        spent = where_time_goes(requests[SCORE], threads, arguments.seconds, arguments.connections)
    write(
        "python benchmarks/api.py",
        [
            f"One churn score, recorded and explained, a request; {arguments.connections} connections kept alive, one"
            f" worker process each, {threads} threads, logs as JSON; SQLite, an answer only after its commit is on the"
            f" disk. The same load for all, {arguments.rounds} rounds of {arguments.seconds:g} s in turn; medians."
            f" {proof} The usual service unpickles its forest when it starts, in the last row for every request; the"
            " empty routes take a GET without a body. The routes that commit one row of a kilobyte take the same body,"
            " and have the same driver, journal and `synchronous` as the portal.",
            bars(comparisons(by_name)),
            far_goal(by_name),
            table(servers),
            spent,
            "The processor time of the running servers by step, counted in each thread while they answer under the same"
            " load; what a step holds of another one belongs to that one. Counting takes some of it itself.",
        ],
    )


if __name__ == "__main__":
    main()
