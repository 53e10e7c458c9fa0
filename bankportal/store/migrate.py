"""Brings a database to the tables of this release with the migrations that ship with it."""

from collections.abc import Callable

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

from bankportal.resources import resource
from bankportal.store.adopting import adopt
from bankportal.store.sessions import Database

# Called while many rows are copied, with how far that is and how far it goes.
Report = Callable[[int, int], None]


def silent(_done: int, _total: int) -> None:
    """Report nothing."""


def upgrade(database: Database, report: Report = silent) -> None:
    """Run the migrations that the database lacks, each in a transaction; nothing to do is fine.

    A migration that has many rows to copy names `copy_rows`, which is called before it, a transaction for some rows
    each, until there are none. A kill loses nothing, and the next call goes on from there. The portal serves only when
    all is done (`is_migrated`). The rows that were there before events proved them are adopted into the chain at the
    end.
    """
    database.prepare_folder()
    while _step(database, report):
        pass


def _step(database: Database, report: Report) -> bool:
    """Do what comes next, in one transaction; return whether there may be more to do."""
    config = _config()
    progress: tuple[int, int] | None = None
    with database.write() as connection:
        database.lock_migration(connection)  # two portals that start at once both find no tables
        following = _following(connection, ScriptDirectory.from_config(config))
        if following is None:
            adopt(connection, database)
            return False
        if copy_rows := getattr(following.module, "copy_rows", None):
            progress = copy_rows(connection)
        if progress is None:
            config.attributes["connection"] = connection
            command.upgrade(config, following.revision)
    if progress:  # after the commit: what is reported is kept, and a terminal that stands still stops no other writer
        report(*progress)
    return True


def _following(connection: Connection, scripts: ScriptDirectory) -> Script | None:
    """Return the first migration that the database lacks; `None` where it has all."""
    current = MigrationContext.configure(connection).get_current_revision()
    pending = list(scripts.iterate_revisions("head", current or "base"))
    return pending[-1] if pending else None


def is_migrated(database: Database) -> bool:
    """Return whether the database has the tables of this release; an SQLAlchemy error where it does not answer."""
    if database.is_missing():
        return False
    with database.read() as connection:
        heads = MigrationContext.configure(connection).get_current_heads()
    return set(heads) == set(ScriptDirectory.from_config(_config()).get_heads())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resource("migrations_data") / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
