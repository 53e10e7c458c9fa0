"""Alembic runs this for each migration; the connection comes from bankportal.store.migrate."""

from alembic import context

from bankportal.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
