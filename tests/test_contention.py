"""Several processes decide and read at once, and are killed among it: nothing that was answered is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bankportal import wiring

DECIDE = """
import itertools, os, sys
from bankportal import wiring
from bankportal.config import load
from bankportal.domain.constraints import Source
from bankportal.domain.portfolio import shipped_portfolio
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.schema import validate
services, churn, by = wiring.build(load()), shipped_portfolio()["churn"], Provenance(Door.COMMAND)
customer = validate(churn, {customer!r}, Source.TEXT)
for number in itertools.count():
    print(services.scoring.decide(customer, f"{{os.getpid()}} {{number}}", by).id, flush=True)
"""
READ = """
from bankportal import wiring
from bankportal.config import load
decisions = wiring.build(load()).decisions
while True:
    decisions.counts()
    for decision in decisions.latest(20):
        decisions.get(decision.id)
    print("read", flush=True)
"""
WRITERS, READERS, KILLS = 2, 1, 3


@pytest.fixture
def portal_environment(portal, config) -> dict[str, str]:
    address = portal.database.url.render_as_string(hide_password=False)
    own = {"INSTANCE": str(config.instance), "DATABASE_URL": address, "SECRET_KEY": str(config.secret_key)}
    return os.environ | {f"BANKPORTAL_{name}": value for name, value in own.items()}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_it_works(portal, portal_environment, examples, tmp_path, stack) -> None:
    notes = []

    def start(code: str) -> subprocess.Popen:
        notes.append(tmp_path / f"notes-{len(notes)}")
        file = stack.enter_context(notes[-1].open("wb"))
        command = [sys.executable, "-c", code]
        process = stack.enter_context(subprocess.Popen(command, stdout=file, env=portal_environment))
        stack.callback(process.kill)
        return process

    decide = DECIDE.format(customer=examples["churn"])
    writers, readers = [start(decide) for _ in range(WRITERS)], [start(READ) for _ in range(READERS)]
    chance = random.Random(7)
    for kill in range(KILLS):
        await_lines(notes)
        time.sleep(chance.uniform(0, 0.2))
        writers[kill % WRITERS].send_signal(signal.SIGKILL)
        writers[kill % WRITERS].wait()
        writers[kill % WRITERS] = start(decide)
    await_lines(notes)
    for process in (*writers, *readers):
        assert process.poll() is None, "none was refused"
        process.kill()
        process.wait()
    answered = {line for path in notes for line in path.read_text().splitlines(keepends=True)} - {"read\n"}
    recorded = {f"{each.id}\n" for each in everything(portal)}
    assert {line for line in answered if line.endswith("\n")} <= recorded
    assert portal.audit.verify().decisions == len(recorded)


def await_lines(notes) -> None:
    """Wait until each process has answered something."""
    end = time.monotonic() + 120
    while not all(path.stat().st_size for path in notes):
        assert time.monotonic() < end, "one never answered"
        time.sleep(0.02)


def everything(portal: wiring.Services) -> Iterator:
    page = portal.decisions.page(None, None, 500)
    yield from page.items
    while page.next:
        page = portal.decisions.page(None, page.next, 500)
        yield from page.items
