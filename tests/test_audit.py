import json
import runpy
from pathlib import Path

import pytest
from sqlalchemy import text

from bankportal.domain.constraints import Source
from bankportal.domain.products import ALLOWANCE, CHURN
from bankportal.domain.schema import validate
from bankportal.services.audit import ChainBroken, Head, Replayed, Verified
from bankportal.services.batches.replaying import ReplayDiffers

SCRIPT = Path(__file__).parents[1] / "docs" / "verify_receipts.py"
check = runpy.run_path(str(SCRIPT))["check"]


def exported(services) -> list[str]:
    return [line for _, line in services.audit.export()]


@pytest.fixture
def decided(services, examples):
    """Six decisions: churn and allowance in turn, some values blank."""
    made = []
    for number in range(6):
        product = (CHURN, ALLOWANCE)[number % 2]
        raw = examples[product.key] | {"CustomerId": str(number), "Surname": "Nuñez-Örn", "HasLoan": ""}
        made.append(services.scoring.decide(validate(product, raw, Source.TEXT), f"submission-{number}"))
    return made


@pytest.fixture
def tamper(services):
    """Do to the database what the portal never does."""

    def run(*statements: str) -> None:
        connection = services.database.engine.raw_connection()
        connection.execute("PRAGMA foreign_keys=OFF")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return run


def test_it_works(services, decided) -> None:
    head = services.audit.head()
    assert head.number == 6
    assert services.audit.verify() == Verified(6, 0, head)
    assert services.audit.replay() == Replayed(6, 0, ())
    assert services.decisions.receipt(decided[-1].id) == head


def test_an_empty_portal_is_right(empty_services) -> None:
    assert empty_services.audit.verify() == Verified(0, 0, None)
    assert empty_services.audit.replay() == Replayed(0, 0, ())
    assert exported(empty_services) == []


EDITS = {
    "score": "score = score + 1e-16 + 0.0001",
    "score by its last bit": "score = score * (1 + 2.3e-16)",
    "band": "band = 'Ineligible'",
    "a factor": "scored = json_set(scored, '$.CreditScore', 851)",
    "an int made a float": "scored = json_set(scored, '$.CreditScore', 650.0)",
    "the name": "carried = json_set(carried, '$.Surname', 'Other')",
    "the time": "at = '2020-01-01 00:00:00.000000'",
    "a reason": "reasons = json_set(reasons, '$[0].sentence', 'Another')",
    "a contribution": "contributions = json_set(contributions, '$.CreditScore', 0.5)",
    "the model": "model_version = 'v2'",
    "the policy": "policy_version = 'other'",
    "the number shown": "id = substr(id, 1, 25) || CASE substr(id, 26) WHEN 'x' THEN 'y' ELSE 'x' END",
    "unreadable": "scored = 'not json'",
    "an infinite score": "score = 9e999",
    "a score of bytes": "score = x'00'",
    "a contribution of NaN": """contributions = '{"CreditScore": NaN}'""",
    "contributions as a list": "contributions = '[1]'",
    "half a character": r"""carried = '{"Surname": "\ud800"}'""",
    "nested without end": "carried = replace(hex(zeroblob(50000)), '00', '[')",
    "a band of bytes": "band = cast(x'ff' as text)",
    "the submission": "submission = 'another'",
    "an unknown product": "product = 'loans'",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_are_found(services, decided, tamper, edit) -> None:
    tamper(f"UPDATE decisions SET {edit} WHERE number = 4")
    with pytest.raises(ChainBroken, match=rf"{decided[3].id[2:20]}|receipt 4|follows receipt 3"):
        services.audit.verify()


def test_edited_protected_values_are_found(services, decided, tamper) -> None:
    tamper("""UPDATE protected_values SET "values" = '{"Gender": "Male"}' WHERE decision_number = 2""")
    with pytest.raises(ChainBroken, match=decided[1].id):
        services.audit.verify()


def test_deleting_is_found(services, decided, tamper) -> None:
    tamper("DELETE FROM decisions WHERE number = 3")
    with pytest.raises(ChainBroken, match="receipt 3 is of is not there: it was deleted"):
        services.audit.verify()


def test_deleting_a_decision_with_its_receipt_is_found(services, decided, tamper) -> None:
    tamper("DELETE FROM decisions WHERE number = 3", "DELETE FROM receipts WHERE number = 3")
    with pytest.raises(ChainBroken, match="Receipt 3 is missing"):
        services.audit.verify()


def test_deleting_and_closing_the_gap_is_found(services, decided, tamper) -> None:
    tamper(
        "DELETE FROM decisions WHERE number = 3",
        "DELETE FROM receipts WHERE number = 3",
        "UPDATE receipts SET number = number - 1 WHERE number > 3",
    )
    with pytest.raises(ChainBroken, match="Receipt 3 does not follow"):
        services.audit.verify()


def test_deleting_only_the_last_decisions_row_is_found(services, decided, tamper) -> None:
    tamper("DELETE FROM decisions WHERE number = 6")
    with pytest.raises(ChainBroken, match="receipt 6 is of is not there: it was deleted"):
        services.audit.verify()


def test_reordering_is_found(services, decided, tamper) -> None:
    tamper(
        "UPDATE receipts SET decision_number = -1 WHERE number = 2",
        "UPDATE receipts SET decision_number = 2 WHERE number = 3",
        "UPDATE receipts SET decision_number = 3 WHERE number = 2",
    )
    with pytest.raises(ChainBroken, match="receipt 2"):
        services.audit.verify()


def test_inserting_is_found(services, decided, tamper) -> None:
    tamper(
        "CREATE TEMP TABLE copied AS SELECT * FROM decisions WHERE number = 2",
        "UPDATE copied SET number = 99, id = 'inserted', submission = 'inserted'",
        "INSERT INTO decisions SELECT * FROM copied",
        """INSERT INTO protected_values SELECT 99, "values", salt FROM protected_values WHERE decision_number = 2""",
    )
    with pytest.raises(ChainBroken, match="Decision inserted has no receipt"):
        services.audit.verify()


def test_a_cut_tail_is_found_against_an_exported_head(services, decided, tamper) -> None:
    newest = services.audit.head()
    head = Head(newest.number, newest.digest)
    assert services.audit.verify(head).head == newest
    tamper("DELETE FROM decisions WHERE number > 4", "DELETE FROM receipts WHERE number > 4")
    assert services.audit.verify().decisions == 4, "without a head a shorter chain is a chain"
    with pytest.raises(ChainBroken, match="ends at 4, before the exported head 6"):
        services.audit.verify(head)


def test_a_chain_written_anew_is_found_against_an_exported_head(services, decided) -> None:
    with pytest.raises(ChainBroken, match="not the one of the exported head"):
        services.audit.verify(Head(4, "0" * 64))


def test_the_script_checks_an_export(services, decided) -> None:
    lines = exported(services)
    newest = services.audit.head()
    assert check(lines) == (f"{newest.number}:{newest.digest}", 6, 0)
    assert check(lines, f"3:{json.loads(lines[2])['digest']}") == check(lines)
    assert "Gender" not in "".join(lines)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:2] + lines[3:],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [lines[0].replace("Nuñez", "Munez"), *lines[1:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: lines[1:],
        lambda lines: [lines[0].replace('{"digest"', '{"content": "FAKE", "digest"'), *lines[1:]],
        lambda lines: [lines[0].replace('{"digest"', '{"score": 0.01, "digest"'), *lines[1:]],
        lambda lines: ["[" * 100_000, *lines[1:]],
        lambda lines: ["{}", *lines[1:]],
    ],
    ids=["deleted", "reordered", "edited", "repeated", "beginning cut", "a key twice", "a key more", "nested", "empty"],
)
def test_the_script_finds_what_is_wrong(services, decided, spoil) -> None:
    with pytest.raises(ValueError, match="line"):
        check(spoil(exported(services)))


def test_the_script_finds_a_cut_tail(services, decided) -> None:
    lines = exported(services)
    with pytest.raises(ValueError, match="does not hold the head"):
        check(lines[:3], f"6:{services.audit.head().digest}")


def test_replay_names_the_first_that_differs(services, decided, tamper) -> None:
    tamper("UPDATE decisions SET score = score / 2 WHERE number >= 3")
    with pytest.raises(ReplayDiffers, match=f"{decided[2].id} recomputed differs in score"):
        services.audit.replay()


@pytest.mark.parametrize(
    "edit",
    ["json_remove(scored, '$.EstimatedSalary')", "json_set(scored, '$.EstimatedSalary', 'abc')", "'[]'"],
    ids=["a factor removed", "a text for a number", "no object"],
)
def test_replay_names_what_cannot_be_recomputed(services, decided, tamper, edit) -> None:
    tamper(f"UPDATE decisions SET scored = {edit} WHERE number = 4")
    with pytest.raises(ReplayDiffers, match=decided[3].id):
        services.audit.replay()


def test_replay_uses_the_version_that_decided(services, decided, trained) -> None:
    services.models.add(trained["churn"], activate=True)
    assert services.audit.replay().decisions == 6


def test_replay_without_the_version_says_so(services, decided) -> None:
    (services.config.models / "churn" / "v1" / "forest.npz").unlink()
    services.models.registry._models.clear()
    with pytest.raises(ReplayDiffers, match=r"cannot be recomputed: Churn model v1 is refused"):
        services.audit.replay()


def test_words_edited_since_do_not_matter(services, decided) -> None:
    from bankportal.domain.reasons import Catalogue

    services.models.catalogue = Catalogue.edited('[CreditScore]\nmany = "The score {value}"\n')
    assert services.audit.replay().decisions == 6


def test_sqlite_and_python_agree_on_floats(services, decided) -> None:
    with services.database.read() as connection:
        stored = connection.execute(text("SELECT score FROM decisions ORDER BY number")).scalars().all()
    assert stored == [decision.outcome.score for decision in decided]


def test_commands(app, client, examples, tmp_path) -> None:
    runner = app.test_cli_runner()
    assert "No decisions yet." in runner.invoke(args=["audit", "verify"]).output
    client.post("/churn/", data=examples["churn"])
    head = runner.invoke(args=["audit", "head"]).output.strip()
    assert f"Head: {head}" in runner.invoke(args=["audit", "verify", "--head", head]).output
    assert "1 decisions and 0 batches recomputed" in runner.invoke(args=["audit", "replay"]).output
    runner.invoke(args=["audit", "export", str(tmp_path / "chain.jsonl")])
    assert check((tmp_path / "chain.jsonl").read_text(encoding="utf-8").splitlines()) == (head, 1, 0)
    assert runner.invoke(args=["audit", "verify", "--head", "nonsense"]).exit_code == 2
    assert runner.invoke(args=["audit", "verify", "--head", f"2:{'0' * 64}"]).exit_code == 1
