"""One small bank for all tests: both products trained once a run on simulated customers, copied for each test.

Nothing of the portal is imported before a fixture or function needs it: tests of plain values start at once.
"""

from __future__ import annotations

import csv
import os
import secrets
import shutil
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from socketserver import BaseServer

    from flask import Flask
    from flask.testing import FlaskClient
    from jinja2 import BytecodeCache

    from bankportal.config import Config
    from bankportal.store.sessions import Database

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
ROWS = 1500
TREES = 20
POSTGRES = os.environ.get("BANKPORTAL_TEST_DATABASE_URL", "")
SECRET = "for tests alone, not a secret"
PATIENCE = 120.0  # seconds until what should come is given up: only a test that fails waits for so long

# Files in memory (Linux), and how many bytes of it must be free: tests write less than half of that.
MEMORY, ROOM = Path("/dev/shm"), 4 << 30

# Always the same examples, and no failure of a slow machine.
settings.register_profile(
    "tests", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


def pytest_configure() -> None:
    """Keep temporary files in memory where there is room: no test cuts the power, so none need wait for a disk."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def config_for(instance: Path) -> Config:
    from bankportal.config import load

    return load({"BANKPORTAL_INSTANCE": str(instance), "BANKPORTAL_SECRET_KEY": SECRET})


def write_csv(path: Path, columns) -> Path:
    """Write columns as a data file, blank where unknown."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in zip(*columns.values(), strict=True):
            writer.writerow("" if value is None or value != value else value for value in row)
    return path


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """Make a folder once for all processes of a run: the first one makes it, the others wait for it."""
    own = tmp_path_factory.getbasetemp()
    of_run = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make_once(name: str, make: Callable[[Path], None]) -> Path:
        from filelock import FileLock

        folder = of_run / name
        with FileLock(of_run / f"{name}.lock"):
            if not folder.exists():
                unfinished = tmp_path_factory.mktemp(name)
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return make_once


@pytest.fixture(scope="session")
def bank_files(made_once) -> dict[str, Path]:
    """A small simulated data file for each product."""
    from bankportal.simulation import simulate
    from tests.shipped import PRODUCTS

    def make(folder: Path) -> None:
        for key, simulator in simulate.SIMULATORS.items():
            write_csv(folder / f"{key}.csv", simulator(ROWS, 7).columns)

    folder = made_once("bank", make)
    return {key: folder / f"{key}.csv" for key in PRODUCTS}


@pytest.fixture(scope="session")
def trained(bank_files, made_once):
    """Both products' forests, of few trees, trained on the small files."""
    import copyreg
    import pickle

    from bankportal.domain.products import Product
    from tests.shipped import PRODUCTS

    copyreg.pickle(Product, lambda product: (declared_product, (product.key,)))

    def make(folder: Path) -> None:
        from bankportal.data.reading import read
        from bankportal.training.training import train

        with pytest.MonkeyPatch.context() as patch:
            plant_few_trees(patch)
            forests = {key: train(read(path, PRODUCTS[key]), seed=1) for key, path in bank_files.items()}
        (folder / "forests").write_bytes(pickle.dumps(forests))

    return pickle.loads((made_once("trained", make) / "forests").read_bytes())


def declared_product(key: str):
    """Return the one product with this key: what was trained in another process belongs to the same one."""
    from tests.shipped import PRODUCTS

    return PRODUCTS[key]


def train_again(path: Path, product):
    """Train a small forest on a file under another declaration of a product."""
    from bankportal.data.reading import read
    from bankportal.training.training import train

    with pytest.MonkeyPatch.context() as patch:
        plant_few_trees(patch)
        return train(read(path, product), seed=1)


def plant_few_trees(patch: pytest.MonkeyPatch) -> None:
    """Let training grow small forests, which load in a fifth of the time, for tests in which size does not matter."""
    from bankportal.training import training

    patch.setattr(training, "PARAMETERS", replace(training.PARAMETERS, trees=TREES))


@pytest.fixture(scope="session")
def ready_instance(request, made_once) -> Path:
    """An instance folder with a database and an active model for each product; copy it, do not use it."""

    def make(folder: Path) -> None:
        from bankportal import wiring

        built = wiring.build(config_for(folder / "instance"))
        wiring.upgrade(built)
        for forest in request.getfixturevalue("trained").values():
            built.models.add(forest)
        built.explaining.warm_up()  # so that no test waits for compilers
        built.database.close()

    return made_once("ready", make) / "instance"


@pytest.fixture
def config(ready_instance, tmp_path) -> Config:
    """Settings of an instance of the test's own."""
    shutil.copytree(ready_instance, tmp_path / "instance")
    return config_for(tmp_path / "instance")


@pytest.fixture
def services(config):
    """The services on the test's own instance."""
    from bankportal import wiring

    built = wiring.build(config)
    yield built
    built.database.close()


@pytest.fixture
def empty_services(tmp_path):
    """The services of a portal that was migrated and never trained."""
    from bankportal import wiring

    built = wiring.build(config_for(tmp_path / "empty"))
    wiring.upgrade(built)
    yield built
    built.database.close()


def make_app(config: Config, *, csrf: bool) -> Flask:
    from bankportal import create_app

    app = create_app(config)
    app.jinja_env.bytecode_cache = compiled_templates()
    app.config.update(TESTING=True, WTF_CSRF_ENABLED=csrf, PROPAGATE_EXCEPTIONS=False)
    return app


@cache
def compiled_templates() -> BytecodeCache:
    """Keep templates compiled from one app to the next."""
    from bankportal.web.live import CompiledTemplates

    return CompiledTemplates()


@pytest.fixture
def app(config):
    """The portal on the test's own instance, form tokens not asked for."""
    app = make_app(config, csrf=False)
    yield app
    app.extensions["bankportal"].database.close()


@pytest.fixture
def csrf_app(config):
    """The portal as it runs: form tokens asked for."""
    app = make_app(config, csrf=True)
    yield app
    app.extensions["bankportal"].database.close()


@pytest.fixture
def empty_app(tmp_path):
    """A portal without any model."""
    from bankportal import wiring

    app = make_app(config_for(tmp_path / "empty"), csrf=False)
    wiring.upgrade(app.extensions["bankportal"])
    yield app
    app.extensions["bankportal"].database.close()


@contextmanager
def listening(app: Flask) -> Iterator[int]:
    """Serve an app from threads and give the port."""
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        """Writes no log."""

        def log(self, *_args) -> None:
            pass

    with served(make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)) as port:
        yield port


@contextmanager
def served(server: BaseServer) -> Iterator[int]:
    """Let a server work in a thread and give the port; close it in the end."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def client(app) -> FlaskClient:
    """A browser without scripts."""
    return app.test_client()


@pytest.fixture
def examples() -> dict[str, dict[str, str]]:
    """Each product's example customer, as typed."""
    from tests.shipped import PRODUCTS

    return {
        product.key: {entry.factor.name: entry.factor.example for entry in product.factors}
        for product in PRODUCTS.values()
    }


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory) -> Path:
    """A database file with all tables; copy it, do not use it."""
    from bankportal.store.migrate import upgrade
    from bankportal.store.sessions import Database

    path = tmp_path_factory.mktemp("migrated") / "portal.sqlite3"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    database.close()
    return path


@pytest.fixture(scope="session")
def migrated_postgresql() -> Iterator[str]:
    """The address of a PostgreSQL database with all tables, which `emptied` hands to one test after the other."""
    from bankportal.store.migrate import upgrade
    from bankportal.store.sessions import Database

    with new_postgresql() as address:
        database = Database(address)
        upgrade(database)
        WRITTEN_BY_MIGRATIONS.update(written_rows(database))
        database.close()
        yield address


@contextmanager
def new_postgresql(template: str = "template1") -> Iterator[str]:
    """Make a PostgreSQL database for a while, empty or as another is at whom nobody works; yields its address."""
    if not POSTGRES:
        pytest.skip("no PostgreSQL: set BANKPORTAL_TEST_DATABASE_URL to try it")
    from sqlalchemy import create_engine, make_url, text

    name = f"bankportal_test_{secrets.token_hex(6)}"
    server = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit TO off"))  # as MEMORY says
    try:
        yield make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def without_tables(request, tmp_path):
    """A database on each back end without any table."""
    from bankportal.store.sessions import Database

    with ExitStack() as stack:
        sqlite = request.param == "sqlite"
        database = Database(f"sqlite:///{tmp_path}/bare.sqlite3" if sqlite else stack.enter_context(new_postgresql()))
        yield database
        database.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """An empty, migrated database on each back end."""
    from bankportal.store.sessions import Database

    if request.param == "postgresql":
        database = emptied(request.getfixturevalue("migrated_postgresql"))
    else:
        database = Database(f"sqlite:///{shutil.copy(request.getfixturevalue('migrated_sqlite'), tmp_path)}")
    yield database
    database.close()


# The rows that a fresh database has, by table.
WRITTEN_BY_MIGRATIONS: dict[str, list[dict]] = {}


def written_rows(database: Database) -> dict[str, list[dict]]:
    """Return all rows of a database; those that a sequence numbers without their numbers."""
    from sqlalchemy import select

    from bankportal.store.tables import metadata, receipts

    written = {}
    with database.read() as connection:
        for table in metadata.sorted_tables:
            columns = [column for column in table.c if column.name != "number" or table is receipts]
            rows = connection.execute(select(*columns).order_by(*table.primary_key)).mappings()
            written[table.name] = [dict(row) for row in rows]
    return written


def emptied(address: str) -> Database:
    """Make a PostgreSQL database as fresh as after its migrations, and end the connections of its last users."""
    from sqlalchemy import text

    from bankportal.store.sessions import Database
    from bankportal.store.tables import metadata

    database = Database(address)
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with database.write() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend(pid, 10000) {others}"))
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY"))
        for table in metadata.sorted_tables:
            if rows := WRITTEN_BY_MIGRATIONS[table.name]:
                connection.execute(table.insert(), rows)
    return database


@pytest.fixture
def portal(config, database):
    """The services on each back end, with the models of the test's instance registered there."""
    from bankportal import logs, wiring

    logs.configure(config)
    built = wiring.build(replace(config, database_url=database.url))
    with_models(config, built)
    yield built
    built.database.close()


def with_models(config, built) -> None:
    """Register the instance's model versions in another database."""
    from bankportal import wiring
    from tests.shipped import PRODUCTS

    first = wiring.build(config)
    for product in PRODUCTS.values():
        known = first.models.store.activated(product.key)[0]
        built.models.store.register(product.key, known.version, known.manifest_digest, activate=True)
    first.database.close()
