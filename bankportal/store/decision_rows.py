"""How decisions are stored: a record of a decision, by the fields that its receipt fixes, as a compact row and back.

A row holds values as lists. Their names, and what else all decisions by one model version under the same declarations
share, stand once in `decision_contexts`. A reason that is a contribution holds the position of its factor and its
sentence. What has another shape than these lists expect (only an edit can make it so) is kept as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, select

from bankportal.domain.canonical import canonical, sha256
from bankportal.domain.receipt import Record
from bankportal.store.tables import decision_contexts, decisions

Names = tuple[str, ...]
# The fields of a record that are objects, whose names stand in the context.
NAMED = ("carried", "scored", "policy", "contributions")
LIMIT = ("amount", "ceiling", "rule", "requested", "counteroffer", "obligations_assumed")
FLAG = ("factor", "message")
REASON = ("factor", "rule", "contribution", "sentence")
# The columns of a row, in the order in which `row_of` gives and `record_of` takes them.
COLUMNS = tuple(decisions.c)


class Context(NamedTuple):
    """What all decisions by one model version under the same declarations share; `names` are those of `NAMED`."""

    product_declaration: int | None
    policy_declaration: int | None
    model_version: str
    model_digest: str
    policy_version: str | None
    base: float
    names: tuple[Names, ...]

    @property
    def digest(self) -> str:
        """The SHA-256 by which the context is found again."""
        return sha256(canonical(self))


def context_of(record: Record) -> Context:
    """Return the context of a record."""
    return Context(
        record["product_declaration"],
        record["policy_declaration"],
        record["model_version"],
        record["model_digest"],
        record["policy_version"],
        record["base"],
        tuple(tuple(record[field]) for field in NAMED),
    )


class Contexts:
    """The contexts by number. One that was read is remembered, since none is ever changed. Safe for threads."""

    def __init__(self) -> None:
        self._numbers: dict[Context, int] = {}
        self._contexts: dict[int, Context] = {}

    def numbers(self, connection: Connection, contexts: Iterable[Context]) -> dict[Context, int]:
        """Return the number of each context; those that are new are added, in a write transaction."""
        return {context: self._number(connection, context) for context in set(contexts)}

    def _number(self, connection: Connection, context: Context) -> int:
        if (known := self._numbers.get(context)) is not None:
            return known
        number: int | None = connection.scalar(_NUMBER.where(decision_contexts.c.digest == context.digest))
        if number is None:  # not remembered: the transaction may be rolled back
            row = context._asdict() | {"digest": context.digest}
            return int(connection.execute(_NEW.values(row).returning(decision_contexts.c.number)).scalar_one())
        self._numbers[context] = number
        return number

    def context(self, connection: Connection, number: int) -> Context:
        """Return a context by its number; raises as `read_context`."""
        if number not in self._contexts:
            self._contexts[number] = read_context(connection, number)
        return self._contexts[number]


_CONTEXT = select(decision_contexts)
_NUMBER = select(decision_contexts.c.number)
_NEW = insert(decision_contexts)


def read_context(connection: Connection, number: int) -> Context:
    """Return a context by its number; `ValueError` where it is not there or not what was recorded."""
    row = connection.execute(_CONTEXT.where(decision_contexts.c.number == number)).mappings().first()
    if row is None:
        raise ValueError(f"there is no context {number}")
    context = context_of({**row, **dict(zip(NAMED, row["names"], strict=True))})
    # A name that comes twice would hide a value that stands in the row.
    if context.digest != row["digest"] or any(len(set(names)) < len(names) for names in context.names):
        raise ValueError(f"context {number} is not what was recorded")
    return context


def row_of(record: Record, number: int, context_number: int) -> tuple[Any, ...]:
    """Return the row of a record, a value for each of `COLUMNS`."""
    limit, contributions = record["limit"], record["contributions"]
    positions = {name: position for position, name in enumerate(contributions)}
    return (
        number,
        record["id"],
        record["submission"],
        record["at"],
        record["product"],
        context_number,
        list(record["carried"].values()),
        list(record["scored"].values()),
        list(record["policy"].values()),
        record["score"],
        record["band"],
        None if limit is None else [limit[name] for name in LIMIT],
        [[flag[name] for name in FLAG] for flag in record["flags"]],
        list(contributions.values()),
        [_short(reason, positions, contributions) for reason in record["reasons"]],
        record["actor"],
        record["door"],
    )


def _short(reason: Record, positions: Mapping[str, int], contributions: Mapping[str, float]) -> list[Any]:
    """Return a reason as its factor's position and its sentence, where its contribution is that of the factor."""
    factor, contribution = reason["factor"], reason["contribution"]
    if reason["rule"] is None and factor in positions and contribution and contribution == contributions[factor]:
        return [positions[factor], reason["sentence"]]
    return [reason[name] for name in REASON]


def record_of(row: Sequence[Any], context: Context) -> dict[str, Any]:
    """Return the record of a row, whose values of JSON are parsed.

    Raises one of `chain.UNREADABLE` where an edit has made the row unreadable.
    """
    (
        number,
        id_,
        submission,
        at,
        product,
        context_number,
        carried,
        scored,
        policy,
        score,
        band,
        limit,
        flags,
        *rest,
    ) = row
    contributions, reasons, actor, door = rest
    by_name = {
        field: _named(names, values)
        for field, names, values in zip(NAMED, context.names, (carried, scored, policy, contributions), strict=True)
    }
    return {
        "number": number,
        "id": id_,
        "submission": submission,
        "at": at,
        "product": product,
        "context_number": context_number,
        **by_name,
        "score": score,
        "band": band,
        "limit": None if limit is None else _named(LIMIT, limit),
        "flags": [_named(FLAG, flag) for flag in _list(flags)],
        "base": context.base,
        "reasons": [_long(reason, context.names[-1], contributions) for reason in _list(reasons)],
        "model_version": context.model_version,
        "model_digest": context.model_digest,
        "policy_version": context.policy_version,
        "product_declaration": context.product_declaration,
        "policy_declaration": context.policy_declaration,
        "actor": actor,
        "door": door,
    }


def _named(names: Names, values: Any) -> Any:
    """Return values under their names; what is no list is kept as it is."""
    return dict(zip(names, values, strict=True)) if isinstance(values, list) else values


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("flags and reasons are lists")
    return value


def _long(reason: Any, factors: Names, contributions: list[float]) -> Any:
    if not isinstance(reason, list) or len(reason) != 2:
        return _named(REASON, reason)
    position, sentence = reason
    if type(position) is not int or position < 0:
        raise ValueError("a reason names its factor by a position")
    contribution = contributions[position]
    if not contribution:
        raise ValueError("a reason by its position is a contribution other than 0")
    return {"factor": factors[position], "rule": None, "contribution": contribution, "sentence": sentence}
