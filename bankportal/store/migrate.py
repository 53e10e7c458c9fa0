"""Brings a database to today's tables with the migrations that ship with the portal."""

from alembic import command
from alembic.config import Config

from bankportal.resources import resource
from bankportal.store.sessions import Database


def upgrade(database: Database) -> None:
    """Run the migrations that the database lacks, in one transaction; nothing to do is fine."""
    database.prepare_folder()
    config = Config()
    config.set_main_option("script_location", str(resource("migrations_data") / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
