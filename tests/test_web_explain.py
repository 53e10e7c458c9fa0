"""The explanation on a decision's page, trying a suggestion, and before and after."""

import html
import re
import shutil
from dataclasses import replace

import pytest

from bankportal.domain.constraints import Source
from bankportal.domain.outcome import percent
from bankportal.domain.schema import validate
from bankportal.explanation.recourse import Recourse, Replacement
from bankportal.services.explaining import Explaining
from bankportal.web import explanations, forms
from bankportal.web.drawings import bars
from tests.conftest import make_app
from tests.shipped import ALLOWANCE, CARD_UTILISATION, HAS_LOAN, LATE_PAYMENTS, NUM_OF_PRODUCTS, PRODUCTS, shipped_file
from tests.test_web_decisions import decided_fixture, text_of  # noqa: F401  # the fixture `decided`

EACH_PRODUCT = pytest.mark.parametrize("product", PRODUCTS.values(), ids=lambda product: product.key)
EACH_FACTOR = pytest.mark.parametrize(
    ("product", "factor"),
    [
        pytest.param(product, factor, id=f"{product.key}-{factor.name}")
        for product in PRODUCTS.values()
        for factor in product.scored
    ],
)
POOR = {"CreditScore": "540", "CardUtilisation": "90", "LatePayments": "3"}
LEAVING = {"Age": "60", "NumOfProducts": "4", "IsActiveMember": "0", "ComplaintsFiled": "3"}
CHANGES = {"churn": LEAVING, "allowance": POOR}
BAD_TEXTS = ["<script>alert(1)</script>", "x" * 10_000, "NaN", "1e999", "\x00", "-", "banana"]


def latest(app):
    return app.extensions["bankportal"].decisions.latest(1)[0]


def recorded(app) -> int:
    return len(app.extensions["bankportal"].decisions.latest(100))


@EACH_PRODUCT
def test_it_works(app, client, decided, product) -> None:
    page = client.get(decided(product.key, **CHANGES[product.key])).text
    decision, text = latest(app), text_of(page)
    explaining = app.extensions["bankportal"].explaining
    assert all(reason.sentence in text for reason in decision.outcome.reasons)
    assert f"Compared with {explaining.reference(decision)}." in text
    assert f"{decision.outcome.base:.1%}" in text
    moving = [name for name, part in decision.outcome.contributions.items() if abs(part) >= bars.NEGLIGIBLE]
    table = re.search(r'<table role="table" class="rows bars">.*?</table>', page, re.DOTALL)[0]
    assert table.count("<tr") == len(moving) + 3
    assert 'id="what-if"' in page
    receipt = app.extensions["bankportal"].decisions.receipt(decision.id)
    assert receipt.digest in page
    assert "flask audit verify" in page


@EACH_PRODUCT
@pytest.mark.parametrize("changed", [True, False])
def test_every_bar_is_a_reason_or_says_why_not(app, client, decided, product, changed) -> None:
    page = client.get(decided(product.key, **(CHANGES[product.key] if changed else {}))).text
    reasons = latest(app).outcome.reasons
    table = re.search(r'<table role="table" class="rows bars">.*?</table>', page, re.DOTALL)[0]
    heads = re.findall(r'<th role="rowheader" scope="row">(.*?)</th>', table, re.DOTALL)
    labels = bars.factors_by_name(product)
    for place, reason in enumerate(reasons, 1):
        if reason.factor:
            assert f'{labels[reason.factor].label} <span class="pill">Reason {place}</span>' in heads
    others = [head for head in heads if 'class="pill"' not in head]
    assert others
    for head in others:
        assert re.search(r'<span class="omission">(Not a reason|Too small to be a reason)[^<]*\.</span>$', head)


@EACH_PRODUCT
def test_the_reading_order(client, decided, product) -> None:
    page = client.get(decided(product.key, **CHANGES[product.key])).text
    ids = ("score-heading", "reasons-heading", "change-heading", "contributions-heading", "what-if", "record-heading")
    places = [page.index(f'id="{each}"') for each in ids]
    assert page.index("<h1") < places[0]
    assert places == sorted(places)


@EACH_PRODUCT
def test_nothing_is_styled_in_line(client, decided, product) -> None:
    page = client.get(decided(product.key)).text
    assert "style=" not in page
    assert "<script>" not in page


@EACH_PRODUCT
def test_every_suggestion_tried_gives_what_it_promised(app, client, decided, product) -> None:
    location = decided(product.key, **CHANGES[product.key])
    page, decision = html.unescape(client.get(location).text), latest(app)
    recourse = app.extensions["bankportal"].explaining.recourse(decision)
    assert recourse.suggestions
    tries = re.findall(rf'href="(/{product.key}/\?from=[^"]*&[^"]*)"', page)
    assert len(tries) == len(recourse.suggestions)
    for link, suggestion in zip(tries, recourse.suggestions, strict=True):
        form = client.get(link).text
        assert float(re.search(r'data-score="([^"]+)"', form)[1]) == suggestion.score
        assert explanations.advice(product, suggestion).words in page


def test_the_best_band_has_nothing_to_change(app, client, decided, monkeypatch) -> None:
    location, band = decided("churn"), PRODUCTS["churn"].bands[0]
    monkeypatch.setattr(Explaining, "recourse", lambda *_: Recourse(0.1, band, True, ()))
    assert f"{band.name} is already the best band" in text_of(client.get(location).text)
    monkeypatch.setattr(Explaining, "recourse", lambda *_: Recourse(0.9, band, False, ()))
    assert "No change of one factor, or of two together, reaches a better band" in text_of(client.get(location).text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Replacement(CARD_UTILISATION, 85.0, 60.0), "card utilisation from 85% to 60%"),
        (Replacement(LATE_PAYMENTS, 3, 1), "late payments from 3 to 1 in 12 months"),
        (Replacement(NUM_OF_PRODUCTS, 3, 2), "products held from 3 to 2"),
        (Replacement(HAS_LOAN, 1, 0), "has a loan from yes to no"),
    ],
)
def test_changes_in_words(change, words) -> None:
    assert explanations.replacement_words(change, ALLOWANCE) == words


# --- the curve of a factor ------------------------------------------------------------------------------------------


@EACH_FACTOR
def test_every_factor_has_its_curve(looking, product, factor) -> None:
    client, locations = looking
    response = client.get(f"{locations[product.key]}?what-if={factor.name}")
    assert response.status_code == 200
    assert f'<option value="{factor.name}" selected>' in response.text
    assert f'data-field="{factor.name}"' in response.text
    assert response.text.count(f'id="{factor.name}"') == 1


@pytest.mark.parametrize("name", ["Nothing", "Surname", "RequestedLimit", *BAD_TEXTS])
def test_a_curve_of_what_is_not_scored(looking, name) -> None:
    client, locations = looking
    response = client.get(locations["allowance"], query_string={"what-if": name})
    assert response.status_code == 404
    assert "<script>alert" not in response.text
    assert len(response.text) < 10_000


def test_protected_factors_have_no_curve(looking) -> None:
    client, locations = looking
    for factor in PRODUCTS["allowance"].protected:
        assert client.get(f"{locations['allowance']}?what-if={factor.name}").status_code == 404


@pytest.mark.parametrize("query", ["", "?what-if=", "?what-if=CreditScore&what-if=Nothing", "?other=1"])
def test_other_questions_for_a_curve(looking, query) -> None:
    client, locations = looking
    assert client.get(locations["churn"] + query).status_code == 200


@pytest.fixture(scope="module")
def looking(ready_instance, tmp_path_factory, examples_once):
    """One portal with one decision of each product, for tests that only look: its client, and the addresses."""
    from tests.conftest import config_for

    instance = shutil.copytree(ready_instance, tmp_path_factory.mktemp("looking") / "instance")
    app = make_app(config_for(instance), csrf=False)
    client = app.test_client()
    yield client, {key: client.post(f"/{key}/", data=values).location for key, values in examples_once.items()}
    app.extensions["bankportal"].database.close()


@pytest.fixture(scope="module")
def examples_once():
    return {product.key: forms.example_values(product) for product in PRODUCTS.values()}


# --- try it ---------------------------------------------------------------------------------------------------------


def test_values_in_the_address_fill_the_form_as_typed(client, decided) -> None:
    number = decided("churn").rsplit("/", 1)[1]
    page = client.get(
        f"/churn/?from={number}&Balance=00x&Age=61&HasLoan=1&Surname=Mallory&CustomerId=1&Gender=Other"
    ).text
    assert 'value="00x"' in page
    assert 'value="61"' in page
    assert "To correct: Balance." in page
    assert "Mallory" not in page
    assert '<option value="Other" selected>' not in page


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_bad_values_in_the_address(app, client, text) -> None:
    response = client.get("/allowance/", query_string={"example": "1", "CardUtilisation": text, "Nothing": text})
    assert response.status_code == 200
    assert "To correct: Card utilisation." in response.text
    assert "<script>alert" not in response.text
    assert recorded(app) == 0


def test_the_first_of_repeated_values_counts(client) -> None:
    page = client.get("/churn/?example=1&Age=33&Age=44").text
    assert 'value="33"' in page
    assert 'value="44"' not in page


# --- before and after -----------------------------------------------------------------------------------------------


@EACH_PRODUCT
def test_before_and_after(app, client, decided, product) -> None:
    location = decided(product.key)
    response = client.get(f"{location}/compare", query_string=CHANGES[product.key])
    decision = latest(app)
    values = {**forms.typed_values(decision.customer.all_values()), **CHANGES[product.key]}
    after = app.extensions["bankportal"].scoring.score(validate(product, values, Source.TEXT))
    assert response.status_code == 200
    scores = [float(each) for each in re.findall(r'data-score="([^"]+)"', response.text)]
    assert scores == [decision.outcome.score, after.score]
    text = text_of(response.text)
    assert all(reason.sentence in text for reason in (*decision.outcome.reasons, *after.reasons))
    assert response.text.count(">changed</span>") == len(CHANGES[product.key])
    assert percent(product, after.score) in text
    assert recorded(app) == 1


def test_nothing_changed(client, decided) -> None:
    text = text_of(client.get(f"{decided('churn')}/compare").text)
    assert "Nothing was changed yet." in text
    assert "Take into the form" not in text


def test_a_changed_request_changes_the_limit_alone(client, decided) -> None:
    page = client.get(f"{decided('allowance', RequestedLimit='5000')}/compare?RequestedLimit=700").text
    assert ">changed</span>" in page
    assert "The score moves by 0 percentage points." in page
    assert "EUR 700" in text_of(page)


@EACH_PRODUCT
def test_what_was_compared_goes_into_the_form(client, decided, product) -> None:
    page = html.unescape(client.get(f"{decided(product.key)}/compare", query_string=CHANGES[product.key]).text)
    link = re.search(rf'href="(/{product.key}/\?from=[^"]*)"', page)[1]
    scores = re.findall(r'data-score="([^"]+)"', page)
    assert re.search(r'data-score="([^"]+)"', client.get(link).text)[1] == scores[1]


@pytest.mark.parametrize("text", BAD_TEXTS)
@EACH_PRODUCT
def test_bad_values_stand_at_their_field(looking, product, text) -> None:
    client, locations = looking
    response = client.get(f"{locations[product.key]}/compare", query_string={"CreditScore": text})
    assert response.status_code == 422
    assert "There is a problem" in response.text
    assert re.search(r'<p class="error" id="CreditScore-error">Credit score must be [^<]+</p>', response.text)
    assert "<script>alert" not in response.text
    assert "<title>Error: " in response.text


def test_a_required_value_left_blank(looking) -> None:
    client, locations = looking
    response = client.get(f"{locations['churn']}/compare?CreditScore=")
    assert response.status_code == 422
    assert "Credit score is required." in response.text


def test_unknown_and_protected_names_change_nothing(looking) -> None:
    client, locations = looking
    query = {"Nothing": "1", "Surname": "Mallory", "Gender": "Other", "Age": "99", "what-if": "x"}
    response = client.get(f"{locations['allowance']}/compare", query_string=query)
    assert response.status_code == 200
    assert "Nothing was changed yet." in response.text
    assert "Mallory" not in response.text


def test_repeated_values_to_compare(looking) -> None:
    client, locations = looking
    response = client.get(f"{locations['churn']}/compare?Age=33&Age=banana")
    assert response.status_code == 200
    assert 'value="33"' in response.text


@pytest.mark.parametrize("path", ["compare", "letter"])
def test_pages_of_unknown_decisions(client, path) -> None:
    assert client.get(f"/decisions/nothing/{path}").status_code == 404


def test_another_version_is_named(app, client, decided, trained) -> None:
    location = decided("churn")
    app.extensions["bankportal"].models.add(replace(trained["churn"], seed=2), activate=True)
    text = text_of(client.get(f"{location}/compare?Age=60").text)
    assert "by Churn v1" in text
    assert "by Churn v2, which answers now" in text


# --- without the version's files ------------------------------------------------------------------------------------


@EACH_PRODUCT
def test_a_decision_outlives_its_models_files(app, client, config, decided, product) -> None:
    location, decision = decided(product.key), latest(app)
    shutil.rmtree(config.models / product.key)
    later = make_app(config, csrf=False)
    response = later.test_client().get(location)
    text = text_of(response.text)
    later.extensions["bankportal"].database.close()
    assert response.status_code == 200
    assert percent(product, decision.outcome.score) in text
    assert all(reason.sentence in text for reason in decision.outcome.reasons)
    assert "How the score comes about" in text
    assert "are missing or changed" in text
    assert "flask audit verify" in text
    assert "What would change it" not in text


def test_a_decision_without_a_receipt_says_so(app, client, decided, monkeypatch) -> None:
    from bankportal.domain.errors import NotFound

    location = decided("churn")

    def gone(_id):
        raise NotFound("no receipt")

    monkeypatch.setattr(app.extensions["bankportal"].decisions, "receipt", gone)
    assert "This decision has no receipt" in client.get(location).text


# --- the preview ----------------------------------------------------------------------------------------------------


@EACH_PRODUCT
def test_the_preview_says_its_reasons(app, client, examples, product) -> None:
    sent = {**examples[product.key], **CHANGES[product.key]}
    answer = client.post(f"/{product.key}/preview", data=sent, headers={"Accept": "application/json"}).json
    outcome = app.extensions["bankportal"].scoring.score(validate(product, sent, Source.TEXT))
    assert 1 <= answer["html"].count("<li>") <= 4
    assert all(reason.sentence in text_of(answer["html"]) for reason in outcome.reasons)


def test_blank_forms_have_no_reasons(client) -> None:
    assert "data-fold" not in client.get("/churn/").text


def test_a_refusal_by_the_ability_to_pay_is_headlined_and_says_what_lifts_it(client, examples):
    changes = {"CreditScore": "820", "EstimatedSalary": "24000", "MonthlyObligations": "900", "CardUtilisation": "5"}
    response = client.post("/allowance/", data=examples["allowance"] | changes)
    page = html.unescape(client.get(response.location).text)
    assert "<span>No limit</span>" in page
    assert "outcome tone-bad" in page
    assert "nothing to change" not in page
    assert "The smallest changes that lift the limit." in page
    assert "Monthly obligations from 900" in page
    assert "The band is not eligible" not in page
    letter = html.unescape(client.get(f"{response.location}/letter").text)
    assert "speaks for" not in letter
    assert "none is granted" in letter


def test_a_policy_may_leave_nothing_of_a_salary_whose_obligations_are_unknown(app, client, examples) -> None:
    file = shipped_file(
        "card-limit", ("2026-11", "2027-01"), ("unknown_obligations_share = 0.25", "unknown_obligations_share = 0.4")
    )
    app.extensions["bankportal"].declarations.apply({"card-limit.toml": file})
    answer = client.post("/allowance/", data=examples["allowance"] | {"MonthlyObligations": ""})
    text = client.get(answer.location).text
    assert "40% of the monthly salary was assumed" in text
    assert "No limit" in text
