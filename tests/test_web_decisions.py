import html
import re

import pytest

from bankportal.domain.constraints import Door
from bankportal.domain.factors import ESTIMATED_SALARY, REQUESTED_LIMIT, TENURE
from bankportal.domain.outcome import percent
from bankportal.domain.policy import CARD_LIMIT_POLICY, RULES, Limit
from bankportal.domain.products import PRODUCTS
from bankportal.domain.schema import validate
from bankportal.web import decisions as pages
from bankportal.web.words import as_typed, limit_facts, limit_sentences, problem_sentence, value_words


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


@pytest.fixture(name="decided")
def decided_fixture(client, examples):
    """Record the example customer of a product, with changes; return the decision's address."""

    def decide(key: str, **changes: str) -> str:
        response = client.post(f"/{key}/", data={**examples[key], **changes})
        assert response.status_code == 303
        return response.location

    return decide


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=lambda product: product.key)
def test_it_works(app, client, decided, product) -> None:
    location = decided(product.key)
    decision = app.extensions["bankportal"].decisions.latest(1)[0]
    page = client.get(location).text
    assert location.endswith(decision.id)
    assert decision.id in page
    assert percent(product, decision.outcome.score) in page
    assert decision.outcome.band.meaning in page
    assert f'href="/models/{product.key}/{decision.outcome.model_version}"' in page
    assert f'<time datetime="{decision.at.isoformat(timespec="seconds")}">' in page
    assert " UTC</time>" in page


def test_the_list(client, decided) -> None:
    churn, allowance = decided("churn"), decided("allowance")
    everything = client.get("/decisions/").text
    assert everything.index(allowance) < everything.index(churn)
    only = client.get("/decisions/?product=churn").text
    assert churn in only
    assert allowance not in only


def test_the_list_in_pages(client, decided, monkeypatch) -> None:
    monkeypatch.setattr(pages, "PAGE_SIZE", 2)
    locations = [decided("churn", Age=str(age)) for age in range(30, 35)]
    seen, path = [], "/decisions/"
    while path:
        page = client.get(path).text
        seen += re.findall(r'class="row-link" href="([^"]+)"', page)
        older = re.search(r'href="([^"]+)">Older', page)
        path = html.unescape(older[1]) if older else ""
    assert seen == locations[::-1]


@pytest.mark.parametrize("query", ["?product=nothing", "?product=Churn"])
def test_an_unknown_product(client, query) -> None:
    assert client.get(f"/decisions/{query}").status_code == 404


def test_a_place_in_the_list_that_is_not_there(client) -> None:
    response = client.get("/decisions/?before=nothing")
    assert response.status_code in {200, 404}
    assert "Traceback" not in response.text


def test_an_empty_list_says_what_to_do(client) -> None:
    page = client.get("/decisions/").text
    assert "No decisions yet" in page
    assert 'href="/churn/"' in page


@pytest.mark.parametrize("number", ["nothing", "0" * 26, "%00", "<script>alert(1)</script>", "x" * 3000])
def test_unknown_decisions(client, number) -> None:
    response = client.get(f"/decisions/{number}")
    assert response.status_code == 404
    assert "<script>alert" not in response.text


def test_protected_values_are_not_shown(client, decided) -> None:
    page = text_of(client.get(decided("allowance", Gender="Other", Age="97", Geography="Germany")).text)
    assert "Kept apart, never scored: Gender, Age, Country." in page
    assert "97 years" not in page
    assert "Germany" not in page
    assert "Other" not in page.replace("Score another", "")


def test_blanks_are_unknown(client, decided) -> None:
    assert "Days to resolve a complaint unknown" in text_of(client.get(decided("churn")).text)


def test_names_are_escaped(client, decided) -> None:
    location = decided("churn", Surname="<script>alert('x')</script>")
    for path in (location, "/decisions/", "/"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert" in page


def test_values_outside_training_are_flagged(app, client, decided) -> None:
    page = client.get(decided("churn", Balance="999000000")).text
    flags = app.extensions["bankportal"].decisions.latest(1)[0].outcome.flags
    assert flags
    assert all(flag.message in html.unescape(page) for flag in flags)
    assert "Outside what the model has seen" in page


def test_a_limit_is_explained(app, client, decided) -> None:
    for requested in ("500", "90000", ""):
        page = text_of(client.get(decided("allowance", RequestedLimit=requested)).text)
        limit = app.extensions["bankportal"].decisions.latest(1)[0].outcome.limit
        assert RULES[limit.rule] in page
        assert ("counteroffer" in page.lower()) == limit.counteroffer
        assert f"Limit policy {CARD_LIMIT_POLICY.version}" in page


LIMITS = {
    "counteroffer": (Limit(7600, 7638.9, "ability-to-pay", 25_000.0, True, False), ["EUR 25,000", "EUR 7,600"]),
    "assumed": (Limit(5000, 9000, "requested", 5000.0, False, True), ["25% of the monthly salary was assumed"]),
    "too small": (Limit(0, 120, "ability-to-pay", None, False, False), ["below EUR 500 are not granted"]),
    "ineligible": (Limit(0, 9000, "ineligible", 5000.0, False, False), [RULES["ineligible"]]),
}


@pytest.mark.parametrize(("limit", "said"), LIMITS.values(), ids=list(LIMITS))
def test_what_is_said_of_a_limit(limit, said) -> None:
    sentences = " ".join(" ".join(limit_sentences(limit, CARD_LIMIT_POLICY)).split())
    assert all(words in sentences for words in said)
    assert limit_facts(limit)[1][1] == f"up to EUR\u00a0{int(limit.ceiling):,}"


def test_words() -> None:
    assert value_words(TENURE, None) == "unknown"
    assert value_words(ESTIMATED_SALARY, 62_000.5) == "62,000.50 EUR a year"
    assert value_words(REQUESTED_LIMIT, 5000.0) == "5,000 EUR"
    assert [as_typed(value) for value in (None, 5.0, 0.1, 7, "France", 1e-7)] == [
        "",
        "5",
        "0.1",
        "7",
        "France",
        "1e-07",
    ]


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=lambda product: product.key)
def test_values_typed_again_are_the_same_values(product, examples) -> None:
    customer = validate(product, {**examples[product.key], "Balance": "0.1000000000000001"}, Door.TEXT)
    again = {name: as_typed(value) for name, value in customer.all_values().items()}
    assert validate(product, again, Door.TEXT) == customer


def test_a_factor_no_longer_declared_keeps_its_name() -> None:
    assert pages.rows(PRODUCTS["churn"], {"Dropped": 3}) == [("Dropped", "3")]


def test_a_problem_without_a_declared_field_is_a_sentence() -> None:
    from bankportal.domain.errors import Problem

    assert problem_sentence(PRODUCTS["churn"], Problem("x", "unknown-field", "is not a factor of churn")).startswith(
        "x is"
    )
