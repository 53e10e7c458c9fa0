"""Idempotency keys: each is bound for good to the first request that used it."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from bankportal.domain.errors import PortalError
from bankportal.store.recorder import Recorder
from bankportal.store.sessions import Database
from bankportal.store.tables import idempotency_keys

# Adds the keys that are free: those that somebody else binds meanwhile stay theirs.
_NEW = {
    "sqlite": sqlite.insert(idempotency_keys).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(idempotency_keys).on_conflict_do_nothing(),
}
_BOUND = select(idempotency_keys.c.key_digest, idempotency_keys.c.request_digest).where(
    idempotency_keys.c.key_digest.in_(bindparam("keys", expanding=True))
)


class KeyReused(PortalError):
    """An idempotency key was used before, for another request."""

    code = "key-reused"


class IdempotencyKeys:
    """Which request each key belongs to. What the request created is found by its own submission."""

    def __init__(self, database: Database):
        self.database = database
        self._recorder = Recorder(self._bind_all)

    def claim(self, key: str, request: bytes) -> None:
        """Bind a key to a request, once; `KeyReused` where it belongs to a request with other content.

        Returns after the commit, which keys that several threads claim at the same time share.
        """
        key_digest, request_digest = _digest(key.encode()), _digest(request)
        bound = self._bound(key_digest) or self._recorder.record((key_digest, request_digest))
        if bound != request_digest:
            raise KeyReused("This Idempotency-Key was used for a request with other content. Use a new key.")

    def _bound(self, key: str) -> str | None:
        query = select(idempotency_keys.c.request_digest).where(idempotency_keys.c.key_digest == key)
        with self.database.read() as connection:
            return connection.execute(query).scalar_one_or_none()

    def _bind_all(self, asked: Sequence[tuple[str, str]]) -> list[str]:
        """Bind the keys that are free; return the request each is bound to now: its own, or the one that came first."""
        now, wanted = datetime.now(UTC), dict(reversed(asked))
        # In one order everywhere, so that two transactions never wait for each other.
        new = [{"key_digest": key, "request_digest": wanted[key], "at": now} for key in sorted(wanted)]
        with self.database.write() as connection:
            connection.execute(_NEW[self.database.engine.dialect.name], new)
            rows = connection.execute(_BOUND, {"keys": list(wanted)})
            bound = {row.key_digest: row.request_digest for row in rows}
        return [bound[key] for key, _ in asked]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
