"""`flask declarations`: what it prints, what it refuses, and that nothing broken comes in force."""

import pytest

from tests.conftest import plant_few_trees
from tests.test_declarations_service import file_of


@pytest.fixture(autouse=True)
def few_trees(monkeypatch) -> None:
    plant_few_trees(monkeypatch)


@pytest.fixture
def run(app):
    """Run `flask declarations`; returns what it printed, fails the test unless it exits as expected."""

    def invoke(*arguments, exits=0, command="declarations") -> str:
        result = app.test_cli_runner().invoke(args=[command, *(str(argument) for argument in arguments)])
        assert result.exit_code == exits, result.output
        assert "Traceback" not in result.output
        return result.output

    invoke("list")
    return invoke


@pytest.fixture
def portal(app):
    return app.extensions["bankportal"]


@pytest.fixture
def file(run, portal, tmp_path):
    """Write a declaration in force, edited, to a file."""

    def write(key: str, *edits: tuple[str, str]):
        path = tmp_path / f"{key}.toml"
        path.write_bytes(file_of(portal, key, *edits)[f"{key}.toml"])
        return path

    return write


def test_it_works(run, file, portal) -> None:
    path = file("churn", ('"Moderate"', '"Watch"'), ("start = 0.7", "start = 0.75"))
    changed = 'bands.Moderate.name: "Moderate" → "Watch"\n  bands.Critical.start: 0.7 → 0.75'
    checked = run("check", path)
    assert "Product churn would change" in checked
    assert changed in checked
    assert portal.declarations.portfolio()["churn"].bands[1].name == "Moderate"
    applied = run("apply", path)
    assert "Product churn is in force" in applied
    assert changed in applied
    assert portal.declarations.portfolio()["churn"].bands[1].name == "Watch"
    assert "Nothing to do: all of it is in force." in run("apply", path)


def test_listing_and_history(run, file) -> None:
    listed = run("list")
    assert [listed.count(word) for word in ("shipped", "bank ", "withdrawn")] == [4, 0, 0]
    run("apply", file("churn", ('"Moderate"', '"Watch"')))
    assert "Product churn is withdrawn" in run("withdraw", "churn")
    assert "withdrawn" in run("list")
    history = run("history", "churn")
    assert [history.count(word) for word in ("applied", "withdrawn", "shipped")] == [2, 1, 1]
    assert "No product, policy or factors of the key loans" in run("history", "loans", exits=1)


@pytest.mark.parametrize("key", ["churn", "allowance", "card-limit", "factors"])
def test_what_is_shown_can_be_applied_again(run, tmp_path, key) -> None:
    path = tmp_path / "shown.toml"
    path.write_text(run("show", key), encoding="utf-8")
    assert "Nothing to do" in run("check", path)
    assert "Nothing differs." in run("diff", key, path)


def test_an_earlier_declaration_is_shown_by_its_digest(run, portal, file) -> None:
    digest = portal.declarations.find("churn").digest
    before = run("show", "churn")
    run("apply", file("churn", ('"Moderate"', '"Watch"')))
    assert run("show", digest[:8]) == before
    assert 'bands.Watch.name: "Watch" → "Moderate"' in run("diff", "churn", digest)
    run("apply", file("factors", ("In full years.", "In years.")))
    assert "In full years." in run("show", digest)
    assert "There is no declaration abcdef1" in run("show", "abcdef1", exits=1)


def test_a_shown_file_reads_like_one_that_a_person_writes(run) -> None:
    lines = run("show", "churn").splitlines()
    assert [line for line in lines if line.startswith("[") and "bands" not in line][:2] == ["[roles]", "[label]"]
    assert not [line for line in lines if line.endswith(("= []", "= {}")) or line == "[factors]"]
    label = lines[lines.index("[label]") + 1 : lines.index("[label]") + 6]
    assert [line.split(" ")[0] for line in label] == ["name", "aliases", "meaning", "positive", "negative"]


BROKEN = {
    "no TOML": ("format = 1", "format = ", "churn.toml: is not TOML"),
    "a band twice": ('"Moderate"', '"Low"', "churn.toml, [[bands]]"),
    "a start above 1": ("start = 0.7", "start = 7", "churn.toml, [[bands]] 3, start: 7 must be"),
    "an unknown factor": ('"Gender"', '"Sex"', "churn.toml, [roles]"),
    "an unknown key": ("[label]", "[labels]", "churn.toml"),
    "a protected factor scored": ('protected = ["Gender"]', 'protected = []\noptional2 = ["Gender"]', "optional2"),
}


@pytest.mark.parametrize(("before", "after", "says"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("command", ["check", "apply"])
def test_a_broken_file_is_refused(run, portal, file, command, before, after, says) -> None:
    head, in_force = portal.audit.head(), portal.declarations.portfolio()
    printed = run(command, file("churn", (before, after)), exits=1)
    assert says in printed
    assert all(line.startswith(("Error: ", "/")) for line in printed.strip().splitlines())
    assert portal.audit.head() == head
    assert portal.declarations.portfolio() is in_force


def test_a_new_product_is_told_how_to_get_a_model(run, file) -> None:
    path = file("churn", ('key = "churn"', 'key = "leavers"'), ('title = "Churn"', 'title = "Leavers"'))
    assert "Leavers has no model yet. Train one: flask train leavers --data FILE" in run("apply", path)


def test_a_new_model_is_asked_for(run, portal, file, bank_files) -> None:
    path = file("churn", ('"Geography", ', ""))
    assert "A new model is needed" in run("check", path)
    assert "flask train churn --data CUSTOMERS --declaration FILE" in run("apply", path, exits=1)
    assert "A new model is needed: Geography is not scored" in run("diff", "churn", path)
    trained = run("churn", "--data", bank_files["churn"], "--declaration", path, command="train")
    assert "Churn v2 is registered. To use it: flask declarations apply FILE --activate v2" in trained
    assert "Geography" in {factor.name for factor in portal.declarations.portfolio()["churn"].scored}
    assert "churn v2 is active." in run("apply", path, "--activate", "v2")
    assert "flask models activate churn v3" in run(
        "churn", "--data", bank_files["churn"], "--no-activate", command="train"
    )
    assert "churn v3 is active." in run("apply", path, "--activate", "v3"), "also where nothing else changes"
    assert portal.models.serving(portal.declarations.portfolio()["churn"]).version == "v3"
    run("apply", path, "--activate", "v2")
    product = portal.declarations.portfolio()["churn"]
    assert portal.models.serving(product).version == "v2"
    portal.audit.verify()


def test_a_declaration_to_train_under_must_be_the_products(run, file) -> None:
    path = file("churn")
    assert "not the product allowance" in run("allowance", "--declaration", path, command="train", exits=1)
    refused = run("churn", "--declaration", path, "--activate", command="train", exits=2)
    assert "leave --activate out" in refused


def test_a_folder_or_no_file_is_refused(run, tmp_path) -> None:
    for given in (tmp_path, tmp_path / "none.toml"):
        assert "FILE…" in run("apply", given, exits=2)
