import configparser
import csv
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import joblib
import pandas as pd
import pytest
from click.testing import CliRunner

from bankportal import wiring
from bankportal.cli import up
from bankportal.cli.data import data
from bankportal.cli.models import models
from bankportal.cli.train import train
from bankportal.config import load
from bankportal.domain.errors import SettingsRefused
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.reasons import sentence
from tests.conftest import REAL_DATA, ROWS, plant_few_trees, write_csv
from tests.shipped import CHURN, PRODUCTS


@pytest.fixture(autouse=True)
def few_trees(monkeypatch) -> None:
    plant_few_trees(monkeypatch)


@pytest.fixture
def run(app):
    """Run a command on the test's instance; returns what it printed, fails the test unless it exits as expected."""

    def invoke(*arguments, exits=0) -> str:
        result = app.test_cli_runner().invoke(args=[str(argument) for argument in arguments])
        assert result.exit_code == exits, result.output
        assert "Traceback" not in result.output
        return result.output

    return invoke


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_it_works(run, bank_files) -> None:
    printed = run("train", "churn", "--data", bank_files["churn"], "--seed", 1)
    assert "Growing trees: 100%" in printed
    assert "Churn v2 is registered" in printed
    assert "logistic regression" in printed


def test_commands_are_the_entry_points(app) -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    lines = setup["options.entry_points"]["flask.commands"].strip().splitlines()
    assert {line.split("=")[0].strip() for line in lines} <= set(app.cli.commands)


def test_training_twice_gives_the_same_forest(run, app, bank_files) -> None:
    run("train", "churn", "--data", bank_files["churn"], "--seed", 1, "--activate")
    first, second = app.extensions["bankportal"].models.versions(CHURN)
    assert first.active
    assert first.forest_digest == second.forest_digest


def test_a_leak_is_named_and_refused_unless_told_otherwise(run, bank_files, tmp_path) -> None:
    rows = rows_of(bank_files["churn"])
    for row in rows:
        row["CustomerSatisfaction"] = "1" if row["Churn"] == "1" else "5"
    path = write_csv(tmp_path / "leak.csv", {name: [row[name] for row in rows] for name in rows[0]})
    assert "Leak: CustomerSatisfaction" in run("data", "check", path, exits=1)
    refused = run("train", "churn", "--data", path, exits=1)
    assert "CustomerSatisfaction" in refused
    assert "CustomerSatisfaction" in run("train", "churn", "--data", path, "--allow-leakage", "--no-activate")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the public data sets are not at hand")
def test_the_leaking_public_file_is_named(run) -> None:
    report = json.loads(run("data", "check", REAL_DATA / "Final_bank.csv", "--json", exits=1))
    assert [leak["factor"] for leak in report["leaks"]] == ["CustomerSatisfaction", "ComplaintsFiled"]
    assert "CustomerSatisfaction" in run("train", "churn", "--data", REAL_DATA / "Final_bank.csv", exits=1)


def test_data_needs_a_product(run, bank_files) -> None:
    assert "Say which product" in run("train", "--data", bank_files["churn"], exits=2)


@pytest.fixture
def mortgage(monkeypatch):
    """A product of the bank's own, in force beside the shipped ones."""
    product = replace(CHURN, key="mortgage", title="Mortgage")
    portfolio = Portfolio([*PRODUCTS.values(), product])
    monkeypatch.setattr("bankportal.services.declarations.Declarations.portfolio", lambda _: portfolio)
    return product


def test_a_product_of_the_bank_has_no_simulated_customers(run, mortgage, tmp_path, bank_files) -> None:
    printed = run("data", "simulate", tmp_path / "a.csv", "--product", "mortgage", exits=1)
    assert "There are no simulated customers for Mortgage" in printed
    assert "flask train mortgage --data FILE" in run("train", "mortgage", exits=1)
    assert "usable rows" in run("data", "check", bank_files["churn"], "--product", "mortgage")


def test_all_products_with_data_are_trained(run, mortgage, monkeypatch, bank_files) -> None:
    monkeypatch.setattr("bankportal.cli.train.simulated_bank", lambda portal, product: bank_files[product.key])
    printed = run("train")
    assert "Churn v2 is registered" in printed
    assert "Allowance v2 is registered" in printed
    assert "Mortgage is left out: it needs data. flask train mortgage --data FILE" in printed


def test_up_goes_on_without_data_for_a_product(config, mortgage, monkeypatch, capsys) -> None:
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(config.instance))
    up.prepare()
    assert "Mortgage has no model yet. Train one: flask train mortgage --data FILE" in capsys.readouterr().out


def test_up_says_which_files_of_declarations_are_broken(config, monkeypatch, capsys) -> None:
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(config.instance))
    config.declarations.mkdir()
    (config.declarations / "loans.toml").write_text("kind = ")
    config.reasons.write_text("[Age]\nmany = 7\n")
    up.prepare()
    printed = capsys.readouterr().out
    assert "loans.toml: is not TOML" in printed
    assert "reasons.toml: The catalogue of reasons has under Age" in printed


def test_a_product_that_is_none(run, bank_files, tmp_path) -> None:
    said = "'loans' is no product in force. There are: churn, allowance."
    assert said in run("train", "loans", exits=2)
    assert said in run("data", "check", bank_files["churn"], "--product", "loans", exits=2)


def test_help_and_data_files_need_no_database(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("BANKPORTAL_DATABASE_URL", f"sqlite:///{tmp_path / 'none' / 'at.sqlite3'}")
    runner = CliRunner()
    assert "PRODUCT" in runner.invoke(train, ["--help"]).output
    made = runner.invoke(data, ["simulate", str(tmp_path / "a.csv"), "--rows", "20", "--product", "allowance"])
    assert (made.exit_code, (tmp_path / "none").exists()) == (0, False)


@pytest.mark.parametrize("product", PRODUCTS)
def test_simulating_is_repeatable(run, tmp_path, product) -> None:
    for name in ("a.csv", "b.csv"):
        printed = run("data", "simulate", tmp_path / name, "--product", product, "--rows", 50, "--seed", 4)
        assert "best achievable" in printed
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_augmenting_a_base_file(run, tmp_path) -> None:
    run("data", "simulate", tmp_path / "base.csv", "--base", "--rows", 200)
    assert "CustomerSatisfaction" in run("data", "augment", tmp_path / "base.csv", tmp_path / "full.csv")
    base, full = rows_of(tmp_path / "base.csv"), rows_of(tmp_path / "full.csv")
    assert [row["CustomerId"] for row in base] == [row["CustomerId"] for row in full]
    assert [row["Exited"] for row in base] == [row["Churn"] for row in full]


def test_augmenting_does_not_drop_rows_in_silence(run, tmp_path) -> None:
    run("data", "simulate", tmp_path / "base.csv", "--base", "--rows", 20)
    text = (tmp_path / "base.csv").read_text().splitlines()
    (tmp_path / "base.csv").write_text("\n".join([text[0], *text[1:5], "7,broken", *text[6:]]))
    assert "line 6" in run("data", "augment", tmp_path / "base.csv", tmp_path / "full.csv", exits=1)
    assert not (tmp_path / "full.csv").exists()


def test_scoring_a_file(run, services, tmp_path, examples) -> None:
    good, bad = examples["churn"], examples["churn"] | {"Age": "old", "Surname": "=cmd()"}
    source = write_csv(tmp_path / "in.csv", {name: [good[name], bad[name], good[name]] for name in good})
    printed = run("score", "churn", source, tmp_path / "out.csv", "--rejects", tmp_path / "rejects.csv")
    assert "3 rows: 2 scored, 1 rejected." in printed
    scored, (rejected,) = rows_of(tmp_path / "out.csv"), rows_of(tmp_path / "rejects.csv")
    assert [row["Age"] for row in scored] == [good["Age"]] * 2
    assert list(scored[0])[: len(good)] == list(rejected)[: len(good)] == list(good)
    assert {name: rejected[name] for name in ("line", "column", "code", "message")} == {
        "line": "3",
        "column": "Age",
        "code": "not-a-number",
        "message": "must be a whole number in the digits 0 to 9, such as 60",
    }
    assert "To see which, and why: --rejects FILE" in run("score", "churn", source, tmp_path / "out.csv")


def test_scoring_needs_columns_that_are_clear(run, tmp_path, examples) -> None:
    good = examples["churn"]
    without = {name: [value] for name, value in good.items() if name not in {"Age", "Tenure"}}
    twice = {name: [value] for name, value in good.items() if name != "Age"} | {"AGE": ["40"], "a-g-e": ["41"]}
    for columns, said in ((without, "no column for Age, Tenure"), (twice, "two columns that mean Age")):
        source = write_csv(tmp_path / "in.csv", columns)
        assert f"in.csv has {said}" in run("score", "churn", source, tmp_path / "out.csv", exits=1)
        assert not (tmp_path / "out.csv").exists()


def test_scoring_at_no_address(run, tmp_path, bank_files, monkeypatch) -> None:
    monkeypatch.setattr("bankportal.services.batches.cluster.WAIT", 1)
    given = ("score", "churn", bank_files["churn"], tmp_path / "out.csv", "--scheduler")
    pytest.importorskip("distributed", reason="Dask is missing: pip install bankportal[dask]")
    assert "No Dask scheduler answers at tcp://127.0.0.1:1" in run(*given, "tcp://127.0.0.1:1", exits=1)
    assert not (tmp_path / "out.csv").exists()


def test_a_file_scores_as_the_form_does(run, app, client, tmp_path, examples) -> None:
    for product in PRODUCTS:
        source = write_csv(tmp_path / "in.csv", {name: [value] for name, value in examples[product].items()})
        run("score", product, source, tmp_path / "out.csv")
        client.post(f"/{product}/", data=examples[product])
        decision = app.extensions["bankportal"].decisions.latest(1, product)[0]
        (row,) = rows_of(tmp_path / "out.csv")
        assert float(row["score"]) == decision.outcome.score
        assert row["band"] == decision.outcome.band.name
        if decision.outcome.limit:
            assert float(row["limit"]) == decision.outcome.limit.amount


def test_files_are_not_written_over_their_source(run, tmp_path, bank_files) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes(bank_files["churn"].read_bytes())
    for arguments in (
        ("score", "churn", source, source),
        ("score", "churn", source, f"file://{source}"),
        ("score", "churn", source, tmp_path / "out.csv", "--rejects", tmp_path / "out.csv"),
        ("data", "augment", source, tmp_path / "." / "in.csv"),
    ):
        assert "must be different files" in run(*arguments, exits=1)
    assert source.read_bytes() == bank_files["churn"].read_bytes()
    assert "cannot be written" in run("score", "churn", source, tmp_path / "typo" / "out.csv", exits=1)


def test_formulas_are_neutral_in_exports(run, tmp_path, examples) -> None:
    values = examples["churn"] | {"Surname": "=HYPERLINK(1)", "CustomerId": "-5+1", "BalanceChange3M": "-5"}
    source = write_csv(tmp_path / "in.csv", {name: [value] for name, value in values.items()})
    run("score", "churn", source, tmp_path / "out.csv")
    (row,) = rows_of(tmp_path / "out.csv")
    assert (row["Surname"], row["CustomerId"], row["BalanceChange3M"]) == ("'=HYPERLINK(1)", "'-5+1", "-5")


def test_formulas_are_neutral_in_augmented_files(run, tmp_path, bank_files) -> None:
    names = dict.fromkeys(("Surname", "CreditScore", "Age", "Tenure", "Balance", "Churn"))
    customers = [row | {"Surname": "x;=cmd"} for row in rows_of(bank_files["churn"])]
    columns = {name: [row[name] for row in customers] for name in names}
    run("data", "augment", write_csv(tmp_path / "in.csv", columns), tmp_path / "out.csv")
    assert {row["Surname"] for row in rows_of(tmp_path / "out.csv")} == {"x;'=cmd"}


def test_what_cannot_be_written_is_said(run, tmp_path, bank_files) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in run("score", "churn", bank_files["churn"], tmp_path / "file" / "x.csv", exits=1)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"a,b\n1,2\n", b"CreditScore\n", b"\xff\xfeA\x00"])
@pytest.mark.parametrize("command", ["train", "score", "check", "augment"])
def test_files_that_are_no_data(run, tmp_path, content, command) -> None:
    path = tmp_path / "file.csv"
    path.write_bytes(content)
    arguments = {
        "train": ("train", "churn", "--data", path),
        "score": ("score", "churn", path, tmp_path / "out.csv"),
        "check": ("data", "check", path),
        "augment": ("data", "augment", path, tmp_path / "out.csv"),
    }[command]
    assert "file.csv" in run(*arguments, exits=1)


def test_models(run, bank_files) -> None:
    assert "v1" in run("models", "list")
    assert "On held-out customers" in run("models", "show", "churn")
    assert "is right" in run("models", "verify")
    assert "no churn model version v7" in run("models", "activate", "churn", "v7", exits=1)
    run("train", "churn", "--data", bank_files["churn"])
    assert "v2 is active" in run("models", "activate", "churn", "v2")


def test_the_words_of_an_earlier_releases_file_are_taken_over_once(run, app, config) -> None:
    printed = run("models", "reasons")
    config.reasons.write_text(printed.replace("late payments in 12 months", "payments came late"), encoding="utf-8")
    run("models", "list")
    declarations = app.extensions["bankportal"].declarations
    edited = declarations.portfolio()["churn"]
    assert sentence(edited, "LatePayments", 2, raises=True) == "2 payments came late raise the risk"
    changes = len(declarations.history("churn"))
    run("models", "list")
    assert len(declarations.history("churn")) == changes


def test_verify_names_what_was_changed(run, config) -> None:
    path = config.models / "churn" / "v1" / "forest.npz"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert "Churn model v1 is refused" in run("models", "verify", exits=1)


def test_up_makes_a_secret_once_and_keeps_other_settings(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(tmp_path / "new"))
    monkeypatch.delenv("BANKPORTAL_SECRET_KEY", raising=False)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "settings.env").write_text("BANKPORTAL_PORT=8123")
    up._ensure_secret(load())
    first = load()
    up._ensure_secret(load())
    assert first.port == 8123
    assert len(first.secret_key or "") == 64
    assert load().secret_key == first.secret_key
    assert stat.S_IMODE(os.stat(tmp_path / "new" / "settings.env").st_mode) == 0o600


def test_up_recovers_lost_models(config, monkeypatch, bank_files) -> None:
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(config.instance))
    monkeypatch.setattr("bankportal.cli.train.simulated_bank", lambda portal, product: bank_files[product.key])
    shutil.rmtree(config.models / "churn")
    forest = config.models / "allowance" / "v1" / "forest.npz"
    forest.write_bytes(forest.read_bytes()[:-1])
    up.prepare()
    services = wiring.build(config)
    assert [services.models.serving(product).version for product in PRODUCTS.values()] == ["v2", "v2"]
    services.database.close()


def test_up_refuses_a_short_secret(config, monkeypatch) -> None:
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(config.instance))
    monkeypatch.setenv("BANKPORTAL_SECRET_KEY", "short")
    with pytest.raises(SettingsRefused, match="16 characters"):
        up.prepare()


@pytest.mark.parametrize("content", [b"no database, but long enough to be taken for one" * 50, b""])
def test_a_database_that_is_none_is_one_line(monkeypatch, tmp_path, content) -> None:
    (tmp_path / "bankportal.sqlite3").write_bytes(content)
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(tmp_path))
    result = CliRunner().invoke(models, ["list"])
    assert result.exit_code == (1 if content else 0)
    assert not content or "The database does not answer as it should" in result.output


def test_an_instance_that_is_a_file_is_one_line(monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(tmp_path / "file"))
    result = CliRunner().invoke(models, ["list"])
    assert result.exit_code == 1
    assert str(tmp_path / "file") in result.output


def without(column: str):
    return lambda rows: [{name: cell for name, cell in row.items() if name != column} for row in rows]


def all_with(**cells: str):
    return lambda rows: [row | cells for row in rows]


UNFIT = {  # what is wrong with a file, how many of its rows are usable, and what is said
    "few": (lambda rows: rows[:150], 150, "150 usable rows; training needs 200"),
    "nearly all repeated": (lambda rows: rows[:150] * 3, 150, "150 usable rows; training needs 200"),
    "no required column": (without("Age"), 0, "lacks columns that churn requires: Age"),
    "no label column": (without("Churn"), 0, "has no label: a column Churn"),
    "no label column and no required one": (lambda rows: without("Age")(without("Churn")(rows)), 0, "lacks columns"),
    "labels blank": (all_with(Churn=""), 0, "0 usable rows"),
    "labels in words": (all_with(Churn="yes"), 0, "0 usable rows"),
    "labels all the same": (all_with(Churn="0"), ROWS, f"0 rows with Churn 1 and {ROWS:,} with 0"),
    "one customer": (all_with(CustomerId="7"), ROWS, "different customers with Churn 1"),
    "every row bad": (all_with(Age="7"), 0, "1,500 were rejected, the first at line 2: Age must be 18 or more"),
    "a required column blank": (all_with(Balance=" "), 0, "1,500 × Balance required"),
    "every row ragged": (lambda rows: [row | {"Age": "4,2"} for row in rows], 0, "1,500 × the row ragged"),
    "a leak": (
        lambda rows: [row | {"CardUtilisation": "", "LatePayments": row["Churn"]} for row in rows],
        ROWS,
        "Leak",
    ),
}


@pytest.mark.parametrize(("change", "usable", "says"), UNFIT.values(), ids=UNFIT)
def test_check_and_train_agree_on_what_is_fit(run, tmp_path, bank_files, change, usable, says) -> None:
    rows = change(rows_of(bank_files["churn"]))
    path = tmp_path / "unfit.csv"
    path.write_text("\n".join(",".join(cells) for cells in [rows[0], *(row.values() for row in rows)]) + "\n")
    printed = run("data", "check", path, exits=1)
    assert f"unfit.csv: {usable:,} usable rows of {len(rows):,}." in printed
    assert says in printed
    assert "Not fit for training" in printed
    report = json.loads(run("data", "check", path, "--json", exits=1))
    assert (report["rows"], report["rows_in_file"], report["fit_for_training"]) == (usable, len(rows), False)
    run("train", "churn", "--data", path, exits=1)


def test_a_file_that_is_fit(run, bank_files) -> None:
    assert "Fit for training." in run("data", "check", bank_files["churn"])
    assert json.loads(run("data", "check", bank_files["churn"], "--json"))["fit_for_training"]


def test_data_in_other_files_than_csv(run, app, tmp_path, bank_files) -> None:
    pd.read_csv(bank_files["churn"]).to_parquet(tmp_path / "bank.parquet")
    assert "Fit for training." in run("data", "check", tmp_path / "bank.parquet")
    run("train", "churn", "--data", tmp_path / "bank.parquet", "--seed", 1)
    first, second = app.extensions["bankportal"].models.versions(CHURN)
    assert first.forest_digest == second.forest_digest
    base = ["CreditScore", "Age", "Tenure", "Balance", "Churn"]
    pd.read_csv(bank_files["churn"])[base].to_feather(tmp_path / "base.feather")
    run("data", "augment", tmp_path / "base.feather", tmp_path / "augmented.csv")
    assert len(rows_of(tmp_path / "augmented.csv")) == ROWS


def test_bad_cells_as_a_file(run, tmp_path, bank_files) -> None:
    frame = pd.read_csv(bank_files["churn"], dtype=str, keep_default_na=False)
    frame.loc[:2, "Age"] = ["7", "=1+1", ""]
    frame.loc[1, "Geography"] = "x;=cmd"
    frame.to_csv(tmp_path / "bank.csv", index=False)
    run("data", "check", tmp_path / "bank.csv", "--problems", tmp_path / "problems.csv")
    found = rows_of(tmp_path / "problems.csv")
    assert [(row["line"], row["column"], row["code"], row["text"]) for row in found] == [
        ("2", "Age", "below", "7"),
        ("3", "Geography", "not-a-choice", "x;'=cmd"),
        ("3", "Age", "not-a-number", "'=1+1"),
        ("4", "Age", "required", ""),
    ]
    assert "different files" in run(
        "data", "check", tmp_path / "bank.csv", "--problems", tmp_path / "bank.csv", exits=1
    )


def test_a_version_is_exported(run, tmp_path, bank_files) -> None:
    assert "Churn model v1" in run("models", "export", "churn", "v1", tmp_path / "churn.joblib")
    scores = joblib.load(tmp_path / "churn.joblib").predict_proba(pd.read_csv(bank_files["churn"]))[:, 1]
    run("score", "churn", bank_files["churn"], tmp_path / "scored.csv")
    assert [float(row["score"]) for row in rows_of(tmp_path / "scored.csv")] == scores.tolist()
    run("models", "export", "churn", "v9", tmp_path / "none.joblib", exits=1)
    assert "cannot be written" in run("models", "export", "churn", "v1", tmp_path / "no" / "churn.joblib", exits=1)


def test_up_says_when_the_port_is_taken() -> None:
    import socket

    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(SettingsRefused, match="make up PORT="):
            up._require_free(busy.getsockname()[1])


@pytest.mark.parametrize("engine", up.ENGINES)
def test_up_serves_the_port_of_its_option(config, monkeypatch, engine) -> None:
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(config.instance))
    monkeypatch.setenv("BANKPORTAL_PORT", "65000")
    served = []
    monkeypatch.setattr(up, "prepare", load)
    monkeypatch.setattr(up, "_require_free", served.append)
    monkeypatch.setattr(up, "start_worker", lambda: None)
    monkeypatch.setattr(os, "execv", lambda _, command: served.append(" ".join(command)))
    result = CliRunner().invoke(up.up, [f"--engine={engine}", "--port=8100"])
    assert (result.exit_code, "http://127.0.0.1:8100/" in result.output) == (0, True)
    gunicorn = subprocess.run(
        [sys.executable, "-c", "from bankportal import serving; print(serving.bind)"], capture_output=True, text=True
    ).stdout  # what the server reads of the environment that it is left
    assert served[0] == 8100
    assert "--port=8100" in served[1] if engine == "fastapi" else gunicorn == "127.0.0.1:8100\n"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "80.0", ""])
def test_up_refuses_a_port_that_is_none(config, monkeypatch, port) -> None:
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(config.instance))
    monkeypatch.setattr(up, "prepare", lambda: pytest.fail("it goes on"))
    result = CliRunner().invoke(up.up, [f"--port={port}"])
    assert result.exit_code == 2
    assert "'--port'" in result.output


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ([], []),
        (["PORT=8100"], ["--port=8100"]),
        (["ENGINE=fastapi", "PORT=8100"], ["--engine=fastapi", "--port=8100"]),
    ],
)
def test_make_up_hands_engine_and_port_on(variables, options) -> None:
    root = Path(__file__).parents[1]
    plain = {
        name: value for name, value in os.environ.items() if name not in {"PORT", "ENGINE", "MAKEFLAGS", "MAKELEVEL"}
    }
    made = subprocess.run(["make", "-n", "up", *variables], cwd=root, env=plain, capture_output=True, text=True)
    assert made.stdout.splitlines()[-1].split() == [".venv/bin/flask", "up", *options]


def test_up_prepares_an_empty_machine(ready_instance, tmp_path, monkeypatch, bank_files) -> None:
    """From nothing to two active models, on the small files in place of the shipped ones; again: nothing."""
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(tmp_path / "new"))
    monkeypatch.setattr("bankportal.cli.train.simulated_bank", lambda portal, product: bank_files[product.key])
    config = up.prepare()
    made = sorted(path.relative_to(config.instance).as_posix() for path in config.models.rglob("forest.npz"))
    assert made == ["models/allowance/v1/forest.npz", "models/churn/v1/forest.npz"]
    up.prepare()
    assert sorted(path.relative_to(config.instance).as_posix() for path in config.models.rglob("forest.npz")) == made


def test_commands_start_without_what_they_may_not_need() -> None:
    """Every command imports the modules of all: what compiles, trains or spreads out is imported where it is used."""
    code = (
        "import sys, importlib.metadata as m; [e.load() for e in m.entry_points(group='flask.commands')"
        " if e.module.startswith('bankportal')]; "
        "print(sorted({'numba', 'sklearn', 'pandas', 'joblib', 'dask', 'fsspec', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


WITHOUT_GENERIC_TYPES = """
import click

click.ParamType.__class_getitem__ = None
click.Choice.__class_getitem__ = classmethod(lambda cls, key: cls)
from bankportal.cli import audit, data, models, score, train, up, worker
"""


def test_commands_start_with_the_oldest_click() -> None:
    """Its parameter types, `Choice` apart, take no brackets. `.ci/floors.py` tries the oldest click itself."""
    subprocess.run([sys.executable, "-c", WITHOUT_GENERIC_TYPES], check=True)
