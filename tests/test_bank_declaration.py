"""A bank changes what it decides with while the portal runs: every old answer stays what it was, and provable."""

import csv
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import httpx
import pytest

from bankportal import wiring
from bankportal.cli import up
from bankportal.config import load
from bankportal.domain.batch import State
from bankportal.domain.constraints import Source
from bankportal.domain.errors import NotFound
from bankportal.domain.schema import validate
from bankportal.services.declarations import NOTICED_WITHIN
from tests.conftest import PATIENCE, make_app, with_models
from tests.shipped import BY_PAGE, PRODUCTS
from tests.test_declarations_service import file_of
from tests.test_receipts import batch

DECISIONS = 1000
BLOCK = 100
MARGIN = 0.5  # seconds that a busy machine may add to what is promised


@pytest.fixture
def app(config, database):
    """The portal as it serves, on each back end."""
    app = make_app(replace(config, database_url=database.url), csrf=False)
    services = app.extensions["bankportal"]
    with_models(config, services)
    assert wiring.upgrade(services) == []
    yield app
    services.database.close()


@pytest.fixture
def served(app):
    return app.extensions["bankportal"]


@pytest.fixture
def bank(served):
    """The bank's own process: it applies, and the served portal has to notice."""
    other = wiring.build(served.config)
    yield other
    other.database.close()


def decide(services, files) -> list[str]:
    """Record decisions about the customers of both products' files; return their ids."""
    each, ids = DECISIONS // len(PRODUCTS), []
    for key, product in services.declarations.portfolio().items():
        with files[key].open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[:each]
        known = {entry.factor.name for entry in product.factors}
        customers = [
            validate(product, {name: cell for name, cell in row.items() if name in known}, Source.TEXT) for row in rows
        ]
        for start in range(0, each, BLOCK):
            block = enumerate(customers[start : start + BLOCK], start)
            recorded = services.scoring.decide_all([(one, f"{key}-{number}", BY_PAGE) for number, one in block])
            ids += [decision.id for decision in recorded]
    return ids


# What a page offers to do next, and whether its declaration is still in force: both follow the present.
OFFERED = re.compile(r'<a .*?</a>|<form .*?</form>|<span class="small declared-words">.*?</span>', re.DOTALL)


def said(page: str) -> str:
    """Return what a page says of the decision, without the frame that all pages share and without what it offers."""
    return " ".join(OFFERED.sub(" ", re.search(r"<main.*?</main>", page, re.DOTALL)[0]).split())


def shown(client, ids: list[str], every: int) -> dict[str, tuple[str, str, str]]:
    """Return page, letter and API answer of every so many of the decisions; an empty letter where none is due."""
    answers = {}
    for id_ in ids[::every]:
        page, letter, answer = (
            client.get(path) for path in (f"/decisions/{id_}", f"/decisions/{id_}/letter", f"/api/v1/decisions/{id_}")
        )
        assert (page.status_code, answer.status_code) == (200, 200)
        assert letter.status_code in (200, 404)
        text = said(letter.get_data(as_text=True)) if letter.status_code == 200 else ""
        answers[id_] = said(page.get_data(as_text=True)), text, answer.get_data(as_text=True)
    return answers


def batch_shown(client, job) -> list[bytes]:
    """Return a batch's page, its API answer and its files."""
    paths = (f"/batches/{job.id}", f"/api/v1/batches/{job.id}", f"/batches/{job.id}/scored.csv")
    answers = [client.get(path) for path in paths]
    assert [answer.status_code for answer in answers] == [200] * len(paths)
    page, *others = (answer.get_data() for answer in answers)
    for answer in answers:
        answer.close()
    return [said(page.decode()).encode(), *others]


def change(served, bank, *files: dict[str, bytes]) -> None:
    """Apply files elsewhere and wait as long as the served portal may take to notice."""
    for each in files:
        bank.declarations.apply(each)
    time.sleep(NOTICED_WITHIN)
    assert served.declarations.portfolio() == bank.declarations.portfolio()


def test_everything_recorded_stays_what_it_was(app, served, bank, bank_files) -> None:
    client = app.test_client()
    # What a page shows does not depend on the back end: on the slower one a fifth of them will do.
    every = 1 if served.config.database_url.get_backend_name() == "sqlite" else 5
    ids = decide(served, bank_files)
    jobs = [batch(served, product, bank_files[key]) for key, product in served.declarations.portfolio().items()]
    before, batches = shown(client, ids, every), [batch_shown(client, job) for job in jobs]
    assert {'"band":"Moderate"' in answer.replace(" ", "") for _, _, answer in before.values()} == {True, False}
    assert any(letter for _, letter, _ in before.values())

    renamed = file_of(bank, "churn", ('"Moderate"', '"Watch"'), ("start = 0.7", "start = 0.5"))
    change(served, bank, renamed)
    more = file_of(bank, "card-limit", ("2026-11", "2026-12"), ("unknown_obligations_share = 0.25", UNKNOWN))
    most = file_of(bank, "card-limit", ("2026-11", "2027-01"), ("living_share = 0.6", "living_share = 0.5"))
    change(served, bank, more, most)
    assert len(bank.declarations.history("card-limit")) == 3
    assert '"Watch"' in client.get("/api/v1/products").get_data(as_text=True)
    new = served.scoring.decide(
        validate(served.declarations.portfolio()["allowance"], json.loads(SALARIED), Source.TYPED), "new", BY_PAGE
    )
    assert new.outcome.policy_version == "2027-01"
    bank.declarations.withdraw("allowance")
    time.sleep(NOTICED_WITHIN)
    assert client.get("/allowance/").status_code == 404
    assert client.post("/api/v1/allowance/score", json={}).status_code == 404
    with pytest.raises(NotFound, match="withdrawn"):
        served.declarations.portfolio().product("allowance")

    after = shown(client, ids, every)
    assert [id_ for id_ in before if after[id_] != before[id_]] == []
    assert [batch_shown(client, job) for job in jobs] == batches
    verified, replayed = served.audit.verify(), served.audit.replay()
    assert (verified.decisions, verified.batches) == (replayed.decisions, replayed.batches) == (DECISIONS + 1, 2)
    assert all(served.batches.get(job.id).state is State.DONE for job in jobs)


UNKNOWN = "unknown_obligations_share = 0.3"
SALARIED = json.dumps(
    {"CreditScore": 800, "Tenure": 9, "Balance": 50000, "NumOfProducts": 2, "HasCrCard": 1, "IsActiveMember": 1}
    | {"EstimatedSalary": 90000}
)


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen]:
    """Run a process of the portal; end it and those that it started."""
    with subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def wait_until(true, patience: float = PATIENCE) -> float:
    """Return after how many seconds something became true."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + patience
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("engine", up.ENGINES)
def test_running_processes_notice(config, bank_files, monkeypatch, engine) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"INSTANCE": config.instance, "SECRET_KEY": config.secret_key, "PORT": port}
    for name, value in settings.items():
        monkeypatch.setenv(f"BANKPORTAL_{name}", str(value))
    own = wiring.build(load())
    assert wiring.upgrade(own) == []
    api = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE)
    with running(*up.ENGINES[engine](load())), running("flask", "worker"), closing(api):

        def answers() -> bool:
            try:
                return api.get("/healthz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers)
        assert '"Watch"' not in api.get("/api/v1/products").text
        own.declarations.apply(file_of(own, "churn", ('"Moderate"', '"Watch"')))
        assert wait_until(lambda: '"Watch"' in api.get("/api/v1/products").text) < NOTICED_WITHIN + MARGIN
        upload = {"product": (None, "churn"), "file": bank_files["churn"].open("rb"), "start": (None, "true")}
        with upload["file"]:
            job = api.post("/api/v1/batches", files=upload).json()
        wait_until(lambda: own.batches.get(job["id"]).state is State.DONE)
        scored = api.get(f"/batches/{job['id']}/scored.csv").text
        own.declarations.withdraw("churn")
        assert wait_until(lambda: api.get("/churn/").status_code == 404) < NOTICED_WITHIN + MARGIN
        assert api.get(f"/batches/{job['id']}/scored.csv").text == scored
    assert ",Watch," in scored
    assert ",Moderate," not in scored
    assert own.audit.verify().batches == own.audit.replay().batches == 1
    own.database.close()
