"""Decisions in the database: recorded whole, in one transaction, and read back as they were."""

import hashlib
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select
from sqlalchemy.exc import IntegrityError

from bankportal.domain.errors import Conflict, NotFound
from bankportal.domain.ids import is_id, new_id
from bankportal.domain.outcome import Decision, Outcome, Reason, UnseenValue
from bankportal.domain.policy import Limit
from bankportal.domain.products import Product
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.receipt import Receipt, Record
from bankportal.domain.schema import Customer, Values
from bankportal.store.counts import count_in, counted
from bankportal.store.decision_rows import Contexts, context_of, record_of, row_of
from bankportal.store.declarations import DeclarationStore
from bankportal.store.prepared import insert_rows
from bankportal.store.receipts import OF_DECISION, PLACE, add_decisions
from bankportal.store.sessions import Database
from bankportal.store.tables import decisions, protected_values, receipts, written


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
    """A decision to record, and its record: its fields, protected values, salt and the digests of its declarations."""

    decision: Decision
    record: Record

    @property
    def submission(self) -> str | None:
        """The digest of its submission; `None` where nothing can repeat it."""
        submission: str | None = self.record["submission"]
        return submission


class Decisions:
    """The recorded decisions. Protected values are read by the audit alone: here `Customer.protected` is empty."""

    def __init__(self, database: Database, declarations: DeclarationStore):
        self.database = database
        self.declarations = declarations
        self._contexts = Contexts()

    def find(self, submission: str) -> Decision | None:
        """Return the decision that a submission digest led to, if it was recorded."""
        return self._one(decisions.c.submission == submission)

    def record(self, customer: Customer, outcome: Outcome, submission: str | None, provenance: Provenance) -> Decision:
        """Record the decision and return it; return the earlier one where the submission was recorded before.

        `submission` is a digest, `None` where the decision is a new one in any case. Returns after the commit. Raises
        `Conflict` where the product's declaration was never applied.
        """
        return self.record_all([(customer, outcome, submission, provenance)])[0]

    def record_all(self, answered: Sequence[tuple[Customer, Outcome, str | None, Provenance]]) -> list[Decision]:
        """Write many decisions in one transaction, all or none, and return them in their order; as `record` does."""
        return self._write([self._new(*each) for each in answered]) if answered else []

    def _new(
        self, customer: Customer, outcome: Outcome, submission: str | None, provenance: Provenance
    ) -> _NewDecision:
        decision = Decision(new_id(), datetime.now(UTC), customer, outcome, provenance)
        numbers = self.declarations.numbers_of(outcome.product)
        return _NewDecision(decision, _record(decision, submission, numbers))

    def _write(self, submitted: Sequence[_NewDecision]) -> list[Decision]:
        """Write those whose submission is new, in one transaction; return the decision of each."""
        with self.database.write() as connection:
            self.database.lock_chain(connection)  # nobody else records now: a submission that is not known here is new
            decided = self._known(connection, [each.submission for each in submitted if each.submission])
            new: list[_NewDecision] = []
            for each in submitted:
                if each.submission not in decided:
                    new.append(each)
                if each.submission:
                    decided.setdefault(each.submission, each.decision)
            if new:
                self._add(connection, [each.record for each in new])
        return [decided[each.submission] if each.submission else each.decision for each in submitted]

    def _known(self, connection: Connection, submissions: Sequence[str]) -> dict[str, Decision]:
        """Return the decisions that were recorded before, by their submission."""
        if not submissions:
            return {}
        name = connection.dialect.name
        together = written(submissions) if name == "sqlite" else list(submissions)
        known = connection.exec_driver_sql(_KNOWN[name], (together,)).scalars().all()
        if not known:
            return {}
        rows = connection.execute(select(decisions).where(decisions.c.submission.in_(known)))
        return {row.submission: self._decision(connection, row) for row in rows}

    def _add(self, connection: Connection, records: Sequence[Record]) -> None:
        contexts = list(map(context_of, records))
        known = self._contexts.numbers(connection, contexts)
        context_numbers = [known[context] for context in contexts]
        numbers = add_decisions(connection, records)
        try:
            insert_rows(connection, decisions, list(map(row_of, records, numbers, context_numbers)))
        except IntegrityError as error:  # submissions were looked up, so it can only be a number
            raise Conflict("The end of the chain of receipts was cut off: flask audit verify says where.") from error
        protected = [(record["protected"], record["salt"]) for record in records]
        insert_rows(
            connection, protected_values, [(number, *own) for number, own in zip(numbers, protected, strict=True)]
        )
        count_in(connection, numbers)

    def get(self, id: str) -> Decision:  # noqa: A002  # the field's name
        """Return one decision; `NotFound` if there is none."""
        decision = self._one(decisions.c.id == id) if is_id(id) else None
        if decision is None:
            raise NotFound("There is no such decision.")
        return decision

    def _one(self, condition: ColumnElement[bool]) -> Decision | None:
        with self.database.read() as connection:
            row = connection.execute(select(decisions).where(condition)).first()
            return self._decision(connection, row) if row else None

    def _decision(self, connection: Connection, row: Row[Any]) -> Decision:
        record = record_of(row, self._contexts.context(connection, row.context_number))
        return decision_from(record, self.declarations.product_of(record, connection))

    def receipt(self, id: str) -> Receipt:  # noqa: A002
        """Return a decision's place in the chain; `NotFound` if it has none."""
        query = select(*PLACE).join(decisions, receipts.c.number == decisions.c.number).where(OF_DECISION)
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
        query = select(decisions).order_by(decisions.c.number.desc()).limit(size + 1)
        if product:
            query = query.where(decisions.c.product == product)
        if before:
            anchor = select(decisions.c.number).where(decisions.c.id == before).scalar_subquery()
            query = query.where(decisions.c.number < anchor)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
            items = [self._decision(connection, row) for row in rows[:size]]
        return DecisionPage(items, items[-1].id if len(rows) > size else None)

    def counts(self) -> dict[str, Counter[str]]:
        """Return how many decisions of each product have each verdict, by its name.

        A decision's verdict is that of its own declaration. Products without decisions are left out.
        """
        bands = defaultdict[tuple[str, int | None], Counter[str]](Counter)
        without_limit = defaultdict[tuple[str, int | None], Counter[str]](Counter)
        with self.database.read() as connection:
            for (key, context_number, band, refused), count in counted(connection).items():
                declaration = self._contexts.context(connection, context_number).product_declaration
                bands[key, declaration][band] += count
                without_limit[key, declaration][band] += count if refused else 0
        counts = defaultdict[str, Counter[str]](Counter)
        for (key, declaration), own in bands.items():
            product = self.declarations.product(key, declaration, None)
            counts[key].update(product.count_verdicts(own, without_limit[key, declaration]))
        return dict(counts)


# Which of some submissions are known. They are one parameter, so that the statement is the same for any number.
_KNOWN = {
    "sqlite": "SELECT submission FROM decisions WHERE submission IN (SELECT value FROM json_each(?))",
    "postgresql": "SELECT submission FROM decisions WHERE submission = ANY(%s)",
}


def _record(decision: Decision, submission: str | None, numbers: Mapping[str, int | None]) -> Record:
    """Return the record of a new decision."""
    customer, outcome, provenance = decision.customer, decision.outcome, decision.provenance
    assert provenance is not None
    return outcome.to_record() | {
        "id": decision.id,
        "submission": submission,
        "at": decision.at,
        "product": customer.product.key,
        "carried": customer.identifiers,
        "scored": customer.scored,
        "policy": customer.policy,
        "protected": customer.protected,
        "salt": secrets.token_hex(16),
        "model_version": outcome.model_version,
        "model_digest": outcome.model_digest,
        "actor": provenance.actor,
        "door": provenance.door.value,
        "declarations": {
            "product": outcome.product.digest,
            "policy": outcome.product.policy.digest if outcome.product.policy else None,
        },
        **numbers,
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
