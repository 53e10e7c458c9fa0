"""Jobs and their chunks; a batch takes a place in the chain of receipts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("key", sa.String(64)),
        sa.Column("product", sa.String(40), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("file_name", sa.String(255), nullable=False),
        sa.Column("input_digest", sa.String(64), nullable=False),
        sa.Column("input_bytes", sa.BigInteger, nullable=False),
        sa.Column("header_digest", sa.String(64), nullable=False),
        sa.Column("layout", sa.JSON, nullable=False),
        sa.Column("mapping", sa.JSON),
        sa.Column("start_when_checked", sa.Boolean, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("checked", sa.JSON),
        sa.Column("model_version", sa.String(20)),
        sa.Column("model_digest", sa.String(64)),
        sa.Column("policy_version", sa.String(40)),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("summary", sa.JSON),
        sa.Column("files", sa.JSON),
        sa.PrimaryKeyConstraint("number", name="pk_jobs"),
        sa.UniqueConstraint("id", name="uq_jobs_id"),
        sa.UniqueConstraint("key", name="uq_jobs_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_input_digest", "jobs", ["input_digest"])
    op.create_index("ix_jobs_product_header_digest", "jobs", ["product", "header_digest"])
    op.create_table(
        "chunks",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("job_number", sa.Integer, nullable=False),
        sa.Column("step", sa.String(10), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("span", sa.JSON),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("faults", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(100)),
        sa.Column("lease_until", sa.Float(53)),
        sa.Column("began", sa.Float(53)),
        sa.Column("rows_done", sa.Integer, nullable=False),
        sa.Column("scored", sa.Integer),
        sa.Column("rejected", sa.Integer),
        sa.Column("files", sa.JSON),
        sa.PrimaryKeyConstraint("number", name="pk_chunks"),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name="fk_chunks_job_number"),
        sa.UniqueConstraint("job_number", "step", "place", name="uq_chunks_job_number_step_place"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_chunks_state_place", "chunks", ["state", "place"])
    with op.batch_alter_table("receipts") as receipts:
        receipts.alter_column("decision_number", existing_type=sa.Integer, nullable=True)
        receipts.add_column(sa.Column("job_number", sa.Integer))
        receipts.create_foreign_key("fk_receipts_job_number", "jobs", ["job_number"], ["number"])
        receipts.create_unique_constraint("uq_receipts_job_number", ["job_number"])
        receipts.create_check_constraint("ck_receipts_one_subject", "(decision_number IS NULL) <> (job_number IS NULL)")


def downgrade() -> None:
    with op.batch_alter_table("receipts") as receipts:
        receipts.drop_constraint("ck_receipts_one_subject", type_="check")
        receipts.drop_constraint("uq_receipts_job_number", type_="unique")
        receipts.drop_constraint("fk_receipts_job_number", type_="foreignkey")
        receipts.drop_column("job_number")
        receipts.alter_column("decision_number", existing_type=sa.Integer, nullable=False)
    op.drop_table("chunks")
    op.drop_table("jobs")
