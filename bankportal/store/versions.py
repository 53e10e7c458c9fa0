"""Which model versions are registered, and which was active when."""

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, insert, select

from bankportal.domain.errors import NotFound
from bankportal.domain.provenance import SYSTEM
from bankportal.store.adopting import row_content
from bankportal.store.events import MODEL_ACTIVATED, MODEL_REGISTERED, add_event
from bankportal.store.sessions import Database
from bankportal.store.tables import activations, model_versions

# Seconds within which a running portal notices what another process activated; its own activations count at once.
NOTICED_WITHIN = 1.0
MAX_ACTIVATED = 20


@dataclass(frozen=True)
class Registered:
    """A version as it was registered. `manifest_digest` (SHA-256, hex) fixes its manifest and so all its files."""

    product: str
    version: str
    manifest_digest: str
    registered_at: datetime


class Versions:
    """The registered versions and the append-only list of activations."""

    def __init__(self, database: Database):
        self.database = database
        self._activated: dict[str, tuple[float, list[Registered]]] = {}
        self._changes = 0
        self._lock = threading.Lock()

    def register(
        self, product: str, version: str, manifest_digest: str, *, activate: bool, actor: str = SYSTEM
    ) -> None:
        """Add a version, and with `activate` make it the active one in the same transaction, with their events."""
        now = datetime.now(UTC)
        values = {"product": product, "version": version, "manifest_digest": manifest_digest, "registered_at": now}
        with self.database.write() as connection:
            self.database.lock_chain(connection)
            new = insert(model_versions).values(values).returning(*model_versions.c)
            row = connection.execute(new).mappings().one()
            self._add_event(connection, MODEL_REGISTERED, row, row_content(model_versions, row), actor, now)
            if activate:
                self._activate(connection, row, actor)
        self.forget()

    def activate(self, product: str, version: str, actor: str = SYSTEM) -> None:
        """Make a registered version the active one, with its event; `NotFound` if it is not registered."""
        with self.database.write() as connection:
            self.activate_within(connection, product, version, actor)
        self.forget()

    def activate_within(self, connection: Connection, product: str, version: str, actor: str = SYSTEM) -> None:
        """Do as `activate` in the caller's write transaction, who calls `forget` after the commit."""
        self.database.lock_chain(connection)
        row = connection.execute(select(model_versions).where(*_is(product, version))).mappings().first()
        if row is None:
            raise NotFound(f"There is no {product} model version {version[:20]}.")
        self._activate(connection, row, actor)

    def _activate(self, connection: Connection, version: RowMapping, actor: str) -> None:
        values = {"model_version_number": version["number"], "at": datetime.now(UTC)}
        row = connection.execute(insert(activations).values(values).returning(*activations.c)).mappings().one()
        content = row_content(activations, row)
        content |= {name: version[name] for name in ("product", "version", "manifest_digest")}
        self._add_event(connection, MODEL_ACTIVATED, version, content, actor, row["at"])

    def _add_event(
        self,
        connection: Connection,
        kind: str,
        version: RowMapping,
        content: dict[str, Any],
        actor: str,
        at: datetime,
    ) -> None:
        subject = f"model {version['product']} {version['version']}"
        add_event(connection, self.database, kind, subject, actor, content, at)

    def activated(self, product: str) -> list[Registered]:
        """Return the versions activated last, the active one first; cached for `NOTICED_WITHIN` seconds."""
        fresh_until, known = self._activated.get(product, (0.0, []))
        if time.monotonic() < fresh_until:
            return known
        changes, until = self._changes, time.monotonic() + NOTICED_WITHIN
        activated = self._read_activated(product)
        with self._lock:
            if changes == self._changes:  # else what was read may be older than what was activated here since
                self._activated[product] = until, activated
        return activated

    def _read_activated(self, product: str) -> list[Registered]:
        query = _read().join(activations).where(model_versions.c.product == product)
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(activations.c.number.desc()).limit(MAX_ACTIVATED))
            return [Registered(*row) for row in rows]

    def forget(self) -> None:
        """Let the next question ask the database."""
        with self._lock:
            self._changes += 1
            self._activated.clear()

    def all(self, product: str) -> list[Registered]:
        """Return a product's registered versions, newest first."""
        query = _read().where(model_versions.c.product == product).order_by(model_versions.c.number.desc())
        with self.database.read() as connection:
            return [Registered(*row) for row in connection.execute(query)]

    def get(self, product: str, version: str) -> Registered:
        """Return one registered version; `NotFound` if there is none."""
        with self.database.read() as connection:
            row = connection.execute(_read().where(*_is(product, version))).first() if version.isalnum() else None
        if row is None:
            raise NotFound(f"There is no {product} model version {version[:20]}.")
        return Registered(*row)


def _read() -> Select[Any]:
    columns = model_versions.c
    return select(columns.product, columns.version, columns.manifest_digest, columns.registered_at)


def _is(product: str, version: str) -> tuple[Any, Any]:
    return model_versions.c.product == product, model_versions.c.version == version
