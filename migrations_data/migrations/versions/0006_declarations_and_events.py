"""Declarations and events are recorded; decisions and jobs name their declarations, who caused them, and the door.

What release 0.1.0 declared is recorded here: decisions and jobs of before stand on that, and keep NULL.
"""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# Frozen: the canonical texts of what release 0.1.0 declared.
RELEASE_0_1_0 = Path(__file__).parents[2] / "declarations-0.1.0"
DECLARED = (("product", "churn"), ("product", "allowance"), ("policy", "card-limit"))
WITHOUT_LIMIT = sa.column("limit", sa.JSON)["amount"].as_float() == 0
ONE_OF_TWO = "(decision_number IS NULL) <> (job_number IS NULL)"
ONE_OF_THREE = (
    "CASE WHEN decision_number IS NULL THEN 0 ELSE 1 END + CASE WHEN job_number IS NULL THEN 0 ELSE 1 END "
    "+ CASE WHEN event_number IS NULL THEN 0 ELSE 1 END = 1"
)


def upgrade() -> None:
    declarations = _add_declarations()
    _add_events()
    op.bulk_insert(declarations, [_declared(kind, key) for kind, key in DECLARED])
    for table in ("decisions", "jobs"):
        for column in ("product_declaration", "policy_declaration"):
            # As text, since the table would be copied on SQLite otherwise, and there may be millions of decisions.
            reference = f"CONSTRAINT fk_{table}_{column} REFERENCES declarations (number)"
            op.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER {reference}")
        op.add_column(table, sa.Column("actor", sa.String(200)))
        op.add_column(table, sa.Column("door", sa.String(20)))
    _index_bands(["product", "band", "product_declaration"], drop="ix_decisions_product_band")
    with op.batch_alter_table("receipts") as receipts:
        receipts.add_column(sa.Column("event_number", sa.Integer))
        receipts.create_foreign_key("fk_receipts_event_number", "events", ["event_number"], ["number"])
        receipts.create_unique_constraint("uq_receipts_event_number", ["event_number"])
        receipts.drop_constraint("ck_receipts_one_subject", type_="check")
        receipts.create_check_constraint("ck_receipts_one_subject", ONE_OF_THREE)


def downgrade() -> None:
    """Go back, unless something stands in the chain that the release before could not read."""
    newer = sa.text("SELECT count(*) FROM receipts WHERE format > 1 OR event_number IS NOT NULL")
    if op.get_bind().execute(newer).scalar():
        raise RuntimeError("The chain has receipts that the release before cannot read: they would be lost.")
    with op.batch_alter_table("receipts") as receipts:
        receipts.drop_constraint("ck_receipts_one_subject", type_="check")
        receipts.drop_constraint("uq_receipts_event_number", type_="unique")
        receipts.drop_constraint("fk_receipts_event_number", type_="foreignkey")
        receipts.drop_column("event_number")
        receipts.create_check_constraint("ck_receipts_one_subject", ONE_OF_TWO)
    _index_bands(["product", "band"], drop="ix_decisions_product_band_product_declaration")
    for table in ("decisions", "jobs"):
        for column in ("door", "actor", "policy_declaration", "product_declaration"):
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    op.drop_table("events")
    op.drop_table("declarations")


def _add_declarations() -> sa.Table:
    return op.create_table(
        "declarations",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("key", sa.String(40), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_declarations"),
        sa.UniqueConstraint("kind", "key", "digest", name="uq_declarations_kind_key_digest"),
        sqlite_autoincrement=True,
    )


def _add_events() -> None:
    op.create_table(
        "events",
        sa.Column("number", sa.Integer, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_kind_number", "events", ["kind", "number"])


def _declared(kind: str, key: str) -> dict[str, object]:
    text = (RELEASE_0_1_0 / f"{kind}-{key}.json").read_bytes().decode()
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"kind": kind, "key": key, "digest": digest, "text": text, "at": datetime.now(UTC)}


def _index_bands(columns: list[str], *, drop: str) -> None:
    """Make the indexes that decisions are counted from over other columns."""
    op.drop_index(drop, "decisions")
    op.create_index(f"ix_decisions_{'_'.join(columns)}", "decisions", columns)
    op.drop_index("ix_decisions_without_limit", "decisions")
    options = {"sqlite_where": WITHOUT_LIMIT, "postgresql_where": WITHOUT_LIMIT}
    op.create_index("ix_decisions_without_limit", "decisions", columns, **options)
