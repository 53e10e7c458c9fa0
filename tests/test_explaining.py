"""What the services say of real answers: reasons that hold, and contributions that add up."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bankportal.data.reading import read
from bankportal.domain.constraints import Number, Source
from bankportal.domain.errors import ExplanationRefused, NotFound, VersionRefused
from bankportal.domain.schema import validate
from bankportal.simulation import simulate
from bankportal.training.training import reference_population, split
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN, PRODUCTS

CUSTOMERS = 150


@pytest.fixture(scope="module")
def customers():
    """Simulated customers of each product, some optional values blank."""
    draws = np.random.default_rng(4)
    return {key: list(made(PRODUCTS[key], draws)) for key in simulate.SIMULATORS}


def made(product, draws):
    columns = dict(simulate.SIMULATORS[product.key](CUSTOMERS, 21).columns)
    columns["CustomerId"] = columns["CustomerId"].astype(str)
    required = {factor.name for factor in product.required}
    for row in range(CUSTOMERS):
        raw = {entry.factor.name: columns[entry.factor.name][row].tolist() for entry in product.factors}
        blank = {name for name in raw if name not in required and draws.random() < 0.15}
        known = {name: None if name in blank or value != value else value for name, value in raw.items()}
        yield validate(product, known, Source.TYPED)


@pytest.fixture(scope="module")
def references(bank_files, trained):
    """Each product's reference population, as training took it."""
    found = {}
    for key, path in bank_files.items():
        table, model = read(path, PRODUCTS[key]), trained[key]
        learned = table.take(split(table, model.seed)[0])
        matrix = model.encoding.matrix(learned.columns)
        found[key] = reference_population(PRODUCTS[key], model.forest, matrix)
    return found


@pytest.mark.parametrize("key", PRODUCTS)
def test_it_works(services, customers, key) -> None:
    for customer in customers[key]:
        outcome = services.scoring.score(customer)
        assert math.fsum([outcome.base, *outcome.contributions.values()]) == pytest.approx(outcome.score, abs=1e-9)
        assert 1 <= len(outcome.reasons) <= 4
        assert set(outcome.contributions) == {factor.name for factor in PRODUCTS[key].scored}


def edge_cases(customer):
    """Return a customer, and it with all blank that may be, and with each number at an end of what is allowed."""
    product, values = customer.product, customer.all_values()
    numbers = {
        entry.factor.name: entry.factor.constraint
        for entry in product.factors
        if isinstance(entry.factor.constraint, Number)
    }
    variants = (
        {},
        dict.fromkeys(factor.name for factor in product.optional),
        {name: number.minimum for name, number in numbers.items()},
        {name: number.maximum for name, number in numbers.items()},
    )
    return [validate(product, values | changed, Source.TYPED) for changed in variants]


@pytest.mark.parametrize("size", [2, 3, 8, 9, 16, 17, 40, 150])
def test_customers_of_a_group_have_the_outcomes_of_each_alone(services, customers, size) -> None:
    """Both products in one group, blanks, and values that no model has seen; `repr` tells -0.0 from 0.0."""
    pairs = zip(customers["churn"], customers["allowance"], strict=True)
    mixed = [each for pair in pairs for customer in pair for each in edge_cases(customer)][:size]
    outcomes = services.scoring.score_all(mixed)
    assert [repr(outcome) for outcome in outcomes] == [repr(services.scoring.score(customer)) for customer in mixed]
    assert size < 8 or any(outcome.flags for outcome in outcomes)


@pytest.mark.parametrize("key", PRODUCTS)
def test_the_honesty_gate(services, customers, references, key) -> None:
    """Putting a reason's factor at the reference moves the score the way the reason says."""
    model, reference = services.models.serving(PRODUCTS[key]), references[key]
    checked = 0
    for customer in customers[key][:60]:
        outcome = services.scoring.score(customer)
        row = model.encoding.row(customer.scored)
        for reason in outcome.reasons:
            if reason.factor is None:
                continue
            moved = np.repeat(row[None, :], len(reference), axis=0)
            columns = model.encoding.positions(reason.factor)
            moved[:, columns] = reference[:, columns]
            effect = outcome.score - model.forest.score(moved).mean()
            assert effect * reason.contribution > 0
            checked += 1
    assert checked > 60


@pytest.mark.parametrize("key", PRODUCTS)
def test_effects_are_what_they_say(services, customers, references, key) -> None:
    model, reference = services.models.serving(PRODUCTS[key]), references[key]
    for customer in customers[key][:5]:
        row = model.encoding.row(customer.scored)
        effects = model.effects.of(row)
        for number, factor in enumerate(model.encoding.factors):
            moved = np.repeat(row[None, :], len(reference), axis=0)
            columns = model.encoding.positions(factor)
            moved[:, columns] = reference[:, columns]
            expected = model.forest.score(row[None, :])[0] - model.forest.score(moved).mean()
            assert effects[number] == pytest.approx(expected, abs=1e-12)


def test_the_references_are_those_declared(services, references) -> None:
    churn, allowance = (services.models.serving(product) for product in (CHURN, ALLOWANCE))
    assert churn.manifest["reference"]["rows"] == len(references["churn"])
    assert churn.explainer.base == pytest.approx(churn.forest.score(references["churn"]).mean(), abs=1e-12)
    passed = allowance.forest.score(references["allowance"])
    assert passed.min() >= ALLOWANCE.band_named("Standard").start
    assert len(passed) <= 500


def test_declined_applicants_get_reasons_against_them(services, customers) -> None:
    declined = 0
    for customer in customers["allowance"]:
        outcome = services.scoring.score(customer)
        if outcome.band.name == "Ineligible":
            declined += 1
            assert all(reason.contribution < 0 for reason in outcome.reasons)
            assert not {"Gender", "Age", "Geography"} & {reason.factor for reason in outcome.reasons}
    assert declined > 10


def test_a_factor_without_words_cannot_be_activated(services) -> None:
    required = tuple(replace(factor, phrase=None) if factor.name == "Balance" else factor for factor in CHURN.required)
    wordless = replace(CHURN, required=required)
    with pytest.raises(VersionRefused, match="no words for Balance"):
        services.models.activate(wordless, "v1")


@pytest.mark.parametrize("base", [0.9, math.nan])
def test_contributions_that_do_not_add_up_are_not_answered(services, customers, monkeypatch, base) -> None:
    monkeypatch.setattr("bankportal.explanation.explainer.Explainer.base", property(lambda self: base))
    customer = customers["churn"][0]
    with pytest.raises(ExplanationRefused, match="do not add up"):
        services.scoring.decide(customer, "token", BY_PAGE)
    assert services.decisions.latest() == []


def test_a_decisions_curve_recourse_and_standing(services, customers) -> None:
    for key, found in customers.items():
        decision = services.scoring.decide(found[0], "token", BY_PAGE)
        curve = services.explaining.curve(decision, "Balance")
        assert curve.score == decision.outcome.score
        recourse = services.explaining.recourse(decision)
        assert recourse.score == decision.outcome.score
        for suggestion in recourse.suggestions:
            changed = found[0].scored | {change.factor.name: change.new for change in suggestion.changes}
            model = services.models.serving(PRODUCTS[key])
            score = model.forest.score(model.encoding.row(changed)[None, :])[0]
            assert score == suggestion.score
            assert PRODUCTS[key].band(score) is suggestion.band is not decision.outcome.band
        assert sum(services.explaining.histograms(decision)["Balance"].counts) > 1000
        with pytest.raises(NotFound):
            services.explaining.curve(decision, "Gender")


POOR = {"CreditScore": "820", "LatePayments": "0", "EstimatedSalary": "24000", "MonthlyObligations": "900"}


@pytest.mark.parametrize("requested", ["", "5000"])
def test_what_lifts_a_limit_that_the_ability_to_pay_refused(services, examples, requested) -> None:
    raw = examples["allowance"] | POOR | {"RequestedLimit": requested, "CardUtilisation": "5"}
    decision = services.scoring.decide(validate(ALLOWANCE, raw, Source.TEXT), "token", BY_PAGE)
    assert decision.outcome.limit.rule == "ability-to-pay"
    assert decision.outcome.limit.declined
    lifts = services.explaining.lifts(decision)
    assert [change.factor.name for lift in lifts for change in lift.changes] == [
        "MonthlyObligations",
        "EstimatedSalary",
    ]
    for lift in lifts:
        (change,) = lift.changes
        again = validate(ALLOWANCE, raw | {change.factor.name: str(change.new)}, Source.TEXT)
        after = services.scoring.score(again)
        assert after.score == lift.score
        assert after.limit == services.explaining.limit_after(decision, lift)
        assert after.limit.amount >= 500
        step = change.factor.change.step * (1 if change.new > change.old else -1)
        less = validate(ALLOWANCE, raw | {change.factor.name: str(change.new - step)}, Source.TEXT)
        assert services.scoring.score(less).limit.amount == 0, "a step less lifts nothing"


def test_what_leaves_the_limit_as_it_was_lifts_nothing(services, examples) -> None:
    """Salary and obligations are such that the band's limit and what can be paid are the same."""
    good = {"CreditScore": "820", "LatePayments": "0", "CardUtilisation": "5", "RequestedLimit": "16000"}
    raw = examples["allowance"] | good | {"EstimatedSalary": "60000", "MonthlyObligations": "200"}
    decision = services.scoring.decide(validate(ALLOWANCE, raw, Source.TEXT), "token", BY_PAGE)
    limit = decision.outcome.limit
    assert (decision.outcome.band.name, limit.amount, limit.rule) == ("Elite", 15_000, "ability-to-pay")
    lifts = services.explaining.lifts(decision)
    assert [change.factor.name for lift in lifts for change in lift.changes] == ["EstimatedSalary"]
    assert services.explaining.limit_after(decision, lifts[0]).amount > 15_000


def test_nothing_lifts_what_the_ability_to_pay_did_not_cut(services, examples) -> None:
    for key in PRODUCTS:
        decision = services.scoring.decide(validate(PRODUCTS[key], examples[key], Source.TEXT), "token", BY_PAGE)
        limit = decision.outcome.limit
        assert limit is None or not limit.declined
        assert services.explaining.lifts(decision) == () or limit.counteroffer


def test_the_bank_own_words_are_read_from_the_instance(config, customers) -> None:
    from bankportal import wiring

    config.reasons.write_text(
        "".join(f'[{f.name}]\nmany = "MINE {{value}}"\none = "MINE"\nzero = "MINE"\n' for f in CHURN.scored)
    )
    services = wiring.build(config)
    assert wiring.upgrade(services) == []
    product = services.declarations.portfolio()["churn"]
    outcomes = (services.scoring.score(replace(customer, product=product)) for customer in customers["churn"])
    known = next(reason for outcome in outcomes for reason in outcome.reasons)
    services.database.close()
    assert "MINE" in known.sentence or "nknown" in known.sentence or "Not knowing" in known.sentence
