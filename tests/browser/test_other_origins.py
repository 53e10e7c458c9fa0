"""Pages of other origins in a real browser: the older system's own, which compares words, and those of strangers."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.api.conftest import ENGINES, address_of, running
from tests.api.test_legacy import ALLOWANCE_BODY, CHURN_BODY
from tests.conftest import config_for, served

OLDER_PAGE = """\
<!doctype html>
<title>The older system's page</title>
<p id="churn"></p><p id="allowance"></p>
<script>
const address = "@ADDRESS@", churn = @CHURN@, allowance = @ALLOWANCE@;

async function ask(id, path, body, colourOf) {
  const place = document.getElementById(id);
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(address + path, { method: "POST", headers, body: JSON.stringify(body) });
    place.style.color = colourOf(await answer.json());
  } catch {
    place.style.color = "black";
  }
  place.className = "answered";
}

ask("churn", "/predict_churn", churn, ({ prediction }) =>
  prediction === "High chance of churn" ? "red" : prediction === "Low chance of churn" ? "green" : "grey");
ask("allowance", "/predict_allowance", allowance, ({ prediction, status }) => {
  if (prediction === "Allowance Not Approved") return status === "Ineligible" ? "red" : "grey";
  return prediction === "Allowance Approved" && ["Standard", "Elite"].includes(status) ? "green" : "grey";
});
</script>
"""
LEAVES = CHURN_BODY | {"Age": 58, "ComplaintsFiled": 4, "CustomerSatisfaction": 1, "TransactionFrequency": 2}
STAYS = CHURN_BODY | {"Age": 30, "ComplaintsFiled": 0, "CustomerSatisfaction": 5}
APPROVED = ALLOWANCE_BODY | {"CreditScore": 830, "EstimatedSalary": 120000.0}
DECLINED = ALLOWANCE_BODY | {"EstimatedSalary": 0.0}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass


@contextmanager
def elsewhere(folder: Path) -> Iterator[int]:
    """Serve a folder as another origin and give the port."""
    with served(ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: Quiet(*given, directory=folder))) as port:
        yield port


@pytest.fixture(params=ENGINES)
def older(request, ready_instance, tmp_path):
    """Runs a portal that keeps the older paths for some origins, and gives its address."""
    instance = shutil.copytree(ready_instance, tmp_path / "instance")

    @contextmanager
    def run(*origins: str) -> Iterator[str]:
        config = replace(config_for(instance), legacy_api=True, cors_origins=origins)
        with running(request.param, config) as engine, address_of(engine) as address:
            yield address.replace("localhost", "127.0.0.1")

    return run


def colours(page, url: str) -> list[str]:
    page.goto(url)
    page.wait_for_function("document.querySelectorAll('.answered').length === 2")
    return [page.locator(f"#{name}").evaluate("place => place.style.color") for name in ("churn", "allowance")]


def write_older_page(folder: Path, address: str, churn: dict, allowance: dict) -> Path:
    text = OLDER_PAGE.replace("@ADDRESS@", address)
    text = text.replace("@CHURN@", json.dumps(churn)).replace("@ALLOWANCE@", json.dumps(allowance))
    (folder / "older.html").write_text(text, encoding="utf-8")
    return folder / "older.html"


@pytest.mark.parametrize(("churn", "allowance", "drawn"), [(LEAVES, DECLINED, "red"), (STAYS, APPROVED, "green")])
def test_the_older_systems_page_is_drawn_right(older, new_page, tmp_path, churn, allowance, drawn) -> None:
    with elsewhere(tmp_path) as port, older(f"http://localhost:{port}") as address:
        write_older_page(tmp_path, address, churn, allowance)
        assert colours(new_page(), f"http://localhost:{port}/older.html") == [drawn, drawn]


@pytest.mark.parametrize(("origins", "drawn"), [(["null"], "green"), ([], "black")])
def test_the_older_systems_page_opened_from_a_file(older, new_page, tmp_path, origins, drawn) -> None:
    with older(*origins) as address:
        page = write_older_page(tmp_path, address, STAYS, APPROVED)
        assert colours(new_page(), page.as_uri()) == [drawn, drawn]


# What a page can send to another origin without asking it first (no preflight).
FILE = """
    const form = new FormData();
    form.append("product", "churn");
    form.append("file", new Blob(["CreditScore,Age,Tenure,Balance\\n650,42,5,48200\\n"]), "a.csv");"""
TEXT = """
    const body = JSON.stringify({ CreditScore: 650, Age: 42, Tenure: 5, Balance: 48200 });"""
SEND = 'await fetch(address + path, { method: "POST", mode: "no-cors", credentials: "include", body, ...more });'
ATTACKS = {
    "multipart": f'{FILE} const path = "/api/v1/batches", body = form, more = {{}}; {SEND}',
    "multipart to the page": f'{FILE} const path = "/batches/", body = form, more = {{}}; {SEND}',
    "text": f'{TEXT} const path = "/api/v1/churn/score", more = {{}}; {SEND}',
    "no referrer": f'{TEXT} const path = "/predict_churn", more = {{ referrerPolicy: "no-referrer" }}; {SEND}',
    "no body": f'const path = "/api/v1/batches/latest/start", body = undefined, more = {{}}; {SEND}',
    "beacon": f'{FILE} navigator.sendBeacon(address + "/api/v1/batches", form);',
    "beacon of text": f'{TEXT} navigator.sendBeacon(address + "/api/v1/churn/score", body);',
}
TAKES_FORMS = ("/api/v1/churn/score", "/api/v1/batches", "/predict_churn", "/batches/", "/churn/")
FORMS = {
    "multipart/form-data": '<input name="product" value="churn"><input type="file" name="file">',
    "application/x-www-form-urlencoded": '<input name="CreditScore" value="650"><input name="Age" value="42">',
    "text/plain": """<input name='{"CreditScore":650,"Age":42,"Tenure":5,"Balance":48200,"Surname":"' value='"}'>""",
}


@pytest.fixture(scope="module", params=ENGINES)
def attacked(request, ready_instance, tmp_path_factory):
    """A portal with the older paths on and a batch that waits for its start, and its address."""
    instance = shutil.copytree(ready_instance, tmp_path_factory.mktemp("attacked") / "instance")
    config = replace(config_for(instance), legacy_api=True, cors_origins=("https://crm.bank.example",))
    with running(request.param, config) as engine, address_of(engine) as address:
        file = {"file": ("a.csv", b"CreditScore,Age,Tenure,Balance\n650,42,5,48200\n")}
        engine.client.post("/api/v1/batches", data={"product": "churn", "start": "false"}, files=file)
        while engine.services.worker.step():
            pass
        yield engine, address


def standing(engine) -> tuple[list[str], list[tuple[str, str]]]:
    """Return all that was recorded: decisions, batches and their states."""
    batches = engine.services.batches.page(None, None, 100).items
    return [each.id for each in engine.services.decisions.latest(100)], [
        (each.id, each.state.value) for each in batches
    ]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_page_of_another_origin_cannot_act(attacked, new_page, tmp_path, host) -> None:
    """From another port of the same host, which is the same site, as well as from another site."""
    engine, address = attacked
    before = standing(engine)
    (tmp_path / "evil.html").write_text("<!doctype html><title>Another origin</title>")
    page = new_page()
    with elsewhere(tmp_path) as port:
        page.goto(f"http://{host}:{port}/evil.html")
        for name, code in ATTACKS.items():
            # The answer is kept from the page, by `Cross-Origin-Resource-Policy`: too late to prevent an act.
            with page.expect_event("requestfailed", lambda request: address in request.url):
                page.evaluate(f"(address) => {{ (async () => {{ {code} }})().catch(() => {{}}) }}", address)
            assert standing(engine) == before, name


@pytest.mark.parametrize("kind", FORMS)
def test_a_form_of_another_origin_cannot_act(attacked, new_page, tmp_path, kind) -> None:
    engine, address = attacked
    before = standing(engine)
    page = new_page()
    with elsewhere(tmp_path) as port:
        for number, path in enumerate(TAKES_FORMS):
            form = (
                f'<form method="post" action="{address}{path}" enctype="{kind}">{FORMS[kind]}<button>Go</button></form>'
            )
            (tmp_path / f"{number}.html").write_text(f"<!doctype html><title>Another origin</title>{form}")
            page.goto(f"http://localhost:{port}/{number}.html")
            with page.expect_response(f"{address}{path}") as answer:
                page.get_by_role("button", name="Go").click()
            assert answer.value.status == 403, path
    assert standing(engine) == before
