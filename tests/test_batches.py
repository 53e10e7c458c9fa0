"""The Batches service: files received, mapped, started, watched and read."""

import io
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from bankportal.domain.batch import State
from bankportal.domain.errors import Conflict, DataRefused, InvalidInput, NotFound, TooLarge
from bankportal.services.batches.replaying import ReplayDiffers
from bankportal.services.batches.uploads import Batches
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN, shipped_file


def repr_of_beginning(content: bytes) -> str:
    return repr(content[:6])


def received(portal, path, name="May.csv", product=CHURN, **more):
    with path.open("rb") as file:
        return portal.batches.receive(product, name, file, **more, provenance=BY_PAGE)


def test_it_works(portal, bank_files) -> None:
    job = received(portal, bank_files["churn"])
    assert job == portal.batches.get(job.id)
    assert (job.state, job.file_name, job.input_bytes) == (
        State.UPLOADED,
        "May.csv",
        bank_files["churn"].stat().st_size,
    )
    suggestion = portal.batches.suggestion(job)
    assert suggestion.label == "Churn"
    assert not suggestion.missing
    assert portal.batches.check(job, suggestion.mapping).state is State.CHECKING
    assert portal.batches.progress(job).state is State.CHECKING
    assert portal.batches.page("churn", None, 5).items[0].id == job.id
    assert portal.batches.cancel(job).state is State.CANCELLED


def test_storage_is_the_owners_alone(portal, bank_files) -> None:
    job = received(portal, bank_files["churn"])
    storage = portal.batches.storage
    assert storage.input(job.id).read_bytes() == bank_files["churn"].read_bytes()
    modes = [path.stat().st_mode & 0o777 for path in (storage.folder, storage.home(job.id), storage.input(job.id))]
    assert modes == [0o700, 0o700, 0o600]


def finished(portal, path, product=CHURN, mapping=None):
    job = received(portal, path, product=product)
    portal.batches.check(job, mapping or portal.batches.suggestion(job).mapping, start=True)
    while portal.worker.step():
        pass
    return portal.batches.get(job.id)


def csv_file(folder, text: str):
    path = folder / f"{abs(hash(text))}.csv"
    path.write_text(text)
    return path


def test_a_key_makes_receiving_safe_to_repeat(portal, bank_files) -> None:
    job = received(portal, bank_files["churn"], key="once")
    assert received(portal, bank_files["churn"], key="once") == job
    with pytest.raises(Conflict, match="key"):
        received(portal, bank_files["allowance"], product=ALLOWANCE, key="once")
    assert received(portal, bank_files["churn"]).id != job.id
    assert len(list(portal.batches.storage.folder.iterdir())) == 2


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"x" * 1_000_001, TooLarge, "BANKPORTAL_UPLOAD_MEGABYTES"),
        (",".join(f"column {n}" for n in range(201)).encode() + b"\n1\n", TooLarge, "BANKPORTAL_UPLOAD_COLUMNS"),
        (b"", DataRefused, "May.csv is empty"),
        (b"PK\x03\x04 and so on", DataRefused, "Excel"),
    ],
)
def test_what_is_refused_leaves_nothing(services, content, error, says) -> None:
    config = replace(services.config, upload_megabytes=1)
    batches = Batches(
        config, services.batches.store, services.batches.storage, services.models, services.batches.portfolio
    )
    with pytest.raises(error, match=says):
        batches.receive(CHURN, "May.csv", io.BytesIO(content), provenance=BY_PAGE)
    assert batches.page(None, None, 5).items == []
    assert list(batches.storage.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/pass\x00wd\n", "passwd"),
        ("C:\\fakepath\\März 2026.csv", "März 2026.csv"),
        ("a\u202egpj.csv", "agpj.csv"),
        ("\udcff\x07", "upload.csv"),
        ("x" * 300, "x" * 255),
    ],
)
def test_names_are_shown_and_never_used_as_paths(services, bank_files, name, shown) -> None:
    job = received(services, bank_files["churn"], name)
    assert services.batches.get(job.id).file_name == shown
    assert {path.name for path in services.batches.storage.home(job.id).iterdir()} == {"input.csv", "parts"}


def test_suggested_mappings_tell_what_is_open(services, tmp_path) -> None:
    path = csv_file(tmp_path, "age,Customer Age,credit_score,Exited,Shoe size\n1,2,3,4,5\n")
    suggestion = services.batches.suggestion(received(services, path))
    assert suggestion.mapping.get("credit_score") == "CreditScore"
    assert suggestion.label == "Exited"
    assert "Exited" not in suggestion.mapping
    assert {"Exited", "Shoe size"} <= set(suggestion.ignored)
    assert "Balance" in suggestion.missing
    assert not suggestion.remembered


def test_two_columns_for_one_factor_are_left_to_choose(services, tmp_path) -> None:
    path = csv_file(tmp_path, "credit score,credit_score,Age\n1,2,3\n")
    suggestion = services.batches.suggestion(received(services, path))
    assert suggestion.ambiguous == {"CreditScore": ("credit score", "credit_score")}
    assert suggestion.mapping == {"Age": "Age"}
    assert "CreditScore" not in suggestion.missing


def suggested(services, folder, header: str, remembered: dict[str, str]):
    path = csv_file(folder, f"{header}\n{',' * header.count(',')}1\n")
    return services.batches.suggestion(received(services, path), remembered)


def test_what_was_chosen_before_fills_what_names_leave_open(services, tmp_path) -> None:
    remembered = {"K1": "CreditScore", "K2": "Tenure"}
    suggestion = suggested(services, tmp_path, "K1,K2,K3,Age", remembered)
    assert suggestion.mapping == {"K1": "CreditScore", "K2": "Tenure", "Age": "Age"}
    assert suggestion.remembered == {"K1", "K2"}
    assert suggestion.ignored == ("K3",)
    assert suggestion.missing == ("Balance",)


@pytest.mark.parametrize(
    ("header", "remembered"),
    [
        ("Age,Tenure,K1", {"Age": "Tenure", "Tenure": "Age"}),
        ("Age,Tenure,K1", {"K1": "Age"}),
        ("fico,Tenure,K1", {"K1": "CreditScore", "fico": "Balance"}),
        ("CreditScore,fico,K1", {"fico": "Balance"}),
        ("Age,Exited,K1", {"Exited": "Balance"}),
        ("Age,K1", {"K1": "A factor of an earlier release"}),
    ],
)
def test_what_was_chosen_before_overrides_no_name(services, tmp_path, header, remembered) -> None:
    assert suggested(services, tmp_path, header, remembered) == suggested(services, tmp_path, header, {})


def test_a_choice_among_columns_is_remembered(services, tmp_path) -> None:
    suggestion = suggested(services, tmp_path, "credit score,credit_score,Age", {"credit_score": "CreditScore"})
    assert suggestion.mapping == {"credit_score": "CreditScore", "Age": "Age"}
    assert (suggestion.remembered, suggestion.ambiguous) == ({"credit_score"}, {})
    assert suggestion.ignored == ("credit score",)


def test_a_confirmed_mapping_is_nobody_elses(services, bank_files) -> None:
    first = received(services, bank_files["churn"])
    by_names = services.batches.suggestion(first)
    swapped = {"Age": "Tenure", "Tenure": "Age"}
    services.batches.check(first, {**by_names.mapping, **swapped})
    assert services.batches.suggestion(received(services, bank_files["churn"])) == by_names


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"No such": "HasLoan"}, "No such", "unknown-column"),
        ({"HasLoan": "No such"}, "HasLoan", "unknown-factor"),
        ({"HasLoan": "Age"}, "HasLoan", "factor-twice"),
        ({"Churn": "HasLoan"}, "Churn", "label"),
        ({"CreditScore": None}, "CreditScore", "required"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(services, bank_files, change, field, code) -> None:
    job = received(services, bank_files["churn"])
    mapping = {**services.batches.suggestion(job).mapping, **change}
    with pytest.raises(InvalidInput) as refused:
        services.batches.check(job, {column: factor for column, factor in mapping.items() if factor})
    assert (field, code) in {(problem.field, problem.code) for problem in refused.value.problems}
    assert services.batches.get(job.id).state is State.UPLOADED


@pytest.mark.parametrize("product", [CHURN, ALLOWANCE], ids=lambda product: product.key)
def test_every_row_works_out_again(services, bank_files, product) -> None:
    """The table, the scored file and the single-row model agree on each row."""
    job = finished(services, bank_files[product.key], product)
    batches, seen = services.batches, []
    for page in range(1, batches.rows(job, size=500).pages + 1):
        seen += batches.rows(job, page=page, size=500).items
    assert [row.position for row in seen] == list(range(job.summary.scored))
    for row in seen[::100]:
        _, outcome = batches.row(job, row.position)
        assert (row.score, row.band) == (outcome.score, outcome.band.name)
        assert row.limit == (outcome.limit.amount if outcome.limit else None)
        assert row.answer["score"] == repr(outcome.score)
        assert [row.answer[f"reason_{n}"] for n in range(1, 1 + len(outcome.reasons))] == [
            reason.sentence for reason in outcome.reasons
        ]
    assert job.summary.mean_score == math.fsum(row.score for row in seen) / len(seen)
    assert job.summary.bands == {band.name: sum(row.band == band.name for row in seen) for band in product.bands}


@pytest.mark.parametrize("sort", ["position", "score", "limit"])
@pytest.mark.parametrize("descending", [False, True])
def test_pages_hold_every_row_once_in_order(services, bank_files, sort, descending, monkeypatch) -> None:
    monkeypatch.setattr("bankportal.services.batches.results.PIECE", 100)
    job = finished(services, bank_files["allowance"], ALLOWANCE)
    rows = [
        row
        for page in range(1, 31)
        for row in services.batches.rows(job, sort=sort, descending=descending, page=page, size=50).items
    ]
    sign = -1 if descending else 1
    assert len({row.position for row in rows}) == job.summary.scored == len(rows)
    assert rows == sorted(rows, key=lambda row: (sign * getattr(row, sort), row.position))
    beyond = services.batches.rows(job, sort=sort, descending=descending, page=10**9, size=50)
    assert (beyond.page, beyond.pages, beyond.items) == (30, 30, rows[-50:])


def test_rows_are_filtered(services, bank_files) -> None:
    job = finished(services, bank_files["churn"])
    batches = services.batches
    everything = batches.rows(job, size=10_000).items
    for band in CHURN.bands:
        assert batches.rows(job, band=band.name).total == job.summary.bands[band.name]
    one = everything[7]
    assert [row.position for row in batches.rows(job, customer=one.cells["CustomerId"]).items] == [7]
    assert batches.rows(job, customer="nobody").items == []
    named = batches.rows(job, factor="Age", size=10_000).items
    factors = {row.position: batches.row(job, row.position)[1].reasons for row in everything[:40]}
    assert {row.position for row in named if row.position < 40} == {
        position for position, reasons in factors.items() if any(reason.factor == "Age" for reason in reasons)
    }
    for wrong in ({"band": "Nice"}, {"verdict": "No limit"}, {"factor": "Shoes"}, {"sort": "name"}):
        with pytest.raises(InvalidInput, match="must be one of"):
            batches.rows(job, **wrong)


def test_a_row_that_does_not_come_out_again_is_told(services, bank_files) -> None:
    job = finished(services, bank_files["churn"])
    path = services.batches.storage.home(job.id) / "results.npy"
    records = np.load(path)
    records["score"][3] = np.nextafter(records["score"][3], 1)
    np.save(path, records)
    with pytest.raises(ReplayDiffers, match="Line 5 recomputed differs in score"):
        services.batches.row(job, 3)
    services.batches.row(job, 4)
    with pytest.raises(NotFound):
        services.batches.row(job, job.checked.rows)


def test_a_row_whose_upload_was_edited_is_told_though_its_score_stays(services, bank_files) -> None:
    job = finished(services, bank_files["churn"])
    path = services.batches.storage.input(job.id)
    lines = path.read_bytes().splitlines(keepends=True)
    customer, rest = lines[4].split(b",", 1)
    lines[4] = b"X" * len(customer) + b"," + rest
    path.write_bytes(b"".join(lines))
    with pytest.raises(ReplayDiffers, match="Line 5 of the stored file is not what was scored"):
        services.batches.row(job, 3)
    services.batches.row(job, 4)


@pytest.mark.parametrize("name", ["results.npy", "scored.csv"])
@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"a,b\n" * 5000, b"\xff" * 90_000], ids=repr_of_beginning)
def test_damaged_results_are_told(services, bank_files, name, damage) -> None:
    job = finished(services, bank_files["churn"])
    path = services.batches.storage.home(job.id) / name
    path.write_bytes(damage if name == "scored.csv" else path.read_bytes()[: 5 * len(damage)] + damage)
    with pytest.raises(ReplayDiffers, match="not what was written"):
        services.batches.rows(job, sort="score")


def test_a_scored_file_uploaded_again_shows_its_new_answers(services, bank_files, tmp_path) -> None:
    first = finished(services, bank_files["churn"])
    path = tmp_path / "again.csv"
    content = services.batches.file(first, "scored.csv").read_text(encoding="utf-8")
    path.write_text(content.replace(" the risk", " THE OLD RISK"), encoding="utf-8")
    again = finished(services, path)
    for old, new in zip(*(services.batches.rows(job).items for job in (first, again)), strict=True):
        assert new.answer == old.answer
        assert "THE OLD RISK" in new.cells["reason_1"]


def test_the_same_again_is_offered_its_result(services, bank_files) -> None:
    done = finished(services, bank_files["churn"])
    again = received(services, bank_files["churn"])
    assert services.batches.duplicate(again) is None  # its mapping may still become another
    again = services.batches.check(again, done.mapping)
    assert services.batches.duplicate(again).id == done.id
    assert services.batches.duplicate(done) is None
    fewer = {column: factor for column, factor in done.mapping.items() if factor != "HasLoan"}
    other = services.batches.check(received(services, bank_files["churn"]), fewer)
    assert services.batches.duplicate(other) is None


def test_what_another_policy_answered_is_not_offered(services, bank_files) -> None:
    done = finished(services, bank_files["allowance"], product=ALLOWANCE)
    again = services.batches.check(received(services, bank_files["allowance"], product=ALLOWANCE), done.mapping)
    assert services.batches.duplicate(again).id == done.id
    services.declarations.apply({"policy.toml": shipped_file("card-limit", ("2026-11", "2027-01"))})
    assert services.batches.duplicate(again) is None


def test_what_another_declaration_answered_is_not_offered(services, bank_files) -> None:
    """Not by its words alone: the bands of the earlier batch are called otherwise."""
    done = finished(services, bank_files["churn"])
    services.declarations.apply({"churn.toml": shipped_file("churn", ("Moderate", "Wavering"))})
    product = services.declarations.portfolio()["churn"]
    again = services.batches.check(received(services, bank_files["churn"], product=product), done.mapping)
    assert services.batches.duplicate(again) is None
    assert finished(services, bank_files["churn"], product=product).summary.bands["Wavering"]


def test_chunks_cover_the_file_whatever_its_rows_are(services, bank_files, tmp_path) -> None:
    """Ragged and blank lines between chunks are in one of them, once."""
    lines = bank_files["churn"].read_text().splitlines()
    for at in (1499, 1001, 1000, 501, 500, 2, 1):
        lines[at:at] = ["ragged,row", "", "another,ragged,row"]
    job = finished(services, csv_file(tmp_path, "\n".join(lines)))
    assert (job.summary.scored, job.summary.rejected, job.checked.rows) == (1500, 14, 1514)
    spans = [span for span, _ in services.batches.store.score_spans(job)]
    assert [span.rows for span in spans] == [500, 500, 500, 14]
    for one, following in pairwise(spans):
        assert (one.end, one.position + one.rows) == (following.start, following.position)
    assert spans[-1].end == job.input_bytes


def test_many_kinds_of_problems_are_counted_though_not_all_are_kept(
    services, bank_files, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("bankportal.services.batches.checking.MAX_GROUPS", 1)
    header, *rows = bank_files["churn"].read_text().splitlines()
    job = finished(services, csv_file(tmp_path, "\n".join([header, "a,b", *rows[:3], "a,b", "a,b,c", "a,b", "a,b"])))
    (group,) = job.checked.groups
    assert (group.rows, len(group.examples), job.checked.more) == (4, 3, 1)


def test_progress_moves(services, bank_files) -> None:
    batches = services.batches
    job = received(services, bank_files["churn"])
    batches.check(job, batches.suggestion(job).mapping, start=True)
    seen = [batches.progress(job)]
    while services.worker.step():
        seen.append(batches.progress(job))
    assert [(at.state, at.rows_done) for at in seen] == [
        (State.CHECKING, 0),
        (State.SCORING, 0),
        (State.SCORING, 500),
        (State.SCORING, 1000),
        (State.SCORING, 1500),
        (State.DONE, 1500),
    ]
    assert [at.begun for at in seen] == [False, False, True, True, True, True]
    assert {at.silent for at in seen} == {None}
    assert seen[0].rows is None
    assert seen[3].rate > 0
    assert seen[3].seconds_left == pytest.approx(500 / seen[3].rate)


def test_progress_of_what_was_stopped_is_none(services, bank_files) -> None:
    batches = services.batches
    job = received(services, bank_files["churn"])
    batches.check(job, batches.suggestion(job).mapping, start=True)
    for _ in range(2):
        services.worker.step()
    assert batches.progress(job).rows_done == 500
    batches.cancel(job)
    assert (batches.progress(job).rows_done, batches.progress(job).rows) == (0, 1500)


def test_without_a_worker_no_time_is_left(services, bank_files) -> None:
    """A worker took up a chunk and is not heard of any more: nobody knows how long it takes from here."""
    batches = Batches(
        replace(services.config, lease_seconds=0),
        services.batches.store,
        services.batches.storage,
        services.models,
        services.batches.portfolio,
    )
    job = received(services, bank_files["churn"])
    batches.check(job, batches.suggestion(job).mapping, start=True)
    assert batches.progress(job).silent is None  # nobody was ever there
    for _ in range(2):
        services.worker.step()
    at = batches.progress(job)
    assert at.rows_done == 500
    assert at.silent > 0
    assert at.rate is at.seconds_left is None


@pytest.mark.parametrize(("leases", "silent"), [(1.5, False), (2.0, False), (2.5, True)])
def test_a_worker_is_silent_when_two_leases_could_have_been_renewed(services, bank_files, monkeypatch, leases, silent):
    batches = services.batches
    job = received(services, bank_files["churn"])
    batches.check(job, batches.suggestion(job).mapping)
    seconds = leases * services.config.lease_seconds
    monkeypatch.setattr(type(batches.store), "silence", lambda *_: seconds)
    assert batches.progress(job).silent == (seconds if silent else None)
