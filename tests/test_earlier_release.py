"""What release 0.1.0 recorded is opened, verified, replayed and shown by this one.

`fixtures/release-0.1.0.tar.xz` is an instance folder as that release left it, and the chain as it exported it: three
model versions, 35 decisions (without a limit, with a counteroffer, with blanks and with protected values, on two
versions of one product), two batches with rejects, ragged rows and formulas.
"""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.conftest import config_for, make_app

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


def test_its_chain_is_exported_as_the_same_bytes(audit, recorded) -> None:
    lines = [line for _, line in audit.export()]
    exported = (recorded / "chain.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[: len(exported)] == exported


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
