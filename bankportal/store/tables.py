"""The database's tables. A change here needs a migration in `migrations_data/migrations`; a test compares the two."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
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
    Text,
    TypeDecorator,
    UniqueConstraint,
    bindparam,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
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


# Every version of a declaration that was ever in force; append-only. Decisions and jobs name theirs by number.
declarations = Table(
    "declarations",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(20), nullable=False),
    Column("key", String(40), nullable=False),
    # SHA-256 of the text.
    Column("digest", String(64), nullable=False),
    # Canonical (bankportal.domain.declaration).
    Column("text", Text, nullable=False),
    Column("at", Instant, nullable=False),
    UniqueConstraint("kind", "key", "digest"),
    sqlite_autoincrement=True,
)


def _provenance() -> tuple[Column[Any], ...]:
    """Return the columns for what decisions and jobs stand on and come from; NULL in what release 0.1.0 recorded."""
    return (
        Column("product_declaration", ForeignKey("declarations.number")),
        Column("policy_declaration", ForeignKey("declarations.number")),
        Column("actor", String(200)),
        Column("door", String(20)),
    )


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
    *_provenance(),
    Index(None, "product", "band", "product_declaration"),
    Index(None, "product", "number"),
    sqlite_autoincrement=True,
)

# SQLite takes the index below only where the query names the JSON key as plain text, not as a parameter.
_AMOUNT = bindparam("amount_key", "amount", JSON.JSONStrIndexType(), literal_execute=True)
WITHOUT_LIMIT = decisions.c.limit[_AMOUNT].as_float() == 0
# The first page counts these: without the index every decision would be read for its limit.
Index(
    "ix_decisions_without_limit",
    decisions.c.product,
    decisions.c.band,
    decisions.c.product_declaration,
    sqlite_where=WITHOUT_LIMIT,
    postgresql_where=WITHOUT_LIMIT,
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

# A batch upload (bankportal.domain.batch.Job). Its rows stand in files of the storage; here are their digests.
jobs = Table(
    "jobs",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("id", String(26), nullable=False, unique=True),
    # SHA-256 of the idempotency key it was created with: the same creation is recorded once.
    Column("key", String(64), unique=True),
    Column("product", String(40), nullable=False),
    Column("state", String(20), nullable=False),
    Column("at", Instant, nullable=False),
    Column("file_name", String(255), nullable=False),
    Column("input_digest", String(64), nullable=False),
    Column("input_bytes", BigInteger, nullable=False),
    Column("header_digest", String(64), nullable=False),
    Column("layout", JSON, nullable=False),
    Column("mapping", JSON),
    Column("start_when_checked", Boolean, nullable=False),
    Column("message", Text, nullable=False),
    Column("checked", JSON),
    Column("model_version", String(20)),
    Column("model_digest", String(64)),
    Column("policy_version", String(40)),
    Column("started_at", Instant),
    Column("finished_at", Instant),
    Column("summary", JSON),
    Column("files", JSON),
    *_provenance(),
    Index(None, "input_digest"),
    Index(None, "product", "header_digest"),
    sqlite_autoincrement=True,
)

# The units of a job's work, claimed by lease. `token` counts the claims and fences off the holders of older ones.
chunks = Table(
    "chunks",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("job_number", ForeignKey("jobs.number"), nullable=False),
    Column("step", String(10), nullable=False),
    Column("place", Integer, nullable=False),
    Column("span", JSON),
    Column("state", String(20), nullable=False),
    Column("token", Integer, nullable=False),
    # What speaks against it: exceptions, isolated runs that crashed, and the first worker lost over it.
    Column("faults", Integer, nullable=False),
    # All workers lost over it, whatever ended them.
    Column("losses", Integer, nullable=False),
    Column("worker", String(100)),
    # Seconds since 1970 by the database's own clock, which all workers share.
    Column("lease_until", Float(53)),
    # When it was first claimed, by the same clock.
    Column("began", Float(53)),
    Column("rows_done", Integer, nullable=False),
    Column("scored", Integer),
    Column("rejected", Integer),
    Column("files", JSON),
    UniqueConstraint("job_number", "step", "place"),
    Index(None, "state", "place"),
    sqlite_autoincrement=True,
)

# What was done, by whom (bankportal.store.events); append-only.
events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(40), nullable=False),
    Column("subject", String(200), nullable=False),
    Column("actor", String(200), nullable=False),
    Column("at", Instant, nullable=False),
    Column("content", JSON, nullable=False),
    Index(None, "kind", "number"),
    sqlite_autoincrement=True,
)

# The chain: one receipt a decision, batch or event, each over its content and the digest before
# (bankportal.domain.receipt).
receipts = Table(
    "receipts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("decision_number", ForeignKey("decisions.number"), unique=True),
    Column("job_number", ForeignKey("jobs.number"), unique=True),
    Column("digest", String(64), nullable=False),
    Column("previous", String(64), nullable=False),
    # Which module wrote the content (bankportal.domain.receipt.FORMATS); 1 for all from before there was a choice.
    Column("format", Integer, nullable=False, server_default="1"),
    Column("event_number", ForeignKey("events.number"), unique=True),
    CheckConstraint(
        "CASE WHEN decision_number IS NULL THEN 0 ELSE 1 END + CASE WHEN job_number IS NULL THEN 0 ELSE 1 END "
        "+ CASE WHEN event_number IS NULL THEN 0 ELSE 1 END = 1",
        name="one_subject",
    ),
)

# Keys that callers make their calls repeatable with; both columns are SHA-256, of the key and of what it came with.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key_digest", String(64), primary_key=True),
    Column("request_digest", String(64), nullable=False),
    Column("at", Instant, nullable=False),
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
