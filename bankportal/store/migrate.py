"""Brings a database to the tables of this release with the migrations that ship with it."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from bankportal.resources import resource
from bankportal.store.adopting import adopt
from bankportal.store.sessions import Database


def upgrade(database: Database) -> None:
    """Run the migrations that the database lacks, in one transaction; nothing to do is fine.

    The rows that were there before events proved them are adopted into the chain in the same transaction, so that none
    with an event comes between.
    """
    database.prepare_folder()
    config = _config()
    with database.write() as connection:
        database.lock_migration(connection)  # two portals that start at once both find no tables
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        adopt(connection, database)


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
