"""The recorded declarations: every version of every product and policy that was ever in force.

The table is append-only. Which declarations are in force is read from the events alone.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select

from bankportal.domain.canonical import sha256
from bankportal.domain.declaration import Declaration, Kind, product_of
from bankportal.domain.errors import Conflict, NotFound, VersionRefused
from bankportal.domain.products import Product
from bankportal.domain.receipt import Record
from bankportal.store.adopting import row_content
from bankportal.store.events import DECLARATION_APPLIED, DECLARATION_RECORDED, DECLARATION_WITHDRAWN, add_event
from bankportal.store.sessions import Database
from bankportal.store.tables import declarations, events
from bankportal.version import __version__

Key = tuple[Kind, str]
_CHANGES = events.c.kind.in_((DECLARATION_APPLIED, DECLARATION_WITHDRAWN))


class Origin(Enum):
    """Who wrote a declaration."""

    SHIPPED = "shipped"
    BANK = "bank"


class DeclarationBroken(VersionRefused):
    """What the database holds of a declaration is not what was recorded; it is not used."""

    code = "declaration-broken"


@dataclass(frozen=True)
class Recorded:
    """A recorded version of a declaration; `digest` is the SHA-256 (hex) of its canonical `text`, `at` is in UTC."""

    number: int
    kind: Kind
    key: str
    digest: str
    text: str
    at: datetime


@dataclass(frozen=True)
class Change:
    """A declaration was applied or withdrawn; `number` is that of the version that was applied, or in force until then.

    `event` numbers the event. `origin` is that of the version; `source` is the SHA-256 (hex) of the file that it was
    applied from, `None` where there was none.
    """

    event: int
    applied: bool
    number: int
    kind: Kind
    key: str
    digest: str
    origin: Origin
    actor: str
    at: datetime
    source: str | None


class Timeline:
    """All changes of declarations so far, and what is in force after them."""

    def __init__(self, changes: Iterable[Change]):
        self.changes = tuple(changes)
        self.last: dict[Key, Change] = {}  # in the order in which they were first applied
        self.applied: dict[Key, Change] = {}
        for change in self.changes:
            self.last[change.kind, change.key] = change
            if change.applied:
                self.applied[change.kind, change.key] = change

    @cached_property
    def in_force(self) -> dict[Key, Change]:
        """What is in force, by kind and key."""
        return {key: change for key, change in self.last.items() if change.applied}

    @cached_property
    def withdrawn(self) -> dict[Key, Change]:
        """What was withdrawn and not applied again."""
        return {key: change for key, change in self.last.items() if not change.applied}

    @cached_property
    def sources(self) -> set[str | None]:
        """The SHA-256 of every file that was ever applied."""
        return {change.source for change in self.changes}

    @cached_property
    def digests(self) -> set[tuple[Kind, str, str]]:
        """Kind, key and digest of every declaration that was ever in force."""
        return {(change.kind, change.key, change.digest) for change in self.changes}

    @property
    def newest(self) -> int:
        """The number of the newest change; 0 where there is none."""
        return self.changes[-1].event if self.changes else 0


class DeclarationStore:
    """The recorded declarations, and the products made from them. Safe for threads."""

    def __init__(self, database: Database):
        self.database = database
        self._products: dict[tuple[str, int | None, int | None], Product] = {}
        self._numbers: dict[tuple[Kind, str, str], int] = {}

    # What old and new decisions stand on

    def product(
        self,
        key: str,
        product_number: int | None,
        policy_number: int | None,
        connection: Connection | None = None,
    ) -> Product:
        """Return the product of recorded declarations; the same object each time.

        Without `product_number` it is the product and policy of before there were declarations: the first recorded
        ones. With it, a product without `policy_number` has no policy. Raises `DeclarationBroken` where a declaration
        is not what was recorded, or is not there. `connection` is used where the caller has one open.
        """
        known = self._products.get((key, product_number, policy_number))
        if known is not None:
            return known
        with self._reading(connection) as open_connection:
            return self._product(open_connection, key, product_number, policy_number)

    def product_of(self, record: Record, connection: Connection | None = None) -> Product:
        """Return the product that a row of `decisions` or `jobs` stands on; raises as `product`."""
        numbers = record["product_declaration"], record["policy_declaration"]
        return self.product(record["product"], *numbers, connection=connection)

    def product_with(self, key: str, digest: str) -> Product | None:
        """Return the product of a recorded declaration by its digest, without a policy; `None` if it is not recorded.

        Raises `DeclarationBroken` where it is not what was recorded.
        """
        with self.database.read() as connection:
            number = connection.scalar(select(declarations.c.number).where(*_is(Kind.PRODUCT, key, digest)))
            return product_of(_one(connection, Kind.PRODUCT, key, number).text, None) if number else None

    def _product(
        self, connection: Connection, key: str, product_number: int | None, policy_number: int | None
    ) -> Product:
        recorded = _one(connection, Kind.PRODUCT, key, product_number)
        policy_key = _policy_key(recorded)
        if product_number is None and policy_key is not None:
            policy_number = _one(connection, Kind.POLICY, policy_key, None).number
        exact = (key, recorded.number, policy_number)
        if exact not in self._products:
            policy = None if policy_number is None else _one(connection, Kind.POLICY, None, policy_number).text
            self._products[exact] = product_of(recorded.text, policy)
        if product_number is None:
            self._products[key, None, None] = self._products[exact]
        return self._products[exact]

    def number_of(self, product: Product) -> int:
        """Return the number of a product's declaration; `Conflict` where it was never recorded."""
        return self._number(Kind.PRODUCT, product.key, product.digest)

    def policy_number_of(self, product: Product) -> int | None:
        """Return the number of its policy's declaration, `None` where it has no policy; raises as `number_of`."""
        policy = product.policy
        return self._number(Kind.POLICY, policy.key, policy.digest) if policy else None

    def numbers_of(self, product: Product) -> dict[str, int | None]:
        """Return the columns that say what a decision or job of this product stands on; raises as `number_of`."""
        return {
            "product_declaration": self.number_of(product),
            "policy_declaration": self.policy_number_of(product),
        }

    def _number(self, kind: Kind, key: str, digest: str) -> int:
        if (number := self._numbers.get((kind, key, digest))) is None:
            with self.database.read() as connection:
                number = connection.scalar(select(declarations.c.number).where(*_is(kind, key, digest)))
            if number is None:
                raise Conflict(
                    f"This declaration of {kind.value} {key} was never applied: nothing can be recorded under it."
                )
            self._numbers[kind, key, digest] = number
        return number

    @contextmanager
    def _reading(self, connection: Connection | None) -> Iterator[Connection]:
        if connection is not None:
            yield connection
            return
        with self.database.read() as own:
            yield own

    # What is in force

    def changes(self) -> int:
        """Return the number of the newest event that changed what is in force; 0 where there is none. Cheap."""
        with self.database.read() as connection:
            return connection.scalar(select(func.max(events.c.number)).where(_CHANGES)) or 0

    def recorded(self, kind: Kind, key: str, number: int) -> Recorded:
        """Return one recorded version; `DeclarationBroken` where it is not there or not what was recorded."""
        with self.database.read() as connection:
            return _one(connection, kind, key, number)

    def timeline(self, connection: Connection | None = None) -> Timeline:
        """Return all that happened to all declarations; `connection` is used where the caller has one open."""
        with self._reading(connection) as open_connection:
            return Timeline(_changes(open_connection))

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """Open the transaction in which declarations are applied and withdrawn, together or not at all."""
        with self.database.write() as connection:
            self.database.lock_chain(connection)
            yield connection

    def apply(
        self, connection: Connection, declaration: Declaration, origin: Origin, actor: str, source: str | None = None
    ) -> int:
        """Put a declaration in force, in the place of the one before, and return its number.

        `connection` comes from `changing`; `source` is as in `Change`. A text that was recorded keeps its number.
        """
        kind, key, now = declaration.kind, declaration.key, datetime.now(UTC)
        number = self.record(connection, declaration, actor, now)
        before = _now_in_force(connection, kind, key)
        content = _content(number, kind, key, declaration.digest, origin)
        content |= {"replaces": before.digest if before else None, "source": source}
        add_event(connection, self.database, DECLARATION_APPLIED, f"{kind.value} {key}", actor, content, now)
        return number

    def withdraw(self, connection: Connection, kind: Kind, key: str, actor: str) -> None:
        """Take a declaration out of force; `NotFound` where none is. `connection` comes from `changing`."""
        before = _now_in_force(connection, kind, key)
        if before is None:
            raise NotFound(f"No {kind.value} {key} is in force.")
        content = _content(before.number, kind, key, before.digest, before.origin)
        add_event(connection, self.database, DECLARATION_WITHDRAWN, f"{kind.value} {key}", actor, content)

    def record(self, connection: Connection, declaration: Declaration, actor: str, at: datetime | None = None) -> int:
        """Return the number of a declaration's version, which is recorded with its event where it was not yet.

        It is not in force by that. `connection` comes from `changing`.
        """
        at = at or datetime.now(UTC)
        kind, key, digest = declaration.kind, declaration.key, declaration.digest
        number: int | None = connection.scalar(select(declarations.c.number).where(*_is(kind, key, digest)))
        if number is not None:
            return number
        values = {"kind": kind.value, "key": key, "digest": digest, "text": declaration.text, "at": at}
        row = connection.execute(insert(declarations).values(values).returning(*declarations.c)).mappings().one()
        content = row_content(declarations, row)
        add_event(connection, self.database, DECLARATION_RECORDED, f"{kind.value} {key}", actor, content, at)
        return int(row["number"])


def _content(number: int, kind: Kind, key: str, digest: str, origin: Origin) -> dict[str, Any]:
    """Return what an event says of a declaration."""
    return {
        "number": number,
        "kind": kind.value,
        "key": key,
        "digest": digest,
        "origin": origin.value,
        "portal": __version__,
    }


def _is(kind: Kind, key: str, digest: str) -> tuple[Any, ...]:
    return declarations.c.kind == kind.value, declarations.c.key == key, declarations.c.digest == digest


def _one(connection: Connection, kind: Kind, key: str | None, number: int | None) -> Recorded:
    """Return one recorded version, or without a number the first one of its key; checked against its digest."""
    query: Select[Any] = (
        select(declarations).where(declarations.c.kind == kind.value).order_by(declarations.c.number).limit(1)
    )
    if key is not None:
        query = query.where(declarations.c.key == key)
    if number is not None:
        query = query.where(declarations.c.number == number)
    row = connection.execute(query).first()
    if row is None:
        raise DeclarationBroken(f"A recorded declaration of {kind.value} {key or number} is not there: it was deleted.")
    recorded = Recorded(**row._asdict() | {"kind": kind})
    if sha256(recorded.text) != recorded.digest:
        raise DeclarationBroken(
            f"Declaration {recorded.number}, {kind.value} {recorded.key}, is not what was recorded."
        )
    return recorded


def _changes(connection: Connection) -> Iterator[Change]:
    for row in connection.execute(select(events).where(_CHANGES).order_by(events.c.number)):
        content = row.content
        yield Change(
            event=row.number,
            applied=row.kind == DECLARATION_APPLIED,
            number=content["number"],
            kind=Kind(content["kind"]),
            key=content["key"],
            digest=content["digest"],
            origin=Origin(content["origin"]),
            actor=row.actor,
            at=row.at,
            source=content.get("source"),
        )


def _now_in_force(connection: Connection, kind: Kind, key: str) -> Change | None:
    return Timeline(_changes(connection)).in_force.get((kind, key))


def _policy_key(recorded: Recorded) -> str | None:
    """Return the key of the policy that a product's declaration names."""
    return json.loads(recorded.text).get("policy")  # type: ignore[no-any-return]
