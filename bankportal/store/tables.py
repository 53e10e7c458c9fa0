"""The database's tables. A change here needs a migration in `migrations_data/migrations`; a test compares the two."""

import json
from datetime import UTC, datetime
from typing import Any

import orjson
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


class CompactJSON(TypeDecorator[Any]):
    """Plain data as JSON text without spaces; its floats must be finite. `None` is NULL."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Write it; `TypeError` for what JSON has no words for."""
        return None if value is None else written(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """Read it; `ValueError` where the text is not JSON alone."""
        return parsed(value)


def written(value: Any) -> str:
    """Write plain data as `CompactJSON` keeps it."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # a whole number beyond 64 bits; a space says that it must be read in the same way
        return " " + json.dumps(value, ensure_ascii=False, allow_nan=False)


def parsed(text: str | None) -> Any:
    """Read what `CompactJSON` keeps; `ValueError` where the text is not JSON alone."""
    if text is None:
        return None
    return json.loads(text) if text.startswith(" ") else orjson.loads(text)


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


# What all decisions by one model version under the same declarations share. A row is never changed.
decision_contexts = Table(
    "decision_contexts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    # SHA-256 of the other columns, by which a context is found again.
    Column("digest", String(64), nullable=False, unique=True),
    Column("product_declaration", ForeignKey("declarations.number")),
    Column("policy_declaration", ForeignKey("declarations.number")),
    Column("model_version", String(20), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("policy_version", String(40)),
    Column("base", Float(53), nullable=False),
    # The names of the values that stand as lists in `decisions`, by column.
    Column("names", CompactJSON, nullable=False),
    sqlite_autoincrement=True,
)

# One row a decision, as small as it can be (bankportal.store.decision_rows).
decisions = Table(
    "decisions",
    metadata,
    # That of its receipt.
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("id", String(26), nullable=False, unique=True),
    # SHA-256 of a form's one-time token or an idempotency key, and the inputs: the same submission is recorded once.
    # NULL where nothing can repeat it.
    Column("submission", String(64)),
    Column("at", Instant, nullable=False),
    Column("product", String(40), nullable=False),
    Column("context_number", ForeignKey("decision_contexts.number"), nullable=False),
    # Values in the order of the context's names.
    Column("carried", CompactJSON, nullable=False),
    Column("scored", CompactJSON, nullable=False),
    Column("policy", CompactJSON, nullable=False),
    Column("score", Float(53), nullable=False),
    Column("band", String(40), nullable=False),
    Column("limit", CompactJSON),
    Column("flags", CompactJSON, nullable=False),
    # In the order of the context's names.
    Column("contributions", CompactJSON, nullable=False),
    Column("reasons", CompactJSON, nullable=False),
    # Who caused it and by which door it came in; NULL in what release 0.1.0 recorded.
    Column("actor", String(200)),
    Column("door", String(20)),
    Index(None, "product", "number"),
)

# How many decisions there are up to a number, kept in the transactions that record them (bankportal.store.counts).
decision_counts = Table(
    "decision_counts",
    metadata,
    Column("product", String(40), primary_key=True),
    Column("context_number", ForeignKey("decision_contexts.number"), primary_key=True),
    Column("band", String(40), primary_key=True),
    # Whether no limit was granted.
    Column("without_limit", Boolean(create_constraint=False), primary_key=True),
    Column("decisions", Integer, nullable=False),
    # The number of the newest decision that is counted here, the same in all rows.
    Column("up_to", Integer, nullable=False),
)

# Stored apart, so that nothing that reads decisions reads these by accident: for the fairness audit alone.
protected_values = Table(
    "protected_values",
    metadata,
    Column("decision_number", ForeignKey("decisions.number"), primary_key=True),
    Column("values", CompactJSON, nullable=False),
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
    # What it stands on and where it came from; NULL in what release 0.1.0 recorded.
    Column("product_declaration", ForeignKey("declarations.number")),
    Column("policy_declaration", ForeignKey("declarations.number")),
    Column("actor", String(200)),
    Column("door", String(20)),
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
# (bankportal.domain.receipt). The receipt of a decision names neither batch nor event: the decision has its number.
receipts = Table(
    "receipts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("job_number", ForeignKey("jobs.number")),
    Column("event_number", ForeignKey("events.number")),
    Column("digest", String(64), nullable=False),
    Column("previous", String(64), nullable=False),
    # Which module wrote the content (bankportal.domain.receipt.FORMATS); 1 for all from before there was a choice.
    Column("format", Integer, nullable=False),
    CheckConstraint("job_number IS NULL OR event_number IS NULL", name="one_subject"),
)
# Unique where there is a value: most rows have none, and need no entry.
for column in (decisions.c.submission, receipts.c.job_number, receipts.c.event_number):
    Index(
        f"ix_{column.table.name}_{column.name}",
        column,
        unique=True,
        sqlite_where=column.is_not(None),
        postgresql_where=column.is_not(None),
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
