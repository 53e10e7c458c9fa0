"""Gender, Age and Geography change no allowance: not a score, not a band, not a limit."""

import itertools

import numpy as np
import pytest

from bankportal.data.reading import read
from bankportal.domain.constraints import Source
from bankportal.domain.schema import validate
from bankportal.services.scoring import limit
from bankportal.simulation import simulate
from bankportal.training.training import train
from tests.conftest import write_csv
from tests.shipped import ALLOWANCE

APPLICANTS = 10_000
ALL_GENDERS = ["Female", "Male", "Other", None]
ALL_COUNTRIES = ["France", "Germany", "Spain", None]
PROTECTED = list(itertools.product(ALL_GENDERS, [18, 30, 64, 120, None], ALL_COUNTRIES))


@pytest.fixture(scope="module")
def applicants():
    columns = dict(simulate.allowance(APPLICANTS, 11).columns)
    columns["CustomerId"] = columns["CustomerId"].astype(str)
    names = [entry.factor.name for entry in ALLOWANCE.factors]
    rows = zip(*(columns[name].tolist() for name in names), strict=True)
    return [{name: None if value != value else value for name, value in zip(names, row, strict=True)} for row in rows]


def answers(services, raws):
    """What 10,000 applicants get, through validation, encoding, forest and policy, as the service asks them."""
    model = services.models.serving(ALLOWANCE)
    customers = [validate(ALLOWANCE, raw, Source.TYPED) for raw in raws]
    scores = model.forest.score(np.array([model.encoding.row(customer.scored) for customer in customers]))
    bands = [ALLOWANCE.band(score) for score in scores]
    limits = [limit(customer, band) for customer, band in zip(customers, bands, strict=True)]
    return scores, bands, limits


def test_it_works(services, applicants) -> None:
    before = answers(services, applicants)
    changed = [
        raw | dict(zip(("Gender", "Age", "Geography"), values, strict=True))
        for raw, values in zip(applicants, itertools.cycle(PROTECTED))
    ]
    after = answers(services, changed)
    assert np.array_equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert len({band.name for band in before[1]}) == len(ALLOWANCE.bands), "all bands were tried"


def test_training_does_not_look_at_them(applicants, tmp_path) -> None:
    """The same applicants with other protected values give the same forest, repeated rows and bad cells included."""
    rows = [raw for raw in applicants[:800] for _ in range(2)]
    repaid = [row % 7 < 5 for row in range(800) for _ in range(2)]
    digests = set()
    for genders in (["Female"], ["Male", "Female"], ["Divers", ""]):
        changed = [raw | {"Gender": gender, "Age": 17} for raw, gender in zip(rows, itertools.cycle(genders))]
        columns = {name: [raw[name] for raw in changed] for name in rows[0] if name != "CustomerId"}
        path = write_csv(tmp_path / "data.csv", columns | {"Repaid": [int(one) for one in repaid]})
        table = read(path, ALLOWANCE)
        assert table.rejected == 0
        digests.add(train(table).forest.to_bytes())
    assert len(digests) == 1


def test_what_is_scored_does_change_the_answer(services, applicants) -> None:
    """The comparison above can fail."""
    changed = [raw | {"LatePayments": 6} for raw in applicants[:500]]
    assert not np.array_equal(answers(services, applicants[:500])[0], answers(services, changed)[0])


def test_through_the_form(app, client, examples) -> None:
    decisions = app.extensions["bankportal"].decisions
    outcomes = []
    for gender, age, country in [("Female", "25", "France"), ("Male", "70", "Germany"), ("", "", "")]:
        client.post("/allowance/", data=examples["allowance"] | {"Gender": gender, "Age": age, "Geography": country})
        outcomes.append(decisions.latest(1)[0].outcome)
    assert outcomes[0] == outcomes[1] == outcomes[2]
