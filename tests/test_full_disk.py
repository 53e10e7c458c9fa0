"""A disk that is full, or takes no more for another reason: health says so, and every refusal names it as that."""

import errno
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bankportal.api.schemas import example
from bankportal.outages import DATABASE, DISK_FULL, STORAGE, outage_of
from bankportal.sqlite import WAL_IS_SAFE, driver
from bankportal.store import sessions
from bankportal.store.sessions import Database
from tests.api.conftest import ENGINES, Engine, running
from tests.conftest import POSTGRES, config_for
from tests.shipped import CHURN

FORM = {"CreditScore": "650", "Age": "42", "Tenure": "5", "Balance": "48200"}
CSV = b"CreditScore,Age,Tenure,Balance\n650,42,5,48200\n"
HUNDREDS = CSV + b"650,42,5,48200\n" * 100_000


@dataclass(frozen=True)
class Disk:
    """A small file system of the test's own."""

    folder: Path

    def fill(self) -> None:
        with suppress(OSError), (self.folder / "filling").open("wb", 0) as file:
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        (self.folder / "filling").unlink()


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[Disk]:
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True)
    if made.returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    with mounted(tmp_path / "disk", 3) as disk:
        yield disk


@pytest.fixture(params=ENGINES)
def run(request, ready_instance, tmp_path) -> Callable[..., Iterator[Engine]]:
    """Runs a portal on each engine with its database, or its storage, on the small disk."""
    instance = shutil.copytree(ready_instance, tmp_path / "instance")

    def start(disk: Disk, *, database: bool = False, storage: bool = False):
        config = config_for(instance)
        if database:
            path = shutil.copy(instance / "bankportal.sqlite3", disk.folder)
            config = replace(config, database_url=config.database_url.set(database=path))
        if storage:
            config = replace(config, storage=disk.folder / "batches")
        return running(request.param, config)

    return start


def score(engine: Engine):
    return engine.client.post("/api/v1/churn/score", json=example(CHURN))


def form(engine: Engine):
    return engine.client.post("/churn/", data=FORM)


def upload(engine: Engine):
    return engine.client.post("/api/v1/batches", data={"product": "churn"}, files={"file": ("a.csv", CSV)})


def upload_form(engine: Engine):
    return engine.client.post("/batches/", data={"product": "churn"}, files={"file": ("a.csv", CSV)})


def check_health(engine: Engine, status: int, said: str) -> None:
    response = engine.client.get("/healthz")
    assert (response.status_code, response.json()["status"]) == (status, said)
    response = engine.client.get("/api/v1/health")
    assert (response.status_code, response.json()["status"]) == (status, said if status == 200 else status)
    if status != 200:
        assert response.json()["title"] == said


def check_refused(response, outage) -> None:
    assert response.status_code == outage.status
    if response.headers["Content-Type"] == "application/problem+json":
        assert response.json()["type"] == f"urn:bankportal:problem:{outage.code}"
        assert response.json()["title"] == outage.title
    else:
        assert f"<h1>{outage.title}</h1>" in response.text
    assert "Traceback" not in response.text


def until_refused(act, engine: Engine) -> list:
    """Do something until it is refused: some more may find room that SQLite has already."""
    responses = [act(engine)]
    while responses[-1].status_code in {200, 202, 303} and len(responses) < 500:
        responses.append(act(engine))
    return responses


def test_it_works(disk, run) -> None:
    with run(disk, database=True, storage=True) as engine:
        check_health(engine, 200, "ok")
        assert score(engine).status_code == 200
        listed = sorted(disk.folder.iterdir())
        disk.fill()
        check_health(engine, 507, "The disk is full")
        answered = 1
        for act in (score, form, upload, upload_form):
            *whole, refused = until_refused(act, engine)
            check_refused(refused, DISK_FULL)
            answered += len(whole)
        assert engine.client.get("/decisions/").status_code == 200
        disk.empty()
        assert len(engine.services.decisions.latest(1_000)) == answered
        assert [path for path in sorted(disk.folder.iterdir()) if path.name != "batches"] == listed
        check_health(engine, 200, "ok")
        assert [act(engine).status_code for act in (score, form, upload, upload_form)] == [200, 303, 202, 303]


def test_the_storage_alone(disk, run) -> None:
    with run(disk, storage=True) as engine:
        check_health(engine, 200, "ok")
        assert list(disk.folder.iterdir()) == []
        disk.fill()
        check_health(engine, 507, "The disk is full")
        assert score(engine).status_code == 200
        check_refused(upload(engine), DISK_FULL)
        check_refused(upload_form(engine), DISK_FULL)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Werkzeug leaves closing to Python
def test_where_large_bodies_wait(disk, run, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    with run(disk) as engine:
        disk.fill()
        for path in ("/api/v1/batches", "/batches/"):
            files = {"file": ("a.csv", HUNDREDS)}
            check_refused(engine.client.post(path, data={"product": "churn"}, files=files), DISK_FULL)
        assert engine.services.batches.page(None, None, 5).items == []


@pytest.fixture
def engine(request, ready_instance, tmp_path) -> Iterator[Engine]:
    """A portal whose services the test changes."""
    with running("flask", config_for(shutil.copytree(ready_instance, tmp_path / "instance"))) as found:
        yield found


def test_a_database_that_may_not_grow(engine) -> None:
    pages = engine.services.database.engine.connect().exec_driver_sql("PRAGMA page_count").scalar_one()
    engine.services.database.engine.dispose()
    event.listen(
        engine.services.database.engine, "connect", lambda made, _: made.execute(f"PRAGMA max_page_count={pages}")
    )
    check_health(engine, 507, "The disk is full")
    check_refused(until_refused(score, engine)[-1], DISK_FULL)
    check_refused(form(engine), DISK_FULL)


@pytest.mark.skipif(WAL_IS_SAFE, reason="what is recorded goes to a log beside the file first")
def test_a_database_whose_file_may_not_grow(engine) -> None:
    resource = pytest.importorskip("resource")
    file = Path(str(engine.services.config.database_url.database))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))
    try:
        health = engine.client.get("/healthz")
        refused = [score(engine) for _ in range(4)][-1]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (health.status_code, health.json()["status"]) == (503, "The database does not answer")
    check_refused(refused, DATABASE)


def test_health_leaves_nothing(engine) -> None:
    folder = engine.services.config.instance
    file = folder / "bankportal.sqlite3"
    engine.client.get("/healthz")
    before, listed = file.read_bytes(), sorted(folder.rglob("*"))
    for _ in range(3):
        check_health(engine, 200, "ok")
    assert file.read_bytes() == before
    assert sorted(folder.rglob("*")) == listed


@pytest.mark.parametrize("statement", ["BEGIN", "BEGIN IMMEDIATE"])
def test_health_waits_for_nobody(engine, statement) -> None:
    with driver.connect(str(engine.services.config.database_url.database), isolation_level=None) as other:
        other.execute(statement)
        other.execute("SELECT count(*) FROM decisions").fetchall()
        begun = time.monotonic()
        check_health(engine, 200, "ok")
        assert time.monotonic() - begun < 5
        other.execute("ROLLBACK")
    other.close()


def test_a_full_disk_is_seen_while_somebody_reads(disk, run) -> None:
    with run(disk, database=True) as engine:
        path = str(engine.services.config.database_url.database)
        other = driver.connect(path, isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM decisions").fetchall()
        disk.fill()
        check_health(engine, 507, "The disk is full")
        other.close()


class QuotaUsedUp(OSError):
    def __init__(self) -> None:
        super().__init__(errno.EDQUOT, "Disk quota exceeded")


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), DISK_FULL),
        (QuotaUsedUp(), DISK_FULL),
        (driver.OperationalError("database or disk is full"), DISK_FULL),
        (OperationalError("INSERT", {}, driver.OperationalError("database or disk is full")), DISK_FULL),
        (OperationalError("INSERT", {}, psycopg.errors.DiskFull("could not extend file")), DISK_FULL),
        (OperationalError("INSERT", {}, psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT")), DATABASE),
        (OperationalError("INSERT", {}, driver.OperationalError("disk I/O error")), DATABASE),
        (driver.OperationalError("unable to open database file"), DATABASE),
        (PoolTimeout(), DATABASE),
        (FileNotFoundError(errno.ENOENT, "no such file"), DATABASE),
        (PermissionError(errno.EACCES, "no"), STORAGE),
        (OSError(errno.EIO, "no"), STORAGE),
        (ValueError("database or disk is full"), None),
        (RuntimeError(), None),
    ],
)
def test_what_is_which_outage(error, outage) -> None:
    assert outage_of(error) is outage


def with_setting(address: str, setting: str) -> Database:
    """A PostgreSQL database whose connections have a setting of their own."""
    return Database(make_url(address).update_query_dict({"options": f"-c {setting}"}))


def test_a_postgresql_that_only_reads(migrated_postgresql) -> None:
    database = with_setting(migrated_postgresql, "default_transaction_read_only=on")
    with pytest.raises(DBAPIError) as refused:
        database.require_writable()
    database.close()
    assert outage_of(refused.value) is DATABASE


@pytest.fixture
def postgresql_disk(migrated_postgresql) -> Iterator[tuple[Disk, Database]]:
    """A small disk, and a PostgreSQL server on this machine that puts its temporary files there.

    Those alone: a server that finds the disk of a table full is of no use to anybody else's tests.
    """
    name = f"bankportal_test_{secrets.token_hex(6)}"
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # the server has a user of its own
    with ExitStack() as stack:
        stack.callback(folder.rmdir)
        disk = stack.enter_context(mounted(folder, 3))
        server = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
        stack.callback(server.dispose)
        connection = stack.enter_context(server.connect())
        try:
            shutil.chown(folder, "postgres")
            connection.execute(text(f"CREATE TABLESPACE {name} LOCATION '{folder}'"))
        except (DBAPIError, LookupError):
            pytest.skip("the PostgreSQL server is elsewhere, or another user's")
        stack.callback(lambda: connection.execute(text(f"DROP TABLESPACE {name}")))
        database = with_setting(migrated_postgresql, f"temp_tablespaces={name}")
        stack.callback(database.close)
        yield disk, database


def test_a_postgresql_on_a_full_disk(postgresql_disk) -> None:
    disk, database = postgresql_disk
    database.require_writable()
    disk.fill()
    with pytest.raises(DBAPIError) as refused:
        database.require_writable()
    assert outage_of(refused.value) is DISK_FULL
    disk.empty()
    database.require_writable()


@pytest.mark.skipif(not WAL_IS_SAFE, reason="this library does not write WAL")
def test_a_log_that_cannot_be_copied_leaves_writers_their_time(disk, monkeypatch) -> None:
    monkeypatch.setattr(sessions, "LOG_PAGES", 100)
    database = Database(f"sqlite:///{disk.folder}/portal.sqlite3")
    with database.engine.begin() as connection:  # past what copies the log
        connection.exec_driver_sql("CREATE TABLE filled (content)")
        connection.exec_driver_sql("INSERT INTO filled VALUES (zeroblob(1000000))")
    disk.fill()
    with (disk.folder / "filling").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 50_000)
    with database.write() as connection:
        connection.exec_driver_sql("INSERT INTO filled VALUES (1)")
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == sessions.BUSY_SECONDS * 1000
        assert connection.exec_driver_sql("SELECT count(*) FROM filled").scalar_one() == 2
    database.close()
