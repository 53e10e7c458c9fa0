"""Events: what was done, by whom. Each has a receipt in the chain, written in the transaction of the act itself.

A new kind of event needs a name here and no table. An event's `content` is plain data that JSON holds; it is kept for
good, so it names nothing that may change its meaning.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, insert

from bankportal.store.receipts import add_event_receipt
from bankportal.store.sessions import Database
from bankportal.store.tables import events

MODEL_REGISTERED = "model-registered"
MODEL_ACTIVATED = "model-activated"
DECLARATION_RECORDED = "declaration-recorded"
DECLARATION_APPLIED = "declaration-applied"
DECLARATION_WITHDRAWN = "declaration-withdrawn"
# Fixes the rows that stood in tables before their events were recorded (bankportal.store.adopting).
TABLES_ADOPTED = "tables-adopted"


def add_event(
    connection: Connection,
    database: Database,
    kind: str,
    subject: str,
    actor: str,
    content: Mapping[str, Any],
    at: datetime | None = None,
) -> None:
    """Record what is done in this write transaction and add it to the end of the chain; `at` is now by default.

    The caller locks the chain (`Database.lock_chain`) before it writes anything else, so that nobody waits for another
    in a circle. Nothing else can be recorded from there until the commit.
    """
    database.lock_chain(connection)
    record = {"kind": kind, "subject": subject, "actor": actor, "at": at or datetime.now(UTC), "content": dict(content)}
    number = connection.execute(insert(events).values(record).returning(events.c.number)).scalar_one()
    add_event_receipt(connection, record, number)
