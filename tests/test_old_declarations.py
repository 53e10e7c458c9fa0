"""What was decided under an earlier declaration is read, explained and computed again by that one."""

import csv
import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from bankportal import wiring
from bankportal.cli.score import mapping_of
from bankportal.data.locations import source_at
from bankportal.domain.batch import State
from bankportal.domain.canonical import canonical
from bankportal.domain.constraints import Choice, Source
from bankportal.domain.declaration import policy_from, product_from
from bankportal.domain.declarations.files import read as read_files
from bankportal.domain.errors import Conflict, NoActiveModel, VersionRefused
from bankportal.domain.outcome import percent
from bankportal.domain.reasons import omissions
from bankportal.domain.schema import validate
from bankportal.services.batches import isolated_run
from bankportal.services.batches.chunks import Work, score_block
from bankportal.services.batches.cluster import SerializedWork
from bankportal.services.scoring import outcome_columns, outcomes_of
from tests.conftest import config_for, plant_few_trees, write_csv
from tests.home_equity import FILES, HOME_EQUITY, columns, train_home_equity
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN, shipped_file

POOR = {"CreditScore": "820", "LatePayments": "0", "CardUtilisation": "5", "RequestedLimit": "16000"}
ALLOWANCE_EDITS = (
    ("Elite", "Prime"),
    ("start = 0.92", "start = 0.97"),
    ('currency = "EUR"', 'currency = "CHF"'),
    ("min_points = 0.005", "min_points = 0.05"),
    ("min_share = 0.05", "min_share = 0.5"),
    ("speaks for repaying", "bodes well"),
)
POLICY_EDITS = (
    ("Elite", "Prime"),
    ("2026-11", "2027-01"),
    ("living_share = 0.6", "living_share = 0.3"),
    ("unknown_obligations_share = 0.25", "unknown_obligations_share = 0.4"),
    ("carries no limit above", "bears nothing above"),
)
# What a bank does, one after the other; each keeps the model that serves.
CHANGES = {
    "a band is renamed and a cut-off moves": lambda portal: portal.declarations.apply(
        {"churn.toml": shipped_file("churn", ("Moderate", "Wavering"), ("start = 0.4", "start = 0.1"))}
    ),
    "bands, thresholds, words, currency and policy change": lambda portal: portal.declarations.apply(
        {
            "allowance.toml": shipped_file("allowance", *ALLOWANCE_EDITS),
            "card-limit.toml": shipped_file("card-limit", *POLICY_EDITS),
        }
    ),
    "the policy changes again": lambda portal: portal.declarations.apply(
        {"card-limit.toml": shipped_file("card-limit", *POLICY_EDITS[:1], ("2026-11", "2027-02"))}
    ),
    "a product is withdrawn": lambda portal: portal.declarations.withdraw("allowance"),
}


@pytest.fixture
def bank(portal):
    """The portal on each back end, with what the release ships in force."""
    assert wiring.upgrade(portal) == []
    return portal


def decide(portal, product, raw, token: str):
    return portal.scoring.decide(validate(product, raw, Source.TEXT), token, BY_PAGE)


def some_decisions(portal, examples, bank_files, turn: int):
    """Decisions of both products in force: of customers of the files, and some whose limit can be lifted."""
    products, made = portal.declarations.portfolio(), []
    for key, path in bank_files.items():
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row, _ in zip(csv.DictReader(file), range(12), strict=False)]
        for number, row in enumerate(rows):
            row.pop(products[key].label.name)
            made.append(decide(portal, products[key], row, f"{turn} {key} {number}"))
    for number, more in enumerate(({"MonthlyObligations": "1900"}, {"MonthlyObligations": ""})):
        made.append(decide(portal, products["allowance"], examples["allowance"] | POOR | more, f"{turn} lift {number}"))
    return [decision.id for decision in made]


def some_batches(portal, bank_files):
    """A finished batch of each product in force."""
    jobs = []
    for key, path in bank_files.items():
        with path.open("rb") as file:
            product = portal.declarations.portfolio()[key]
            job = portal.batches.receive(product, f"{key}.csv", file, provenance=BY_PAGE)
        portal.batches.check(job, portal.batches.suggestion(job).mapping, start=True)
        jobs.append(job.id)
    while portal.worker.step():
        pass
    assert {portal.batches.get(job).state for job in jobs} == {State.DONE}
    return jobs


def read_again(portal, decisions, jobs):
    """Return all that pages, letters and the API say of decisions and batches."""
    return [decision_again(portal, id_) for id_ in decisions], [batch_again(portal, id_) for id_ in jobs]


def decision_again(portal, id_: str):
    decision, explaining = portal.decisions.get(id_), portal.explaining
    outcome = decision.outcome
    recourse, lifts = explaining.recourse(decision), explaining.lifts(decision)
    policy = outcome.product.policy
    return {
        "outcome": outcome.to_record(),
        "verdict": (outcome.verdict, outcome.band, percent(outcome.product, outcome.score), outcome.product.currency),
        "omissions": omissions(outcome),
        "recourse": recourse,
        "limits": [explaining.limit_after(decision, each) for each in (*recourse.suggestions, *lifts)],
        "lifts": lifts,
        "curve": explaining.curve(decision, "CreditScore"),
        "reference": explaining.reference(decision),
        "declarations": (outcome.product.text, policy and policy.text),
    }


def batch_again(portal, id_: str):
    job = portal.batches.get(id_)
    rows = portal.batches.rows(job, sort="score", size=20)
    return {
        "rows": rows,
        "verdicts": portal.batches.verdict_counts(job),
        "again": [portal.batches.row(job, row.position)[1].to_record() for row in rows.items[:5]],
        "bands": job.summary.bands,
    }


def test_it_works(bank, examples, bank_files) -> None:
    """After each change all is as it was, and whole; what is decided then is decided by the new declarations."""
    known = []
    for change in (None, *CHANGES.values()):
        if change:
            change(bank)
        for portal in (bank, wiring.build(bank.config)):
            for decisions, jobs, before in known:
                assert read_again(portal, decisions, jobs) == before
            assert portal.audit.verify().decisions == 26 * len(known)
            assert portal.audit.replay().decisions == 26 * len(known)
            if portal is not bank:
                portal.database.close()
        if "allowance" in bank.declarations.portfolio():
            decisions, jobs = some_decisions(bank, examples, bank_files, len(known)), some_batches(bank, bank_files)
            known.append((decisions, jobs, read_again(bank, decisions, jobs)))
    assert len(known) == len(CHANGES)
    outcomes = [bank.decisions.get(decisions[-1]).outcome for decisions, _, _ in known]
    assert [outcome.product.currency for outcome in outcomes] == ["EUR", "EUR", "CHF", "CHF"]
    assert [outcome.policy_version for outcome in outcomes] == ["2026-11", "2026-11", "2027-01", "2027-02"]
    assert [outcome.band.name for outcome in outcomes] == ["Elite", "Elite", "Prime", "Prime"]
    assert all(before[0][-2]["lifts"] for _, _, before in known)


def uploaded(portal, product, path):
    """A checked upload that waits to be started."""
    with path.open("rb") as file:
        job = portal.batches.receive(product, path.name, file, provenance=BY_PAGE)
    portal.batches.check(job, portal.batches.suggestion(job).mapping)
    while portal.worker.step():
        pass
    return portal.batches.get(job.id)


def work_off(portal, job):
    while portal.worker.step():
        pass
    return portal.batches.get(job.id)


def test_a_batch_keeps_its_product_and_takes_the_policy_of_its_start(bank, bank_files) -> None:
    job = uploaded(bank, ALLOWANCE, bank_files["allowance"])
    bank.declarations.apply({"card-limit.toml": shipped_file("card-limit", ("2026-11", "2027-02"), ("= 0.6", "= 0.3"))})
    bank.declarations.apply({"allowance.toml": shipped_file("allowance", ("start = 0.92", "start = 0.97"))})
    job = bank.batches.start(job)
    assert (job.policy_version, job.product.digest) == ("2027-02", ALLOWANCE.digest)
    bank.declarations.apply({"card-limit.toml": shipped_file("card-limit", ("2026-11", "2027-03"), ("= 0.6", "= 0.5"))})
    done = work_off(bank, job)
    assert (done.state, done.policy_version, done.product.policy.living_share) == (State.DONE, "2027-02", 0.3)
    row = bank.batches.rows(done, sort="limit", descending=True).items[0]
    assert bank.batches.row(done, row.position)[1].limit.amount == row.limit
    assert bank.audit.replay().batches == 1


def test_a_batch_at_work_ends_after_its_product_was_withdrawn(bank, bank_files) -> None:
    job = bank.batches.start(uploaded(bank, CHURN, bank_files["churn"]))
    waiting = uploaded(bank, CHURN, bank_files["churn"])
    bank.declarations.withdraw("churn")
    assert work_off(bank, job).state is State.DONE
    with pytest.raises(Conflict, match="Churn was withdrawn, so nothing new is scored for it"):
        bank.batches.start(waiting)
    assert bank.batches.duplicate(waiting) is None


def test_a_file_that_starts_by_itself_waits_where_it_cannot(bank, bank_files) -> None:
    with bank_files["churn"].open("rb") as file:
        job = bank.batches.receive(CHURN, "May.csv", file, provenance=BY_PAGE)
    job = bank.batches.check(job, bank.batches.suggestion(job).mapping, start=True)
    bank.declarations.withdraw("churn")
    assert work_off(bank, job).state is State.CHECKED


def test_a_policy_of_other_bands_does_not_start_an_older_upload(bank, bank_files) -> None:
    job = uploaded(bank, ALLOWANCE, bank_files["allowance"])
    CHANGES["bands, thresholds, words, currency and policy change"](bank)
    with pytest.raises(Conflict, match=r"Limit policy 2027-01 does not go with .* Upload the file again"):
        bank.batches.start(job)
    assert bank.batches.get(job.id) == job


def test_a_model_of_another_declaration_does_not_start_an_older_upload(bank, bank_files, fewer) -> None:
    """Nor does it serve the product that is in force, or become active: each is said in words."""
    job = uploaded(bank, CHURN, bank_files["churn"])
    file, trained = fewer
    bank.declarations.apply(file, without_model=True)
    product = bank.declarations.portfolio()["churn"]
    reason = "Geography is not scored any more, and the model needs it"
    with pytest.raises(NoActiveModel, match=reason):
        bank.models.serving(product)
    with pytest.raises(VersionRefused, match=reason):
        bank.models.activate(product, "v1")
    added = bank.models.add(trained)
    assert (added.version, added.active) == ("v2", True), "nothing served, so the new one does"
    assert bank.models.serving(product).manifest["declaration"] == product.digest
    assert bank.models.verify(product) == {"v1": None, "v2": None}, "each by its own declaration"
    with pytest.raises(Conflict, match=r"declared anew .* Geography is scored now, and the model has not learnt"):
        bank.batches.start(job)


@pytest.fixture(scope="module")
def fewer(bank_files):
    """A churn that does not score Geography, and a forest for it."""
    from bankportal.data.reading import read
    from bankportal.training.training import train

    file = {"churn.toml": shipped_file("churn", ('    "Geography",\n', ""))}
    (declaration,) = read_files(file)
    with pytest.MonkeyPatch.context() as patch:
        plant_few_trees(patch)
        return file, train(read(bank_files["churn"], product_from(declaration.text, None)), seed=2)


# --- a bank's own product -----------------------------------------------------------------------------------------


def reworded(product, policy):
    """Return the product with other thresholds and whole amounts, and with another version of its policy."""
    content = json.loads(product.text)
    content["reasons"] = {"min_points": 0.02, "min_share": 0.3}
    for name in ("EstimatedSalary", "MonthlyObligations", "RequestedLoan"):
        content["factors"][name]["constraint"]["whole"] = True
    return product_from(canonical(content), policy_from(canonical(json.loads(policy.text) | {"living_share": 0.2})))


@pytest.fixture(scope="module")
def home_equity(tmp_path_factory):
    """A portal of a bank that has one product of its own, never shipped, with a model."""
    portal = wiring.build(config_for(tmp_path_factory.mktemp("bank") / "instance"))
    wiring.upgrade(portal)
    portal.declarations.apply({path.name: path.read_bytes() for path in FILES})
    portal.models.add(train_home_equity(tmp_path_factory.mktemp("home-equity")))
    yield portal
    portal.database.close()


def as_columns(product, customers):
    """Return validated customers as columns for `outcome_columns`."""
    factors = [*product.scored, *product.policy_factors]
    values = {each.name: [{**one.scored, **one.policy}[each.name] for one in customers] for each in factors}
    return {
        each.name: np.array(values[each.name], dtype=object)
        if isinstance(each.constraint, Choice)
        else np.array([math.nan if value is None else value for value in values[each.name]], dtype=np.float64)
        for each in factors
    }


@pytest.mark.parametrize("changed", [False, True], ids=["as declared", "whole amounts, other thresholds and policy"])
def test_many_at_once_have_the_answers_of_one(home_equity, changed) -> None:
    product = home_equity.declarations.portfolio()["home-equity"]
    product = reworded(product, product.policy) if changed else product
    model, random = home_equity.models.serving(HOME_EQUITY), np.random.default_rng(4)
    texts = {name: [str(value) for value in values] for name, values in columns(600, 11).items() if name != "PaidBack"}
    texts = {name: [text.removesuffix(".0") for text in cells] for name, cells in texts.items()}
    optional = {factor.name for factor in (*product.optional, *product.policy_factors)}
    customers = [
        validate(
            product,
            {name: "" if name in optional and random.random() < 0.15 else cells[row] for name, cells in texts.items()},
            Source.TEXT,
        )
        for row in range(600)
    ]
    found, alone = outcome_columns(as_columns(product, customers), product, model), outcomes_of(customers, model)
    assert found.scores.tolist() == [outcome.score for outcome in alone]
    assert [product.bands[band] for band in found.bands] == [outcome.band for outcome in alone]
    assert list(map(repr, found.limits)) == [repr(outcome.limit) for outcome in alone]
    assert found.contributions.tolist() == [list(outcome.contributions.values()) for outcome in alone]
    assert [found.flags.get(row, ()) for row in range(600)] == [outcome.flags for outcome in alone]
    sentences = [[text for text in row if text] for row in found.sentences.tolist()]
    assert sentences == [[reason.sentence for reason in outcome.reasons] for outcome in alone]
    assert {limit.rule for limit in found.limits} == {"band", "ability-to-pay", "requested", "ineligible"}
    assert any("USD" in text for row in sentences for text in row)


def test_a_process_that_knows_nothing_of_the_product_scores_it(home_equity, tmp_path) -> None:
    product = home_equity.declarations.portfolio()["home-equity"]
    path = write_csv(tmp_path / "customers.csv", columns(200, 3))
    source = source_at(str(path), product)
    work = Work(product, source.layout, mapping_of(source, product), home_equity.models.serving(product))
    (block,) = source.blocks()
    here = score_block(work, block)
    parcel = tmp_path / "parcel"
    parcel.write_bytes(pickle.dumps((SerializedWork.of(work, home_equity.config.models), source, block.span)))
    code = (
        "import pickle, sys; from bankportal.domain.portfolio import shipped_portfolio; "
        "from bankportal.services.batches.cluster import score_span; "
        "assert 'home-equity' not in shipped_portfolio(); "
        f"part = score_span(*pickle.load(open({str(parcel)!r}, 'rb'))); "
        "sys.stdout.buffer.write(part.scored + part.rejects)"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=tmp_path)
    assert there.stdout == here.scored + here.rejects
    assert b"Narrow" in here.scored


def test_an_isolated_run_of_the_product(home_equity, tmp_path) -> None:
    """It reads the rows: a run that could not would not have begun."""
    product = home_equity.declarations.portfolio()["home-equity"]
    path = write_csv(tmp_path / "customers.csv", columns(200, 3))
    job = home_equity.batches.start(uploaded(home_equity, product, path))
    (span, _), *_ = home_equity.batches.store.score_spans(job)
    source, models = home_equity.batches.storage.input(job.id), home_equity.config.models
    payload = json.dumps(isolated_run.payload_of(job, span, source, models, 60.0))
    code = "import json, sys; from bankportal.services.batches.isolated_run import _score; _score(json.load(sys.stdin))"
    done = subprocess.run([sys.executable, "-c", code], input=payload, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "begun"), done.stderr
