"""Connections to the database: SQLite set up for durable writes without deadlocks, PostgreSQL with its defaults."""

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    false,
    func,
    insert,
    make_url,
    select,
    text,
)

from bankportal.sqlite import WAL_IS_SAFE, driver
from bankportal.store.storage import ROOM, require_room
from bankportal.store.tables import decisions
from bankportal.store.turns import Turns

BUSY_SECONDS = 15
CACHE = -2000  # kibibytes, negated: SQLite's default
# Connections that SQLite keeps open, one for each thread of the web server: setting one up takes longer than its use.
SQLITE_CONNECTIONS = 32
# The journal file is kept at up to this size: it need not grow again with each transaction.
JOURNAL_BYTES = 16_000_000
LOG_PAGES = 1_000  # 4 MB, written to the log (WAL) before they are copied into the database
MAX_LOG_PAGES = 4_000  # before the log begins anew even if it is read at every moment
SHORTENING_SECONDS = 0.1  # for which a writer that lets the log begin anew waits for a reader of an older state
# What is said where WAL can neither be used nor left.
UNSAFE_WAL = (
    f"SQLite {driver.sqlite_version} can corrupt this database while another process has it open in WAL mode;"
    f" end the others, or install pysqlite3, which brings a newer SQLite"
)
# Errors are logged; the values sent to the database are customers' and must not be.
ENGINE_OPTIONS = {"hide_parameters": True}
# The numbers of PostgreSQL's advisory locks on the chain of receipts and on changes of the tables.
CHAIN = 0x62616E6B
MIGRATION = CHAIN + 1
# The database's own file and those that may stand beside it.
_BESIDE = ("", "-journal", "-wal", "-shm", "-turns")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAKING = threading.Lock()
# What SQLite must be able to do, before it is rolled back.
_SQLITE_TRY = (
    "PRAGMA busy_timeout=0",
    "PRAGMA cache_size=1",
    "BEGIN IMMEDIATE",
    "CREATE TABLE room (content)",
    f"INSERT INTO room VALUES (zeroblob({ROOM}))",  # noqa: S608  # a number of ours
)
# What PostgreSQL must be able to do, and leaves nothing: write rows, here none, and put 280 kB of work on its disk.
_POSTGRESQL_TRY = (
    insert(decisions).from_select(decisions.columns.keys(), select(decisions).where(false())),
    text("SET LOCAL work_mem = '64kB'"),
    text("SELECT count(*) FROM generate_series(1, 20000)"),
)


class Database:
    """Hands out transactions. Reading never waits for long; a write transaction takes the write lock at once."""

    def __init__(self, url: str | URL):
        self.url = make_url(url)
        self.engine = (
            _sqlite_engine(self.url, self._file)
            if self.url.get_backend_name() == "sqlite"
            else create_engine(self.url, pool_pre_ping=True, **ENGINE_OPTIONS)
        )
        self._turns = Turns(self._file.with_name(f"{self._file.name}-turns")) if self._file else None
        self._log = _Log() if WAL_IS_SAFE and self._file else None

    def read(self) -> AbstractContextManager[Connection]:
        """Open a transaction that only reads."""
        return self.engine.begin()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Open a transaction that writes; it commits at the end and rolls back on an error."""
        with self.engine.connect() as connection:
            with self._turn() as came:
                connection = connection.execution_options(bankportal_writes=True, bankportal_waits=came)
                with connection.begin():
                    yield connection
                if self._log:
                    self._log.begin_anew(connection.connection.dbapi_connection)
            if self._log:
                self._log.copy(connection.connection.dbapi_connection)

    def _turn(self) -> AbstractContextManager[bool]:
        return self._turns.turn(BUSY_SECONDS) if self._turns else nullcontext(True)

    def lock_chain(self, connection: Connection) -> None:
        """Let one transaction at a time add to the chain of receipts; SQLite's write lock does so already."""
        if self.engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(CHAIN)))

    def lock_migration(self, connection: Connection) -> None:
        """Let one transaction at a time change the tables; SQLite's write lock does so already."""
        if self.engine.dialect.name == "postgresql":
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION)))

    def prepare_folder(self) -> None:
        """Make the folder of an SQLite file; nothing for other databases."""
        if self._file:
            self._file.parent.mkdir(parents=True, exist_ok=True)

    def is_missing(self) -> bool:
        """Say whether an SQLite file is not there yet; opening it would make an empty one."""
        return self._file is not None and not self._file.exists()

    def require_writable(self) -> None:
        """Write something and take it back; an error of the database or `OSError` where that is not possible.

        Waits for no other writer: on SQLite, one that is at work finds out by itself.
        """
        if self._file:
            self._file.stat()  # an open connection would still answer after the file is gone
            require_room(self._file.parent)
            self._try_sqlite()
        elif self.engine.dialect.name == "postgresql":
            with self.write() as connection:
                for statement in _POSTGRESQL_TRY:
                    connection.execute(statement)

    def _try_sqlite(self) -> None:
        """Let a transaction reach the disk before its end, and roll it back.

        With hardly a page of cache, what it writes goes to the file at once, unless somebody reads at this moment.
        """
        with closing(self.engine.raw_connection()) as pooled:
            connection: Any = pooled.dbapi_connection
            try:
                for statement in _SQLITE_TRY:
                    connection.execute(statement)
            except driver.OperationalError as error:
                if not _is_one_of(error, driver.SQLITE_BUSY):
                    raise
            finally:
                connection.rollback()
                _set_up_sqlite(connection, None)

    @property
    def _file(self) -> Path | None:
        """The file of an SQLite database; where a link leads, since SQLite puts its own files there too."""
        is_file = self.url.get_backend_name() == "sqlite" and self.url.database not in (None, "", ":memory:")
        return Path(os.path.realpath(str(self.url.database))) if is_file else None

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        if self._turns:
            self._turns.close()


def _sqlite_engine(url: URL, file: Path | None) -> Engine:
    engine = create_engine(
        url, module=driver, connect_args={"timeout": BUSY_SECONDS}, pool_size=SQLITE_CONNECTIONS, **ENGINE_OPTIONS
    )
    if file:
        event.listen(engine, "do_connect", lambda *_: _keep_private(file))
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _keep_private(file: Path) -> None:
    """Let nobody but its owner read a database and what SQLite writes beside it, with the database's own mode.

    A database that is there is not opened: closing it again would end the locks that SQLite holds in this process.
    """
    with _MAKING, suppress(OSError):  # SQLite says by itself what it cannot open
        if not file.exists():
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    for path in (file.with_name(file.name + suffix) for suffix in _BESIDE):
        with suppress(OSError):  # most of them are not there; another owner's are the owner's to close
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & _OTHERS:
                path.chmod(mode & ~_OTHERS)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions by itself; _begin_sqlite does
    _choose_journal(connection)
    _set_busy_timeout(connection, BUSY_SECONDS)
    for pragma in (
        f"cache_size={CACHE}",
        f"journal_size_limit={JOURNAL_BYTES}",
        "synchronous=FULL",
        "foreign_keys=ON",
        "mmap_size=0",
        "wal_autocheckpoint=0",  # _Log does
    ):
        connection.execute(f"PRAGMA {pragma}")


def _choose_journal(connection: Any) -> None:
    """Let a database have the journal that is safe with this library.

    Where others are at work for longer than a moment a rollback journal stays, and a later connection changes it. WAL
    must not stay where this library could spoil it.
    """
    _set_busy_timeout(connection, 0.5)
    try:
        connection.execute(f"PRAGMA journal_mode={'WAL' if WAL_IS_SAFE else 'PERSIST'}")
    except driver.OperationalError as error:
        if not _is_one_of(error, driver.SQLITE_BUSY, driver.SQLITE_READONLY):
            raise
        if not WAL_IS_SAFE and connection.execute("PRAGMA journal_mode").fetchone() == ("wal",):
            raise driver.OperationalError(UNSAFE_WAL) from error
        connection.execute("PRAGMA journal_mode=PERSIST")


def _is_one_of(error: Any, *codes: int) -> bool:
    """Say whether an error of SQLite has one of these codes; its extended codes tell more in the higher bits."""
    return error.sqlite_errorcode & 0xFF in codes


def _begin_sqlite(connection: Connection) -> None:
    # The busy timeout does not cover the step from reading to writing, so a writer takes the lock at its beginning.
    options = connection.get_execution_options()
    if not options.get("bankportal_writes"):
        connection.exec_driver_sql("BEGIN")
    elif options["bankportal_waits"]:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:  # it has waited for its turn in vain
        raw = connection.connection.dbapi_connection
        _set_busy_timeout(raw, 0)
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            _set_busy_timeout(raw, BUSY_SECONDS)


class _Log:
    """Copies the log of a database in WAL mode into its file (a checkpoint), and lets it begin anew.

    SQLite would do both by itself, but the second only if nobody reads at that moment: among busy readers the log would
    grow for ever. Whatever goes wrong is no matter of the commit before, which is safe; the next writer meets it.
    """

    def __init__(self) -> None:
        self._longest = MAX_LOG_PAGES

    def copy(self, raw: Any) -> None:
        """Copy what many commits have added. Nobody waits meanwhile: neither readers nor writers."""
        with suppress(driver.Error):
            pages, copied = _pages(raw)
            if pages - copied >= LOG_PAGES:
                raw.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def begin_anew(self, raw: Any) -> None:
        """Have a log that is too long begin anew, in the turn of a writer; where readers stay, when it is longer still.

        New readers are let past; those who read an older state are waited for.
        """
        with suppress(driver.Error):
            if (pages := _pages(raw)[0]) < self._longest:
                return
            self._longest = pages + MAX_LOG_PAGES
            _set_busy_timeout(raw, SHORTENING_SECONDS)
            try:
                if not raw.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]:
                    self._longest = MAX_LOG_PAGES
            finally:
                _set_busy_timeout(raw, BUSY_SECONDS)


def _pages(raw: Any) -> tuple[int, int]:
    """Return how many pages the log has, and how many of them are copied."""
    _, pages, copied = raw.execute("PRAGMA wal_checkpoint(NOOP)").fetchone()
    return pages, copied


def _set_busy_timeout(raw: Any, seconds: float) -> None:
    raw.execute(f"PRAGMA busy_timeout={seconds * 1000:.0f}")
