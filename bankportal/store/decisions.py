"""Decisions in the database: recorded whole, in one transaction, and read back as they were."""

import hashlib
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, func, insert, select

from bankportal.domain.errors import NotFound
from bankportal.domain.ids import is_id, new_id
from bankportal.domain.outcome import Decision, Outcome, Reason, UnseenValue
from bankportal.domain.policy import Limit
from bankportal.domain.products import Product
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.receipt import Receipt, Record
from bankportal.domain.schema import Customer, Values
from bankportal.store.declarations import DeclarationStore
from bankportal.store.receipts import PLACE, add_decisions
from bankportal.store.sessions import Database
from bankportal.store.tables import WITHOUT_LIMIT, decisions, protected_values, receipts


@dataclass(frozen=True)
class DecisionPage:
    """Some decisions, newest first, and the id to continue after; `None` at the end."""

    items: list[Decision]
    next: str | None


def submission_digest(token: str, customer: Customer) -> str:
    """Return the digest that identifies a submission: of the form's one-time token and of the values sent."""
    canonical = json.dumps([token, customer.product.key, customer.all_values()], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class _NewDecision:
    """A decision to record, with its submission's digest, its protected values' salt, and its declarations' numbers."""

    decision: Decision
    submission: str
    salt: str
    declarations: Mapping[str, int | None]


class Decisions:
    """The recorded decisions. Protected values are read by the audit alone: here `Customer.protected` is empty."""

    def __init__(self, database: Database, declarations: DeclarationStore):
        self.database = database
        self.declarations = declarations

    def find(self, submission: str) -> Decision | None:
        """Return the decision that a submission digest led to, if it was recorded."""
        with self.database.read() as connection:
            row = connection.execute(_read().where(decisions.c.submission == submission)).first()
        return self._decision(row) if row else None

    def record(self, customer: Customer, outcome: Outcome, submission: str, provenance: Provenance) -> Decision:
        """Record the decision and return it; return the earlier one where the submission was recorded before.

        Returns after the commit. Raises `Conflict` where the product's declaration was never applied.
        """
        return self.record_all([(customer, outcome, submission, provenance)])[0]

    def record_all(self, answered: Sequence[tuple[Customer, Outcome, str, Provenance]]) -> list[Decision]:
        """Write many decisions in one transaction, all or none, and return them in their order; as `record` does."""
        return self._write([self._new(*each) for each in answered]) if answered else []

    def _new(self, customer: Customer, outcome: Outcome, submission: str, provenance: Provenance) -> _NewDecision:
        decision = Decision(new_id(), datetime.now(UTC), customer, outcome, provenance)
        return _NewDecision(decision, submission, secrets.token_hex(16), self.declarations.numbers_of(outcome.product))

    def _write(self, submitted: Sequence[_NewDecision]) -> list[Decision]:
        """Write those whose submission is new, in one transaction; return the decision of each."""
        with self.database.write() as connection:
            self.database.lock_chain(connection)  # nobody else records now: a submission that is not known here is new
            rows = connection.execute(_KNOWN, {"submissions": [each.submission for each in submitted]})
            known = {row.submission: row for row in rows}
            new: dict[str, _NewDecision] = {}
            for each in submitted:
                if each.submission not in known:
                    new.setdefault(each.submission, each)
            if new:
                self._add(connection, list(new.values()))
        decided = {submission: self._decision(row) for submission, row in known.items()}
        decided |= {submission: each.decision for submission, each in new.items()}
        return [decided[each.submission] for each in submitted]

    def _add(self, connection: Connection, new: Sequence[_NewDecision]) -> None:
        numbers = self.database.next_numbers(connection, decisions, len(new))
        rows = [_row(each) | {"number": number} for number, each in zip(numbers, new, strict=True)]
        protected = [{"protected": each.decision.customer.protected, "salt": each.salt} for each in new]
        connection.execute(_NEW, rows)
        connection.execute(
            _NEW_PROTECTED,
            [
                {"decision_number": number, "values": each["protected"], "salt": each["salt"]}
                for number, each in zip(numbers, protected, strict=True)
            ],
        )
        add_decisions(connection, [row | each for row, each in zip(rows, protected, strict=True)], numbers)

    def get(self, id: str) -> Decision:  # noqa: A002  # the field's name
        """Return one decision; `NotFound` if there is none."""
        with self.database.read() as connection:
            row = connection.execute(_read().where(decisions.c.id == id)).first() if is_id(id) else None
        if row is None:
            raise NotFound("There is no such decision.")
        return self._decision(row)

    def _decision(self, row: Row[Any]) -> Decision:
        record = row._asdict()
        return decision_from(record, self.declarations.product_of(record))

    def receipt(self, id: str) -> Receipt:  # noqa: A002
        """Return a decision's place in the chain; `NotFound` if it has none."""
        query = select(*PLACE).join(decisions, receipts.c.decision_number == decisions.c.number)
        with self.database.read() as connection:
            row = connection.execute(query.where(decisions.c.id == id)).first() if is_id(id) else None
        if row is None:
            raise NotFound("There is no receipt for such a decision.")
        return Receipt(*row)

    def latest(self, count: int = 10, product: str | None = None) -> list[Decision]:
        """Return the newest decisions, newest first."""
        return self.page(product, None, count).items

    def page(self, product: str | None, before: str | None, size: int) -> DecisionPage:
        """Return up to `size` decisions older than the decision `before`, newest first; none if there is no such."""
        if before and not is_id(before):
            return DecisionPage([], None)
        query = _read().order_by(decisions.c.number.desc()).limit(size + 1)
        if product:
            query = query.where(decisions.c.product == product)
        if before:
            anchor = select(decisions.c.number).where(decisions.c.id == before).scalar_subquery()
            query = query.where(decisions.c.number < anchor)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        items = [self._decision(row) for row in rows[:size]]
        return DecisionPage(items, items[-1].id if len(rows) > size else None)

    def counts(self) -> dict[str, Counter[str]]:
        """Return how many decisions of each product have each verdict, by its name.

        A decision's verdict is that of its own declaration. Products without decisions are left out.
        """
        with self.database.read() as connection:
            by_band = _counts_by_band(connection, _COUNTS)
            without_limit = _counts_by_band(connection, _COUNTS.where(WITHOUT_LIMIT))
        counts = defaultdict[str, Counter[str]](Counter)
        for (key, declaration), bands in by_band.items():
            product = self.declarations.product(key, declaration, None)
            counts[key].update(product.count_verdicts(bands, without_limit[key, declaration]))
        return dict(counts)


def _read() -> Select[Any]:
    return select(decisions).select_from(decisions)


# Built once: SQLAlchemy caches a statement's compiled form with it.
_NEW, _NEW_PROTECTED = insert(decisions), insert(protected_values)
_KNOWN = select(decisions).where(decisions.c.submission.in_(bindparam("submissions", expanding=True)))


_BANDS = (decisions.c.product, decisions.c.product_declaration, decisions.c.band)
_COUNTS = select(*_BANDS, func.count()).group_by(*_BANDS)


def _counts_by_band(connection: Connection, query: Select[Any]) -> dict[tuple[str, int | None], Counter[str]]:
    """Return counts by product, declaration and band."""
    counts = defaultdict[tuple[str, int | None], Counter[str]](Counter)
    for product, declaration, band, count in connection.execute(query):
        counts[product, declaration][band] = count
    return counts


def _row(recorded: _NewDecision) -> dict[str, Any]:
    decision, customer, outcome = recorded.decision, recorded.decision.customer, recorded.decision.outcome
    provenance = decision.provenance
    assert provenance is not None
    return outcome.to_record() | {
        "id": decision.id,
        "submission": recorded.submission,
        "at": decision.at,
        "product": customer.product.key,
        "carried": customer.identifiers,
        "scored": customer.scored,
        "policy": customer.policy,
        "model_version": outcome.model_version,
        "model_digest": outcome.model_digest,
        "actor": provenance.actor,
        "door": provenance.door.value,
        **recorded.declarations,
    }


def decision_from(record: Record, product: Product, protected: Values | None = None) -> Decision:
    """Return the decision of a row of `decisions` that stands on a product, without protected values if none are given.

    Raises `KeyError` where the product has no such band.
    """
    customer = Customer(
        product, record["carried"], record["scored"], record["policy"], {} if protected is None else protected
    )
    outcome = Outcome(
        product=product,
        score=record["score"],
        band=product.band_named(record["band"]),
        limit=Limit(**record["limit"]) if record["limit"] else None,
        flags=tuple(UnseenValue(**flag) for flag in record["flags"]),
        base=record["base"],
        contributions=record["contributions"],
        reasons=tuple(Reason(**reason) for reason in record["reasons"]),
        model_version=record["model_version"],
        model_digest=record["model_digest"],
        policy_version=record["policy_version"],
    )
    return Decision(record["id"], record["at"], customer, outcome, provenance_from(record))


def provenance_from(record: Record) -> Provenance | None:
    """Return where a row of `decisions` or `jobs` came from; `None` in what release 0.1.0 recorded."""
    return None if record["door"] is None else Provenance(Door(record["door"]), record["actor"])
