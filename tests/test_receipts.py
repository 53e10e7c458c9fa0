"""A batch's place in the chain: proven, recomputed, exported."""

import csv
import io
import json
import re
import runpy
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import insert, select, update

from bankportal import wiring
from bankportal.config import load
from bankportal.domain.batch import State
from bankportal.domain.canonical import sha256
from bankportal.domain.constraints import NUMBER, Source
from bankportal.domain.schema import validate
from bankportal.services.audit import ChainBroken, Head, Replayed, Verified
from bankportal.services.batches.replaying import ReplayDiffers
from bankportal.store.receipts import add_batch
from bankportal.store.storage import file_digest
from bankportal.store.tables import decisions, jobs, protected_values
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN

check = runpy.run_path(str(Path(__file__).parents[1] / "docs" / "verify_receipts.py"))["check"]
ROWS = 40
AT = datetime(2026, 1, 1, 10, 0, 0, 1, UTC)


def decide(services, product, examples, name: str):
    return services.scoring.decide(validate(product, examples[product.key], Source.TEXT), name, BY_PAGE)


def batch(services, product, source: Path):
    """Take a file with two bad rows through the worker."""
    lines = source.read_text(encoding="utf-8").splitlines()[: ROWS - 1]
    file = source.with_name(f"{product.key}-small.csv")
    file.write_text("\n".join([*lines, "ragged", re.sub("[^,]+", "?", lines[1])]) + "\n", encoding="utf-8")
    with file.open("rb") as stream:
        job = services.batches.receive(product, "May's customers.csv", stream, provenance=BY_PAGE)
    services.batches.check(job, services.batches.suggestion(job).mapping, start=True)
    while services.worker.step():
        pass
    done = services.batches.get(job.id)
    assert (done.state, done.checked.rows, done.summary.rejected) == (State.DONE, ROWS, 2)
    return done


def exported(services) -> list[str]:
    return [line for _, line in services.audit.export()]


@pytest.fixture(scope="module")
def played(ready_instance, bank_files, tmp_path_factory) -> Path:
    """An instance with a chain of two batches, churn and allowance; copy it, do not use it."""
    instance = tmp_path_factory.mktemp("played") / "instance"
    shutil.copytree(ready_instance, instance)
    built = wiring.build(load({"BANKPORTAL_INSTANCE": str(instance)}))
    for product in (CHURN, ALLOWANCE):
        batch(built, product, bank_files[product.key])
    built.database.close()
    return instance


@pytest.fixture
def done(played, tmp_path):
    """The services on an instance of the test's own, its chain two batches."""
    shutil.copytree(played, tmp_path / "done")
    built = wiring.build(load({"BANKPORTAL_INSTANCE": str(tmp_path / "done")}))
    yield built
    built.database.close()


@pytest.fixture
def batches(done):
    """The two batches."""
    return done.batches.page(None, None, 2).items[::-1]


@pytest.fixture
def tamper(services):
    """Do to the database what the portal never does."""

    def run(*statements: str) -> None:
        connection = services.database.engine.raw_connection()
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA ignore_check_constraints=ON")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return run


def test_it_works(portal, examples, bank_files) -> None:
    before = portal.audit.head().number
    decide(portal, CHURN, examples, "before")
    job = batch(portal, CHURN, bank_files["churn"])
    decide(portal, CHURN, examples, "after")
    assert portal.audit.verify() == Verified(2, 1, before, portal.audit.head())
    assert portal.audit.replay() == Replayed(2, 1, ())
    lines = [json.loads(json.loads(line)["content"]) for line in exported(portal)[before:]]
    assert [line.get("kind") for line in lines] == [None, "batch", None]
    assert lines[1]["files"] == dict(job.files)
    assert lines[1]["input"]["digest"] == job.input_digest
    assert lines[1]["model"] == {"version": "v1", "digest": job.model_digest}


def test_a_decisions_content_is_what_it_always_was(services, examples) -> None:
    """Chains of earlier versions must stay right: the text is put together here by hand."""
    before = services.audit.head()
    made = decide(services, CHURN, examples, "one")
    customer, outcome = made.customer, made.outcome
    with services.database.read() as connection:
        submission = connection.execute(select(decisions.c.submission)).scalar_one()
        salt = connection.execute(select(protected_values.c.salt)).scalar_one()
    whole = {
        "actor": "system",
        "at": made.at.isoformat(timespec="microseconds"),
        "band": outcome.band.name,
        "base": outcome.base,
        "contributions": outcome.contributions,
        "declarations": {"policy": None, "product": CHURN.digest},
        "door": "page",
        "flags": [{"factor": flag.factor, "message": flag.message} for flag in outcome.flags],
        "format": 2,
        "id": made.id,
        "input": {"carried": customer.identifiers, "policy": customer.policy, "scored": customer.scored},
        "limit": None,
        "model": {"digest": outcome.model_digest, "version": outcome.model_version},
        "number": before.number + 1,
        "policy_version": None,
        "previous": before.digest,
        "product": "churn",
        "protected": sha256(salt + json.dumps(customer.protected, sort_keys=True, separators=(",", ":"))),
        "reasons": [
            {"contribution": r.contribution, "factor": r.factor, "rule": r.rule, "sentence": r.sentence}
            for r in outcome.reasons
        ],
        "score": outcome.score,
        "submission": submission,
    }
    written = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert json.loads(exported(services)[before.number])["content"] == written


EDITS = {
    "id": "id = substr(id, 1, 25) || CASE substr(id, 26) WHEN 'x' THEN 'y' ELSE 'x' END",
    "product": "product = 'allowance'",
    "state": "state = 'cancelled'",
    "at": "at = '2020-01-01 00:00:00.000000'",
    "file_name": "file_name = 'June.csv'",
    "input_digest": "input_digest = replace(input_digest, substr(input_digest, 1, 1), 'f') || 'x'",
    "input_bytes": "input_bytes = input_bytes + 1",
    "header_digest": "header_digest = 'x'",
    "layout": "layout = json_set(layout, '$.line', 9)",
    "mapping": "mapping = json_set(mapping, '$.other', 'Age')",
    "checked": "checked = json_set(checked, '$.rejected', 0)",
    "a group of what was found": "checked = json_set(checked, '$.groups[0].rows', 9)",
    "model_version": "model_version = 'v2'",
    "model_digest": "model_digest = 'x'",
    "policy_version": "policy_version = 'other'",
    "product_declaration": "product_declaration = 2",
    "an unknown declaration": "product_declaration = 99",
    "policy_declaration": "policy_declaration = 3",
    "actor": "actor = 'nobody'",
    "door": "door = 'api'",
    "started_at": "started_at = NULL",
    "finished_at": "finished_at = '2020-01-01 00:00:00.000000'",
    "summary": "summary = json_set(summary, '$.scored', 99)",
    "the mean": "summary = json_set(summary, '$.mean_score', 0.5)",
    "no summary": "summary = NULL",
    "files": "files = json_set(files, '$.\"scored.csv\"', 'x')",
    "unreadable": "summary = 'not json'",
    "another shape": "summary = '[1]'",
    "an unknown state": "state = 'other'",
    "an unknown product": "product = 'loans'",
    "bytes for a text": "file_name = x'ff00'",
}
# Not proven: what no answer depends on once the batch is done.
LEFT_OUT = {"number", "key", "start_when_checked", "message"}


def test_each_column_is_edited() -> None:
    assert {edit.split(" =")[0] for edit in EDITS.values()} | LEFT_OUT == set(jobs.c.keys())


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_are_found(services, stored, second, tamper, edit) -> None:
    tamper(f"UPDATE jobs SET {edit} WHERE number = 1")
    named = rf"Batch {stored.id[:20]}.* \(receipt {second}\) is not what was|follows receipt {second - 1}"
    with pytest.raises(ChainBroken, match=named):
        services.audit.verify()


@pytest.fixture
def stored(services, examples):
    """A chain of a decision, a batch and a decision; of the batch there is only the record."""
    decide(services, CHURN, examples, "before")
    job = insert_job(services, "a" * 26)
    with services.database.write() as connection:
        add_batch(connection, services.database, job)
    decide(services, CHURN, examples, "after")
    assert services.audit.verify().batches == 1
    return job


@pytest.fixture
def second(services, stored) -> int:
    """The number of the receipt of the `stored` batch."""
    return services.audit.head().number - 1


def insert_job(services, id_: str, state: State = State.DONE):
    """Record a batch of which there is only the row."""
    values = job_values(id_, state) | {"product_declaration": services.decisions.declarations.number_of(CHURN)}
    with services.database.write() as connection:
        connection.execute(insert(jobs).values(values))
    return services.batches.get(id_)


def job_values(id_: str, state: State = State.DONE) -> dict[str, object]:
    """Return the row of a batch of churn; its number and declarations are left out."""
    found = {"line": 3, "text": "x"}
    group = {"column": "a", "factor": "Age", "code": "c", "message": "m", "rows": 1, "examples": [found]}
    return {
        "id": id_,
        "product": "churn",
        "state": state.value,
        "file_name": "May.csv",
        "input_digest": "1" * 64,
        "input_bytes": 10,
        "header_digest": "2" * 64,
        "layout": {"delimiter": ",", "header": ["a"], "start": 2, "line": 2},
        "mapping": {"a": "Age"},
        "start_when_checked": False,
        "message": "",
        "checked": {"rows": 3, "good": 2, "rejected": 1, "groups": [group], "more": 0},
        "model_version": "v1",
        "model_digest": "3" * 64,
        "policy_version": None,
        "actor": BY_PAGE.actor,
        "door": BY_PAGE.door.value,
        "summary": {"scored": 2, "rejected": 1, "quarantined": 0, "bands": {"Low": 2}, "mean_score": 0.1 + 0.2},
        "files": {"scored.csv": "4" * 64},
    } | dict.fromkeys(("at", "started_at", "finished_at"), AT)


def test_only_a_batch_that_is_done_has_a_place(services) -> None:
    job = insert_job(services, "b" * 26, State.SCORING)
    with services.database.write() as connection, pytest.raises(ValueError, match="done"):
        add_batch(connection, services.database, job)
    assert services.audit.verify().batches == 0


def test_inserting_is_found(services, stored) -> None:
    insert_job(services, "c" * 26, State.CANCELLED)
    assert services.audit.verify().batches == 1
    insert_job(services, "d" * 26)
    with pytest.raises(ChainBroken, match=f"Batch {'d' * 26} has no receipt: it was inserted"):
        services.audit.verify()


def test_deleting_is_found(services, stored, second, tamper) -> None:
    tamper("DELETE FROM jobs")
    with pytest.raises(ChainBroken, match=f"receipt {second} is of is not there: it was deleted"):
        services.audit.verify()


def test_deleting_with_its_receipt_is_found(services, stored, second, tamper) -> None:
    tamper("DELETE FROM jobs", f"DELETE FROM receipts WHERE number = {second}")
    with pytest.raises(ChainBroken, match=f"Receipt {second} is missing"):
        services.audit.verify()


def test_reordering_is_found(services, stored, second, tamper) -> None:
    tamper(
        f"UPDATE receipts SET job_number = NULL WHERE number = {second}",
        f"UPDATE receipts SET job_number = 1 WHERE number = {second - 1}",
        f"UPDATE decisions SET number = {second} WHERE number = {second - 1}",
    )
    with pytest.raises(ChainBroken, match=rf"Batch {stored.id} \(receipt {second - 1}\)"):
        services.audit.verify()


def test_a_receipt_moved_to_a_copy_is_found(services, stored, second, tamper) -> None:
    copy = insert_job(services, "e" * 26)
    tamper(f"UPDATE receipts SET job_number = {copy.number} WHERE number = {second}")
    with pytest.raises(ChainBroken, match=f"Batch {copy.id}"):
        services.audit.verify()


def test_a_cut_tail_is_found_against_an_exported_head(services, stored, second, tamper) -> None:
    newest = services.audit.head()
    cut = [f"DELETE FROM {table} WHERE number >= {second}" for table in ("decisions", "receipts")]
    tamper(*cut, "DELETE FROM jobs")
    assert services.audit.verify().decisions == 1
    with pytest.raises(ChainBroken, match=f"ends at {second - 1}, before the exported head {second + 1}"):
        services.audit.verify(Head(newest.number, newest.digest))


def test_a_chain_longer_than_a_block(services, stored, examples, monkeypatch) -> None:
    monkeypatch.setattr("bankportal.store.chain.BLOCK", 2)
    for number in range(4):
        decide(services, CHURN, examples, str(number))
    newest = services.audit.head()
    assert services.audit.verify() == Verified(6, 1, newest.number - 7, newest)
    numbers = [json.loads(json.loads(line)["content"])["number"] for line in exported(services)]
    assert numbers == [*range(1, newest.number + 1)]


def test_who_verifies_keeps_nobody_from_recording(services, stored, examples, monkeypatch) -> None:
    monkeypatch.setattr("bankportal.store.chain.BLOCK", 1)
    links = services.audit.chain.links()
    next(links)
    decide(services, CHURN, examples, "meanwhile")
    assert len(list(links)) == services.audit.head().number - 1


def test_the_script_checks_batches(services, stored, second) -> None:
    lines = exported(services)
    newest = services.audit.head()
    assert check(lines) == (f"{newest.number}:{newest.digest}", 2, 1, second - 2)
    with pytest.raises(ValueError, match=f"line {second}: the digest"):
        check([line.replace("May.csv", "Mai.csv") for line in lines])
    assert json.loads(lines[second - 1])["content"].count("May.csv") == 1


def test_batches_come_out_again(done) -> None:
    newest = done.audit.head()
    assert done.audit.verify() == Verified(0, 2, newest.number - 2, newest)
    assert done.audit.replay() == Replayed(0, 2, ())


def test_a_batch_comes_out_again_by_its_own_version(done, trained) -> None:
    done.models.add(trained["churn"], activate=True)
    assert done.audit.replay().batches == 2


def test_messages_reworded_since_do_not_matter(done, batches) -> None:
    said = done.batches.rejects(batches[0]).read_bytes()
    assert b"must be a number" in said
    forge(done, batches[0], "rejects.csv", lambda content: content.replace(b"must be a number", b"is no number"))
    assert done.audit.replay() == Replayed(0, 2, ())


def neutral_at_the_beginning(rows: list[list[str]]) -> list[list[str]]:
    """Neutralise as the first releases did: only what begins a cell."""
    formula = re.compile(rf"(?! *{NUMBER.pattern} *$)(?:[\t\n\r]|\s*[=+@-])")
    for row in rows:
        row[:] = [f"'{cell}" if formula.match(cell) else cell for cell in row]
    return rows


def test_a_batch_written_before_formulas_were_looked_for_inside_cells(
    services, tmp_path, examples, monkeypatch
) -> None:
    notes = ["x;=cmd", "\t=cmd", "=a;=b", "two\n=lines", "-5", 'quoted;"=cmd"']
    table = [[*examples["churn"], "note;=cmd"], *([*examples["churn"].values(), note] for note in notes)]
    table += [[*("?" for _ in examples["churn"]), "x;=cmd"], ["ragged", "x;=cmd"]]
    with (tmp_path / "notes.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    with monkeypatch.context() as before, (tmp_path / "notes.csv").open("rb") as stream:
        before.setattr("bankportal.services.batches.chunks.neutralise", neutral_at_the_beginning)
        job = services.batches.receive(CHURN, "notes.csv", stream, provenance=BY_PAGE)
        services.batches.check(job, services.batches.suggestion(job).mapping, start=True)
        while services.worker.step():
            pass
    job = services.batches.get(job.id)
    assert job.summary.scored == len(notes)
    assert b",x;=cmd," in services.batches.file(job, "scored.csv").read_bytes()
    assert services.audit.replay() == Replayed(0, 1, ())
    assert [services.batches.row(job, place)[1].score for place in range(len(notes))] == [
        row.score for row in services.batches.rows(job).items
    ]
    forge(services, job, "scored.csv", lambda content: content.replace(b"x;=cmd", b"y;=cmd"))
    with pytest.raises(ReplayDiffers, match=r"differs in.*scored\.csv"):
        services.audit.replay()


@pytest.mark.parametrize("name", ["input.csv", "scored.csv", "rejects.csv", "results.npy"])
def test_a_file_that_is_gone_is_named_and_the_rest_recomputed(done, batches, name) -> None:
    (done.config.storage / batches[0].id / name).unlink()
    assert done.audit.verify().batches == 2
    assert done.audit.replay() == Replayed(0, 1, (f"Batch {batches[0].id} cannot be recomputed: {name} is gone.",))


@pytest.mark.parametrize("name", ["input.csv", "scored.csv", "rejects.csv", "results.npy"])
def test_a_changed_file_is_named(done, batches, name) -> None:
    path = done.config.storage / batches[1].id / name
    path.write_bytes(path.read_bytes()[:-2] + b"9\n")
    with pytest.raises(ReplayDiffers, match=f"Batch {batches[1].id}: {name} is not the file that was recorded"):
        done.audit.replay()


def forge(services, job, name: str, change) -> None:
    """Change a file and its digest in the record: only computing it again can tell."""
    path = services.config.storage / job.id / name
    path.write_bytes(change(path.read_bytes()))
    files = dict(job.files) | {name: file_digest(path)}
    with services.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.number == job.number).values(files=files))


FORGED = {
    "a score's last bit": ("results.npy", lambda b: flipped(b, "score"), "score of line 2"),
    "a limit": ("results.npy", lambda b: flipped(b, "limit"), "limit of line 2"),
    "a reason": ("results.npy", lambda b: flipped(b, "reasons"), "reasons of line 2"),
    "a record less": ("results.npy", lambda b: saved(np.load(io.BytesIO(b))[:-1]), "number of scored rows"),
    "a cell": ("scored.csv", lambda b: b.replace(b",Standard,", b",Elite,", 1), "scored.csv"),
    "a header": ("scored.csv", lambda b: b.replace(b"score", b"Score", 1), "first line of scored.csv"),
    "a line more": ("scored.csv", lambda b: b + b"more\n", "number of rows"),
    "a reject": ("rejects.csv", lambda b: b.replace(b"ragged", b"rugged", 1), "rejects.csv"),
    "a reject more": ("rejects.csv", lambda b: b + b"more\n", "number of rows"),
}


def flipped(content_: bytes, field: str) -> bytes:
    """Return a results file with one bit of the first record's field the other way."""
    records = np.load(io.BytesIO(content_))
    records[field][:1].view(np.uint8)[..., 0] ^= 1
    return saved(records)


def saved(records) -> bytes:
    out = io.BytesIO()
    np.save(out, records)
    return out.getvalue()


@pytest.mark.parametrize(("name", "change", "what"), FORGED.values(), ids=FORGED)
def test_a_forged_file_does_not_come_out_again(done, batches, name, change, what) -> None:
    forge(done, batches[1], name, change)
    with pytest.raises(ReplayDiffers, match=f"Batch {batches[1].id} recomputed differs in.*{what}"):
        done.audit.replay()


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        ("summary = json_set(summary, '$.mean_score', 0.5)", "recomputed differs in its counts"),
        ("mapping = json_remove(mapping, '$.CreditScore')", "recomputed differs in rejects.csv"),
        ("layout = '{}'", "cannot be recomputed"),
        ("policy_version = 'other'", "Limit policy other is not the one that was declared"),
        ("model_version = 'v7'", "cannot be recomputed: Allowance model v7 is refused"),
    ],
    ids=["summary", "mapping", "layout", "policy", "model"],
)
def test_an_edited_record_does_not_come_out_again(done, batches, edit, what) -> None:
    with done.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE jobs SET {edit} WHERE number = 2")
    with pytest.raises(ReplayDiffers, match=f"Batch {batches[1].id}.*{what}"):
        done.audit.replay()


def test_a_quarantined_batch_comes_out_again(services, bank_files, monkeypatch) -> None:
    def lost(*_):
        raise RuntimeError("this span kills")

    monkeypatch.setattr("bankportal.services.batches.worker.score_block", lost)
    with bank_files["churn"].open("rb") as stream:
        job = services.batches.receive(CHURN, "May.csv", stream, provenance=BY_PAGE)
    services.batches.check(job, services.batches.suggestion(job).mapping, start=True)
    while services.worker.step():
        if services.worker.store.get(job.id).rows_done:
            monkeypatch.undo()  # the first span is quarantined, the rest is scored
    done = services.batches.get(job.id)
    assert done.state is State.DONE
    assert 0 < done.summary.quarantined < done.checked.rows
    assert services.audit.replay() == Replayed(0, 1, ())


def test_commands(app, bank_files, tmp_path) -> None:
    runner, services = app.test_cli_runner(), app.extensions["bankportal"]
    job = batch(services, CHURN, bank_files["churn"])
    newest = services.audit.head().number
    counts = f"0 decisions, 1 batches and {newest - 1} events"
    assert f"{counts}, {newest} receipts: all right" in runner.invoke(args=["audit", "verify"]).output
    assert "0 decisions and 1 batches recomputed" in runner.invoke(args=["audit", "replay"]).output
    assert f"{counts}." in runner.invoke(args=["audit", "export", str(tmp_path / "chain.jsonl")]).output
    shutil.rmtree(services.config.storage / job.id)
    replayed = runner.invoke(args=["audit", "replay"])
    assert replayed.exit_code == 3
    assert "0 decisions and 0 batches recomputed" in replayed.output
    assert f"Batch {job.id} cannot be recomputed: input.csv is gone." in replayed.output
    with services.database.write() as connection:
        connection.execute(update(jobs).values(file_name="June.csv"))
    verified = runner.invoke(args=["audit", "verify"])
    assert verified.exit_code == 1
    assert f"Batch {job.id} (receipt {newest}) is not what was recorded." in verified.output
