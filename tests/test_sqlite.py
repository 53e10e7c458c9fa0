"""Which SQLite is used, and which journal a database has, also where processes with different libraries share it."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from bankportal import sqlite
from bankportal.outages import DATABASE, outage_of
from bankportal.sqlite import SAFE_WAL, WAL_IS_SAFE, driver
from bankportal.store.sessions import Database
from tests.test_full_disk import mounted

SAFE = "wal" if WAL_IS_SAFE else "persist"
OF_PYTHON = "wal" if sqlite3.sqlite_version_info >= SAFE_WAL else "persist"
# Opens a database as the portal does where `pysqlite3` is not installed.
WITHOUT_PYSQLITE3 = """
import sys
sys.modules["pysqlite3"] = None
from bankportal.store.sessions import Database
database = Database(f"sqlite:///{sys.argv[1]}")
with database.write() as connection:
    connection.exec_driver_sql("INSERT INTO counted VALUES (1)")
    print(connection.exec_driver_sql("PRAGMA journal_mode").scalar_one())
"""


@pytest.fixture
def file(tmp_path) -> Path:
    """A database in a rollback journal, as earlier releases wrote it."""
    with closing(driver.connect(tmp_path / "portal.sqlite3", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=PERSIST")
        connection.execute("CREATE TABLE counted (number INTEGER)")
    return tmp_path / "portal.sqlite3"


def written(file: Path) -> tuple[str, int]:
    """Open a database as the portal does and add a row; return its journal mode and how many rows it has then."""
    database = Database(f"sqlite:///{file}")
    try:
        with database.write() as connection:
            connection.exec_driver_sql("INSERT INTO counted VALUES (1)")
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            return mode, connection.exec_driver_sql("SELECT count(*) FROM counted").scalar_one()
    finally:
        database.close()


def without_pysqlite3(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_PYSQLITE3, str(file)]
    return subprocess.run(command, capture_output=True, text=True)


def test_it_works(file) -> None:
    assert driver.sqlite_version_info >= sqlite3.sqlite_version_info
    assert written(file) == (SAFE, 1)


@pytest.mark.parametrize(("version", "chosen"), [((99, 0, 0), "pysqlite3"), ((3, 0, 0), "sqlite3"), (None, "sqlite3")])
def test_the_newer_library_is_chosen(monkeypatch, version, chosen) -> None:
    planted = type(sys)("pysqlite3") if version else None
    if planted:
        planted.dbapi2 = type(sys)("pysqlite3")
        planted.dbapi2.sqlite_version_info = version
    monkeypatch.setitem(sys.modules, "pysqlite3", planted)
    assert sqlite.newest().__name__ == chosen


def test_without_pysqlite3_the_standard_library_serves(file) -> None:
    assert without_pysqlite3(file).stdout.strip() == OF_PYTHON
    assert written(file) == (SAFE, 2), "the journal changes with the library"
    assert without_pysqlite3(file).stdout.strip() == OF_PYTHON, "and back"
    assert written(file) == (SAFE, 4)


@pytest.mark.skipif(SAFE == OF_PYTHON, reason="Python's own library is as safe")
def test_an_older_library_stays_out_while_a_newer_one_is_at_work(file) -> None:
    database = Database(f"sqlite:///{file}")
    with database.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM counted").all()
        refused = without_pysqlite3(file)
    database.close()
    assert refused.returncode == 1
    assert "install pysqlite3" in refused.stderr.splitlines()[-2], "what to do"
    assert without_pysqlite3(file).stdout.strip() == OF_PYTHON


@pytest.mark.parametrize("statement", ["SELECT count(*) FROM counted", "BEGIN", "BEGIN IMMEDIATE"])
def test_a_journal_changes_when_the_others_pause(file, statement) -> None:
    """Another process, of an earlier release, that is idle, reads or writes."""
    code = f"""
import sqlite3
other = sqlite3.connect({str(file)!r}, isolation_level=None)
other.execute({statement!r}).fetchall()
other.execute("SELECT count(*) FROM counted").fetchall()
print("ready", flush=True)
input()
if other.in_transaction:
    other.execute("COMMIT")
print("ended", flush=True)
input()
print(other.execute("SELECT count(*) FROM counted").fetchone()[0])
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == "ready\n"
        database = Database(f"sqlite:///{file}")
        with database.read() as connection:  # reads in any case
            busy = statement != "SELECT count(*) FROM counted"
            mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
            assert mode == ("persist" if busy else SAFE)
            assert connection.exec_driver_sql("SELECT count(*) FROM counted").scalar_one() == 0
        database.close()
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "ended\n"
        assert written(file) == (SAFE, 1)
        assert other.communicate("\n")[0] == "1\n", "the other one follows"


def test_the_last_one_leaves_no_log(file) -> None:
    first, last = Database(f"sqlite:///{file}"), Database(f"sqlite:///{file}")
    for database in (first, last):
        with database.write() as connection:
            connection.exec_driver_sql("INSERT INTO counted VALUES (1)")
    first.close()
    last.close()
    left = {path.name for path in file.parent.iterdir()}
    assert left <= {file.name, f"{file.name}-journal", f"{file.name}-turns"}, "the log is copied into the database"
    assert written(file) == (SAFE, 3)


@pytest.mark.parametrize("mode", ["wal", "persist"])
def test_a_file_system_that_only_reads(tmp_path, mode) -> None:
    """A rollback journal can be read there; WAL needs a file beside the database, and says that it cannot be opened."""
    if mode == "wal" and not WAL_IS_SAFE:
        pytest.skip("this library does not write WAL")
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", 3) as disk:
        file = disk.folder / "portal.sqlite3"
        with closing(driver.connect(file, isolation_level=None)) as connection:
            connection.execute(f"PRAGMA journal_mode={mode}")
            connection.execute("CREATE TABLE counted (number INTEGER)")
        subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
        with pytest.raises(OperationalError) as refused:
            written(file)
        assert outage_of(refused.value) is DATABASE
        if mode == "persist":
            database = Database(f"sqlite:///{file}")
            with database.read() as reading:
                assert reading.exec_driver_sql("SELECT count(*) FROM counted").scalar_one() == 0
            database.close()
