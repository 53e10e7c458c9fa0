"""Both products' forms: every test loops over the declarations."""

import html
import json
import re
import shutil
from dataclasses import replace

import pytest
from flask import render_template

from bankportal.domain.constraints import Number, Source, YesNo
from bankportal.domain.errors import InvalidInput
from bankportal.domain.products import Role
from bankportal.domain.schema import schema, validate
from bankportal.web import forms
from bankportal.web.scoring import Pages
from tests.conftest import config_for, make_app
from tests.shipped import CHURN, PRODUCTS

ALL = list(PRODUCTS.values())
EACH_PRODUCT = pytest.mark.parametrize("product", ALL, ids=lambda product: product.key)
BAD_VALUES = [
    pytest.param(product, entry, text, id=f"{product.key}-{entry.factor.name}-{text[:12]!a}-{len(text)}")
    for product in ALL
    for entry in product.factors
    for text, _ in entry.factor.constraint.bad_values()
]
REQUIRED = [
    pytest.param(product, entry, blank, id=f"{product.key}-{entry.factor.name}-{blank!a}")
    for product in ALL
    for entry in product.factors
    if entry.required
    for blank in ("", "  ", None)
]


def recorded(app) -> int:
    return len(app.extensions["bankportal"].decisions.latest(100))


def error_at(page: str, name: str) -> str:
    found = re.search(rf'<p class="error" id="{name}-error">(.*?)</p>', page, re.DOTALL)
    assert found, f"no place for errors at {name}"
    return html.unescape(found[1])


def score_in(page: str) -> float:
    return float(re.search(r'data-score="([^"]+)"', page)[1])


@pytest.fixture(scope="module")
def refusing(ready_instance, tmp_path_factory):
    """One portal for all bad values: each must leave it without a decision, so they can share it."""
    instance = shutil.copytree(ready_instance, tmp_path_factory.mktemp("refusing") / "instance")
    app = make_app(config_for(instance), csrf=False)
    yield app
    app.extensions["bankportal"].database.close()


@EACH_PRODUCT
def test_it_works(client, product, examples) -> None:
    response = client.post(f"/{product.key}/", data=examples[product.key])
    assert response.status_code == 303
    page = client.get(response.location).text
    assert "<h1" in page
    assert 0 <= score_in(page) <= 1


@EACH_PRODUCT
def test_the_number_is_the_models(app, client, product, examples) -> None:
    response = client.post(f"/{product.key}/", data=examples[product.key])
    customer = validate(product, examples[product.key], Source.TEXT)
    outcome = app.extensions["bankportal"].scoring.score(customer)
    assert score_in(client.get(response.location).text) == outcome.score


@EACH_PRODUCT
def test_a_blank_form_is_neutral_and_names_what_is_needed(client, product) -> None:
    page = client.get(f"/{product.key}/").text
    assert 'data-score=""' in page
    assert f"{len(product.required)} required values to go" in page
    assert 'class="field wrong"' not in page
    assert "Error:" not in page


@EACH_PRODUCT
def test_every_factor_has_one_labelled_field(client, product) -> None:
    page = client.get(f"/{product.key}/").text
    for entry in product.factors:
        name = entry.factor.name
        assert page.count(f'name="{name}"') == 1
        assert f'<label for="{name}">{html.escape(entry.factor.label)}' in page
        assert html.escape(entry.factor.help, quote=False) in page.replace("&#39;", "'")


@EACH_PRODUCT
@pytest.mark.parametrize("path", ["", "compare"])
def test_required_fields_are_marked_and_it_is_said_how(client, product, examples, path) -> None:
    address = f"/{product.key}/"
    if path:
        address = f"{client.post(address, data=examples[product.key]).location}/compare"
    page = client.get(address).text
    assert "optional)" not in page
    for factor in product.required:
        assert re.search(
            rf'<label for="{factor.name}">[^<]*(<span class="unit">[^<]*</span>)? <span class="required"', page
        )
        assert re.search(
            rf'<input[^>]*id="{factor.name}"[^>]* required|<select[^>]*id="{factor.name}"[^>]* required', page
        )
    assert page.count('<span class="required" aria-hidden="true">*</span>') == len(product.required)
    note = page.index('<p class="required-note" id="required-note">Fields marked')
    assert note < page.index("<fieldset")
    assert re.search(r'<fieldset [^>]*aria-describedby="required-note"', page).start() == page.index("<fieldset")


@EACH_PRODUCT
def test_the_gauge_card_submits_the_form(client, product) -> None:
    page = client.get(f"/{product.key}/?example=1").text
    card = page[page.index("<aside") : page.index("</aside>")]
    assert re.search(r'<button [^>]*type="submit" form="score-form"[^>]*>Score and record</button>', card)
    assert f'<form method="post" action="/{product.key}/" novalidate class="sheet" id="score-form"' in page


@EACH_PRODUCT
def test_the_groups_stand_in_order_and_the_protected_apart(client, product) -> None:
    sections = forms.sections(product)
    assert [section.heading for section in sections][-1] == forms.PROTECTED_HEADING
    assert all(entry.role is Role.PROTECTED for entry in sections[-1].factors)
    assert not any(entry.role is Role.PROTECTED for section in sections[:-1] for entry in section.factors)
    assert sorted(entry.factor.name for section in sections for entry in section.factors) == sorted(
        entry.factor.name for entry in product.factors
    )


@EACH_PRODUCT
def test_number_attributes_come_from_the_bounds(client, product) -> None:
    page = client.get(f"/{product.key}/").text
    for entry in product.factors:
        if isinstance(entry.factor.constraint, Number):
            field = re.search(rf'<input[^>]*name="{entry.factor.name}"[^>]*>', page)[0]
            assert f'data-min="{entry.factor.constraint.minimum}"' in field
            assert f'data-max="{entry.factor.constraint.maximum}"' in field
            assert 'type="text"' in field
            assert ("required" in field) == entry.required


@EACH_PRODUCT
def test_the_example_is_prefilled_on_request(client, product) -> None:
    page = client.get(f"/{product.key}/?example=1").text
    for entry in product.factors:
        if entry.factor.example and isinstance(entry.factor.constraint, Number):
            assert f'value="{entry.factor.example}"' in page
    assert score_in(page) >= 0


@pytest.mark.parametrize(("product", "entry", "text"), BAD_VALUES)
def test_bad_values(refusing, product, entry, text, examples) -> None:
    name = entry.factor.name
    sent = {**examples[product.key], name: text}
    with pytest.raises(InvalidInput) as invalid:
        validate(product, sent, Source.TEXT)
    response = refusing.test_client().post(f"/{product.key}/", data=sent)
    assert response.status_code == 422
    assert invalid.value.problems[0].message in error_at(response.text, name)
    assert "<title>Error: " in response.text
    assert "There is a problem" in response.text
    assert f'href="#{name}"' in response.text
    assert "<script>alert" not in response.text
    assert f'value="{html.escape(text)}"' in response.text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    assert recorded(refusing) == 0


@pytest.mark.parametrize(("product", "entry", "blank"), REQUIRED)
def test_required_blanks(refusing, product, entry, blank, examples) -> None:
    sent = {name: value for name, value in examples[product.key].items() if name != entry.factor.name}
    if blank is not None:
        sent[entry.factor.name] = blank
    response = refusing.test_client().post(f"/{product.key}/", data=sent)
    assert response.status_code == 422
    assert error_at(response.text, entry.factor.name) == f"{entry.factor.label} is required."
    assert recorded(refusing) == 0


@EACH_PRODUCT
def test_optional_blanks_are_unknown_not_zero(app, client, product, examples) -> None:
    sent = {factor.name: examples[product.key][factor.name] for factor in product.required}
    response = client.post(f"/{product.key}/", data=sent)
    decision = app.extensions["bankportal"].decisions.latest(1)[0]
    assert response.status_code == 303
    assert all(decision.customer.scored[factor.name] is None for factor in product.optional)


@EACH_PRODUCT
def test_all_problems_at_once_in_order_and_nothing_lost(client, product) -> None:
    sent = {entry.factor.name: f"typed {number}" for number, entry in enumerate(product.factors)}
    page = client.post(f"/{product.key}/", data=sent).text
    summary = re.search(r'<div class="summary".*?</div>', page, re.DOTALL)[0]
    linked = re.findall(r'href="#(\w+)"', summary)
    carried = {factor.name for factor in product.identifiers}
    assert linked == [entry.factor.name for entry in product.factors if entry.factor.name not in carried]
    assert all(f'value="{text}"' in page for text in sent.values())


def test_an_illegal_choice_is_kept_as_one_more_option(client, examples) -> None:
    page = client.post("/churn/", data={**examples["churn"], "Geography": "Atlantis"}).text
    assert '<option value="Atlantis" selected>Atlantis</option>' in page
    assert page.count("Atlantis") == 2


def test_the_first_of_repeated_fields_counts(app, client, examples) -> None:
    sent = [*examples["churn"].items(), ("Age", "nonsense")]
    body = "&".join(f"{name}={value}" for name, value in sent)
    response = client.post("/churn/", data=body, content_type="application/x-www-form-urlencoded")
    assert response.status_code == 303
    assert app.extensions["bankportal"].decisions.latest(1)[0].customer.scored["Age"] == int(examples["churn"]["Age"])


def test_unknown_fields_are_ignored(client, examples) -> None:
    assert client.post("/churn/", data={**examples["churn"], "Score": "1", "band": "Low"}).status_code == 303


def test_one_submission_is_one_decision(app, client, examples) -> None:
    sent = {**examples["churn"], "submission": "a-token-of-our-own-making"}
    first, second = client.post("/churn/", data=sent), client.post("/churn/", data=sent)
    assert first.location == second.location
    assert recorded(app) == 1
    changed = client.post("/churn/", data={**sent, "Age": "70"})
    assert changed.location != first.location


@pytest.mark.parametrize("token", ["", "short", "x" * 1000, "<script>", None])
def test_a_token_that_is_none_of_ours_is_replaced(app, client, examples, token) -> None:
    sent = {**examples["churn"], "submission": token} if token is not None else examples["churn"]
    locations = {client.post("/churn/", data=sent).location for _ in range(2)}
    assert len(locations) == 2


def test_every_form_has_its_own_token(client) -> None:
    tokens = {re.search(r'name="submission"[^>]*value="([^"]+)"', client.get("/churn/").text)[1] for _ in range(3)}
    assert len(tokens) == 3


# --- preview --------------------------------------------------------------------------------------------------------


@EACH_PRODUCT
def test_preview_follows_and_records_nothing(app, client, product, examples) -> None:
    answer = client.post(f"/{product.key}/preview", data=examples[product.key], headers={"Accept": "application/json"})
    customer = validate(product, examples[product.key], Source.TEXT)
    assert answer.json["problems"] == {}
    assert score_in(answer.json["html"]) == app.extensions["bankportal"].scoring.score(customer).score
    assert "<html" not in answer.json["html"]
    assert answer.json["announcement"].endswith(".")
    assert recorded(app) == 0


@EACH_PRODUCT
def test_preview_of_a_form_half_filled_is_neutral(client, product) -> None:
    name = product.required[0].name
    answer = client.post(
        f"/{product.key}/preview", data={name: "nonsense"}, headers={"Accept": "application/json"}
    ).json
    assert list(answer["problems"]) == [name]
    assert set(answer["needed"]) == {factor.name for factor in product.required[1:]}
    assert 'data-score=""' in answer["html"]
    assert f"{len(product.required) - 1} required values to go" in answer["html"]
    assert f"To correct: {product.required[0].label}." in answer["html"]


@EACH_PRODUCT
def test_preview_without_script_is_a_page(app, client, product, examples) -> None:
    response = client.post(f"/{product.key}/preview", data=examples[product.key])
    assert response.status_code == 200
    assert score_in(response.text) >= 0
    refused = client.post(f"/{product.key}/preview", data={**examples[product.key], "CreditScore": "1"})
    assert refused.status_code == 422
    assert "There is a problem" in refused.text
    assert recorded(app) == 0


def test_one_value_to_go_is_singular(client, examples) -> None:
    answer = client.post(
        "/churn/preview", data={**examples["churn"], "Age": ""}, headers={"Accept": "application/json"}
    )
    assert "1 required value to go: Age." in answer.json["html"]


# --- prefilling -----------------------------------------------------------------------------------------------------


@EACH_PRODUCT
def test_change_and_score_again(client, product, examples) -> None:
    location = client.post(f"/{product.key}/", data=examples[product.key]).location
    decision_page = client.get(location).text
    link = f"/{product.key}/?from={location.rsplit('/', 1)[1]}"
    assert link in decision_page
    page = client.get(link).text
    assert score_in(page) == score_in(decision_page)
    again = re.findall(r'<input[^>]*name="(\w+)"[^>]*value="([^"]*)"', page)
    assert dict(again)["CreditScore"] == examples[product.key]["CreditScore"]


def test_change_and_score_again_of_an_unknown_decision(client) -> None:
    assert client.get("/churn/?from=nothing").status_code == 404


def test_the_other_products_decision_fills_what_both_share(client, examples) -> None:
    location = client.post("/churn/", data=examples["churn"]).location
    page = client.get(f"/allowance/?from={location.rsplit('/', 1)[1]}").text
    assert f'value="{examples["churn"]["CreditScore"]}"' in page


# --- forged, expired, without a model -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/churn/", "/allowance/", "/churn/preview"])
def test_without_a_csrf_token(csrf_app, path, examples) -> None:
    client = csrf_app.test_client()
    sent = {**examples[path.split("/")[1]], "CreditScore": "777"}
    response = client.post(path, data=sent)
    assert response.status_code == 400
    assert "had expired" in response.text
    assert 'value="777"' in response.text
    assert recorded(csrf_app) == 0
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', response.text)[1]
    assert client.post(path, data={**sent, "csrf_token": token}).status_code in {200, 303}


def test_preview_without_a_csrf_token(csrf_app, examples) -> None:
    response = csrf_app.test_client().post(
        "/churn/preview", data=examples["churn"], headers={"Accept": "application/json"}
    )
    assert response.status_code == 400
    assert "expired" in response.json["error"]


@EACH_PRODUCT
def test_without_a_model(empty_app, product, examples) -> None:
    client = empty_app.test_client()
    page = client.get(f"/{product.key}/")
    assert page.status_code == 200
    assert f"flask train {product.key}" in page.text
    posted = client.post(f"/{product.key}/", data={**examples[product.key], "CreditScore": "777"})
    assert posted.status_code == 503
    assert 'value="777"' in posted.text
    headers = {"Accept": "application/json"}
    assert client.post(f"/{product.key}/preview", data=examples[product.key], headers=headers).status_code == 503
    assert client.get(f"/{product.key}/?example=1").status_code == 503


# --- one fact, one place --------------------------------------------------------------------------------------------


def test_a_changed_bound_changes_everything_that_shows_it(app) -> None:
    tighter = replace(
        CHURN.required[0], label="Bureau score", unit="marks", constraint=Number(minimum=317, maximum=717, whole=True)
    )
    changed = replace(CHURN, required=(tighter, *CHURN.required[1:]))
    raw = {**forms.example_values(changed), tighter.name: "718"}
    with pytest.raises(InvalidInput) as invalid:
        validate(changed, raw, Source.TEXT)
    with app.test_request_context("/churn/"):
        preview = Pages(changed)._neutral(invalid.value.problems)
        form = forms.make_form(changed, raw)
        form.show(changed, preview.problems)
        page = render_template(
            "form.html", product=changed, form=form, sections=forms.sections(changed), preview=preview, problems={}
        )
    assert 'data-min="317"' in page
    assert 'data-max="717"' in page
    assert "317 to 717" in page
    assert error_at(page, tighter.name) == "Bureau score must be 717 or less."
    assert ">Bureau score <span" in page
    assert "marks" in page
    properties = schema(changed).model_json_schema()["properties"][tighter.name]
    assert (properties["minimum"], properties["maximum"]) == (317, 717)
    assert "850" not in json.dumps(properties["maximum"])


def test_a_changed_cut_off_changes_the_gauge(app) -> None:
    low, moderate, critical = CHURN.bands
    changed = replace(CHURN, bands=(low, replace(moderate, name="Watchful", start=0.33), critical))
    with app.test_request_context("/churn/"):
        preview = Pages(changed)._neutral(())
        page = render_template("preview.html", product=changed, preview=preview)
    assert ">33%</text>" in page
    assert "Watchful" in page
    assert "Moderate" not in page


def test_flags_and_choices_offer_what_is_declared() -> None:
    for product in ALL:
        for entry in product.factors:
            options = [value for value, _ in forms.options_of(entry.factor.constraint)]
            assert all(entry.factor.constraint.validate(value, Source.TEXT) is not None for value in options)
            if isinstance(entry.factor.constraint, YesNo):
                assert options == ["1", "0"]
