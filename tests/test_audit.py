import json
import os
import pty
import re
import runpy
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from bankportal.config import PREFIX
from bankportal.domain.canonical import sha256
from bankportal.domain.constraints import Source
from bankportal.domain.schema import validate
from bankportal.services import audit
from bankportal.services.audit import ChainBroken, Head, Replayed, Verified
from bankportal.services.batches.replaying import ReplayDiffers
from bankportal.services.proving import verified_receipt
from bankportal.store.decision_rows import LIMIT, NAMED, Contexts, read_context
from bankportal.store.tables import decisions as table
from tests.conftest import SECRET
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN

SCRIPT = Path(__file__).parents[1] / "docs" / "verify_receipts.py"
check = runpy.run_path(str(SCRIPT))["check"]


def exported(services) -> list[str]:
    return [line for _, line in services.audit.export()]


@pytest.fixture
def before(services) -> int:
    """The newest receipt before the first decision: of declarations, registrations and activations."""
    return services.audit.head().number


@pytest.fixture
def decided(services, examples, before, monkeypatch):
    """Six decisions: churn and allowance in turn, some values blank; five of them stand in the counts."""
    monkeypatch.setattr("bankportal.store.counts.EVERY", before + 5)
    made = []
    for number in range(6):
        product = (CHURN, ALLOWANCE)[number % 2]
        raw = examples[product.key] | {"CustomerId": str(number), "Surname": "Nuñez-Örn", "HasLoan": ""}
        made.append(services.scoring.decide(validate(product, raw, Source.TEXT), f"submission-{number}", BY_PAGE))
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


@pytest.fixture
def edit(services, before, tamper):
    """Edit a decision, counted from the first, by SQL or by what makes another context of its own.

    In SQL a value of JSON that stands in a list is named as if it stood in an object.
    """

    def run(nth: int, *edits) -> None:
        own = table.c.number == before + nth
        for each in edits:
            with services.database.write() as connection:
                context_number = connection.scalar(select(table.c.context_number).where(own))
                context = read_context(connection, context_number)
                if not isinstance(each, str):
                    moved = Contexts().numbers(connection, [each(context)])
                    connection.execute(update(table).where(own).values(context_number=moved.popitem()[1]))
            if isinstance(each, str):
                names = dict(zip(NAMED, context.names, strict=True)) | {'"limit"': LIMIT}
                tamper(f"UPDATE decisions SET {in_place(each, names)} WHERE number = {before + nth}")

    return run


def in_place(statement: str, names) -> str:
    """Return SQL that names each value of a list by its place, also one that is to be added to its end."""

    def placed(found: re.Match) -> str:
        known = names[found["column"]]
        place = known.index(found["name"]) if found["name"] in known else "#"
        return f"{found['column']}, '$[{place}]'"

    return re.sub(r"""(?P<column>\w+|"limit"), '\$\.(?P<name>\w+)'""", placed, statement)


def test_it_works(services, decided, before) -> None:
    head = services.audit.head()
    assert head.number == before + 6
    assert services.audit.verify() == Verified(6, 0, before, head)
    assert services.audit.replay() == Replayed(6, 0, ())
    assert services.decisions.receipt(decided[-1].id) == head


def test_an_empty_portal_is_right(empty_services) -> None:
    head = empty_services.audit.head()
    assert empty_services.audit.verify() == Verified(0, 0, head.number, head)
    assert empty_services.audit.replay() == Replayed(0, 0, ())
    contents = [json.loads(json.loads(line)["content"]) for line in exported(empty_services)]
    assert {content["kind"] for content in contents} == {"event"}
    assert contents[0]["event"] == "tables-adopted"


EDITS = {
    "score": "score = score + 1e-16 + 0.0001",
    "score by its last bit": "score = score * (1 + 2.3e-16)",
    "band": "band = 'Ineligible'",
    "a factor": "scored = json_set(scored, '$.CreditScore', 851)",
    "an int made a float": "scored = json_set(scored, '$.CreditScore', 650.0)",
    "the name": "carried = json_set(carried, '$.Surname', 'Other')",
    "the time": "at = '2020-01-01 00:00:00.000000'",
    "a reason": "reasons = json_set(reasons, '$[0][#-1]', 'Another')",
    "a reason's factor": "reasons = json_set(reasons, '$[0]', json_array(0, 'Another'))",
    "a reason's place beyond the end": "reasons = json_set(reasons, '$[0]', json_array(99, 'Another'))",
    "a reason's place before the beginning": "reasons = json_set(reasons, '$[0]', json_array(-1, 'Another'))",
    "no reasons": "reasons = '[]'",
    "an object of reasons": "reasons = '{}'",
    "an object of flags": "flags = '{}'",
    "a text of flags": "flags = '\"\"'",
    "a contribution": "contributions = json_set(contributions, '$.CreditScore', 0.5)",
    "a contribution less": "contributions = json_remove(contributions, '$.CreditScore')",
    "a contribution more": "contributions = json_set(contributions, '$.another', 0.5)",
    "two contributions exchanged": "contributions = json_set(json_remove(contributions, '$[0]'), '$[#]', 0.5)",
    "the model": lambda context: context._replace(model_version="v2"),
    "the model's digest": lambda context: context._replace(model_digest="x"),
    "the policy": lambda context: context._replace(policy_version="other"),
    "the base by its last bit": lambda context: context._replace(base=context.base * (1 + 2.3e-16)),
    "the declaration": lambda context: context._replace(product_declaration=1),
    "the policy's declaration": lambda context: context._replace(policy_declaration=None),
    "the names": lambda context: context._replace(names=context.names[::-1]),
    "the order of the names": lambda context: context._replace(names=tuple(each[::-1] for each in context.names)),
    "a context that is not there": "context_number = 99",
    "the context of another product": "context_number = context_number - 1",
    "the number shown": "id = substr(id, 1, 25) || CASE substr(id, 26) WHEN 'x' THEN 'y' ELSE 'x' END",
    "unreadable": "scored = 'not json'",
    "an infinite score": "score = 9e999",
    "a score of bytes": "score = x'00'",
    "a contribution of NaN": "contributions = '[NaN]'",
    "a contribution of NaN, as Python reads it": "contributions = replace(contributions, '[', ' [NaN,')",
    "contributions as a list of one": "contributions = '[1]'",
    "contributions as an object": """contributions = '{"CreditScore": 0.5}'""",
    "half a character": r"""carried = '["\ud800"]'""",
    "half a character, as Python reads it": r"""carried = ' ' || replace(carried, 'Nuñez', '\ud800')""",
    "nested without end": "carried = replace(hex(zeroblob(50000)), '00', '[')",
    "nested without end, as Python reads it": "carried = ' ' || replace(hex(zeroblob(50000)), '00', '[')",
    "a band of bytes": "band = cast(x'ff' as text)",
    "the submission": "submission = 'another'",
    "a time that is none": "at = 'yesterday'",
    "an unknown product": "product = 'loans'",
}


@pytest.mark.parametrize("changed", EDITS.values(), ids=EDITS)
def test_edits_are_found(services, decided, before, edit, changed) -> None:
    edit(4, changed)
    with pytest.raises(ChainBroken, match=rf"{decided[3].id[2:20]}|receipt {before + 4}|follows receipt {before + 3}"):
        services.audit.verify()


@pytest.mark.parametrize(
    "changed",
    [
        *("digest = 'x'", "base = base + 1e-9", "model_version = 'v2'", "model_digest = 'x'", "names = '[]'"),
        *("policy_version = 'other'", "policy_version = ''", "product_declaration = NULL", "policy_declaration = 1"),
        *("names = replace(names, 'Surname', 'Name')", "names = 'not json'", "names = 'null'", "base = 9e999"),
        *("number = 77", "model_version = cast(x'ff' as text)"),
    ],
)
@pytest.mark.parametrize("work", ["verify", "replay"])
def test_an_edited_context_is_found_at_the_first_decision_that_stands_on_it(
    services, decided, before, tamper, changed, work
) -> None:
    tamper(f"UPDATE decision_contexts SET {changed} WHERE number = 2")
    with pytest.raises(ChainBroken, match=f"What follows receipt {before + 1} cannot be read: it was edited"):
        getattr(services.audit, work)()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE decision_counts SET decisions = decisions + 1 WHERE product = 'churn'",
        "UPDATE decision_counts SET decisions = 0 WHERE product = 'churn'",
        "UPDATE decision_counts SET decisions = 'many'",
        "UPDATE decision_counts SET band = 'Elite ?'",
        "UPDATE decision_counts SET band = cast(x'ff' as text)",
        "UPDATE decision_counts SET product = 'loans' WHERE product = 'churn'",
        "UPDATE decision_counts SET context_number = 3 - context_number",
        "UPDATE decision_counts SET without_limit = NOT without_limit",
        "DELETE FROM decision_counts WHERE product = 'allowance'",
        "INSERT INTO decision_counts SELECT product, context_number, 'Other', 0, 1, up_to FROM decision_counts LIMIT 1",
        "INSERT INTO decision_counts SELECT product, context_number, 'Other', 0, 0, 1 FROM decision_counts LIMIT 1",
        "UPDATE decision_counts SET up_to = up_to - 1",
        "UPDATE decision_counts SET up_to = up_to + 1",
        "UPDATE decision_counts SET up_to = up_to + 1 WHERE product = 'churn'",
        "UPDATE decision_counts SET up_to = 'all'",
    ],
)
def test_edited_counts_are_found(services, decided, tamper, statement) -> None:
    tamper(statement)
    with pytest.raises(ChainBroken, match="counts of decisions are not those of the decisions: they were edited"):
        services.audit.verify()


def test_edited_protected_values_are_found(services, decided, before, tamper) -> None:
    own = f"WHERE decision_number = {before + 2}"
    tamper(f"""UPDATE protected_values SET "values" = '{{"Gender": "Male"}}' {own}""")
    with pytest.raises(ChainBroken, match=decided[1].id):
        services.audit.verify()


def test_deleting_is_found(services, decided, before, tamper) -> None:
    tamper(f"DELETE FROM decisions WHERE number = {before + 3}")
    with pytest.raises(ChainBroken, match=f"receipt {before + 3} is of is not there: it was deleted"):
        services.audit.verify()


def test_deleting_a_decision_with_its_receipt_is_found(services, decided, before, tamper) -> None:
    tamper(f"DELETE FROM decisions WHERE number = {before + 3}", f"DELETE FROM receipts WHERE number = {before + 3}")
    with pytest.raises(ChainBroken, match=f"Receipt {before + 3} is missing"):
        services.audit.verify()


def test_deleting_and_closing_the_gap_is_found(services, decided, before, tamper) -> None:
    tamper(
        f"DELETE FROM decisions WHERE number = {before + 3}",
        f"DELETE FROM receipts WHERE number = {before + 3}",
        f"UPDATE receipts SET number = number - 1 WHERE number > {before + 3}",
        f"UPDATE decisions SET number = number - 1 WHERE number > {before + 3}",
    )
    with pytest.raises(ChainBroken, match=f"Receipt {before + 3} does not follow"):
        services.audit.verify()


def test_deleting_only_the_last_decisions_row_is_found(services, decided, before, tamper) -> None:
    tamper(f"DELETE FROM decisions WHERE number = {before + 6}")
    with pytest.raises(ChainBroken, match=f"receipt {before + 6} is of is not there: it was deleted"):
        services.audit.verify()


def test_reordering_is_found(services, decided, before, tamper) -> None:
    changes = ((before + 2, -1), (before + 3, before + 2), (-1, before + 3))
    tamper(*(f"UPDATE decisions SET number = {new} WHERE number = {old}" for old, new in changes))
    with pytest.raises(ChainBroken, match=rf"Decision {decided[2].id} \(receipt {before + 2}\)"):
        services.audit.verify()


@pytest.mark.parametrize("number", [-3, 0, 1, 99])
def test_inserting_is_found(services, decided, before, tamper, number) -> None:
    """Under a number that no receipt has, or that of an event."""
    own = f"WHERE decision_number = {before + 2}"
    tamper(
        f"CREATE TEMP TABLE copied AS SELECT * FROM decisions WHERE number = {before + 2}",
        f"UPDATE copied SET number = {number}, id = 'inserted', submission = 'inserted'",
        "INSERT INTO decisions SELECT * FROM copied",
        f"""INSERT INTO protected_values SELECT {number}, "values", salt FROM protected_values {own}""",
    )
    with pytest.raises(ChainBroken, match="Decision inserted has no receipt"):
        services.audit.verify()


def test_a_cut_tail_is_found_against_an_exported_head(services, decided, before, tamper) -> None:
    newest = services.audit.head()
    head = Head(newest.number, newest.digest)
    assert services.audit.verify(head).head == newest
    cut = f"WHERE number > {before + 4}"
    tamper(f"DELETE FROM decisions {cut}", f"DELETE FROM receipts {cut}")
    with pytest.raises(ChainBroken, match="counts of decisions are not those of the decisions"):
        services.audit.verify()
    tamper("UPDATE decision_counts SET decisions = decisions - 1 WHERE product = 'churn'")
    assert services.audit.verify().decisions == 4, "without a head a shorter chain is a chain"
    with pytest.raises(ChainBroken, match=f"ends at {before + 4}, before the exported head {before + 6}"):
        services.audit.verify(head)


def test_a_chain_written_anew_is_found_against_an_exported_head(services, decided) -> None:
    with pytest.raises(ChainBroken, match="not the one of the exported head"):
        services.audit.verify(Head(4, "0" * 64))


def test_the_script_checks_an_export(services, decided, before) -> None:
    lines = exported(services)
    newest = services.audit.head()
    assert check(lines) == (f"{newest.number}:{newest.digest}", 6, 0, before)
    assert check(lines, f"3:{json.loads(lines[2])['digest']}") == check(lines)
    assert "Gender" not in "".join(lines)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: lines[:2] + lines[3:],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [line.replace("Nuñez", "Munez") for line in lines],
        lambda lines: [line.replace("churn v1", "churn v2") for line in lines],
        lambda lines: [*lines, lines[-1]],
        lambda lines: lines[1:],
        lambda lines: [lines[0].replace('{"digest"', '{"content": "FAKE", "digest"'), *lines[1:]],
        lambda lines: [lines[0].replace('{"digest"', '{"score": 0.01, "digest"'), *lines[1:]],
        lambda lines: ["[" * 100_000, *lines[1:]],
        lambda lines: ["{}", *lines[1:]],
    ],
    ids=[
        *("deleted", "reordered", "edited", "an event edited", "repeated", "beginning cut"),
        *("a key twice", "a key more", "nested", "empty"),
    ],
)
def test_the_script_finds_what_is_wrong(services, decided, spoil) -> None:
    with pytest.raises(ValueError, match="line"):
        check(spoil(exported(services)))


def test_the_script_names_a_format_of_a_newer_release(services, decided) -> None:
    lines = exported(services)
    with pytest.raises(ValueError, match="line 4: it has format 3, which a newer release wrote"):
        check([*lines[:3], changed_line(lines[3], '"format":2', '"format":3')])


def changed_line(line: str, old: str, new: str) -> str:
    """Return a line of an export with another content, and the digest of that."""
    content = json.loads(line)["content"]
    assert old in content
    return json.dumps({"content": content.replace(old, new), "digest": sha256(content.replace(old, new))})


@pytest.mark.parametrize(
    ("old", "new"),
    [('"kind":"event"', '"kind":"rumour"'), ('"kind":"event"', '"kind":null'), ('"format":2', '"format":1')],
    ids=["unknown", "none", "not of that format"],
)
def test_the_script_names_a_kind_that_the_format_does_not_know(empty_services, old, new) -> None:
    first = exported(empty_services)[0]
    with pytest.raises(ValueError, match="line 1: it is of no kind that its format knows"):
        check([changed_line(first, old, new)])


def test_the_script_finds_a_cut_tail(services, decided) -> None:
    lines = exported(services)
    with pytest.raises(ValueError, match="does not hold the head"):
        check(lines[:3], f"{len(lines)}:{services.audit.head().digest}")


def test_replay_names_the_first_that_differs(services, decided, before, tamper) -> None:
    tamper(f"UPDATE decisions SET score = score / 2 WHERE number >= {before + 3}")
    with pytest.raises(ReplayDiffers, match=f"{decided[2].id} recomputed differs in score"):
        services.audit.replay()


def without(column: str, name: str):
    """Return what makes another context of one, in which a column lacks a name."""
    place = NAMED.index(column)

    def changed(context):
        names = [list(each) for each in context.names]
        names[place].remove(name)
        return context._replace(names=tuple(map(tuple, names)))

    return changed


@pytest.mark.parametrize(
    "edits",
    [
        ("scored = json_remove(scored, '$.EstimatedSalary')", without("scored", "EstimatedSalary")),
        ("scored = json_set(scored, '$.EstimatedSalary', 'abc')",),
        ("scored = '\"abc\"'",),
    ],
    ids=["a factor removed", "a text for a number", "no list"],
)
def test_replay_names_what_cannot_be_recomputed(services, decided, edit, edits) -> None:
    edit(4, *edits)
    with pytest.raises(ReplayDiffers, match=decided[3].id):
        services.audit.replay()


@pytest.mark.parametrize("column", ["carried", "scored", "policy", "contributions"])
@pytest.mark.parametrize("change", ["json_remove({0}, '$[0]')", "json_insert({0}, '$[#]', 1)", "'[]'"])
def test_replay_names_where_a_list_lacks_a_value_or_has_one_more(
    services, decided, before, edit, column, change
) -> None:
    edit(4, f"{column} = {change.format(column)}")
    with pytest.raises(ChainBroken, match=f"What follows receipt {before + 3} cannot be read"):
        services.audit.replay()


def test_replay_uses_the_version_that_decided(services, decided, trained) -> None:
    services.models.add(trained["churn"], activate=True)
    assert services.audit.replay().decisions == 6


def test_replay_without_the_version_says_so(services, decided) -> None:
    (services.config.models / "churn" / "v1" / "forest.npz").unlink()
    services.models.registry._models.clear()
    with pytest.raises(ReplayDiffers, match=r"cannot be recomputed: Churn model v1 is refused"):
        services.audit.replay()


def with_another_contribution(context):
    return context._replace(names=(*context.names[:-1], (*context.names[-1], "Other")))


ANSWERS = {
    "the score's last bit": (("score = score * (1 + 2.3e-16)",), "score"),
    "the band": (("band = 'Elite ?'",), "band"),
    "the base": ((lambda context: context._replace(base=context.base + 1e-9),), "base"),
    "a contribution": (("contributions = json_set(contributions, '$.Tenure', 0.5)",), "contributions"),
    "a contribution less": (
        (
            "contributions = json_remove(contributions, '$.Tenure'), reasons = '[]'",
            without("contributions", "Tenure"),
        ),
        "contributions",
    ),
    "a contribution more": (
        ("contributions = json_set(contributions, '$.Other', 0.5)", with_another_contribution),
        "contributions",
    ),
    "a contribution as text": (
        ("contributions = json_set(contributions, '$.Tenure', json_extract(contributions, '$.Tenure') || '')",),
        "contributions",
    ),
    "the limit": (('"limit" = json_set("limit", \'$.amount\', 99.0)',), "limit"),
    "a limit as a whole number": (('"limit" = json_set("limit", \'$.ceiling\', 5)',), "limit"),
    "no limit": (("\"limit\" = 'null'",), "limit"),
    "a flag": (("""flags = '[["Tenure", "is high"]]'""",), "flags"),
    "a reason's factor": (("reasons = json_set(reasons, '$[0]', json_array('Tenure ?', NULL, 0.1, ''))",), "reasons"),
    "a reason's rule": (("reasons = json_set(reasons, '$[0]', json_array(NULL, 'other', 0.0, ''))",), "reasons"),
    "a reason's contribution": (
        ("reasons = json_set(reasons, '$[0]', json_array('Tenure', NULL, 0.5, ''))",),
        "reasons",
    ),
    "no reason": (("reasons = '[]'",), "reasons"),
}


@pytest.mark.parametrize(("edits", "what"), ANSWERS.values(), ids=ANSWERS)
def test_replay_compares_every_field_of_an_answer(services, decided, edit, edits, what) -> None:
    edit(4, *edits)
    with pytest.raises(ReplayDiffers, match=f"{decided[3].id} recomputed differs in [a-z, ]*{what}"):
        services.audit.replay()


def test_replay_recomputes_together(services, decided, monkeypatch) -> None:
    def by_itself(*_):
        raise AssertionError("all are equal: none needs to be named")

    monkeypatch.setattr("bankportal.services.replaying.replay_decision", by_itself)
    assert services.audit.replay() == Replayed(6, 0, ())


def halved(context):
    return context._replace(base=context.base / 2)


FIRST = {
    "two products": ({3: "score = score / 2", 2: halved}, 2),
    "before the unreadable": ({4: halved, 5: "scored = 'not json'"}, 4),
    "unreadable": ({4: "scored = 'not json'", 5: halved}, None),
    "flag": ({3: "flags = '[1]'", 5: halved}, 3),
    "product": ({2: "product = 'loans'", 3: halved}, 2),
    "model": ({2: lambda context: context._replace(model_version="v7"), 3: halved}, 2),
    "policy": ({2: lambda context: context._replace(policy_version="other"), 3: halved}, 2),
    "an empty policy": ({3: lambda context: context._replace(policy_version=""), 4: halved}, 3),
    "a huge number": (
        {2: "scored = ' ' || json_set(scored, '$.Balance', json('1' || replace(hex(zeroblob(200)), '00', '00')))"},
        2,
    ),
}


@pytest.mark.parametrize("together", [1, 2, 500])
@pytest.mark.parametrize(("edits", "named"), FIRST.values(), ids=FIRST)
def test_replay_names_the_first_in_blocks_of_any_size(
    services, decided, before, edit, monkeypatch, together, edits, named
) -> None:
    monkeypatch.setattr("bankportal.services.audit.GROUP_SIZE", together)
    for nth, changed in edits.items():
        edit(nth, changed)
    if named:
        with pytest.raises(ReplayDiffers, match=f"Decision {decided[named - 1].id} "):
            services.audit.replay()
    else:
        with pytest.raises(ChainBroken, match=f"What follows receipt {before + 3} cannot be read"):
            services.audit.replay()


def test_a_receipt_of_a_newer_release_is_called_that(services, decided, before, tamper) -> None:
    tamper(f"UPDATE receipts SET format = 3 WHERE number = {before + 4}")
    for check_it in (services.audit.verify, lambda: verified_receipt(services.audit.chain, decided[3].id)):
        with pytest.raises(ChainBroken, match=rf"Receipt {before + 4} has format 3, .* written by a newer release"):
            check_it()


def head_at(services, number: int) -> Head:
    at = services.audit.chain.receipt(number)
    return Head(at.number, at.digest)


def test_verifying_takes_up_from_an_earlier_head(services, decided, before, tamper) -> None:
    since = head_at(services, before + 4)
    assert services.audit.verify(since=since) == Verified(2, 0, 0, services.audit.head())
    tamper(f"UPDATE decisions SET score = 0.5 WHERE number = {before + 4}")
    assert services.audit.verify(since=since).decisions == 2, "what was verified before is not read again"
    tamper(f"UPDATE decisions SET score = 0.5 WHERE number = {before + 5}")
    with pytest.raises(
        ChainBroken, match=f"Decision {decided[4].id} \\(receipt {before + 5}\\) is not what was recorded"
    ):
        services.audit.verify(since=since)


def test_verifying_from_the_newest_head_checks_nothing_more(services, decided) -> None:
    newest = services.audit.head()
    assert services.audit.verify(since=Head(newest.number, newest.digest)) == Verified(0, 0, 0, newest)


def test_an_earlier_head_that_is_not_there_is_refused(services, decided, before, tamper) -> None:
    since = head_at(services, before + 5)
    with pytest.raises(ChainBroken, match=f"Receipt {before + 5} is not the one that was verified before"):
        services.audit.verify(since=Head(before + 5, "0" * 64))
    with pytest.raises(ChainBroken, match="which was verified before, is not there"):
        services.audit.verify(since=Head(10**30, "0" * 64))
    tamper(f"DELETE FROM decisions WHERE number > {before + 4}", f"DELETE FROM receipts WHERE number > {before + 4}")
    with pytest.raises(ChainBroken, match=f"Receipt {before + 5}, which was verified before, is not there"):
        services.audit.verify(since=since)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM receipts WHERE number = {before} + 2", "has no receipt: it was inserted"),
        ("DELETE FROM receipts WHERE number = 2", "Event .* has no receipt: it was inserted"),
        ("UPDATE receipts SET number = 0 WHERE number = 2", "the next one there is 0"),
        ("DELETE FROM receipts WHERE number = {before} + 5", "Receipt [0-9]+ is missing"),
    ],
    ids=["outside", "an event outside", "below the first", "the next"],
)
def test_what_stands_outside_is_found_from_an_earlier_head_too(
    services, decided, before, tamper, statement, message
) -> None:
    since = head_at(services, before + 4)
    tamper(statement.format(before=before))
    with pytest.raises(ChainBroken, match=message):
        services.audit.verify(since=since)


def test_replaying_takes_up_from_an_earlier_head(services, decided, before, tamper) -> None:
    since = head_at(services, before + 4)
    assert services.audit.replay(since) == Replayed(2, 0, ())
    tamper(f"UPDATE decisions SET score = 0.5 WHERE number = {before + 4}")
    assert services.audit.replay(since).decisions == 2, "what was recomputed before is not read again"
    tamper(f"UPDATE decisions SET score = 0.5 WHERE number = {before + 5}")
    with pytest.raises(ReplayDiffers, match=f"{decided[4].id} recomputed differs in score"):
        services.audit.replay(since)
    with pytest.raises(ChainBroken, match="is not the one that was verified before"):
        services.audit.replay(Head(before + 4, "0" * 64))


def test_progress_is_reported(services, decided, before, monkeypatch) -> None:
    monkeypatch.setattr("bankportal.services.audit.REPORT_EVERY", 2)
    monkeypatch.setattr("bankportal.services.audit.GROUP_SIZE", 2)
    head = services.audit.head()
    for work, expected in (
        (services.audit.verify, range(2, head.number + 1, 2)),
        (services.audit.replay, range(before + 2, head.number + 1, 2)),
    ):
        reached = []
        work(report=reached.append)
        assert [receipt.number for receipt in reached] == list(expected)
        assert reached[-1] == services.audit.chain.receipt(reached[-1].number)


def stopped(app, monkeypatch, patched: str, call: int, number: signal.Signals, *command: str):
    """Run a command to which a signal comes in a function of the audit, when that is called for the nth time."""
    function, calls = getattr(audit, patched), count(1)

    def with_signal(*arguments):
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return function(*arguments)

    monkeypatch.setattr(audit, "REPORT_EVERY", 2)
    monkeypatch.setattr(audit, "GROUP_SIZE", 2)
    with monkeypatch.context() as patch:
        patch.setattr(audit, patched, with_signal)
        return app.test_cli_runner().invoke(args=["audit", *command])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_says_how_to_go_on(app, services, decided, before, monkeypatch, number, code) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    newest = services.audit.head()
    last = before + 4 - before % 2  # verify reports even receipts
    for command, patched, call, reached, rest in (
        ("verify", "verified_link", last + 1, last, f"{newest.number - last} decisions"),
        ("replay", "replay_decisions", 3, before + 4, "2 decisions"),
    ):
        result = stopped(app, monkeypatch, patched, call, number, command)
        head = head_at(services, reached)
        go_on = f"audit {command} --since {head.number}:{head.digest}"
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr == f"Stopped. Up to receipt {reached} all is right. Go on with: flask {go_on}\n"
        result = app.test_cli_runner().invoke(args=go_on.split())
        assert (result.exit_code, result.stdout.startswith(rest)) == (0, True), result.output
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_command_that_is_stopped_at_once_begins_again(app, services, decided, monkeypatch) -> None:
    result = stopped(app, monkeypatch, "verified_link", 1, signal.SIGINT, "verify")
    again = "Stopped before much was done. Begin again with: flask audit verify\n"
    assert (result.exit_code, result.stderr) == (130, again)


def test_a_later_head_is_compared_when_a_stopped_command_goes_on(app, services, decided, before, monkeypatch) -> None:
    later, early = (head_at(services, number) for number in (before + 6, 2))
    given = f"--head {later.number}:{later.digest}"
    result = stopped(app, monkeypatch, "verified_link", before + 3, signal.SIGINT, "verify", *given.split())
    assert result.stderr.endswith(f"{given}\n")
    go_on = ["audit", "verify", "--since", f"{early.number}:{early.digest}", "--head"]
    wrong = app.test_cli_runner().invoke(args=[*go_on, f"{later.number}:{'0' * 64}"])
    assert (wrong.exit_code, "not the one of the exported head" in wrong.output) == (1, True)
    assert app.test_cli_runner().invoke(args=[*go_on, f"{later.number}:{later.digest}"]).exit_code == 0
    early_head = f"{early.number}:{early.digest}"
    result = stopped(app, monkeypatch, "verified_link", before + 3, signal.SIGINT, "verify", "--head", early_head)
    assert "--head" not in result.stderr, "it was compared before"


@pytest.mark.parametrize(("command", "doing"), [("verify", "Verifying"), ("replay", "Recomputing")])
def test_progress_is_shown_on_a_terminal(config, services, decided, command, doing) -> None:
    terminal, other_end = pty.openpty()
    environment = os.environ | {
        "TERM": "xterm",
        f"{PREFIX}INSTANCE": str(config.instance),
        f"{PREFIX}SECRET_KEY": SECRET,
    }
    arguments = [sys.executable, "-m", "flask", "--app", "bankportal", "audit", command]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=other_end, env=environment) as process:
        os.close(other_end)
        shown = b""
        with suppress(OSError):  # Linux's way of saying that the other end was closed
            while piece := os.read(terminal, 4096):
                shown += piece
        os.close(terminal)
        printed = process.stdout.read().decode()
    assert process.returncode == 0
    assert f"{doing} " in shown.decode()
    assert "%" in shown.decode()
    assert printed.startswith("6 decisions")


def test_sqlite_and_python_agree_on_floats(services, decided) -> None:
    with services.database.read() as connection:
        stored = connection.execute(text("SELECT score FROM decisions ORDER BY number")).scalars().all()
    assert stored == [decision.outcome.score for decision in decided]


def test_commands(app, client, examples, tmp_path) -> None:
    runner = app.test_cli_runner()
    before = app.extensions["bankportal"].audit.head().number
    assert f"0 decisions, 0 batches and {before} events" in runner.invoke(args=["audit", "verify"]).output
    client.post("/churn/", data=examples["churn"])
    head = runner.invoke(args=["audit", "head"]).output.strip()
    assert f"Head: {head}" in runner.invoke(args=["audit", "verify", "--head", head]).output
    assert "1 decisions and 0 batches recomputed" in runner.invoke(args=["audit", "replay"]).output
    runner.invoke(args=["audit", "export", str(tmp_path / "chain.jsonl")])
    assert check((tmp_path / "chain.jsonl").read_text(encoding="utf-8").splitlines()) == (
        *(head, 1, 0),
        before,
    )
    since = runner.invoke(args=["audit", "verify", "--since", head])
    assert since.stdout == (
        f"0 decisions, 0 batches and 0 events, since receipt {before + 1}: all right. Head: {head}\n"
    )
    assert since.stderr == "", "no progress where nobody looks"
    both = runner.invoke(args=["audit", "verify", "--since", head, "--head", head])
    assert (both.exit_code, "must be a later one" in both.output) == (2, True)
    missing = runner.invoke(args=["audit", "verify", "--since", f"99:{'0' * 64}"])
    assert (missing.exit_code, "which was verified before, is not there" in missing.output) == (1, True)
    assert runner.invoke(args=["audit", "verify", "--head", "nonsense"]).exit_code == 2
    assert runner.invoke(args=["audit", "verify", "--head", f"99:{'0' * 64}"]).exit_code == 1
