"""An index of the decisions without a limit, which the first page counts."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

NAME = "ix_decisions_without_limit"
WITHOUT_LIMIT = sa.column("limit", sa.JSON)["amount"].as_float() == 0


def upgrade() -> None:
    columns = ["product", "band"]
    op.create_index(NAME, "decisions", columns, sqlite_where=WITHOUT_LIMIT, postgresql_where=WITHOUT_LIMIT)


def downgrade() -> None:
    op.drop_index(NAME, "decisions")
