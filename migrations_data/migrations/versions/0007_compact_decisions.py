"""Decisions stand in compact rows, under the numbers of their receipts; the tables of before are emptied by 0008.

The chain and the protected values are made anew too, since both name decisions by number.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

BEFORE = ("decisions", "protected_values", "receipts")
INDEXES = ("product_band_product_declaration", "product_number", "without_limit")
CONSTRAINTS = sa.text("SELECT conname FROM pg_constraint WHERE conrelid = CAST(:name AS regclass)")


def upgrade() -> None:
    for index in INDEXES:
        op.drop_index(f"ix_decisions_{index}", "decisions")
    for name in BEFORE:
        op.rename_table(name, f"{name}_0006")
    if op.get_bind().dialect.name == "postgresql":
        _rename_constraints()
    _add_contexts()
    _add_decisions()
    _add_counts()
    _add_receipts()


def downgrade() -> None:
    """Refuse: what the release before recorded is no longer there."""
    raise RuntimeError("Compact decisions cannot be read by the release before: restore the backup made before.")


def _rename_constraints() -> None:
    """Free the names of the constraints of before: in PostgreSQL each of them is that of an index too."""
    for name in BEFORE:
        for constraint in op.get_bind().execute(CONSTRAINTS, {"name": f"{name}_0006"}).scalars().all():
            op.execute(f'ALTER TABLE {name}_0006 RENAME CONSTRAINT "{constraint}" TO "{constraint}_0006"')


def _add_contexts() -> None:
    op.create_table(
        "decision_contexts",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("product_declaration", sa.Integer),
        sa.Column("policy_declaration", sa.Integer),
        sa.Column("model_version", sa.String(20), nullable=False),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("policy_version", sa.String(40)),
        sa.Column("base", sa.Float(53), nullable=False),
        sa.Column("names", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_decision_contexts"),
        sa.UniqueConstraint("digest", name="uq_decision_contexts_digest"),
        sa.ForeignKeyConstraint(
            ["product_declaration"], ["declarations.number"], name="fk_decision_contexts_product_declaration"
        ),
        sa.ForeignKeyConstraint(
            ["policy_declaration"], ["declarations.number"], name="fk_decision_contexts_policy_declaration"
        ),
        sqlite_autoincrement=True,
    )


def _add_decisions() -> None:
    op.create_table(
        "decisions",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("submission", sa.String(64)),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("product", sa.String(40), nullable=False),
        sa.Column("context_number", sa.Integer, nullable=False),
        sa.Column("carried", sa.Text, nullable=False),
        sa.Column("scored", sa.Text, nullable=False),
        sa.Column("policy", sa.Text, nullable=False),
        sa.Column("score", sa.Float(53), nullable=False),
        sa.Column("band", sa.String(40), nullable=False),
        sa.Column("limit", sa.Text),
        sa.Column("flags", sa.Text, nullable=False),
        sa.Column("contributions", sa.Text, nullable=False),
        sa.Column("reasons", sa.Text, nullable=False),
        sa.Column("actor", sa.String(200)),
        sa.Column("door", sa.String(20)),
        sa.PrimaryKeyConstraint("number", name="pk_decisions"),
        sa.UniqueConstraint("id", name="uq_decisions_id"),
        sa.ForeignKeyConstraint(["context_number"], ["decision_contexts.number"], name="fk_decisions_context_number"),
    )
    op.create_index("ix_decisions_product_number", "decisions", ["product", "number"])
    _index_values("decisions", "submission")
    op.create_table(
        "protected_values",
        sa.Column("decision_number", sa.Integer, nullable=False),
        sa.Column("values", sa.Text, nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("decision_number", name="pk_protected_values"),
        sa.ForeignKeyConstraint(["decision_number"], ["decisions.number"], name="fk_protected_values_decision_number"),
    )


def _add_counts() -> None:
    op.create_table(
        "decision_counts",
        sa.Column("product", sa.String(40), nullable=False),
        sa.Column("context_number", sa.Integer, nullable=False),
        sa.Column("band", sa.String(40), nullable=False),
        sa.Column("without_limit", sa.Boolean, nullable=False),
        sa.Column("decisions", sa.Integer, nullable=False),
        sa.Column("up_to", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("product", "context_number", "band", "without_limit", name="pk_decision_counts"),
        sa.ForeignKeyConstraint(
            ["context_number"], ["decision_contexts.number"], name="fk_decision_counts_context_number"
        ),
    )


def _add_receipts() -> None:
    op.create_table(
        "receipts",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("job_number", sa.Integer),
        sa.Column("event_number", sa.Integer),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("format", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_receipts"),
        sa.ForeignKeyConstraint(["job_number"], ["jobs.number"], name="fk_receipts_job_number"),
        sa.ForeignKeyConstraint(["event_number"], ["events.number"], name="fk_receipts_event_number"),
        sa.CheckConstraint("job_number IS NULL OR event_number IS NULL", name="ck_receipts_one_subject"),
    )
    _index_values("receipts", "job_number")
    _index_values("receipts", "event_number")


def _index_values(table: str, column: str) -> None:
    """Let a value stand once in a column, and NULL often."""
    there = sa.text(f"{column} IS NOT NULL")
    op.create_index(f"ix_{table}_{column}", table, [column], unique=True, sqlite_where=there, postgresql_where=there)
