"""What release 0.1.0 recorded is opened, verified, replayed and shown by this one.

`fixtures/release-0.1.0.tar.xz` is an instance folder as that release left it, and the chain as it exported it: three
model versions, 35 decisions (without a limit, with a counteroffer, with blanks and with protected values, on two
versions of one product), two batches with rejects, ragged rows and formulas.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from sqlalchemy import update

from bankportal.services.audit import ChainBroken
from bankportal.store.decision_rows import Contexts, read_context
from bankportal.store.tables import decisions
from tests.conftest import config_for, make_app
from tests.shipped import ALLOWANCE, CHURN

FIXTURE = Path(__file__).with_name("fixtures") / "release-0.1.0.tar.xz"
VERIFY = Path(__file__).parents[1] / "docs" / "verify_receipts.py"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """The folder that the earlier release left."""
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def app(recorded):
    """Today's portal in that folder."""
    from bankportal import wiring

    app = make_app(config_for(recorded / "instance"), csrf=False)
    wiring.upgrade(app.extensions["bankportal"])
    yield app
    app.extensions["bankportal"].database.close()


@pytest.fixture
def audit(app):
    return app.extensions["bankportal"].audit


def test_it_verifies_and_replays(audit) -> None:
    verified, replayed = audit.verify(), audit.replay()
    assert (verified.decisions, verified.batches) == (replayed.decisions, replayed.batches) == (35, 2)
    assert replayed.skipped == ()


def test_its_chain_is_exported_as_the_same_bytes_and_goes_on(audit, recorded) -> None:
    lines = [line for _, line in audit.export()]
    before = (recorded / "chain.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[: len(before)] == before
    (adopted, *_) = (json.loads(json.loads(line)["content"]) for line in lines[len(before) :])
    assert (adopted["format"], adopted["event"]) == (2, "tables-adopted")
    assert {name: table["rows"] for name, table in adopted["content"].items()} == {
        "model_versions": 3,
        "activations": 3,
        "declarations": 3,
    }


def test_its_model_versions_are_read(app) -> None:
    models = app.extensions["bankportal"].models
    for product in (CHURN, ALLOWANCE):
        for registered in models.store.all(product.key):
            model = models.registry.model(product, registered.version, registered.manifest_digest)
            assert (model.manifest["format"], model.manifest["declaration"]) == (1, None)


@pytest.fixture
def copied(app, recorded, tmp_path):
    """Today's portal in a copy of that folder, which a test may change."""
    shutil.copytree(recorded / "instance", tmp_path / "instance")
    copied = make_app(config_for(tmp_path / "instance"), csrf=False)
    yield copied
    copied.extensions["bankportal"].database.close()


def test_new_decisions_follow_in_the_same_chain(copied, examples, tmp_path) -> None:
    audit = copied.extensions["bankportal"].audit
    before = audit.verify()
    assert copied.test_client().post("/churn/", data=examples["churn"]).status_code == 303
    verified, replayed = audit.verify(), audit.replay()
    assert verified.decisions == replayed.decisions == before.decisions + 1
    assert (audit.chain.receipt(1).format, verified.head.format) == (1, 2)
    export = tmp_path / "chain.jsonl"
    export.write_text("".join(f"{line}\n" for _, line in audit.export()), encoding="utf-8")
    done = subprocess.run([sys.executable, VERIFY, export], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("36 decisions, 2 batches and ")


@pytest.mark.parametrize(
    "edit",
    [
        "decision_contexts SET product_declaration = 1",
        "decisions SET actor = 'somebody'",
        "jobs SET door = 'page'",
        "receipts SET format = 2 WHERE number = 4",
        "model_versions SET manifest_digest = 'x' WHERE number = 2",
        "activations SET at = '2020-01-01 00:00:00.000000' WHERE number = 3",
        "declarations SET text = replace(text, 'Low', 'High') WHERE number = 1",
    ],
)
def test_what_it_recorded_is_proved_with_what_came_later(copied, edit) -> None:
    services = copied.extensions["bankportal"]
    with services.database.write() as connection:
        assert connection.exec_driver_sql(f"UPDATE {edit}").rowcount
    with pytest.raises(ChainBroken):
        services.audit.verify()


def test_another_context_of_its_decisions_is_found(copied) -> None:
    services = copied.extensions["bankportal"]
    with services.database.write() as connection:
        declared = read_context(connection, 1)._replace(product_declaration=1)
        ((_, number),) = Contexts().numbers(connection, [declared]).items()
        own = decisions.c.context_number == 1
        assert connection.execute(update(decisions).where(own).values(context_number=number)).rowcount
    with pytest.raises(ChainBroken, match="is not what was recorded"):
        services.audit.verify()


def test_its_export_verifies_without_the_portal(recorded) -> None:
    done = subprocess.run(
        [sys.executable, VERIFY, recorded / "chain.jsonl"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_an_edited_decision_is_still_named(audit, recorded, tmp_path) -> None:
    text = (recorded / "chain.jsonl").read_text(encoding="utf-8")
    edited = tmp_path / "edited.jsonl"
    edited.write_text(text.replace("Müller", "Muller", 1), encoding="utf-8")
    assert edited.read_text(encoding="utf-8") != text
    done = subprocess.run([sys.executable, VERIFY, edited], capture_output=True, text=True, check=False)
    assert done.returncode != 0


def test_every_page_of_what_it_recorded_is_shown(app) -> None:
    client, services = app.test_client(), app.extensions["bankportal"]
    decisions = services.decisions.page(None, None, 100).items
    assert len(decisions) == 35
    for decision in decisions:
        page = client.get(f"/decisions/{decision.id}")
        assert page.status_code == 200
        assert all(
            reason.sentence in page.get_data(as_text=True) for reason in decision.outcome.reasons if reason.factor
        )
    for job in services.batches.page(None, None, 10).items:
        assert client.get(f"/batches/{job.id}").status_code == 200
        assert client.get(f"/batches/{job.id}/rows/0").status_code == 200
