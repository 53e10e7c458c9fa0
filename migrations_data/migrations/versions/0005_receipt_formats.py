"""Each receipt names the format of its content; those written so far are of format 1."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("receipts", sa.Column("format", sa.Integer, nullable=False, server_default="1"))


def downgrade() -> None:
    with op.batch_alter_table("receipts") as receipts:
        receipts.drop_column("format")
