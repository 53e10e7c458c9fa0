"""Idempotency keys: each is bound for good to the first request that used it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from bankportal.domain.errors import KeyReused
from bankportal.store.sessions import Database
from bankportal.store.tables import idempotency_keys

# Adds the keys that are free; a key that another transaction has bound meanwhile stays bound to its request.
_NEW = {
    "sqlite": sqlite.insert(idempotency_keys).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(idempotency_keys).on_conflict_do_nothing(),
}
_BOUND = select(idempotency_keys.c.key_digest, idempotency_keys.c.request_digest).where(
    idempotency_keys.c.key_digest.in_(bindparam("keys", expanding=True))
)


class IdempotencyKeys:
    """Which request each key belongs to. What that request created is looked up by its submission."""

    def __init__(self, database: Database):
        self.database = database

    def claim(self, key: str, request: bytes) -> None:
        """Bind a key to a request, once; `KeyReused` where it belongs to a request with other content.

        Returns after the commit.
        """
        for refused in self.claim_all([(key, request)]):
            if refused:
                raise refused

    def claim_all(self, claims: Sequence[tuple[str, bytes]]) -> list[KeyReused | None]:
        """Bind keys to requests as `claim` does, with one commit; return each refusal, `None` where the key is bound.

        A key that several claims name belongs to the first of them.
        """
        digests = [(_digest(key.encode()), _digest(request)) for key, request in claims]
        wanted = dict(reversed(digests))
        bound = self._bound(wanted) if wanted else {}
        if free := sorted(wanted.keys() - bound.keys()):  # sorted everywhere, so that two transactions cannot deadlock
            bound |= self._bind({key: wanted[key] for key in free})
        return [None if bound[key] == request else KeyReused() for key, request in digests]

    def _bound(self, keys: Collection[str]) -> dict[str, str]:
        """Return, of those keys that are bound, the request each belongs to."""
        with self.database.read() as connection:
            return _read(connection, keys)

    def _bind(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Bind the keys that are still free, and return the request each belongs to now."""
        now = datetime.now(UTC)
        new = [{"key_digest": key, "request_digest": request, "at": now} for key, request in wanted.items()]
        with self.database.write() as connection:
            connection.execute(_NEW[self.database.engine.dialect.name], new)
            return _read(connection, wanted)


def _read(connection: Connection, keys: Collection[str]) -> dict[str, str]:
    rows = connection.execute(_BOUND, {"keys": list(keys)})
    return {row.key_digest: row.request_digest for row in rows}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
