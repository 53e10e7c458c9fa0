"""Inserts of many rows by statements that are compiled once: for each row only its values are converted."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Table, insert
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

Row = tuple[Any, ...]
# Parameters by position, as the drivers take rows.
_DIALECTS = {
    "sqlite": SQLiteDialect_pysqlite(paramstyle="qmark"),
    "postgresql": PGDialect_psycopg(paramstyle="format"),  # type: ignore[no-untyped-call]
}


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row], on_conflict: str = "") -> None:
    """Insert rows, one value for each of the table's columns in their order, by one execution of one statement.

    `on_conflict` is the clause that says what happens to rows that are there.
    """
    statement, converted = _prepared(table, connection.dialect.name)
    connection.exec_driver_sql(statement + on_conflict, list(map(converted, rows)))


@cache
def _prepared(table: Table, dialect_name: str) -> tuple[str, Callable[[Row], Row]]:
    """Return the statement, and what makes its parameters of a row."""
    dialect, columns = _DIALECTS[dialect_name], list(table.c)
    statement = insert(table).inline().compile(dialect=dialect, column_keys=[column.name for column in columns])
    processors = [
        (place, processor)
        for place, column in enumerate(columns)
        if (processor := column.type.dialect_impl(dialect).bind_processor(dialect))
    ]

    def converted(row: Row) -> Row:
        values = list(row)
        for place, processor in processors:
            values[place] = processor(values[place])
        return tuple(values)

    return str(statement), converted
