"""Writers of one SQLite database take turns; one that is killed or hangs keeps nobody out for longer than it must."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from bankportal.outages import DATABASE, outage_of
from bankportal.sqlite import WAL_IS_SAFE, driver
from bankportal.store import sessions
from bankportal.store.sessions import LOG_PAGES, MAX_LOG_PAGES, Database
from bankportal.store.turns import Turns

BEGIN = """
import os, sys, time
from bankportal.store.sessions import Database
from bankportal.store.turns import Turns
database = Database(f"sqlite:///{sys.argv[1]}")
"""
WRITE_ONE_AFTER_THE_OTHER = """
print("ready", flush=True)
end = float(input())
while time.monotonic() < end:
    with database.write() as connection:
        connection.exec_driver_sql(f"INSERT INTO counted VALUES ({os.getpid()})")
"""
HANG_WHILE_WRITING = """
with database.write() as connection:
    connection.exec_driver_sql("INSERT INTO counted VALUES (1)")
    print("ready", flush=True)
    time.sleep(600)
"""
HANG_IN_THE_LINE = """
with Turns(database._turns._path).turn(0):
    print("ready", flush=True)
    time.sleep(600)
"""
READ_WITHOUT_A_PAUSE = """
print("ready", flush=True)
one, other = (database.engine.connect() for _ in range(2))
while True:
    other.exec_driver_sql("SELECT count(*) FROM counted").all()
    one.rollback()
    time.sleep(0.01)
    one, other = other, one
"""


@pytest.fixture
def database(tmp_path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/portal.sqlite3")
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE counted (number INTEGER)")
    yield database
    database.close()


@pytest.fixture
def started(database) -> Iterator[Callable[[str], subprocess.Popen]]:
    """Start a process on the database, and wait until it is ready."""
    with ExitStack() as stack:

        def start(code: str) -> subprocess.Popen:
            command = [sys.executable, "-c", BEGIN + code, str(database.url.database)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout.readline() == "ready\n"
            return process

        yield start


def write(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO counted VALUES (1)")


def count(database: Database) -> int:
    with database.read() as connection:
        return connection.exec_driver_sql("SELECT count(*) FROM counted").scalar_one()


def test_it_works(database, started) -> None:
    """Of writers that never pause, none goes on while others wait."""
    writers = [started(WRITE_ONE_AFTER_THE_OTHER) for _ in range(4)]
    end = time.monotonic() + 3
    for writer in writers:
        writer.stdin.write(f"{end}\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.wait() == 0
    with database.read() as connection:
        written = connection.exec_driver_sql("SELECT number FROM counted ORDER BY rowid").scalars().all()
    twice = sum(one == next_one for one, next_one in pairwise(written))
    assert set(written) == {writer.pid for writer in writers}
    assert twice < len(written) / 2, f"{twice} of {len(written)}"


@pytest.mark.parametrize("code", [HANG_WHILE_WRITING, HANG_IN_THE_LINE])
def test_who_is_killed_is_out_of_the_line(database, started, code) -> None:
    process = started(code)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with database._turns.turn(60) as came:
        assert came
    write(database)
    assert count(database) == 1


def test_who_hangs_while_writing_is_not_waited_for_without_end(database, started, monkeypatch) -> None:
    monkeypatch.setattr(sessions, "BUSY_SECONDS", 1)
    process = started(HANG_WHILE_WRITING)
    os.kill(process.pid, signal.SIGSTOP)
    with pytest.raises(OperationalError, match="database is locked") as refused:
        write(database)
    assert outage_of(refused.value) is DATABASE
    assert count(database) == 0, "readers do not wait"
    process.kill()
    process.wait()
    write(database)
    assert count(database) == 1


def test_who_hangs_in_the_line_is_passed(database, started, monkeypatch) -> None:
    monkeypatch.setattr(sessions, "BUSY_SECONDS", 1)
    os.kill(started(HANG_IN_THE_LINE).pid, signal.SIGSTOP)
    write(database)
    with database._turns.turn(0) as came:
        assert came, "whoever comes next waits for the one that passed"
    assert count(database) == 1


@pytest.mark.parametrize("content", [b"", b"1", b"\xff" * 8, b"\x3f" + b"\xff" * 7, bytes(100)])
def test_whatever_stands_in_the_file(tmp_path, content) -> None:
    (tmp_path / "turns").write_bytes(content)
    with closing(Turns(tmp_path / "turns")) as turns:
        for _ in range(3):
            with turns.turn(0) as came:
                assert came


def test_where_there_can_be_no_file_nobody_waits(tmp_path) -> None:
    with closing(Turns(tmp_path / "nowhere" / "turns")) as turns, turns.turn(0) as came:
        assert came


def test_an_error_passes_the_turn_on(database) -> None:
    with pytest.raises(ZeroDivisionError), database.write():
        raise ZeroDivisionError
    write(database)
    assert count(database) == 1


@pytest.mark.skipif(not WAL_IS_SAFE, reason="this library keeps no log")
def test_a_log_begins_anew_among_readers(database, started) -> None:
    """At every moment somebody reads the log: each reader begins before the one before ends."""
    started(READ_WITHOUT_A_PAUSE)
    log = Path(f"{database.url.database}-wal")
    for _ in range(80):
        with database.write() as connection:
            connection.exec_driver_sql(f"INSERT INTO counted VALUES (zeroblob({LOG_PAGES * 4096 // 4}))")
    assert log.stat().st_size < 2.5 * MAX_LOG_PAGES * 4096
    assert count(database) == 80


@pytest.mark.skipif(not WAL_IS_SAFE, reason="this library keeps no log")
def test_who_reads_for_long_holds_up_no_writer(database) -> None:
    """The log grows meanwhile, and is copied when the reader has gone."""
    with closing(driver.connect(str(database.url.database), isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM counted").fetchall()
        for _ in range(3):
            with database.write() as connection:
                connection.exec_driver_sql(f"INSERT INTO counted VALUES (zeroblob({LOG_PAGES * 4096}))")
        assert reader.execute("SELECT count(*) FROM counted").fetchall() == [(0,)]
    with database.write() as connection:
        connection.exec_driver_sql(f"INSERT INTO counted VALUES (zeroblob({LOG_PAGES * 4096}))")
    assert Path(str(database.url.database)).stat().st_size > 4 * LOG_PAGES * 4096
    assert count(database) == 4
