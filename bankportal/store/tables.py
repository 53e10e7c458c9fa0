"""The database's tables. A change here needs a migration in `migrations_data/migrations`; a test compares the two."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class Instant(TypeDecorator[datetime]):
    """A moment in UTC: always aware in Python, whatever the database keeps."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Hand the database a UTC time."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Give SQLite's naive times their zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)  # type: ignore[no-any-return]


decisions = Table(
    "decisions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(26), nullable=False, unique=True),
    # SHA-256 of the form's one-time token and the inputs: the same submission is recorded once.
    Column("submission", String(64), nullable=False, unique=True),
    Column("at", Instant, nullable=False),
    Column("product", String(40), nullable=False),
    Column("carried", JSON, nullable=False),
    Column("scored", JSON, nullable=False),
    Column("policy", JSON, nullable=False),
    Column("score", Float(53), nullable=False),
    Column("band", String(40), nullable=False),
    Column("limit", JSON),
    Column("flags", JSON, nullable=False),
    Column("base", Float(53), nullable=False),
    Column("contributions", JSON, nullable=False),
    Column("reasons", JSON, nullable=False),
    Column("model_version", String(20), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("policy_version", String(40)),
    Index(None, "product", "band"),
    Index(None, "product", "number"),
    sqlite_autoincrement=True,
)

# Stored apart, so that nothing that reads decisions reads these by accident: for the fairness audit alone.
protected_values = Table(
    "protected_values",
    metadata,
    Column("decision_number", ForeignKey("decisions.number"), primary_key=True),
    Column("values", JSON, nullable=False),
    # Random, so that the digest in the receipt does not tell the values.
    Column("salt", String(32), nullable=False),
)

# The chain: one receipt a decision, each over the decision's content and the digest before (bankportal.domain.receipt).
receipts = Table(
    "receipts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("decision_number", ForeignKey("decisions.number"), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    Column("previous", String(64), nullable=False),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("product", String(40), nullable=False),
    Column("version", String(20), nullable=False),
    Column("manifest_digest", String(64), nullable=False),
    Column("registered_at", Instant, nullable=False),
    UniqueConstraint("product", "version"),
    sqlite_autoincrement=True,
)

# Append-only: the newest row of a product names its active version, the others say what was live when.
activations = Table(
    "activations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("model_version_number", ForeignKey("model_versions.number"), nullable=False),
    Column("at", Instant, nullable=False),
    sqlite_autoincrement=True,
)
