"""The letter about declined and countered limits."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bankportal.domain.errors import NotFound
from bankportal.domain.policy import Limit
from bankportal.web import letters
from bankportal.web.words import day, money
from tests.shipped import PRODUCTS
from tests.test_web_decisions import decided_fixture, text_of  # noqa: F401  # the fixture `decided`

POOR = {"CreditScore": "420", "CardUtilisation": "190", "LatePayments": "8", "RequestedLimit": "6000"}
ALLOWANCE = PRODUCTS["allowance"]


def latest(app):
    return app.extensions["bankportal"].decisions.latest(1)[0]


def spaced(amount: float) -> str:
    return " ".join(money(amount, "EUR").split())


def test_it_works(app, client, decided) -> None:
    location = decided("allowance", **POOR)
    decision, text = latest(app), text_of(client.get(f"{location}/letter").text)
    assert f'href="{location}/letter"' in client.get(location).text
    assert decision.outcome.limit.amount == 0
    assert f"You asked for a credit-card limit of {spaced(6000)}." in text
    assert "We cannot grant a limit." in text
    assert all(f"{reason.sentence}." in text for reason in decision.outcome.reasons)
    assert "those of applicants who just passed" in text
    assert "Gender, age and country were not considered." in text
    send_by = decision.at.astimezone(UTC).date() + timedelta(days=30)
    assert f"Send by {day(send_by)}" in text
    assert "12 CFR 1002.9" in text
    assert decision.id in text


def test_nobody_was_compared_with_where_a_rule_decided(app, client, decided) -> None:
    salary = {"CreditScore": "820", "LatePayments": "0", "EstimatedSalary": "24000", "MonthlyObligations": "900"}
    text = text_of(client.get(f"{decided('allowance', **salary, CardUtilisation='5')}/letter").text)
    assert [reason.rule for reason in latest(app).outcome.reasons] == ["ability-to-pay"]
    assert "After living costs and obligations" in text
    assert "applicants who just passed" not in text


def test_a_counteroffer(app, client, decided) -> None:
    location = decided("allowance", RequestedLimit="90000")
    limit, text = latest(app).outcome.limit, text_of(client.get(f"{location}/letter").text)
    assert limit.counteroffer
    assert f"We can offer {spaced(limit.amount)}." in text
    assert "Our offer of a different card limit" in text


def test_no_protected_value_is_in_it(client, decided) -> None:
    page = client.get(f"{decided('allowance', **POOR, Gender='Other', Age='97', Geography='Germany')}/letter").text
    assert "Germany" not in page
    assert "97" not in text_of(page).replace("1970", "")
    assert "Other" not in page


def test_names_are_escaped(client, decided) -> None:
    page = client.get(f"{decided('allowance', **POOR, Surname='<script>alert(1)</script>')}/letter").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


@pytest.mark.parametrize(("key", "changes"), [("churn", {}), ("allowance", {"RequestedLimit": "500"})])
def test_where_none_is_due(client, decided, key, changes) -> None:
    location = decided(key, **changes)
    response = client.get(f"{location}/letter")
    assert response.status_code == 404
    assert "There is no letter for this decision" in response.text
    assert "/letter" not in client.get(location).text


@pytest.mark.parametrize(
    ("limit", "due"),
    [
        (Limit(0, 9000, "ineligible", None, False, False), True),
        (Limit(0, 120, "ability-to-pay", 600.0, False, False), True),
        (Limit(5000, 9000, "band", 8000.0, True, False), True),
        (Limit(5000, 9000, "requested", 5000.0, False, False), False),
        (Limit(5000, 9000, "band", None, False, False), False),
    ],
)
def test_when_one_is_due(app, decided, limit, due) -> None:
    decided("allowance")
    decision = latest(app)
    changed = replace(decision, outcome=replace(decision.outcome, limit=limit))
    assert letters.is_due(changed) == due
    if not due:
        with pytest.raises(NotFound):
            letters.letter(changed)


def test_without_a_limit_the_band_decides(app, decided) -> None:
    decided("allowance")
    decision = latest(app)
    for band in ALLOWANCE.bands:
        changed = replace(decision, outcome=replace(decision.outcome, limit=None, band=band))
        assert letters.is_due(changed) == (band is ALLOWANCE.bands[0])


def test_the_day_is_the_decisions_in_utc(app, decided) -> None:
    decided("allowance", **POOR)
    at = datetime.fromisoformat("2027-02-01T00:30:00+02:00")
    letter = letters.letter(replace(latest(app), at=at))
    assert day(letter.day) == "31 January 2027"
    assert day(letter.send_by) == "2 March 2027"


@pytest.mark.parametrize(("labels", "text"), [([], ""), (["Age"], "Age"), (["Age", "Country"], "Age and country")])
def test_lists_in_words(labels, text) -> None:
    assert letters.listed(labels) == text
