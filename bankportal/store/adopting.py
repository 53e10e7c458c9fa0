"""Tables that no receipt covers by themselves, and the events that prove their rows.

Each row of `model_versions`, `activations` and `declarations` has an event, whose content holds the row. Rows from
before there were events are fixed by one event, which is written once, when the tables are adopted.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, select

from bankportal.domain.canonical import canonical, instant, sha256
from bankportal.domain.provenance import SYSTEM
from bankportal.store.events import DECLARATION_RECORDED, MODEL_ACTIVATED, MODEL_REGISTERED, TABLES_ADOPTED, add_event
from bankportal.store.sessions import Database
from bankportal.store.tables import activations, declarations, events, model_versions

# The event that is written with each row of a table.
EVENT_OF = {model_versions: MODEL_REGISTERED, activations: MODEL_ACTIVATED, declarations: DECLARATION_RECORDED}
# A declaration's digest stands for its text.
LEFT_OUT = {declarations.c.text}


def row_content(table: Table, row: RowMapping) -> dict[str, Any]:
    """Return a row as its event holds it: by column, moments as text."""
    names = [column.name for column in table.c if column not in LEFT_OUT]
    return {name: instant(row[name]) if isinstance(row[name], datetime) else row[name] for name in names}


def adopt(connection: Connection, database: Database) -> None:
    """Fix the rows that are there without events, in a write transaction, once for each database."""
    if connection.execute(_ADOPTED).first() is None:
        database.lock_chain(connection)
        content = {table.name: _rows_fixed(connection, table) for table in EVENT_OF}
        add_event(connection, database, TABLES_ADOPTED, "database", SYSTEM, content)


_ADOPTED = select(events.c.content).where(events.c.kind == TABLES_ADOPTED).order_by(events.c.number).limit(1)


def _rows_fixed(connection: Connection, table: Table, last: int | None = None) -> dict[str, Any]:
    """Return the number, the last number and the digest of a table's rows, of those up to `last` where it is given."""
    query = select(table).order_by(table.c.number)
    rows = connection.execute(query if last is None else query.where(table.c.number <= last)).mappings().all()
    digest = sha256(canonical([row_content(table, row) for row in rows]))
    return {"rows": len(rows), "last": rows[-1]["number"] if rows else 0, "digest": digest}


def differences(connection: Connection) -> Iterator[str]:
    """Yield a sentence for each row that is not what its event says, for each event without a row and the other way."""
    adopted = connection.execute(_ADOPTED).scalar()
    for table, kind in EVENT_OF.items():
        last = 0
        if adopted is not None:
            last = adopted[table.name]["last"]
            if _rows_fixed(connection, table, last) != adopted[table.name]:
                yield f"The first {last} rows of {table.name} are not those that were there when they were adopted."
        yield from _differing_rows(connection, table, kind, last)
    for row in connection.execute(select(declarations)):
        if sha256(row.text) != row.digest:
            yield f"Declaration {row.number} ({row.kind} {row.key}) does not have the text that was recorded."


def _differing_rows(connection: Connection, table: Table, kind: str, last: int) -> Iterator[str]:
    proved = {
        content["number"]: content
        for content in connection.scalars(select(events.c.content).where(events.c.kind == kind))
    }
    for row in connection.execute(select(table).where(table.c.number > last).order_by(table.c.number)).mappings():
        content = proved.pop(row["number"], None)
        if content is None:
            yield f"Row {row['number']} of {table.name} has no event: it was inserted."
        elif any(content.get(name) != value for name, value in row_content(table, row).items()):
            yield f"Row {row['number']} of {table.name} is not what was recorded."
    for number in sorted(proved):
        yield f"Row {number} of {table.name} is not there: it was deleted."
