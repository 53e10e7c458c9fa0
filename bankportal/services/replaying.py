"""Replaying decisions: each is computed again from its recorded input and compared to the last bit."""

import json
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.domain.canonical import canonical
from bankportal.domain.constraints import Choice
from bankportal.domain.errors import PortalError, VersionRefused
from bankportal.domain.policy import Limit
from bankportal.domain.products import Product
from bankportal.domain.receipt import Record
from bankportal.domain.schema import Customer
from bankportal.registry.registry import LoadedModel
from bankportal.services.batches.replaying import ReplayDiffers
from bankportal.services.models import Models
from bankportal.services.scoring import NO_REASON, OutcomeColumns, outcome_columns, outcome_of
from bankportal.store.chain import UNREADABLE
from bankportal.store.declarations import DeclarationStore

# The columns of a decision with its versions.
VERSIONS = (
    *("product", "product_declaration", "policy_declaration"),
    *("model_version", "model_digest", "policy_version"),
)
NOTHING = (None, None, 0.0)  # the reason where no single value stands out


def replay_decisions(models: Models, declarations: DeclarationStore, records: Sequence[Record]) -> None:
    """Compute stored decisions again from their input and model version; `ReplayDiffers` names the first that differs.

    Each is computed under the declarations that it stands on; those of the same declarations and model version are
    computed together. Only where some are not equal, each is computed by itself, in order, to find the first. Sentences
    are not compared: before there were declarations, a bank edited its words without a trace.
    """
    if not _all_equal(models, declarations, records):
        for record in records:
            replay_decision(models, declarations, record)


def replay_decision(models: Models, declarations: DeclarationStore, record: Record) -> None:
    """Compute one stored decision again; `ReplayDiffers` names the fields that are not equal to the last bit."""
    name = f"Decision {record['id']}"
    try:
        product = declarations.product_of(record)
        model = _model(models, product, record)
        customer = Customer(product, record["carried"], record["scored"], record["policy"], {})
        recomputed = outcome_of(customer, model).to_record()
        differing = [field for field in recomputed if _text(field, record) != _text(field, recomputed)]
    except VersionRefused as error:
        raise ReplayDiffers(f"{name} cannot be recomputed: {error}") from error
    except UNREADABLE as error:
        raise ReplayDiffers(f"{name} cannot be recomputed: its record is not what was scored.") from error
    if differing:
        raise ReplayDiffers(f"{name} recomputed differs in {', '.join(differing)}.")


def _model(models: Models, product: Product, record: Record) -> LoadedModel:
    """Return a decision's model version.

    `VersionRefused` where it cannot be loaded, or the policy version that the decision names is not its declaration's.
    """
    if record["policy_version"] != product.policy_version:
        raise VersionRefused(f"Limit policy {record['policy_version']} is not the one that was declared.")
    return models.registry.model(product, record["model_version"], record["model_digest"])


def _text(field: str, record: Record) -> str:
    """Return a field of an outcome as JSON with every bit of its numbers, without sentences."""
    value = record[field]
    if field == "reasons":
        value = [(reason["factor"], reason["rule"], reason["contribution"]) for reason in value]
    return json.dumps(value, sort_keys=True)


def _all_equal(models: Models, declarations: DeclarationStore, records: Sequence[Record]) -> bool:
    """Return whether all decisions are equal to the last bit; `False` where one cannot be computed again."""
    groups = defaultdict(list)
    for record in records:
        groups[tuple(record[name] for name in VERSIONS)].append(record)
    try:
        return all(_group_is_equal(models, declarations.product_of(group[0]), group) for group in groups.values())
    except (PortalError, *UNREADABLE):
        return False


def _group_is_equal(models: Models, product: Product, records: Sequence[Record]) -> bool:
    """Return whether decisions of one product, model version and policy are equal to the last bit."""
    model = _model(models, product, records[0])
    outcomes = outcome_columns(_columns(product, records), product, model)
    factors = model.encoding.factors
    rows = [record["contributions"] for record in records]
    return (
        all(len(row) == len(factors) for row in rows)
        and _numbers(row[factor] for row in rows for factor in factors).tobytes() == outcomes.contributions.tobytes()
        and _numbers(record["score"] for record in records).tobytes() == outcomes.scores.tobytes()
        and [canonical(_recorded(record)) for record in records]
        == list(map(canonical, _recomputed(outcomes, product, model)))
    )


def _columns(product: Product, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
    """Return the input of decisions as columns for `outcome_columns`.

    Raises one of `UNREADABLE` where a decision lacks a factor or a value has another type.
    """
    columns = {factor: [record["scored"][factor.name] for record in records] for factor in product.scored}
    columns |= {factor: [record["policy"][factor.name] for record in records] for factor in product.policy_factors}
    return {
        factor.name: _options(values) if isinstance(factor.constraint, Choice) else _amounts(values)
        for factor, values in columns.items()
    }


def _options(values: list[Any]) -> NDArray[Any]:
    if not all(value is None or isinstance(value, str) for value in values):
        raise TypeError("an option is a text")
    return np.array(values, dtype=object)


def _amounts(values: list[Any]) -> NDArray[Any]:
    amounts = _numbers(math.nan if value is None else value for value in values)
    if np.isnan(amounts).sum() != values.count(None):
        raise ValueError("NaN is no number")
    return amounts


def _numbers(values: Iterable[Any]) -> NDArray[np.float64]:
    """Return numbers as an array; `TypeError` for a text, which NumPy would read as a number."""
    return np.frombuffer(array("d", values))


def _recorded(record: Record) -> tuple[Any, ...]:
    """Return the other fields of a recorded outcome, all but score, contributions and sentences."""
    reasons = [(reason["factor"], reason["rule"], reason["contribution"]) for reason in record["reasons"]]
    return record["band"], record["limit"], record["flags"], record["base"], reasons


def _recomputed(outcomes: OutcomeColumns, product: Product, model: LoadedModel) -> Iterator[tuple[Any, ...]]:
    """Yield the same fields as `_recorded` of outcomes computed again, row by row."""
    bands, factors = product.bands, model.encoding.factors
    limits: Sequence[Limit | None] = outcomes.limits or [None] * len(outcomes.scores)
    rows = zip(outcomes.bands.tolist(), limits, outcomes.contributions.tolist(), outcomes.reasons.tolist(), strict=True)
    for row, (band, limit, shares, chosen) in enumerate(rows):
        reasons = [
            (factors[number], None, shares[number]) if number >= 0 else (None, limit.rule if limit else None, 0.0)
            for number in chosen
            if number != NO_REASON
        ]
        flags = [flag.to_record() for flag in outcomes.flags.get(row, ())]
        yield bands[band].name, limit.to_record() if limit else None, flags, model.explainer.base, reasons or [NOTHING]
