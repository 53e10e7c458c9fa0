"""Declarations in force: applying them together, withdrawing, adopting, and who notices when."""

import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from bankportal import wiring
from bankportal.domain.declaration import Kind
from bankportal.domain.errors import Conflict, DeclarationRefused, NoActiveModel, NotFound, PortalError
from bankportal.services.declarations import NOTICED_WITHIN
from bankportal.store.tables import declarations
from tests.conftest import train_again
from tests.home_equity import FILES as HOME_EQUITY  # equity-limit.toml, home-equity.toml

MODERATE, MIDDLING = '"Moderate"', '"Middling"'
GEOGRAPHY = '"Geography", '


@pytest.fixture
def bank(portal):
    """The portal on each back end, with what the release ships in force."""
    assert wiring.upgrade(portal) == []
    return portal


@pytest.fixture
def beside(bank):
    """Another process's services on the same database."""
    other = wiring.build(bank.config)
    other.declarations.portfolio()
    yield other
    other.database.close()


def file_of(portal, key: str, *edits: tuple[str, str]) -> dict[str, bytes]:
    """Return a declaration in force as a file, edited."""
    text = portal.declarations.as_file(portal.declarations.find(key))
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    return {f"{key}.toml": text.encode()}


def names(portal, key: str = "churn") -> list[str]:
    return [band.name for band in portal.declarations.portfolio()[key].bands]


def test_it_works(bank, beside) -> None:
    before = bank.declarations.portfolio()
    assert bank.declarations.portfolio() is before
    bank.declarations.apply(file_of(bank, "churn", (MODERATE, MIDDLING)))
    assert names(bank) == ["Low", "Middling", "Critical"]
    assert bank.declarations.portfolio() is bank.declarations.portfolio()
    assert bank.declarations.portfolio()["allowance"] is before["allowance"]
    time.sleep(NOTICED_WITHIN)
    assert names(beside) == names(bank)
    assert bank.audit.verify().decisions == 0


def test_a_file_as_it_is_shown_is_the_same_declaration(bank) -> None:
    for change in bank.declarations.in_force():
        (name, content), *_ = file_of(bank, change.key).items()
        assert bank.declarations.read(name, content).digest == change.digest
        assert bank.declarations.check({name: content}).changes == ()


def test_nothing_to_do_writes_nothing(bank) -> None:
    head = bank.audit.head()
    assert bank.declarations.apply(file_of(bank, "churn")).changes == ()
    assert bank.declarations.adopt() == []
    assert bank.audit.head() == head
    assert not bank.declarations.folder.exists()


def test_a_version_is_activated_or_refused_where_the_files_change_nothing(bank, bank_files) -> None:
    same, head = file_of(bank, "churn"), bank.audit.head()
    with pytest.raises(NotFound, match="no churn model version v9"):
        bank.declarations.apply(same, activate={"churn": "v9"})
    assert bank.audit.head() == head
    churn = bank.declarations.portfolio()["churn"]
    version = bank.models.add(train_again(bank_files["churn"], churn), activate=False).version
    bank.declarations.apply(same, activate={"churn": version})
    assert bank.models.serving(churn).version == version


def test_nothing_of_broken_files_is_written(bank) -> None:
    head, before = bank.audit.head(), bank.declarations.portfolio()
    files = file_of(bank, "churn", (MODERATE, MIDDLING)) | file_of(bank, "allowance", ("0.8", "1.8"))
    with pytest.raises(DeclarationRefused, match=r"allowance\.toml, \[\[bands\]\].*start"):
        bank.declarations.apply(files)
    assert bank.audit.head() == head
    assert bank.declarations.portfolio() is before


def test_what_names_each_other_is_applied_together(bank) -> None:
    product = file_of(bank, "allowance", ('"Standard"', '"Usual"'))
    policy = file_of(bank, "card-limit", ("Standard =", "Usual ="), ("2026-11", "2026-12"))
    for alone in (product, policy):
        with pytest.raises(DeclarationRefused, match=r"Usual|Standard"):
            bank.declarations.apply(alone)
    bank.declarations.apply(policy | product)
    assert names(bank, "allowance") == ["Ineligible", "Usual", "Elite"]
    assert bank.declarations.portfolio()["allowance"].policy.version == "2026-12"


def test_shared_factors_change_every_product_that_names_them(bank) -> None:
    plan = bank.declarations.apply(file_of(bank, "factors", ("From the credit bureau", "By the bureau")))
    assert [change.declaration.key for change in plan.changes] == ["factors", "allowance", "churn"]
    helps = {product.required[0].help for product in bank.declarations.portfolio().values()}
    assert helps == {"By the bureau; higher is better."}


def test_a_policys_version_stands_for_its_rules_for_ever(bank) -> None:
    shipped = file_of(bank, "card-limit")
    bank.declarations.apply(file_of(bank, "card-limit", ("2026-11", "b"), ("step = 50", "step = 10")))
    with pytest.raises(Conflict, match="version '2026-11' is recorded with other rules"):
        bank.declarations.apply(file_of(bank, "card-limit", ('"b"', '"2026-11"')))
    bank.declarations.apply(shipped)
    assert bank.declarations.portfolio()["allowance"].policy.step == 50
    bank.declarations.apply(file_of(bank, "card-limit", ("The full limit that", "All that")))  # other words


def test_a_product_whose_model_does_not_fit(bank) -> None:
    fewer, head = file_of(bank, "churn", (GEOGRAPHY, "")), bank.audit.head()
    with pytest.raises(Conflict, match="Churn needs a new model"):
        bank.declarations.apply(fewer)
    with pytest.raises(NotFound):
        bank.declarations.apply(fewer, activate={"churn": "v9"})
    with pytest.raises(PortalError):
        bank.declarations.apply(fewer, activate={"churn": "v1"})
    assert bank.audit.head() == head
    bank.declarations.apply(fewer, without_model=True)
    with pytest.raises(NoActiveModel):
        bank.models.serving(bank.declarations.portfolio()["churn"])


def test_a_model_comes_in_force_with_its_declaration(bank, bank_files) -> None:
    fewer = file_of(bank, "churn", (GEOGRAPHY, ""))
    (name, content), *_ = fewer.items()
    product = bank.declarations.product(bank.declarations.read(name, content))
    version = bank.models.add(train_again(bank_files["churn"], product), activate=False).version
    bank.declarations.apply(fewer, activate={"churn": version})
    assert bank.models.serving(bank.declarations.portfolio()["churn"]).version == version
    bank.audit.verify()


def test_withdrawing(bank, beside) -> None:
    with pytest.raises(Conflict, match="product allowance in force uses it"):
        bank.declarations.withdraw("card-limit")
    files = file_of(bank, "allowance")
    bank.declarations.withdraw("allowance")
    assert list(bank.declarations.portfolio()) == ["churn"]
    with pytest.raises(NotFound, match="Allowance was withdrawn"):
        bank.declarations.portfolio().product("allowance")
    assert bank.declarations.adopt() == []  # what the bank withdrew stays so
    time.sleep(NOTICED_WITHIN)
    assert list(beside.declarations.portfolio()) == ["churn"]
    with pytest.raises(NotFound):
        bank.declarations.withdraw("allowance")
    bank.declarations.withdraw("card-limit")
    with pytest.raises(Conflict, match="policy card-limit, which is not in force"):
        bank.declarations.apply(files)
    history = bank.declarations.history("allowance")
    assert [change.applied for change in history] == [False, True]
    digest = bank.declarations.history("card-limit")[0].digest
    policy = bank.declarations.as_file(bank.declarations.find(digest)).encode()
    bank.declarations.apply(files | {"policy.toml": policy})
    assert list(bank.declarations.portfolio()) == ["churn", "allowance"]


def test_files_in_the_folder_are_adopted_once(bank) -> None:
    bank.declarations.folder.mkdir()
    (name, content), *_ = file_of(bank, "churn", (MODERATE, MIDDLING)).items()
    (bank.declarations.folder / name).write_bytes(content)
    (bank.declarations.folder / "broken.toml").write_text("format = 1\nkind = ")
    assert bank.declarations.adopt() == []  # before every command: what lies in the folder may be half-written
    assert names(bank)[1] == "Moderate"
    (refused,) = bank.declarations.adopt_folder()
    assert "broken.toml: is not TOML" in refused
    assert names(bank)[1] == "Middling"
    bank.declarations.apply(file_of(bank, "churn", (MIDDLING, MODERATE)))
    assert bank.declarations.adopt_folder() == [refused]
    assert names(bank)[1] == "Moderate"


def test_a_file_in_the_folder_takes_nothing_back(bank) -> None:
    bank.declarations.folder.mkdir()
    (name, content), *_ = file_of(bank, "churn").items()
    (bank.declarations.folder / name).write_bytes(b"# A note.\n" + content)
    bank.declarations.apply(file_of(bank, "churn", (MODERATE, MIDDLING)))
    assert bank.declarations.adopt_folder() == []
    assert names(bank)[1] == "Middling"
    bank.declarations.withdraw("churn")
    assert bank.declarations.adopt_folder() == []
    assert "churn" not in bank.declarations.portfolio()


def test_of_two_files_of_a_key_the_first_is_taken_and_the_other_named(bank) -> None:
    bank.declarations.folder.mkdir()
    for name in ("Middling", "Other"):
        (_, content), *_ = file_of(bank, "churn", (MODERATE, f'"{name}"')).items()
        (bank.declarations.folder / f"{name}.toml").write_bytes(content)
    (refused,) = bank.declarations.adopt_folder()
    assert "Other.toml" in refused
    assert "is declared by" in refused
    assert names(bank)[1] == "Middling"


def test_a_product_waits_for_its_policy_where_another_file_is_broken(bank) -> None:
    bank.declarations.folder.mkdir()
    for path, name in zip(HOME_EQUITY, ("z.toml", "a.toml"), strict=True):
        (bank.declarations.folder / name).write_bytes(path.read_bytes())
    (bank.declarations.folder / "broken.toml").write_text("format = ")
    (refused,) = bank.declarations.adopt_folder()
    assert "broken.toml" in refused
    assert "home-equity" in bank.declarations.portfolio()


@pytest.mark.parametrize(("key", "left_out"), [("churn", "churn"), ("card-limit", "allowance")])
def test_a_portal_that_starts_over_a_changed_declaration_decides_by_no_other(bank, key: str, left_out: str) -> None:
    bank.declarations.apply(file_of(bank, "churn", (MODERATE, MIDDLING)))
    before = bank.declarations.portfolio()
    with bank.database.write() as connection:
        changed = {"text": "{}"}
        connection.execute(update(declarations).where(declarations.c.key == key).values(changed))
    assert bank.declarations.portfolio() is before
    started = wiring.build(bank.config)
    try:
        portfolio = started.declarations.portfolio()
        assert [*portfolio] == [each for each in before if each != left_out]
        time.sleep(NOTICED_WITHIN)
        assert started.declarations.portfolio() is portfolio
    finally:
        started.database.close()


def test_applied_files_are_kept_as_they_were_given(bank) -> None:
    for new in (MIDDLING, '"Between"'):
        files = file_of(bank, "churn", (f'"{names(bank)[1]}"', new))
        bank.declarations.apply(files)
    first, second = sorted(bank.declarations.folder.iterdir(), key=lambda path: len(path.name))
    assert (first.name, second.read_bytes()) == ("churn.toml", files["churn.toml"])
    assert MIDDLING in first.read_text()


def test_a_folder_that_cannot_be_written_undoes_nothing(bank) -> None:
    bank.declarations.folder.write_text("a file in its place")
    bank.declarations.apply(file_of(bank, "churn", (MODERATE, MIDDLING)))
    assert names(bank)[1] == "Middling"


def test_two_at_once_are_one_after_the_other(bank, beside) -> None:
    product = ('"Standard"', '"A"'), ('"Standard"', '"B"')
    policy = (("Standard =", "A ="), ("2026-11", "a")), (("Standard =", "B ="), ("2026-11", "b"))
    files = [
        file_of(bank, "allowance", p) | file_of(bank, "card-limit", *q) for p, q in zip(product, policy, strict=True)
    ]
    threads = [
        threading.Thread(target=each.declarations.apply, args=(given,))
        for each, given in zip((bank, beside), files, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(NOTICED_WITHIN)
    allowance = bank.declarations.portfolio()["allowance"]
    assert (allowance.bands[1].name, allowance.policy.version) in {("A", "a"), ("B", "b")}
    assert len(bank.declarations.history("allowance")) == 3
    bank.audit.verify()


def test_several_processes_adopt_at_once(portal) -> None:
    others = [wiring.build(portal.config) for _ in range(3)]
    threads = [threading.Thread(target=each.declarations.adopt) for each in (portal, *others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(portal.declarations.history("churn")) == 1
    for other in others:
        other.database.close()


def test_while_the_database_does_not_answer(bank, monkeypatch) -> None:
    bank.declarations.apply(file_of(bank, "churn", (MODERATE, MIDDLING)))
    before = bank.declarations.portfolio()

    def gone():
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(bank.declarations.store, "changes", gone)
    time.sleep(NOTICED_WITHIN)
    assert bank.declarations.portfolio() is before


def test_before_there_is_a_database(config, tmp_path) -> None:
    new = wiring.build(replace(config, database_url=f"sqlite:///{tmp_path / 'none.sqlite3'}"))
    assert list(new.declarations.portfolio()) == ["churn", "allowance"]
    assert not (tmp_path / "none.sqlite3").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from dataclasses import replace
from bankportal import wiring
from bankportal.config import load
from bankportal.store.declarations import DeclarationStore

apply, applied = DeclarationStore.apply, []

def apply_and_die(*given):
    applied.append(apply(*given))
    if len(applied) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

DeclarationStore.apply = apply_and_die
portal = wiring.build(replace(load(), database_url=sys.argv[1]))
portal.declarations.apply({path: Path(path).read_bytes() for path in sys.argv[3:]})
"""


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_kill_leaves_all_or_nothing(bank, monkeypatch, tmp_path, after) -> None:
    monkeypatch.setenv("BANKPORTAL_INSTANCE", str(bank.config.instance))
    head, before = bank.audit.head(), [change.digest for change in bank.declarations.in_force()]
    path = tmp_path / "factors.toml"
    path.write_bytes(file_of(bank, "factors", ("From the credit bureau", "By the bureau"))["factors.toml"])
    address = bank.config.database_url
    address = address if isinstance(address, str) else address.render_as_string(hide_password=False)
    done = subprocess.run([sys.executable, "-c", KILLED, address, str(after), path], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert bank.audit.head() == head
    assert [change.digest for change in bank.declarations.in_force()] == before
    assert {change.kind for change in bank.declarations.in_force()} == set(Kind)
    bank.audit.verify()
