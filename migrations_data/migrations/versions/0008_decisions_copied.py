"""What release 0006 of the tables held is copied into those of 0007, receipt by receipt, and given away.

`copy_rows` is called again and again, each time in a transaction of its own, so a migration that was killed goes on
where it was. Digests stay what they are. A value that has not the shape in which it was recorded (only an edit can make
it so) is kept as a text, and what names a row that is not there names nothing: what `flask audit verify` found before,
it finds afterwards.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

ROWS = 2_000  # copied in one transaction
LIMIT = ("amount", "ceiling", "rule", "requested", "counteroffer", "obligations_assumed")
FLAG = ("factor", "message")
REASON = ("factor", "rule", "contribution", "sentence")
NAMED = ("carried", "scored", "policy", "contributions")
CONTEXT = (
    *("product_declaration", "policy_declaration", "model_version", "model_digest", "policy_version", "base"),
    "names",
)
DECISION = (
    *("number", "id", "submission", "at", "product", "context_number", "carried", "scored", "policy", "score", "band"),
    *("limit", "flags", "contributions", "reasons", "actor", "door"),
)


def _table(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *map(sa.column, columns))


contexts = _table("decision_contexts", "number", "digest", *CONTEXT)
decisions = _table("decisions", *DECISION)
protected_values = _table("protected_values", "decision_number", "values", "salt")
receipts = _table("receipts", "number", "job_number", "event_number", "digest", "previous", "format")
DECISION_BEFORE = """
    d.number AS decision, d.id, d.submission, d.at, d.product, d.score, d.band, d.base, d.model_version, d.model_digest,
    d.policy_version, d.product_declaration, d.policy_declaration, d.actor, d.door,
    CAST(d.carried AS TEXT) AS carried, CAST(d.scored AS TEXT) AS scored, CAST(d.policy AS TEXT) AS policy,
    CAST(d."limit" AS TEXT) AS "limit", CAST(d.flags AS TEXT) AS flags,
    CAST(d.contributions AS TEXT) AS contributions, CAST(d.reasons AS TEXT) AS reasons,
    CAST(p."values" AS TEXT) AS protected, p.salt
"""
CHAINED = sa.text(f"""
    SELECT r.number, j.number AS job_number, CASE WHEN j.number IS NULL THEN e.number END AS event_number,
    r.digest, r.previous, r.format, {DECISION_BEFORE}
    FROM receipts_0006 r
    LEFT JOIN jobs j ON j.number = r.job_number
    LEFT JOIN events e ON e.number = r.event_number
    LEFT JOIN decisions_0006 d ON d.number = r.decision_number
    LEFT JOIN protected_values_0006 p ON p.decision_number = d.number
    WHERE r.number > :last ORDER BY r.number LIMIT {ROWS}
""")  # noqa: S608  # texts of this file
# Decisions that somebody inserted without a receipt.
UNCHAINED = sa.text(f"""
    SELECT {DECISION_BEFORE}
    FROM decisions_0006 d
    LEFT JOIN receipts_0006 r ON r.decision_number = d.number
    LEFT JOIN protected_values_0006 p ON p.decision_number = d.number
    WHERE r.number IS NULL ORDER BY d.number
""")  # noqa: S608
# Where the copying stands, and where it ends; numbers below 1 are edits, and come along.
NEXT = sa.text("SELECT coalesce((SELECT max(number) FROM receipts), (SELECT min(number) - 1 FROM receipts_0006))")
END = sa.text("SELECT max(number) FROM receipts_0006")
ADD_COUNT = sa.text("""
    INSERT INTO decision_counts (product, context_number, band, without_limit, decisions, up_to)
    VALUES (:product, :context_number, :band, :without_limit, :decisions, 0)
    ON CONFLICT (product, context_number, band, without_limit)
    DO UPDATE SET decisions = decision_counts.decisions + excluded.decisions
""")
FIRST = sa.text("SELECT coalesce(min(number), 1) FROM decisions")
DECLARED = sa.text("SELECT number FROM declarations")
COUNTED_UP_TO = sa.text("UPDATE decision_counts SET up_to = (SELECT max(number) FROM decisions)")


def copy_rows(connection: sa.Connection) -> tuple[int, int] | None:
    """Copy some receipts with their decisions; return how far it is and how far it goes, `None` at the end."""
    last = connection.scalar(NEXT)
    rows = _rows(connection, CHAINED, last=last) if last is not None else []
    if not rows:
        return None
    connection.execute(receipts.insert(), [{column.name: row[column.name] for column in receipts.c} for row in rows])
    _copy_decisions(connection, [(row["number"], row) for row in rows if row["decision"] is not None])
    return rows[-1]["number"], connection.scalar(END) or 0


def upgrade() -> None:
    connection = op.get_bind()
    # Their numbers must be those of no receipt, present or future.
    below = min(connection.scalar(FIRST) or 0, 0)
    _copy_decisions(connection, [(below - place, row) for place, row in enumerate(_rows(connection, UNCHAINED), 1)])
    for name in ("receipts", "protected_values", "decisions"):
        op.drop_table(f"{name}_0006")
    if connection.dialect.name == "postgresql":  # which would plan by guesses until it looks by itself
        op.execute("ANALYZE")


def downgrade() -> None:
    """Refuse: what the release before recorded is no longer there."""
    raise RuntimeError("Compact decisions cannot be read by the release before: restore the backup made before.")


def _rows(connection: sa.Connection, query: sa.TextClause, **parameters: int) -> Sequence[sa.RowMapping]:
    """Return the rows of a query; where SQLite holds a text that is none, with what stands for it."""
    try:
        return connection.execute(query, parameters).mappings().all()
    except sa.exc.OperationalError:
        with _any_text(connection):
            return connection.execute(query, parameters).mappings().all()


@contextmanager
def _any_text(connection: sa.Connection) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    before, driver.text_factory = driver.text_factory, lambda stored: stored.decode(errors="replace")
    try:
        yield
    finally:
        driver.text_factory = before


def _copy_decisions(connection: sa.Connection, numbered: Sequence[tuple[int, sa.RowMapping]]) -> None:
    if not numbered:
        return
    known: dict[str, int] = {digest: number for number, digest in connection.execute(CONTEXTS)}
    copied, protected, counts = [], [], Counter[tuple[Any, ...]]()
    for number, row in numbered:
        decision, context, without_limit = _compact(row)
        digest = context["digest"]
        if digest not in known:
            context |= dict.fromkeys(_undeclared(connection, context))
            known[digest] = connection.execute(contexts.insert().returning(contexts.c.number), context).scalar_one()
        copied.append(decision | {"number": number, "context_number": known[digest]})
        counts[row["product"], known[digest], row["band"], without_limit] += 1
        if row["salt"] is not None:
            protected.append({"decision_number": number, "values": _kept(row["protected"]), "salt": row["salt"]})
    connection.execute(decisions.insert(), copied)
    if protected:
        connection.execute(protected_values.insert(), protected)
    names = ("product", "context_number", "band", "without_limit")
    groups = [dict(zip(names, group, strict=True)) | {"decisions": count} for group, count in counts.items()]
    connection.execute(ADD_COUNT, groups)
    connection.execute(COUNTED_UP_TO)


CONTEXTS = sa.select(contexts.c.number, contexts.c.digest)


def _undeclared(connection: sa.Connection, context: dict[str, Any]) -> list[str]:
    """Return the columns of a context that name declarations that are not there; its digest says that they did."""
    declared = set(connection.scalars(DECLARED))
    return [name for name in ("product_declaration", "policy_declaration") if context[name] not in declared]


def _compact(row: sa.RowMapping) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """Return a decision of before as a compact row and its context, each by column, and whether it has no limit."""
    objects = {field: _parsed(row[field]) for field in NAMED}
    texts = {field: _values(row[field], objects[field]) for field in NAMED}
    limit = _parsed(row["limit"])
    whole_limit = _has(LIMIT, limit)
    own = ("id", "submission", "at", "product", "score", "band", "actor", "door")
    decision = {name: row[name] for name in own} | texts
    decision["limit"] = _written(_of(LIMIT, limit)) if whole_limit else None if limit is None else _text(row["limit"])
    decision["flags"] = _flags(row["flags"])
    decision["reasons"] = _reasons(row["reasons"], objects["contributions"])
    context = {name: row[name] for name in CONTEXT if name != "names"}
    names = [list(objects[field]) if isinstance(objects[field], dict) else [] for field in NAMED]
    content = json.dumps([*context.values(), names], separators=(",", ":"), ensure_ascii=False, default=str)
    context |= {"names": _written(names), "digest": hashlib.sha256(content.encode(errors="replace")).hexdigest()}
    return decision, context, whole_limit and limit["amount"] == 0


class _Unreadable:
    """In place of what is no JSON."""


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else DECODER.decode(text)
    except (ValueError, RecursionError):
        return _Unreadable()


def _finite(text: str) -> float:
    """Read a number; `ValueError` for one that orjson would write as null."""
    if not math.isfinite(number := float(text)):
        raise ValueError("not finite")
    return number


# Reads JSON alone, without Python's NaN and Infinity.
DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def _written(value: Any) -> str:
    """Write JSON as `CompactJSON` reads it: a space stands before what orjson has no numbers for."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        return " " + json.dumps(value)


def _text(text: str) -> str:
    """Keep an edited value as a text of JSON."""
    return " " + json.dumps(text)


def _kept(text: str) -> str:
    value = _parsed(text)
    return _text(text) if isinstance(value, _Unreadable) else _written(value)


def _values(text: str, value: Any) -> str:
    return _written(list(value.values())) if isinstance(value, dict) else _text(text)


def _has(names: Sequence[str], value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == set(names)


def _of(names: Sequence[str], value: dict[str, Any]) -> list[Any]:
    return [value[name] for name in names]


def _flags(text: str) -> str:
    flags = _parsed(text)
    if not isinstance(flags, list) or not all(_has(FLAG, flag) for flag in flags):
        return _text(text)
    return _written([_of(FLAG, flag) for flag in flags])


def _reasons(text: str, contributions: Any) -> str:
    reasons = _parsed(text)
    if not isinstance(reasons, list) or not all(_has(REASON, reason) for reason in reasons):
        return _text(text)
    factors = list(contributions) if isinstance(contributions, dict) else []
    return _written([_reason(reason, factors, contributions) for reason in reasons])


def _reason(reason: dict[str, Any], factors: list[str], contributions: Any) -> list[Any]:
    """Return a reason as its factor's position and its sentence, where its contribution is that of the factor."""
    factor, contribution = reason["factor"], reason["contribution"]
    is_factors = (
        reason["rule"] is None
        and factor in factors
        and isinstance(contribution, float)
        and isinstance(contributions[factor], float)
        and 0 != contribution == contributions[factor]
    )
    return [factors.index(factor), reason["sentence"]] if is_factors else _of(REASON, reason)
