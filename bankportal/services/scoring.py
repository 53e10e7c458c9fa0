"""Scoring: the same for form, API and file; one customer, or many at once with the same answers to the last bit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.domain.errors import ExplanationRefused, PortalError
from bankportal.domain.outcome import Decision, Outcome, Reason, UnseenValue
from bankportal.domain.policy import ABILITY_TO_PAY, OBLIGATIONS, REQUESTED, SALARY, Limit, LimitPolicy, Value
from bankportal.domain.products import Band, Product, Tone
from bankportal.domain.reasons import (
    MAX_REASONS,
    MIN_POINTS,
    MIN_SHARE,
    NOTHING_ALONE,
    Attribution,
    Catalogue,
    reasons,
    rule_reason,
)
from bankportal.domain.schema import Customer
from bankportal.registry.registry import LoadedModel
from bankportal.services.models import Models
from bankportal.services.recorder import Recorder
from bankportal.store.decisions import Decisions, submission_digest

# In place of a factor's number among the encoding's: no further reason, a rule of the policy.
NO_REASON, RULE = -1, -2
Floats = NDArray[np.float64]


class Scoring:
    """Answers for validated customers, and records the answers that count."""

    def __init__(self, models: Models, decisions: Decisions):
        self.models = models
        self.decisions = decisions
        self._recorder = Recorder(self._decide)

    def score(self, customer: Customer) -> Outcome:
        """Return the outcome and record nothing; `NoActiveModel` where the product has no model that can score."""
        return self.score_all([customer])[0]

    def score_all(self, customers: Sequence[Customer]) -> list[Outcome]:
        """Return the outcomes of some customers in their order, each as `score` does."""
        products = {customer.product.key: customer.product for customer in customers}
        found = {key: iter(self._score_all(product, customers)) for key, product in products.items()}
        return [next(found[customer.product.key]) for customer in customers]

    def _score_all(self, product: Product, customers: Sequence[Customer]) -> list[Outcome]:
        own = [customer for customer in customers if customer.product.key == product.key]
        return outcome_all(own, self.models.serving(product), self.models.catalogue, product.policy)

    def decide(self, customer: Customer, submission: str) -> Decision:
        """Score, record and return the decision; the same submission token and values again give the same decision.

        Returns after the commit. Customers that several threads decide on at the same time are scored together and
        share a commit.
        """
        return self._recorder.record((customer, submission_digest(submission, customer)))

    def decide_all(self, customers: Sequence[tuple[Customer, str]]) -> list[Decision]:
        """Score and record customers with their submissions, all or none; the decisions come in their order."""
        return self._decide([(customer, submission_digest(submission, customer)) for customer, submission in customers])

    def _decide(self, given: Sequence[tuple[Customer, str]]) -> list[Decision]:
        """Score and record customers with their submissions' digests; one recorded before needs no model any more."""
        try:
            outcomes = self.score_all([customer for customer, _ in given])
        except PortalError:
            if len(given) == 1 and (found := self.decisions.find(given[0][1])):
                return [found]
            raise
        return self.decisions.record_all(
            [(customer, outcome, digest) for (customer, digest), outcome in zip(given, outcomes, strict=True)]
        )


def answer(customer: Customer, model: LoadedModel, catalogue: Catalogue, policy: LimitPolicy | None) -> Outcome:
    """Return what one model version and limit policy answer: score, band, limit, and exactly why.

    Raises `ExplanationRefused` where base and contributions do not add up to the score.
    """
    return outcome_all([customer], model, catalogue, policy)[0]


def outcome_all(
    customers: Sequence[Customer], model: LoadedModel, catalogue: Catalogue, policy: LimitPolicy | None
) -> list[Outcome]:
    """Return the outcomes of a few customers of one product, each as `answer` does."""
    matrix = np.stack([model.encoding.row(customer.scored) for customer in customers])
    scores = model.forest.score(matrix).tolist()
    shares = model.explainer.explain(matrix).tolist()
    effects = model.effects.of_rows(matrix).tolist()
    put_together = partial(_outcome, model, catalogue, policy)
    return list(map(put_together, customers, scores, shares, effects))


def _outcome(
    model: LoadedModel,
    catalogue: Catalogue,
    policy: LimitPolicy | None,
    customer: Customer,
    score: float,
    shares: list[float],
    effects: list[float],
) -> Outcome:
    _check_sum(model, shares, score)
    product, factors = model.product, model.encoding.factors
    band = product.band(score)
    allowed = limit(customer, band, policy)
    contributions = dict(zip(factors, shares, strict=True))
    attribution = Attribution(contributions, dict(zip(factors, effects, strict=True)))
    return Outcome(
        product=product,
        score=score,
        band=band,
        limit=allowed,
        flags=model.seen.flags(customer.scored),
        base=model.explainer.base,
        contributions=contributions,
        reasons=reasons(catalogue, product, band, customer.scored, attribution, allowed),
        model_version=model.version,
        model_digest=model.manifest_digest,
        policy_version=policy.version if policy else None,
    )


def limit(customer: Customer, band: Band, policy: LimitPolicy | None) -> Limit | None:
    """Ask a limit policy; `None` where there is none."""
    if policy is None:
        return None
    requested = customer.policy.get(REQUESTED)
    assert requested is None or isinstance(requested, float)
    return policy.suggest(band.name, customer.scored, requested)


def _check_sum(model: LoadedModel, contributions: Sequence[float], score: float) -> None:
    if abs(model.explainer.base + math.fsum(contributions) - score) > model.explainer.tolerance:
        raise ExplanationRefused(
            f"{model.product.title} {model.version}: the contributions do not add up to the score."
        )


@dataclass(frozen=True, eq=False)
class Answers:
    """What `answer` says of many customers, row by row.

    `scores` (rows,) and `contributions` (rows, factors) float64; `bands` (rows,) numbers among the product's;
    `limits` is `None` without a policy. `reasons` (rows, MAX_REASONS) int8 are numbers among the encoding's factors,
    `NO_REASON` or `RULE`; `sentences` (rows, MAX_REASONS) their words, blank where there is none. `flags` holds the
    rows that have any.
    """

    scores: Floats
    bands: NDArray[np.intp]
    limits: list[Limit] | None
    contributions: Floats
    reasons: NDArray[np.int8]
    sentences: NDArray[np.object_]
    flags: Mapping[int, tuple[UnseenValue, ...]]


def answers(
    columns: Mapping[str, NDArray[Any]], model: LoadedModel, catalogue: Catalogue, policy: LimitPolicy | None
) -> Answers:
    """Answer for many customers at once: what `answer` gives for each.

    `columns` holds an array (rows,) for each scored and policy factor: float64 with NaN for numbers and flags, objects
    with `None` for choices. Raises `ExplanationRefused` as `answer` does.
    """
    product, matrix = model.product, model.encoding.matrix(columns)
    scores = model.forest.score(matrix)
    bands = np.searchsorted(product.cut_offs, scores, side="right")
    limits = _limits(columns, product, bands, policy)
    contributions = model.explainer.explain(matrix)
    _check_sums(model, contributions, scores)
    rules = _rules(catalogue, product, bands, limits)
    chosen = _chosen(model, bands, rules, contributions, model.effects.of_rows(matrix))
    sentences = _sentences(catalogue, model, columns, contributions, chosen)
    for row, rule in rules.items():
        sentences[row, 0] = rule.sentence
    flags = model.seen.flags_of_rows(columns)
    return Answers(scores, bands, limits, contributions, chosen, sentences, flags)


def _limits(
    columns: Mapping[str, NDArray[Any]], product: Product, bands: NDArray[np.intp], policy: LimitPolicy | None
) -> list[Limit] | None:
    if policy is None:
        return None
    names = [product.bands[band].name for band in bands.tolist()]
    salaries, obligations = _known(columns[SALARY]), _known(columns[OBLIGATIONS])
    read = ({SALARY: salary, OBLIGATIONS: bound} for salary, bound in zip(salaries, obligations, strict=True))
    return list(map(policy.suggest, names, read, _known(columns[REQUESTED])))


def _known(values: NDArray[Any]) -> list[Any]:
    """Return a column's values as the single-row model has them, `None` where unknown."""
    return [None if value != value else value for value in values.tolist()]


def _check_sums(model: LoadedModel, contributions: Floats, scores: Floats) -> None:
    off = np.abs(model.explainer.base + contributions.sum(axis=1) - scores)
    # Half of what is allowed: far more than two ways of adding up can differ.
    for row in np.flatnonzero(~(off < model.explainer.tolerance / 2)).tolist():
        _check_sum(model, contributions[row].tolist(), float(scores[row]))


def _rules(
    catalogue: Catalogue, product: Product, bands: NDArray[np.intp], limits: list[Limit] | None
) -> dict[int, Reason]:
    """Return, by row, the policy rules that are reasons."""
    found = enumerate(zip(bands.tolist(), limits or (), strict=False))
    cut = (
        (row, rule_reason(catalogue, product, product.bands[band], limit)) for row, (band, limit) in found if limit.cut
    )
    return {row: rule for row, rule in cut if rule}


def _chosen(
    model: LoadedModel, bands: NDArray[np.intp], rules: Mapping[int, Reason], contributions: Floats, effects: Floats
) -> NDArray[np.int8]:
    """Choose the reasons of many rows as `reasons` does for one."""
    product, factors = model.product, model.encoding.factors
    every, ruled = np.arange(len(bands)), np.array(list(rules), dtype=np.intp)
    adverse = np.array([product.decides_credit and band.tone is Tone.BAD for band in product.bands])[bands]
    adverse[ruled] = product.decides_credit
    held = (contributions * effects > 0) & ((contributions < 0) | ~adverse[:, None])
    by_name = np.array(sorted(range(len(factors)), key=factors.__getitem__), dtype=np.int8)
    weight = np.where(held, np.abs(contributions), 0.0)[:, by_name]  # of equal ones the first name is taken first
    chosen = np.full((len(bands), MAX_REASONS), NO_REASON, dtype=np.int8)
    least = np.zeros(len(bands))
    for place in range(MAX_REASONS):
        heaviest = weight.argmax(axis=1)
        amount = weight[every, heaviest]
        chosen[:, place] = np.where((amount > 0) & (amount >= least), by_name[heaviest], NO_REASON)
        weight[every, heaviest] = 0.0
        least = np.maximum(MIN_POINTS, MIN_SHARE * amount) if place == 0 else least
    chosen[ruled, 1:] = chosen[ruled, :-1]
    chosen[ruled, 0] = RULE
    chosen[[row for row, rule in rules.items() if rule.rule == ABILITY_TO_PAY], 1:] = NO_REASON
    return chosen


class _Words(dict[Value, str]):
    """The sentences about one factor that does one thing, put together when first asked for."""

    def __init__(self, catalogue: Catalogue, product: Product, factor: str, *, raises: bool) -> None:
        super().__init__()
        self._say = partial(catalogue.sentence, product, factor, raises=raises)

    def __missing__(self, value: Value) -> str:
        self[value] = sentence = self._say(value)
        return sentence


def _sentences(
    catalogue: Catalogue,
    model: LoadedModel,
    columns: Mapping[str, NDArray[Any]],
    contributions: Floats,
    chosen: NDArray[np.int8],
) -> NDArray[np.object_]:
    """Put the chosen contributions in words, (rows, MAX_REASONS); a rule's place stays blank."""
    sentences = np.full(chosen.shape, "", dtype=object)
    sentences[chosen[:, 0] == NO_REASON, 0] = NOTHING_ALONE
    for number, factor in enumerate(model.encoding.factors):
        for raises in (True, False):
            row, place = np.nonzero((chosen == number) & ((contributions[:, number] > 0) == raises)[:, None])
            words = _Words(catalogue, model.product, factor, raises=raises)
            values = _known(columns[factor][row])
            sentences[row, place] = [words[value] for value in values]
    return sentences
