import html
import re
from dataclasses import replace

import pytest

from bankportal.domain.constraints import Source
from bankportal.domain.outcome import percent
from bankportal.domain.policy import Limit
from bankportal.domain.schema import validate
from bankportal.explanation.recourse import Recourse, Replacement, Suggestion
from bankportal.services.explaining import Explaining
from bankportal.web import decisions as pages
from bankportal.web.words import as_typed, limit_facts, limit_sentences, problem_sentence, value_words
from tests.shipped import (
    ALLOWANCE,
    CARD_LIMIT_POLICY,
    ESTIMATED_SALARY,
    LATE_PAYMENTS,
    PRODUCTS,
    REQUESTED_LIMIT,
    TENURE,
)


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
    assert decision.outcome.verdict.meaning in page
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
        assert CARD_LIMIT_POLICY.rules[limit.rule] in page
        assert ("counteroffer" in page.lower()) == limit.counteroffer
        assert f"Limit policy {CARD_LIMIT_POLICY.version}" in page


LIMITS = {
    "counteroffer": (Limit(7600, 7638.9, "ability-to-pay", 25_000.0, True, False), ["EUR 25,000", "EUR 7,600"]),
    "assumed": (Limit(5000, 9000, "requested", 5000.0, False, True), ["25% of the monthly salary was assumed"]),
    "too small": (Limit(0, 120, "ability-to-pay", None, False, False), ["below EUR 500 are not granted"]),
    "ineligible": (Limit(0, 9000, "ineligible", 5000.0, False, False), [CARD_LIMIT_POLICY.rules["ineligible"]]),
}


@pytest.mark.parametrize(("limit", "said"), LIMITS.values(), ids=list(LIMITS))
def test_what_is_said_of_a_limit(limit, said) -> None:
    sentences = " ".join(" ".join(limit_sentences(limit, ALLOWANCE)).split())
    assert all(words in sentences for words in said)
    assert limit_facts(limit, "EUR")[1][1] == f"up to EUR\u00a0{int(limit.ceiling):,}"


def test_words() -> None:
    assert value_words(TENURE, None, "EUR") == "unknown"
    assert [value_words(TENURE, years, "EUR") for years in (1.0, 2.0)] == ["1 year", "2 years"]
    assert value_words(LATE_PAYMENTS, 1, "EUR") == "1 in 12 months"
    assert value_words(ESTIMATED_SALARY, 62_000.5, "EUR") == "62,000.50 EUR a year"
    assert value_words(REQUESTED_LIMIT, 5000.0, "EUR") == "5,000 EUR"
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
    customer = validate(product, {**examples[product.key], "Balance": "0.1000000000000001"}, Source.TEXT)
    again = {name: as_typed(value) for name, value in customer.all_values().items()}
    assert validate(product, again, Source.TEXT) == customer


def test_a_factor_no_longer_declared_keeps_its_name() -> None:
    assert pages.rows(PRODUCTS["churn"], {"Dropped": 3}) == [("Dropped", "3")]


def test_a_problem_without_a_declared_field_is_a_sentence() -> None:
    from bankportal.domain.errors import FieldProblem

    assert problem_sentence(
        PRODUCTS["churn"], FieldProblem("x", "unknown-field", "is not a factor of churn")
    ).startswith("x is")


# --- a decision without a limit -------------------------------------------------------------------------------------

# A good score and a salary that carries no limit; and a poor score.
NO_LIMITS = {
    "ability-to-pay": {
        "CreditScore": "820",
        "EstimatedSalary": "24000",
        "MonthlyObligations": "900",
        "CardUtilisation": "5",
    },
    "ineligible": {"CreditScore": "420", "CardUtilisation": "190", "LatePayments": "8"},
}
BADGE = re.compile(r'<span class="badge tone-(\w+)">(<svg.*?</svg>)<span>([^<]+)</span></span>', re.S)
ALERT = '<path d="M10 2.6l7.9 14H2.1z"/>'


def badges(page: str) -> set[tuple[str, str, bool]]:
    """Return the words, tone, and whether with the icon of a refusal, of the badges on a page."""
    return {(words, tone, ALERT in icon) for tone, icon, words in BADGE.findall(page)}


@pytest.mark.parametrize("rule", list(NO_LIMITS))
def test_no_limit_is_one_word_and_one_colour_everywhere(app, client, decided, examples, rule) -> None:
    changes = NO_LIMITS[rule]
    location = decided("allowance", **changes)
    outcome = app.extensions["bankportal"].decisions.latest(1)[0].outcome
    assert (outcome.limit.amount, outcome.limit.rule) == (0, rule)
    preview = client.post("/allowance/preview", data={**examples["allowance"], **changes}).text
    pages = {
        "list": client.get("/decisions/").text,
        "overview": client.get("/").text,
        "decision": client.get(location).text.split('id="change-heading"')[0],
        "compare": client.get(f"{location}/compare").text,
        "preview": preview,
    }
    assert {name: badges(page) for name, page in pages.items()} == {name: {("No limit", "bad", True)} for name in pages}
    assert "tone-bad" in re.search(r'<figure class="gauge [^"]+"', pages["decision"])[0]
    assert '<h1 class="outcome tone-bad">' in pages["decision"]
    count = re.compile(
        r'<li class="tone-bad">.*?<span class="count">1</span> <span class="count-name">No limit</span>', re.S
    )
    assert count.search(pages["overview"])
    for page in pages.values():
        assert ">None<" not in page
        assert ">none<" not in page


def test_the_preview_says_no_limit_to_a_screen_reader(client, examples) -> None:
    sent = {**examples["allowance"], **NO_LIMITS["ability-to-pay"]}
    answer = client.post("/allowance/preview", data=sent, headers={"Accept": "application/json"}).json
    assert answer["announcement"].endswith(", No limit.")


def test_a_change_that_still_leads_to_no_limit_is_shown_as_that(app, client, decided, monkeypatch) -> None:
    location = decided("allowance", **NO_LIMITS["ineligible"])
    standard = PRODUCTS["allowance"].band_named("Standard")
    limit = app.extensions["bankportal"].decisions.latest(1)[0].outcome.limit
    suggestion = Suggestion((Replacement(LATE_PAYMENTS, 8, 0),), 0.85, standard, 1.0)
    monkeypatch.setattr(Explaining, "recourse", lambda *_: Recourse(0.1, standard, False, (suggestion,)))
    monkeypatch.setattr(Explaining, "limit_after", lambda *_: replace(limit, rule="ability-to-pay"))
    change = client.get(location).text.split('id="change-heading"')[1].split("</section>")[0]
    assert badges(change) == {("No limit", "bad", True)}
