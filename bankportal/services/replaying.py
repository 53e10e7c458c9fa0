"""Recomputing recorded decisions from their input: equal to the last bit, or the first that differs is named."""

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
from bankportal.domain.policy import POLICIES, Limit, LimitPolicy
from bankportal.domain.products import PRODUCTS, Product
from bankportal.domain.receipt import Record
from bankportal.registry.registry import LoadedModel
from bankportal.services.batches.replaying import ReplayDiffers
from bankportal.services.models import Models
from bankportal.services.scoring import NO_REASON, Answers, answer, answers
from bankportal.store.chain import UNREADABLE
from bankportal.store.decisions import decision_from

# The columns that say who answered.
ANSWERING = ("product", "model_version", "model_digest", "policy_version")
NOTHING = (None, None, 0.0)  # the reason where no value stands out alone


def replay_decisions(models: Models, records: Sequence[Record]) -> None:
    """Recompute stored decisions from their input and model version; `ReplayDiffers` names the first that differs.

    Those of one model version and policy are recomputed together. Only where not all of them come out again is each
    recomputed by itself, in order, to name the first. Sentences are not compared: the bank may have edited its words.
    """
    if not _come_out_again(models, records):
        for record in records:
            replay_decision(models, record)


def replay_decision(models: Models, record: Record) -> None:
    """Recompute one stored decision; `ReplayDiffers` names the fields that are not equal to the last bit."""
    name = f"Decision {record['id']}"
    try:
        model, policy = _answering(models, record)
        again = answer(decision_from(record).customer, model, models.catalogue, policy).to_record()
        differing = [field for field in again if _text(field, record) != _text(field, again)]
    except VersionRefused as error:
        raise ReplayDiffers(f"{name} cannot be recomputed: {error}") from error
    except UNREADABLE as error:
        raise ReplayDiffers(f"{name} cannot be recomputed: its record is not what was scored.") from error
    if differing:
        raise ReplayDiffers(f"{name} recomputed differs in {', '.join(differing)}.")


def _answering(models: Models, record: Record) -> tuple[LoadedModel, LimitPolicy | None]:
    """Return the model version and the policy that a decision stands on; `VersionRefused` where one cannot be had."""
    policy = record["policy_version"]
    if policy is not None and policy not in POLICIES:
        raise VersionRefused(f"Limit policy {policy} is no longer known.")
    model = models.registry.model(PRODUCTS[record["product"]], record["model_version"], record["model_digest"])
    return model, None if policy is None else POLICIES[policy]


def _text(field: str, record: Record) -> str:
    """Write a field of an answer so that every bit of it shows, without sentences."""
    value = record[field]
    if field == "reasons":
        value = [(reason["factor"], reason["rule"], reason["contribution"]) for reason in value]
    return json.dumps(value, sort_keys=True)


def _come_out_again(models: Models, records: Sequence[Record]) -> bool:
    """Say whether all decisions, recomputed together, are equal to the last bit; `False` where one cannot be."""
    groups = defaultdict(list)
    for record in records:
        groups[tuple(record[name] for name in ANSWERING)].append(record)
    try:
        return all(_group_comes_out_again(models, group) for group in groups.values())
    except (PortalError, *UNREADABLE):
        return False


def _group_comes_out_again(models: Models, records: Sequence[Record]) -> bool:
    """Recompute decisions of one product, model version and policy."""
    model, policy = _answering(models, records[0])
    again = answers(_columns(model.product, records), model, models.catalogue, policy)
    factors = model.encoding.factors
    shares = [record["contributions"] for record in records]
    return (
        all(len(each) == len(factors) for each in shares)
        and _numbers(each[factor] for each in shares for factor in factors).tobytes() == again.contributions.tobytes()
        and _numbers(record["score"] for record in records).tobytes() == again.scores.tobytes()
        and [canonical(_recorded(record)) for record in records] == list(map(canonical, _recomputed(again, model)))
    )


def _columns(product: Product, records: Sequence[Record]) -> dict[str, NDArray[Any]]:
    """Return what `answers` takes of decisions' input; raises one of `UNREADABLE` where that is not what is scored."""
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
    """Return what an answer says beside its score and contributions, without sentences."""
    reasons = [(reason["factor"], reason["rule"], reason["contribution"]) for reason in record["reasons"]]
    return record["band"], record["limit"], record["flags"], record["base"], reasons


def _recomputed(again: Answers, model: LoadedModel) -> Iterator[tuple[Any, ...]]:
    """Yield, row by row, what `_recorded` has of a decision that is equal."""
    bands, factors = model.product.bands, model.encoding.factors
    limits: Sequence[Limit | None] = again.limits or [None] * len(again.scores)
    rows = zip(again.bands.tolist(), limits, again.contributions.tolist(), again.reasons.tolist(), strict=True)
    for row, (band, limit, shares, chosen) in enumerate(rows):
        reasons = [
            (factors[number], None, shares[number]) if number >= 0 else (None, limit.rule if limit else None, 0.0)
            for number in chosen
            if number != NO_REASON
        ]
        flags = [flag.to_record() for flag in again.flags.get(row, ())]
        yield bands[band].name, limit.to_record() if limit else None, flags, model.explainer.base, reasons or [NOTHING]
