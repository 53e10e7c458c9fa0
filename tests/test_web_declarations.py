"""The pages follow the declarations: another portfolio makes other pages, without a restart."""

import io
import json
import re
import threading
import time
from dataclasses import replace

import pytest

from bankportal import wiring
from bankportal.domain.canonical import canonical
from bankportal.domain.declaration import Declaration, Kind, policy_from, product_from
from bankportal.domain.portfolio import Portfolio
from bankportal.services.declarations import NOTICED_WITHIN, Declarations
from bankportal.store.declarations import Origin
from bankportal.web import live
from tests.conftest import make_app, write_csv
from tests.home_equity import DECLARED, EXAMPLE, FILES, HOME_EQUITY, columns, train_home_equity
from tests.shipped import ALLOWANCE, CARD_LIMIT_POLICY, CHURN
from tests.test_web_decisions import text_of


def declared_otherwise(product, policy=None, **changes):
    """Return a product with other entries in its declaration."""
    return product_from(canonical(json.loads(product.text) | changes), policy or product.policy)


def with_roles(product, **roles):
    """Return a product with other factors in some roles."""
    content = json.loads(product.text)
    declared = {name: [each for each in names if each in content["factors"]] for name, names in roles.items()}
    return declared_otherwise(product, roles=content["roles"] | declared)


LOYALTY = declared_otherwise(CHURN, key="loyalty", title="Loyalty", question="Does this customer stay?")
FEWER = with_roles(CHURN, identifiers=["CustomerId"])


def product_declaration(product) -> Declaration:
    return Declaration(Kind.PRODUCT, product.key, product.text)


def record(app, *declarations) -> None:
    """Record declarations, as `flask declarations apply` does, so that decisions may stand on them."""
    store = app.extensions["bankportal"].decisions.declarations
    with store.changing() as connection:
        for declaration in declarations:
            store.apply(connection, declaration, Origin.BANK, "system")


@pytest.fixture(scope="module")
def home_equity_model(tmp_path_factory):
    return train_home_equity(tmp_path_factory.mktemp("home-equity"))


PATIENCE = 5.0  # seconds for a machine that is busy otherwise
OTHER_SENTENCES = {name: f"Otherwise: {words}" for name, words in CARD_LIMIT_POLICY.sentences.items()}
YES = {"HasCrCard": "1", "IsActiveMember": "1"}


@pytest.fixture
def in_force(monkeypatch):
    """Put a portfolio in force."""
    present = [Portfolio([CHURN, ALLOWANCE])]
    monkeypatch.setattr(Declarations, "portfolio", lambda _self: present[0])

    def declare(*products, withdrawn=()) -> None:
        present[0] = Portfolio(products, withdrawn)

    return declare


@pytest.fixture
def app(in_force, app):
    """The portal, made after its declarations were replaced."""
    return app


def hidden(page: str, name: str) -> str:
    return re.search(rf'name="{name}"[^>]* value="([^"]*)"', page)[1]


def test_it_works(client, in_force) -> None:
    assert client.get("/loyalty/").status_code == 404
    in_force(CHURN, ALLOWANCE, LOYALTY)
    assert "Does this customer stay?" in client.get("/loyalty/").text
    for page in ("/", "/batches/", "/decisions/", "/models/"):
        assert "Loyalty" in client.get(page).text
    assert client.get("/batches/template/loyalty.csv").text.startswith("CustomerId,")


def test_two_apps_answer_each_by_its_own_portfolio(config, monkeypatch) -> None:
    apps = []
    for own in (Portfolio([CHURN]), Portfolio([ALLOWANCE, LOYALTY])):
        monkeypatch.setattr(Declarations, "portfolio", lambda _self, own=own: own)
        apps.append(make_app(config, csrf=False))
    monkeypatch.setattr(Declarations, "portfolio", lambda self: own_portfolio[self])
    own_portfolio = {app.extensions["bankportal"].declarations: live.portfolio_of(app) for app in apps}
    statuses = [
        [app.test_client().get(f"/{key}/").status_code for key in ("churn", "allowance", "loyalty")] for app in apps
    ]
    assert statuses == [[200, 404, 404], [404, 200, 200]]
    for app in apps:
        app.extensions["bankportal"].database.close()


def test_a_withdrawn_product_says_so(client, in_force, examples) -> None:
    in_force(CHURN, withdrawn=[ALLOWANCE])
    page = client.get("/allowance/")
    assert page.status_code == 404
    assert "Allowance was withdrawn, so nothing new is scored for it." in text_of(page.text)
    assert 'href="/allowance/"' not in client.get("/").text
    sent = client.post("/allowance/", data=examples["allowance"])
    assert sent.status_code == 404
    assert f"Balance {examples['allowance']['Balance']}" in text_of(sent.text)
    preview = client.post("/allowance/preview", data=examples["allowance"], headers={"Accept": "application/json"})
    assert preview.status_code == 404
    assert "withdrawn" in preview.json["error"]


def test_what_was_recorded_of_a_withdrawn_product_stays(client, in_force, examples) -> None:
    location = client.post("/allowance/", data={**examples["allowance"], "RequestedLimit": "90000"}).headers["Location"]
    in_force(CHURN, withdrawn=[ALLOWANCE])
    for page in (location, f"{location}/letter", "/decisions/?product=allowance", "/batches/?product=allowance"):
        answer = client.get(page)
        assert answer.status_code == 200
        assert "/allowance/" not in re.findall(r'(?:href|action)="([^"?]*)', answer.text)
    assert "Allowance" in client.get("/decisions/").text
    assert client.get("/models/allowance/v1").status_code == 200
    assert "withdrawn" in client.get("/models/").text
    compared = client.get(f"{location}/compare")
    assert compared.status_code == 404
    assert "Allowance was withdrawn" in compared.text


def test_a_form_that_was_open_during_a_change_is_shown_anew_with_all_that_was_typed(
    app, client, in_force, examples
) -> None:
    opened = client.get("/churn/").text
    typed = {**examples["churn"], "Surname": "Hargrave", "declaration": hidden(opened, "declaration")}
    record(app, product_declaration(FEWER))
    in_force(FEWER, ALLOWANCE)
    answer = client.post("/churn/", data=typed)
    page = text_of(answer.text)
    assert answer.status_code == 409
    assert "has changed since you opened the form. Nothing was recorded; what you typed is kept." in page
    assert "No longer asked for: Surname: Hargrave." in page
    assert f'value="{examples["churn"]["Balance"]}"' in answer.text
    assert app.extensions["bankportal"].decisions.latest(1) == []
    again = {**typed, "declaration": hidden(answer.text, "declaration")}
    assert client.post("/churn/", data=again).status_code == 303


def test_a_changed_form_is_validated_by_the_new_declaration(client, in_force, examples) -> None:
    opened = client.get("/churn/").text
    typed = {**examples["churn"], "Geography": "", "declaration": hidden(opened, "declaration")}
    optional = [factor.name for factor in CHURN.optional if factor.name != "Geography"]
    in_force(with_roles(CHURN, required=[*(factor.name for factor in CHURN.required), "Geography"], optional=optional))
    answer = client.post("/churn/", data=typed)
    assert answer.status_code == 409
    assert "There is a problem" in answer.text
    assert 'href="#Geography"' in answer.text


def test_a_preview_of_a_changed_form_says_so(client, in_force, examples) -> None:
    opened = client.get("/churn/").text
    typed = {**examples["churn"], "declaration": hidden(opened, "declaration")}
    in_force(FEWER, ALLOWANCE)
    preview = client.post("/churn/preview", data=typed, headers={"Accept": "application/json"})
    assert preview.status_code == 200
    assert "has changed since you opened the form" in preview.json["html"]
    assert "has changed since you opened the form" in preview.json["announcement"]


def test_sessions_and_form_tokens_outlive_a_change(config, in_force, examples) -> None:
    app = make_app(config, csrf=True)
    client = app.test_client()
    token = hidden(client.get("/churn/").text, "csrf_token")
    in_force(CHURN, ALLOWANCE, LOYALTY)
    assert client.post("/churn/", data={**examples["churn"], "csrf_token": token}).status_code == 303
    assert (
        client.post("/loyalty/preview", data={**examples["churn"], "csrf_token": token}).status_code == 503
    )  # no model
    app.extensions["bankportal"].database.close()


def test_pages_that_cannot_be_made_leave_the_present_ones(client, in_force, monkeypatch, capsys) -> None:
    in_force(CHURN, replace(LOYALTY, key="batches"))
    assert client.get("/churn/").status_code == client.get("/allowance/").status_code == 200
    assert capsys.readouterr().out.count("pages of the new declarations cannot be made") == 1
    in_force(CHURN, ALLOWANCE, LOYALTY)
    assert client.get("/loyalty/").status_code == 200


def test_many_requests_during_many_changes(app, in_force) -> None:
    stop, statuses = threading.Event(), []

    def ask(path: str) -> None:
        client = app.test_client()
        while not stop.is_set():
            statuses.append((path, client.get(path).status_code))

    threads = [threading.Thread(target=ask, args=(path,)) for path in ("/", "/churn/", "/loyalty/", "/decisions/")]
    for thread in threads:
        thread.start()
    for change in range(40):
        in_force(CHURN, *([LOYALTY] if change % 2 else [ALLOWANCE]), withdrawn=[] if change % 2 else [LOYALTY])
        app.test_client().get("/")
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for path, status in statuses if path != "/loyalty/"} == {200}
    assert {status for path, status in statuses if path == "/loyalty/"} <= {200, 404}
    assert app.test_client().get("/loyalty/").status_code == 200


def test_the_pages_under_fastapi_follow_as_well(config, in_force) -> None:
    asgi, testclient = pytest.importorskip("bankportal.asgi"), pytest.importorskip("fastapi.testclient")
    with testclient.TestClient(asgi.create_app(config), base_url="http://localhost") as client:
        browser = {"Accept": "text/html"}
        assert client.get("/loyalty/", headers=browser).status_code == 404
        in_force(CHURN, LOYALTY, withdrawn=[ALLOWANCE])
        assert "Does this customer stay?" in client.get("/loyalty/", headers=browser).text
        assert "Allowance was withdrawn" in client.get("/allowance/", headers=browser).text


def test_a_running_portal_notices_what_another_process_applies(config, home_equity_model) -> None:
    app = make_app(config, csrf=False)
    client, other = app.test_client(), wiring.build(config)
    location = client.post("/allowance/", data=EXAMPLE | {"Tenure": "5", "Balance": "10", "NumOfProducts": "1"} | YES)
    assert client.get("/home-equity/").status_code == 404
    other.declarations.apply({path.name: path.read_bytes() for path in FILES})
    other.models.add(home_equity_model)
    other.declarations.withdraw("allowance")
    applied = time.monotonic()
    while client.get("/home-equity/").status_code == 404:
        assert time.monotonic() < applied + NOTICED_WITHIN + PATIENCE
        time.sleep(0.02)
    assert client.post("/home-equity/", data=EXAMPLE).status_code == 303
    assert "Allowance was withdrawn" in client.get("/allowance/").text
    assert "Withdrawn" in client.get("/").text
    stands = text_of(client.get(location.headers["Location"]).text)
    assert f"Declaration {ALLOWANCE.digest[:12]} withdrawn, applied" in stands
    other.declarations.withdraw("home-equity")
    while client.get("/home-equity/").status_code == 200:
        time.sleep(0.02)
    assert "Home equity was withdrawn" in client.get("/home-equity/").text
    other.database.close()
    app.extensions["bankportal"].database.close()


# --- a bank's own product ---------------------------------------------------------------------------------------------


@pytest.fixture
def own(app, in_force, home_equity_model):
    """A portal with a product of the bank's own in force, and a model for it."""
    record(app, *DECLARED)
    in_force(CHURN, ALLOWANCE, HOME_EQUITY)
    app.extensions["bankportal"].models.add(home_equity_model)
    return app.test_client()


def test_the_form_of_an_own_product(own) -> None:
    page = text_of(own.get("/home-equity/?example=1").text)
    assert "Which loan on their home can this customer carry?" in page
    assert "Value of the home USD" in page
    assert "Suggested equity limit" in page
    assert "never a loan-loss allowance" not in page
    preview = own.post("/home-equity/preview", data=EXAMPLE, headers={"Accept": "application/json"})
    assert preview.status_code == 200
    assert "USD" in preview.json["html"]
    assert "EUR" not in page + preview.json["html"]


def test_the_decision_and_letter_of_an_own_product(app, own) -> None:
    for values in (
        EXAMPLE,
        EXAMPLE | {"RequestedLoan": "9000000", "MonthlyObligations": ""},
        EXAMPLE | {"CreditScore": "310"},
    ):
        answer = own.post("/home-equity/", data=values)
        decision = app.extensions["bankportal"].decisions.latest(1)[0]
        assert decision.outcome.product is HOME_EQUITY
        pages = [
            text_of(own.get(answer.headers["Location"] + path).text) for path in ("", "/compare", "?what-if=Occupation")
        ]
        if f'{answer.headers["Location"]}/letter"' in own.get(answer.headers["Location"]).text:
            pages.append(text_of(own.get(answer.headers["Location"] + "/letter").text))
            assert "You asked for an equity limit of USD" in pages[-1]
            assert "credit-card" not in pages[-1]
        for page in pages:
            assert "USD" in page
            assert "EUR" not in page
            assert "card limit" not in page
    assert "equity" in text_of(own.get("/decisions/?product=home-equity").text)


def test_a_file_of_an_own_product(app, own, in_force, tmp_path) -> None:
    template = own.get("/batches/template/home-equity.csv")
    header = template.text.splitlines()[0].split(",")
    assert header == [entry.factor.name for entry in HOME_EQUITY.factors]
    named = {
        {"HomeValue": "VALUE", "YearsOnJob": "YOJ"}.get(name, name): values for name, values in columns(40).items()
    }
    file = write_csv(tmp_path / "homes.csv", named)
    sent = own.post("/batches/", data={"product": "home-equity", "file": (io.BytesIO(file.read_bytes()), "homes.csv")})
    job = sent.headers["Location"]
    assert "Value of the home" in own.get(job).text
    chosen = re.findall(r'<select id="(column-\d+)".*?<option value="([\w-]+)" selected', own.get(job).text, re.S)
    assert own.post(f"{job}/check", data=dict(chosen)).status_code == 303
    worker = app.extensions["bankportal"].worker
    while worker.step():
        pass
    own.post(f"{job}/start")
    while worker.step():
        pass
    page = text_of(own.get(job).text)
    assert "Largest limits" in page
    assert "USD" in page
    assert "EUR" not in page
    row = text_of(own.get(f"{job}/rows/0").text)
    assert "USD" in row
    assert "EUR" not in row
    checked = own.post("/batches/", data={"product": "home-equity", "file": (io.BytesIO(file.read_bytes()), "a.csv")})
    checked = checked.headers["Location"]
    own.post(f"{checked}/check", data=dict(chosen))
    while worker.step():
        pass
    waiting = own.post("/batches/", data={"product": "home-equity", "file": (io.BytesIO(file.read_bytes()), "b.csv")})
    in_force(CHURN, withdrawn=[HOME_EQUITY, ALLOWANCE])
    for path in (
        job,
        f"{job}?verdict=Full",
        f"{job}/rows/0",
        "/batches/",
        "/batches/?product=home-equity",
        "/",
        "/models/",
    ):
        withdrawn = own.get(path)
        assert withdrawn.status_code == 200
        assert 'href="/home-equity/' not in withdrawn.text
    with own.get(f"{job}/scored.csv") as file_again:
        assert file_again.status_code == 200
    assert own.get(waiting.headers["Location"]).status_code == 200
    started = own.post(f"{checked}/start")
    assert started.status_code == 409
    assert "Home equity was withdrawn" in started.text
    assert "Home equity was withdrawn" in text_of(own.get(checked).text)
    refused = own.post("/batches/", data={"product": "home-equity", "file": (io.BytesIO(b"a"), "c.csv")})
    assert refused.status_code == 422
    assert "Home equity was withdrawn" in refused.text


def test_models_of_an_own_product(own) -> None:
    assert "Which loan on their home" in own.get("/models/").text
    assert "the loan was paid back" in own.get("/models/home-equity/v1").text


# --- which declaration something stands on ----------------------------------------------------------------------------


def test_a_decision_says_which_declaration_it_stands_on(app, client, in_force, examples) -> None:
    location = client.post("/churn/", data=examples["churn"]).headers["Location"]
    assert f"Declaration {CHURN.digest[:12]} in force" in text_of(client.get(location).text)
    renamed = declared_otherwise(
        CHURN, bands=[{**band, "name": f"{band['name']}!"} for band in json.loads(CHURN.text)["bands"]]
    )
    record(app, product_declaration(renamed))
    in_force(renamed, ALLOWANCE)
    page = text_of(client.get(location).text)
    assert f"Declaration {CHURN.digest[:12]} an earlier declaration" in page
    assert "Low" in page
    assert "Low!" not in page
    overview = text_of(client.get("/").text)
    assert "0 Low!" in overview
    assert "1 Low (earlier)" in overview
    compared = text_of(client.get(f"{location}/compare").text)
    assert "Before is as recorded, under an earlier declaration of Churn." in compared
    assert "Low!" in compared
    again = client.get(f"/churn/?from={location.rsplit('/', 1)[1]}")
    assert "stands on an earlier declaration" in again.text
    in_force(ALLOWANCE, withdrawn=[renamed])
    assert f"Declaration {CHURN.digest[:12]} withdrawn" in text_of(client.get(location).text)


def test_an_old_limit_is_explained_by_its_own_policy(app, client, in_force, examples) -> None:
    unknown = examples["allowance"] | {"MonthlyObligations": "", "RequestedLimit": "90000"}
    location = client.post("/allowance/", data=unknown).headers["Location"]
    pages = [client.get(f"{location}{path}").text for path in ("", "/letter")]
    share = {"version": "2027-1", "unknown_obligations_share": 0.3, "sentences": OTHER_SENTENCES}
    stricter = policy_from(canonical(json.loads(CARD_LIMIT_POLICY.text) | share))
    changed = product_from(ALLOWANCE.text, stricter)
    record(app, Declaration(Kind.POLICY, stricter.key, stricter.text))
    in_force(CHURN, changed)
    for path, before in zip(("", "/letter"), pages, strict=True):
        now = text_of(client.get(f"{location}{path}").text)
        assert now == text_of(before).replace(" in force,", " an earlier declaration,")
    assert "25% of the monthly salary was assumed" in text_of(pages[0])
    later = client.post("/allowance/", data=unknown).headers["Location"]
    assert "30% of the monthly salary was assumed" in text_of(client.get(later).text)
    in_force(CHURN, withdrawn=[changed])
    assert "25% of the monthly salary was assumed" in text_of(client.get(location).text)
    assert "30% of the monthly salary was assumed" in text_of(client.get(later).text)
