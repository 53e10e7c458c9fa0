"""The database, what SQLite keeps beside it, and uploaded files are readable by their owner alone."""

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest

from bankportal import wiring
from bankportal.store.migrate import upgrade
from bankportal.store.sessions import Database
from bankportal.store.storage import Storage
from tests.conftest import config_for

SUFFIXES = ("", "-journal", "-wal", "-shm", "-turns")


@pytest.fixture(autouse=True, params=[0o022, 0o000], ids=["umask 022", "umask 000"])
def umask(request) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(path: Path) -> dict[str, int]:
    """The modes of a database and of what is beside it."""
    beside = {suffix: path.with_name(path.name + suffix) for suffix in SUFFIXES}
    return {suffix: stat.S_IMODE(file.stat().st_mode) for suffix, file in beside.items() if file.exists()}


@pytest.fixture
def file(tmp_path) -> Path:
    """A migrated database that nobody has open."""
    database = Database(f"sqlite:///{tmp_path}/portal.sqlite3")
    upgrade(database)
    database.close()
    return tmp_path / "portal.sqlite3"


def count(file: Path) -> int:
    """Open a database as the portal does and read it."""
    database = Database(f"sqlite:///{file}")
    with database.read() as connection:
        found = connection.exec_driver_sql("SELECT count(*) FROM decisions").scalar_one()
    database.close()
    return int(found)


def test_it_works(tmp_path) -> None:
    built = wiring.build(config_for(tmp_path / "instance"))
    upgrade(built.database)
    with built.database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE more (content)")
        during = modes(tmp_path / "instance" / "bankportal.sqlite3")
    built.database.close()
    assert len(during) > 1, "a journal is there"
    assert set(during.values()) == {0o600}
    assert set(modes(tmp_path / "instance" / "bankportal.sqlite3").values()) == {0o600}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666, 0o604])
def test_what_others_could_read_is_closed_to_them(file, mode) -> None:
    """As an earlier release left it, with a journal that is kept."""
    for path in (file, file.with_name(f"{file.name}-journal")):
        path.touch()
        path.chmod(mode)
    assert count(file) == 0
    assert set(modes(file).values()) == {0o600}


def test_a_mode_that_is_narrower_stays(file) -> None:
    file.chmod(0o400)
    assert count(file) == 0
    assert modes(file)[""] == 0o400


def test_a_file_that_is_another_owners_is_used_as_it_is(file, monkeypatch) -> None:
    file.chmod(0o644)

    def refused(*_, **__) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "chmod", refused)
    assert count(file) == 0


def test_who_comes_at_the_same_time_makes_one_file(tmp_path) -> None:
    databases = [Database(f"sqlite:///{tmp_path}/portal.sqlite3") for _ in range(8)]

    def write(database: Database) -> None:
        with database.write() as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS counted (number INTEGER)")
            connection.exec_driver_sql("INSERT INTO counted VALUES (1)")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, databases))
    with databases[0].read() as connection:
        assert connection.exec_driver_sql("SELECT sum(number) FROM counted").scalar() == 8
    for database in databases:
        database.close()
    assert set(modes(tmp_path / "portal.sqlite3").values()) == {0o600}


def test_uploads(tmp_path) -> None:
    storage = Storage(tmp_path / "batches")
    stored = storage.receive(BytesIO(b"a,b\n"), 100, "")
    found = {path.relative_to(tmp_path).parts[-1]: path for path in (tmp_path / "batches").rglob("*")}
    assert stat.S_IMODE((tmp_path / "batches").stat().st_mode) == 0o700
    assert {name: stat.S_IMODE(path.stat().st_mode) for name, path in found.items()} == {
        stored.id: 0o700,
        "parts": 0o700,
        "input.csv": 0o600,
    }


def test_a_link_leads_to_a_file_as_private_with_the_same_turns(tmp_path) -> None:
    real, link = tmp_path / "real" / "portal.sqlite3", tmp_path / "link.sqlite3"
    real.parent.mkdir()
    link.symlink_to(real)  # made before the database is
    database = Database(f"sqlite:///{link}")
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE more (content)")
        during = modes(real)
    database.close()
    assert "-turns" in during
    assert len(during) > 2, "a journal is there"
    assert set(during.values()) == {0o600}
    assert modes(link).keys() == {""}
