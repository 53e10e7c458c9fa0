"""Decisions in the database: recorded whole, in one transaction, and read back as they were."""

import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select
from sqlalchemy.exc import IntegrityError

from bankportal.domain.errors import NotFound
from bankportal.domain.outcome import Decision, Flag, Outcome, Reason
from bankportal.domain.policy import Limit
from bankportal.domain.products import PRODUCTS, Band, Product, Tone
from bankportal.domain.receipt import Receipt, receipt
from bankportal.domain.schema import Customer, Values
from bankportal.store.sessions import Database
from bankportal.store.tables import decisions, protected_values, receipts

ID_LENGTH = 26
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread


@dataclass(frozen=True)
class Link:
    """A decision and its receipt as they are stored; `None` for what is not there."""

    decision: Decision | None
    receipt: Receipt | None
    submission: str = ""
    salt: str | None = None


@dataclass(frozen=True)
class Page:
    """Some decisions, newest first, and the id to continue after; `None` at the end."""

    items: list[Decision]
    next: str | None


def new_id() -> str:
    """Return a decision number: 26 characters that sort by time and cannot be guessed."""
    bits = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(ALPHABET[bits >> shift & 31] for shift in range(125, -1, -5))


def is_id(text: str) -> bool:
    """Say whether a text could be a decision's number."""
    return len(text) == ID_LENGTH and set(text) <= set(ALPHABET)


def submission_digest(token: str, customer: Customer) -> str:
    """Return what identifies a submission: the form's one-time token together with what was sent."""
    canonical = json.dumps([token, customer.product.key, customer.all_values()], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Decisions:
    """The recorded decisions. Protected values are read by `chain` alone; elsewhere `Customer.apart` is empty."""

    def __init__(self, database: Database):
        self.database = database

    def find(self, submission: str) -> Decision | None:
        """Return the decision that a submission digest led to, if it was recorded."""
        with self.database.read() as connection:
            row = connection.execute(_read().where(decisions.c.submission == submission)).first()
        return _decision(row) if row else None

    def record(self, customer: Customer, outcome: Outcome, submission: str) -> Decision:
        """Write the decision and return it; the one already there where the submission was recorded before."""
        decision, salt = Decision(new_id(), datetime.now(UTC), customer, outcome), secrets.token_hex(16)
        try:
            with self.database.write() as connection:
                self.database.lock_chain(connection)
                new = insert(decisions).values(_row(decision, submission)).returning(decisions.c.number)
                number = connection.execute(new).scalar_one()
                apart = {"decision_number": number, "values": customer.apart, "salt": salt}
                connection.execute(insert(protected_values).values(apart))
                made = receipt(decision, submission, salt, _head(connection))
                connection.execute(insert(receipts).values(decision_number=number, **asdict(made)))
        except IntegrityError:  # two requests with one submission at once: the other was first
            if found := self.find(submission):
                return found
            raise
        return decision

    def get(self, id: str) -> Decision:  # noqa: A002  # the field's name
        """Return one decision; `NotFound` if there is none."""
        with self.database.read() as connection:
            row = connection.execute(_read().where(decisions.c.id == id)).first() if is_id(id) else None
        if row is None:
            raise NotFound("There is no such decision.")
        return _decision(row)

    def receipt(self, id: str) -> Receipt:  # noqa: A002
        """Return a decision's place in the chain; `NotFound` if it has none."""
        query = select(receipts.c.number, receipts.c.digest, receipts.c.previous).join(decisions)
        with self.database.read() as connection:
            row = connection.execute(query.where(decisions.c.id == id)).first() if is_id(id) else None
        if row is None:
            raise NotFound("There is no receipt for such a decision.")
        return Receipt(*row)

    def head(self) -> Receipt | None:
        """Return the newest receipt of the chain; `None` where nothing was decided."""
        with self.database.read() as connection:
            return _head(connection)

    def chain(self) -> Iterator[Link]:
        """Yield the chain in its order, what is missing as `None`; then what stands outside it."""
        with self.database.read() as connection:
            apart = protected_values.c["values"].label("apart")
            query = _read().add_columns(*_receipt_columns(), apart, protected_values.c.salt)
            inside = (
                query.join(protected_values, isouter=True)
                .join(receipts, isouter=True)
                .order_by(receipts.c.number.nulls_last(), decisions.c.number)
            )
            # One at a time, so that what cannot be read is named and not the block it stands in.
            found = connection.execution_options(yield_per=1).execute(inside)
            for row in found:
                yield _link(row)
            lost = select(receipts).join(decisions, isouter=True).where(decisions.c.number.is_(None))
            for row in connection.execute(lost.order_by(receipts.c.number)):
                yield Link(None, Receipt(row.number, row.digest, row.previous))

    def latest(self, count: int = 10, product: str | None = None) -> list[Decision]:
        """Return the newest decisions, newest first."""
        return self.page(product, None, count).items

    def page(self, product: str | None, before: str | None, size: int) -> Page:
        """Return up to `size` decisions older than the decision `before`, newest first; none if there is no such."""
        if before and not is_id(before):
            return Page([], None)
        query = _read().order_by(decisions.c.number.desc()).limit(size + 1)
        if product:
            query = query.where(decisions.c.product == product)
        if before:
            anchor = select(decisions.c.number).where(decisions.c.id == before).scalar_subquery()
            query = query.where(decisions.c.number < anchor)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        items = [_decision(row) for row in rows[:size]]
        return Page(items, items[-1].id if len(rows) > size else None)

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many decisions each band of each product has."""
        query = select(decisions.c.product, decisions.c.band, func.count()).group_by(
            decisions.c.product, decisions.c.band
        )
        with self.database.read() as connection:
            found = {(product, band): count for product, band, count in connection.execute(query)}
        return {
            product.key: {band.name: found.get((product.key, band.name), 0) for band in product.bands}
            for product in PRODUCTS.values()
        }


def _read() -> Select[Any]:
    return select(decisions).select_from(decisions)


def _receipt_columns() -> tuple[Any, ...]:
    columns = receipts.c
    return columns.number.label("place"), columns.digest, columns.previous


def _link(row: Row[Any]) -> Link:
    place = Receipt(row.place, row.digest, row.previous) if row.place is not None else None
    return Link(_decision(row, row.apart), place, row.submission, row.salt)


def _head(connection: Connection) -> Receipt | None:
    query = select(receipts.c.number, receipts.c.digest, receipts.c.previous).order_by(receipts.c.number.desc())
    row = connection.execute(query.limit(1)).first()
    return Receipt(*row) if row else None


def _row(decision: Decision, submission: str) -> dict[str, Any]:
    customer, outcome = decision.customer, decision.outcome
    return outcome.to_record() | {
        "id": decision.id,
        "submission": submission,
        "at": decision.at,
        "product": customer.product.key,
        "carried": customer.carried,
        "scored": customer.scored,
        "policy": customer.policy,
        "model_version": outcome.model_version,
        "model_digest": outcome.model_digest,
    }


def _decision(row: Row[Any], apart: Values | None = None) -> Decision:
    """Return a stored decision; without the protected values unless they are given."""
    product = PRODUCTS[row.product]
    customer = Customer(product, row.carried, row.scored, row.policy, {} if apart is None else apart)
    outcome = Outcome(
        product=product,
        score=row.score,
        band=_band(product, row.band),
        limit=Limit(**row.limit) if row.limit else None,
        flags=tuple(Flag(**flag) for flag in row.flags),
        base=row.base,
        contributions=row.contributions,
        reasons=tuple(Reason(**reason) for reason in row.reasons),
        model_version=row.model_version,
        model_digest=row.model_digest,
        policy_version=row.policy_version,
    )
    return Decision(row.id, row.at, customer, outcome)


def _band(product: Product, name: str) -> Band:
    """Return the band as it was named then, also where the product has dropped it since."""
    try:
        return product.band_named(name)
    except KeyError:
        return Band(name=name, start=0.0, tone=Tone.FAIR, meaning="A band of an earlier version.")
