"""What many decisions cost: bytes each, and every page, API operation and audit beside a portal of 1,000.

    python benchmarks/growth.py [--sqlite 1000000] [--postgresql 300000]

A portal is filled through its own services; on SQLite, and on PostgreSQL where BANKPORTAL_TEST_DATABASE_URL names a
server. Every page and operation is asked through Flask's test client, of the large portal and of the small one in turn.
`flask audit verify` and `replay` run as commands on a terminal; what the small portal takes is start-up and taken off.
Progress goes to stderr. Writes `results.md` beside it.
"""

import argparse
import json
import os
import pty
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from api import sent
from common import ALLOWANCE, CHURN, PRODUCTS, Bar, bars, write
from figures import shipped, trained_on
from flask import Flask
from sqlalchemy import create_engine, make_url, text

from bankportal import create_app, wiring
from bankportal.api.table import OperationTable
from bankportal.config import load
from bankportal.domain.constraints import Source
from bankportal.domain.products import Product
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.schema import Customer, validate
from bankportal.registry.trained import TrainedModel
from bankportal.simulation.recipe import simulate_file
from bankportal.simulation.simulate import SIMULATORS
from bankportal.web.letters import is_due

POSTGRES = os.environ.get("BANKPORTAL_TEST_DATABASE_URL")
SMALL, MORE = 1_000, 20_000  # decisions; more of them follow the first audit
GROUP, SIMULATED, SEED = 500, 5_000, 11
BATCHES, BATCH_ROWS = 3, 200
SAMPLES = 100  # decisions that are asked for, spread over all
WARM, TURNS = 2, 25
MAX_RATIO, MAX_BYTES = 1.5, 2_500
AUDIT_BARS = {"verify": 0.07, "replay": 0.21}  # milliseconds of processor a decision
PERCENT = re.compile(r"(\d+)%")
GO_ON = re.compile(r"flask (audit \w+ --since (\d+):\S+)")
# By another process: two SQLite libraries in one would undo each other's locks.
DBSTAT = """
import json, sqlite3, sys
query = "SELECT name, pgsize FROM dbstat WHERE aggregate = TRUE"
print(json.dumps(dict(sqlite3.connect(sys.argv[1]).execute(query).fetchall())))
"""
PG_SIZES = text(
    "SELECT relname, CASE relkind WHEN 'i' THEN pg_relation_size(oid) ELSE pg_table_size(oid) END AS bytes"
    " FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')"
)
API = "/api/v1"
GETS = (
    *("/", "/healthz", "/docs/", "/models/", "/models/churn/v1", "/churn/", "/allowance/", "/churn/?from={churn}"),
    *("/decisions/", "/decisions/?before={id}", "/decisions/?product=churn", "/decisions/?product=churn&before={id}"),
    *("/decisions/{id}", "/decisions/{id}/compare", "/decisions/{letter}/letter"),
    *("/batches/", "/batches/?product=churn", "/batches/template/churn.csv"),
    *("/batches/{job}", "/batches/{job}/progress", "/batches/{job}/rows/0", "/batches/{job}/scored.csv"),
    *(f"{API}/health", f"{API}/products", f"{API}/products/churn/schema"),
    *(f"{API}/models", f"{API}/models/churn/active", f"{API}/models/churn/v1"),
    *(f"{API}/decisions", f"{API}/decisions?size=200", f"{API}/decisions?before={{id}}"),
    *(f"{API}/decisions?product=churn", f"{API}/decisions?product=churn&before={{id}}"),
    *(f"{API}/decisions/latest", f"{API}/decisions/{{id}}", f"{API}/decisions/{{id}}/verify"),
    *(f"{API}/batches", f"{API}/batches/{{job}}"),
    *(f"{API}/batches/{{job}}/results", f"{API}/batches/{{job}}/rejects"),
)
Taken = tuple[float, float]  # seconds of processor, and by the clock


@dataclass
class Portal:
    """A portal with its decisions, and the ids in it by what they stand for in a path."""

    kind: str
    environment: Mapping[str, str]
    app: Flask
    ids: dict[str, list[str]] = field(default_factory=lambda: {"id": [], "churn": [], "letter": [], "job": []})
    decisions: int = 0
    empty: Mapping[str, int] = field(default_factory=dict)

    @property
    def services(self) -> wiring.Services:
        """Its services."""
        services: wiring.Services = self.app.extensions["bankportal"]
        return services

    def head(self) -> str:
        """Return its newest receipt, as the audit's options take it."""
        newest = self.services.audit.head()
        assert newest is not None
        return f"{newest.number}:{newest.digest}"


@dataclass(frozen=True)
class Call:
    """A request that is measured; its path has in braces what is taken from the portal, `content` makes its body."""

    name: str
    method: str
    path: str
    content: Callable[[int], dict[str, Any]] = lambda _: {}


@dataclass(frozen=True)
class Ran:
    """A command that ended: what it printed, what a terminal showed of its errors and progress, what it took."""

    printed: str
    shown: str
    code: int
    taken: Taken

    @property
    def decisions(self) -> int:
        """How many decisions it read."""
        return int(self.printed.split()[0].replace(",", "")) if self.code == 0 else 0


def say(words: str) -> None:
    """Report progress."""
    print(words, file=sys.stderr, flush=True)


# Filling


def raws(product: Product, first: int = 0) -> Iterator[dict[str, Any]]:
    """Yield simulated customers without end, as a caller sends them; others for each `first`."""
    for seed in count(SEED + first):
        columns = SIMULATORS[product.key](SIMULATED, seed).columns
        factors = [entry.factor for entry in product.factors if entry.factor.name in columns]
        for row in zip(*(columns[factor.name].tolist() for factor in factors), strict=True):
            yield {factor.name: sent(factor, value) for factor, value in zip(factors, row, strict=True)}


def customers(products: Sequence[Product], first: int) -> Iterator[tuple[Customer, str | None, Provenance]]:
    """Yield customers of some products in turn, to be decided on: as forms send them, then as calls without a key.

    Those of forms have submissions, which make them repeatable; they are numbered from `first`.
    """
    for number, together in enumerate(zip(*(raws(product, first) for product in products), strict=True), first):
        submission, door = (f"growth {number}", Door.PAGE) if number % 2 else (None, Door.API)
        for product, raw in zip(products, together, strict=True):
            yield validate(product, raw, Source.TYPED), submission, Provenance(door)


def make_portal(kind: str, folder: Path, address: str | None, models: Sequence[TrainedModel]) -> Portal:
    """Set up a portal with finished batches and without decisions."""
    environment = {
        "BANKPORTAL_INSTANCE": str(folder / "instance"),
        "BANKPORTAL_SECRET_KEY": "for this benchmark alone",
        "BANKPORTAL_DATABASE_URL": address or f"sqlite:///{folder / 'growth.sqlite3'}",
    }
    folder.mkdir()
    before = wiring.build(load(environment))
    wiring.upgrade(before)
    before.database.close()
    app = create_app(load(environment))
    app.config.update(WTF_CSRF_ENABLED=False)
    portal = Portal(kind, environment, app)
    for model in models:
        portal.services.models.add(model)
    portal.services.explaining.warm_up()
    for number in range(BATCHES):
        portal.ids["job"].append(finished_batch(portal.services, folder / f"{number}.csv", SEED + number))
    portal.empty = sizes(portal)
    return portal


def finished_batch(services: wiring.Services, file: Path, seed: int) -> str:
    """Have a file of customers scored and return the batch's id."""
    simulate_file(file, CHURN.key, BATCH_ROWS, seed)
    with file.open("rb") as stream:
        job = services.batches.receive(CHURN, file.name, stream, provenance=Provenance(Door.COMMAND))
    services.batches.check(job, services.batches.suggestion(job).mapping, start=True)
    while services.worker.step():
        pass
    return job.id


def fill(portal: Portal, decisions: int, products: Sequence[Product] = (CHURN, ALLOWANCE)) -> None:
    """Record decisions, and keep the ids of some."""
    begun, step, new = time.monotonic(), max(decisions // SAMPLES, 1), customers(products, portal.decisions)
    for done in range(0, decisions, GROUP):
        group = list(islice(new, min(GROUP, decisions - done)))
        for number, decision in enumerate(portal.services.scoring.decide_all(group), done):
            if number // step >= len(portal.ids["id"]):
                portal.ids["id"].append(decision.id)
            if decision.outcome.product.key == CHURN.key and number // step >= len(portal.ids["churn"]):
                portal.ids["churn"].append(decision.id)
            if is_due(decision) and number // step >= len(portal.ids["letter"]):
                portal.ids["letter"].append(decision.id)
        if done % 50_000 == 0 and done:
            rate = done / (time.monotonic() - begun)
            say(f"{portal.kind}: {done:,} of {decisions:,} decisions recorded, {rate:,.0f} a second")
    portal.decisions += decisions


# Bytes


def sizes(portal: Portal) -> dict[str, int]:
    """Return the bytes of each table and index, and of all as `total`."""
    database = portal.services.database
    if portal.kind == "PostgreSQL":
        with database.read() as connection:
            by_name = {str(row.relname): int(row.bytes) for row in connection.execute(PG_SIZES)}
        return by_name | {"total": sum(by_name.values())}
    with closing(database.engine.raw_connection()) as pooled:
        pooled.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    file = Path(str(database.url.database))
    printed = subprocess.run([sys.executable, "-c", DBSTAT, file], stdout=subprocess.PIPE).stdout
    return json.loads(printed or "{}") | {"total": file.stat().st_size}


def bytes_each(portal: Portal) -> dict[str, float]:
    """Return the bytes a decision of each table and index that has any, largest first."""
    grown = {name: size - portal.empty.get(name, 0) for name, size in sizes(portal).items()}
    each = {name: size / portal.decisions for name, size in grown.items() if size}
    return dict(sorted(each.items(), key=lambda item: -item[1]))


# Pages and operations


def calls() -> list[Call]:
    """Return all requests that are measured."""
    requests = [Call(f"GET {path}", "GET", path) for path in GETS]
    for product in (CHURN, ALLOWANCE):
        posts = posts_on(product)
        requests += [Call(f"POST {name}", "POST", name.split(",")[0], content) for name, content in posts.items()]
    return requests


def posts_on(product: Product) -> dict[str, Callable[[int], dict[str, Any]]]:
    """Return what makes the body of each POST, by its path, and behind a comma what is particular about it."""
    many, score, scores = (
        list(islice(raws(product), 1_000)),
        f"{API}/{product.key}/score",
        f"{API}/{product.key}/scores",
    )
    typed = {entry.factor.name: entry.factor.example for entry in product.factors}

    def form(_: int) -> dict[str, Any]:
        return {"data": typed}

    def one(turn: int) -> dict[str, Any]:
        return {"json": many[turn]}

    def keyed(turn: int) -> dict[str, Any]:
        return one(turn) | {"headers": {"Idempotency-Key": secrets.token_hex(8)}}

    def some(_: int) -> dict[str, Any]:
        return {"json": {"items": many[:100]}}

    def upload(_: int) -> dict[str, Any]:
        file = BytesIO(f"{','.join(typed)}\n{','.join(typed.values())}\n".encode())
        return {"data": {"product": product.key, "file": (file, "one.csv"), "start": "false"}}

    own = {f"/{product.key}/": form, f"/{product.key}/preview": form, score: one, scores: some}
    own |= {f"{score}, with a key": keyed, f"{score}?recourse=true&contributions=true": one}
    own |= {f"{score}?record=false": one, f"{scores}?record=false": some}
    if product is not CHURN:
        return own
    at_rest = [f"{place}/batches/{{job}}/{what}" for place in ("", API) for what in ("start", "cancel")]
    return own | {"/batches/": upload, f"{API}/batches": upload} | dict.fromkeys(at_rest, lambda _: {})


def ask(portal: Portal, call: Call, turn: int) -> Taken:
    """Send a request and return what its answer took; an error where it is not answered as it should."""
    path = call.path.format(**{name: known[turn % len(known)] for name, known in portal.ids.items()})
    content, client = call.content(turn), portal.app.test_client()
    begun = time.process_time(), time.perf_counter()
    response = client.open(path, method=call.method, **content)
    response.get_data()
    taken = time.process_time() - begun[0], time.perf_counter() - begun[1]
    if response.status_code >= 400:
        raise SystemExit(f"{call.method} {path} is answered with {response.status_code}")
    response.close()
    return taken


def measure(small: Portal, large: Portal) -> dict[str, tuple[Taken, Taken]]:
    """Return by request the medians of both portals; what seems to have grown is measured again, and longer."""
    measured = medians(small, large, calls(), TURNS)
    again = [call for call in calls() if max(ratios(*measured[call.name])) > MAX_RATIO]
    return measured | medians(small, large, again, 4 * TURNS)


def medians(small: Portal, large: Portal, requests: Sequence[Call], turns: int) -> dict[str, tuple[Taken, Taken]]:
    """Return by request the median processor time and time of both portals, which take turns."""
    taken: dict[str, tuple[list[Taken], list[Taken]]] = {call.name: ([], []) for call in requests}
    for turn in range(WARM + turns):
        for call in requests:
            for place, portal in ((0, small), (1, large))[:: 1 if turn % 2 else -1]:
                taken[call.name][place].append(ask(portal, call, turn))
    return {name: (median(of_small), median(of_large)) for name, (of_small, of_large) in taken.items()}


def median(taken: Sequence[Taken]) -> Taken:
    """Return the median processor time and the median time, without the first turns."""
    processor, clock = zip(*taken[WARM:], strict=True)
    return statistics.median(processor), statistics.median(clock)


def ratios(small: Taken, large: Taken) -> Taken:
    """Return how the large portal's processor time and time compare with the small one's."""
    return large[0] / small[0], large[1] / small[1]


def left_out(portal: Portal) -> str:
    """Name the pages and operations that no request asks for."""
    sample, pages = {name: known[0] for name, known in portal.ids.items()}, portal.app.url_map.bind("localhost")
    table = OperationTable(portal.services.declarations.portfolio(), with_legacy=False)
    missing = {rule.endpoint: f"`{rule}`" for rule in portal.app.url_map.iter_rules()}
    missing |= {operation.id: f"`{operation.path}`" for operation in table.operations}
    for call in calls():
        path = call.path.format(**sample).partition("?")[0]
        asked = table.find(call.method, path)[0].id if table.knows(path) else pages.match(path, call.method)[0]
        missing.pop(str(asked), None)
    return ", ".join(sorted(missing.values()))


# The audit


def run(portal: Portal, command: str, *, stop: bool = False) -> Ran:
    """Run an audit command with a terminal for its errors; with `stop`, press Ctrl-C once it shows progress."""
    terminal, other_end = pty.openpty()
    environment = os.environ | portal.environment | {"TERM": "xterm"}
    arguments = [sys.executable, "-m", "flask", "--app", "bankportal", *command.split()]
    begun, shown = time.perf_counter(), ""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=other_end, env=environment) as process:
        os.close(other_end)
        with suppress(OSError):  # Linux's way of saying that the other end was closed
            while piece := os.read(terminal, 4096):
                shown += piece.decode(errors="replace")
                if stop and any(map(int, PERCENT.findall(shown))):
                    process.send_signal(signal.SIGINT)
                    stop = False
        os.close(terminal)
        assert process.stdout is not None
        printed = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Ran(printed, shown, process.returncode, (usage.ru_utime + usage.ru_stime, time.perf_counter() - begun))


def audits(small: Portal, large: Portal) -> tuple[list[Bar], dict[str, Taken]]:
    """Verify and replay all decisions, then those that are recorded after that; churn's alone, which are larger."""
    results, each = [], dict[str, Taken]()
    for name, most in AUDIT_BARS.items():
        say(f"{large.kind}: flask audit {name}")
        whole = run(large, f"audit {name}")
        start_up = min((run(small, f"audit {name}") for _ in range(2)), key=lambda ran: ran.taken)
        each[name] = by_decision(whole, start_up)
        what, steps = f"{large.kind}: flask audit {name}", len(set(PERCENT.findall(whole.shown)))
        results.append(limit_bar(what, each[name][0], most, "ms of processor a decision", 3))
        results.append(Bar(f"{what}, progress", "shown", f"{steps} different percentages", steps > 1))
    head, before = large.head(), sizes(large)["total"]
    fill(large, MORE, [CHURN])
    each_churn = (sizes(large)["total"] - before) / MORE
    results.append(limit_bar(f"{large.kind}: {MORE:,} churn decisions more", each_churn, MAX_BYTES, "bytes each", 0))
    since = run(large, f"audit verify --since {head}")
    nothing, start_up = (run(portal, f"audit verify --since {portal.head()}") for portal in (large, small))
    each["verify --since"] = by_decision(since, start_up)
    what, read = f"{large.kind}: verify --since, {MORE:,} decisions later", f"{since.decisions:,} decisions"
    results.append(Bar(f"{what}, reads", f"{MORE:,} decisions", read, since.decisions == MORE))
    for place, words in enumerate(("processor time", "time")):
        ratio = each["verify --since"][place] / each["verify"][place]
        results.append(limit_bar(f"{what}, {words} a decision", ratio, MAX_RATIO, "× that of the whole"))
        ratio = nothing.taken[place] / start_up.taken[place]
        what_more = f"{large.kind}: verify --since the newest head, {words}"
        results.append(limit_bar(what_more, ratio, MAX_RATIO, f"× that at {SMALL:,} decisions"))
    return [*results, *(taken_up(large, name, head) for name in AUDIT_BARS)], each


def by_decision(ran: Ran, start_up: Ran) -> Taken:
    """Return the milliseconds a decision that a command took beyond its start."""
    decisions = ran.decisions - start_up.decisions
    processor, clock = (took - start for took, start in zip(ran.taken, start_up.taken, strict=True))
    return processor / decisions * 1e3, clock / decisions * 1e3


def taken_up(portal: Portal, name: str, head: str) -> Bar:
    """Stop a command that goes on from a head, and go on from where it stopped."""
    stopped = run(portal, f"audit {name} --since {head}", stop=True)
    match, newest = GO_ON.search(stopped.shown), int(portal.head().split(":")[0])
    what, bound = f"{portal.kind}: {name} stopped by Ctrl-C", "exit code 130; goes on where it stopped"
    if not match:
        return Bar(what, bound, f"exit code {stopped.code}, no word on how to go on", False)
    rest, left = run(portal, match[1]), newest - int(match[2])
    told = f"exit code {stopped.code}; {rest.decisions:,} of {MORE:,} decisions were left"
    return Bar(what, bound, told, stopped.code == 130 and rest.decisions == left < MORE)


# Results


def limit_bar(what: str, measured: float, most: float, unit: str, digits: int = 2) -> Bar:
    """Compare with an upper bound."""
    return Bar(what, f"≤ {most:,g} {unit}", f"{measured:,.{digits}f}", measured <= most)


def worst(kind: str, measured: Mapping[str, tuple[Taken, Taken]]) -> Iterator[Bar]:
    """Compare the request that grew most, by processor time and by the clock."""
    for place, words in enumerate(("processor time", "time")):
        grown = {name: ratios(*both)[place] for name, both in measured.items()}
        name = max(grown, key=grown.__getitem__)
        what = f"{kind}: {len(grown)} requests, {words}; the worst: {name}"
        yield limit_bar(what, grown[name], MAX_RATIO, f"× that at {SMALL:,} decisions")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table; all columns but the first are numbers."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows))


def requests_table(by_kind: Mapping[str, Mapping[str, tuple[Taken, Taken]]]) -> str:
    """Write how all requests grew."""
    head = ["", *(f"{kind}, {column}" for kind in by_kind for column in ("ms of processor", "ratio", "ratio of time"))]
    rows = []
    for name in next(iter(by_kind.values())):
        cells = [f"`{name}`"]
        for both in (measured[name] for measured in by_kind.values()):
            cells += [f"{both[1][0] * 1e3:.2f}", *(f"{ratio:.2f}" for ratio in ratios(*both))]
        rows.append(cells)
    return table(head, rows)


def small_table(by_kind: Mapping[str, Mapping[str, Any]], first: str, write_: Callable[[Any], str]) -> str:
    """Write one figure of each kind of database by its name, in the order of the first that has it."""
    names = dict.fromkeys(chain.from_iterable(by_kind.values()))
    cells = [[f"`{name}`", *(write_(own[name]) if name in own else "–" for own in by_kind.values())] for name in names]
    return table([first, *by_kind], cells)


@contextmanager
def postgresql() -> Iterator[str]:
    """Yield the address of an empty database on the server."""
    assert POSTGRES is not None
    name, server = f"bankportal_growth_{secrets.token_hex(6)}", create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sqlite", type=int, default=1_000_000, help="decisions")
    parser.add_argument("--postgresql", type=int, default=300_000, help="decisions")
    options = parser.parse_args()
    decisions = {"SQLite": options.sqlite} | ({"PostgreSQL": options.postgresql} if POSTGRES else {})
    results, parts = list[Bar](), dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, ExitStack() as opened:
        folder, log = Path(name), opened.enter_context(open(os.devnull, "w"))
        opened.enter_context(redirect_stdout(log))
        models = [trained_on(shipped(product, folder), product) for product in PRODUCTS.values()]
        for kind, many in decisions.items():
            portals = []
            for size, number in (("small", SMALL), ("large", many)):
                address = opened.enter_context(postgresql()) if kind == "PostgreSQL" else None
                portals.append(make_portal(kind, folder / f"{kind}-{size}", address, models))
                fill(portals[-1], number)
            small, large = portals
            sized, sized_small = bytes_each(large), bytes_each(small)["total"]
            results.append(limit_bar(f"{kind}: decisions of both products", sized["total"], MAX_BYTES, "bytes each", 0))
            say(f"{kind}: pages and operations")
            measured = measure(small, large)
            results += worst(kind, measured)
            bars_of_audit, each = audits(small, large)
            results += bars_of_audit
            parts[kind] = {"bytes": sized, "small": sized_small, "requests": measured, "audit": each}
            unasked = left_out(large)
            for portal in portals:
                portal.services.database.close()
    write_results(decisions, results, parts, unasked)


def write_results(
    decisions: Mapping[str, int], results: Sequence[Bar], parts: Mapping[str, Mapping[str, Any]], unasked: str
) -> None:
    """Write all that was measured."""

    def part(name: str) -> dict[str, Any]:
        return {kind: own[name] for kind, own in parts.items()}

    filled = " and ".join(f"{many:,} in {kind}" for kind, many in decisions.items())
    small = ", ".join(f"{each:,.0f} on {kind}" for kind, each in part("small").items())
    write(
        "python benchmarks/growth.py",
        [
            f"{filled}: decisions of both products in turn, recorded in groups of {GROUP}, half of them as forms send"
            f" them and half as calls without a key; and {BATCHES} batches. Beside each a portal of {SMALL:,}."
            f" Requests through Flask's test client, in turn, medians of {TURNS}, of {4 * TURNS} where that was beyond"
            " the bar; the database server's own processor time is not in them. Audits run as commands on a terminal,"
            f" without what the small portal takes. Not asked for: {unasked}.",
            bars(results),
            f"**Bytes a decision, by table and index** (with {SMALL:,} decisions: {small})",
            small_table(part("bytes"), "", lambda size: f"{size:,.0f}"),
            "**The audit, ms a decision: processor, and by the clock**",
            small_table(part("audit"), "`flask audit …`", lambda taken: f"{taken[0]:.3f}, {taken[1]:.3f}"),
            f"**Requests: processor time, and how it and the time compare with {SMALL:,} decisions**",
            requests_table(part("requests")),
        ],
    )


if __name__ == "__main__":
    main()
