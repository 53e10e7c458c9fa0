"""Decisions, protected values, model versions and activations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "decisions",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(26), nullable=False),
        sa.Column("submission", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("product", sa.String(40), nullable=False),
        sa.Column("carried", sa.JSON, nullable=False),
        sa.Column("scored", sa.JSON, nullable=False),
        sa.Column("policy", sa.JSON, nullable=False),
        sa.Column("score", sa.Float(53), nullable=False),
        sa.Column("band", sa.String(40), nullable=False),
        sa.Column("limit", sa.JSON),
        sa.Column("flags", sa.JSON, nullable=False),
        sa.Column("base", sa.Float(53), nullable=False),
        sa.Column("contributions", sa.JSON, nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("model_version", sa.String(20), nullable=False),
        sa.Column("model_digest", sa.String(64), nullable=False),
        sa.Column("policy_version", sa.String(40)),
        sa.PrimaryKeyConstraint("number", name="pk_decisions"),
        sa.UniqueConstraint("id", name="uq_decisions_id"),
        sa.UniqueConstraint("submission", name="uq_decisions_submission"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_decisions_product_band", "decisions", ["product", "band"])
    op.create_index("ix_decisions_product_number", "decisions", ["product", "number"])
    op.create_table(
        "protected_values",
        sa.Column("decision_number", sa.Integer, nullable=False),
        sa.Column("values", sa.JSON, nullable=False),
        sa.Column("salt", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("decision_number", name="pk_protected_values"),
        sa.ForeignKeyConstraint(["decision_number"], ["decisions.number"], name="fk_protected_values_decision_number"),
    )
    op.create_table(
        "receipts",
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("decision_number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_receipts"),
        sa.ForeignKeyConstraint(["decision_number"], ["decisions.number"], name="fk_receipts_decision_number"),
        sa.UniqueConstraint("decision_number", name="uq_receipts_decision_number"),
    )
    op.create_table(
        "model_versions",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("product", sa.String(40), nullable=False),
        sa.Column("version", sa.String(20), nullable=False),
        sa.Column("manifest_digest", sa.String(64), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_model_versions"),
        sa.UniqueConstraint("product", "version", name="uq_model_versions_product_version"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "activations",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("model_version_number", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_activations"),
        sa.ForeignKeyConstraint(
            ["model_version_number"], ["model_versions.number"], name="fk_activations_model_version_number"
        ),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for table in ("activations", "model_versions", "receipts", "protected_values", "decisions"):
        op.drop_table(table)
