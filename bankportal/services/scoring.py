"""Scoring, the same for form, API and file; one customer, or many at once with the same outcomes to the last bit."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.domain.errors import ExplanationRefused, PortalError
from bankportal.domain.outcome import Decision, Outcome, Reason, UnseenValue
from bankportal.domain.policy import ABILITY_TO_PAY, Limit, Value, amount_of
from bankportal.domain.products import Band, Product, Tone
from bankportal.domain.provenance import Provenance
from bankportal.domain.reasons import MAX_REASONS, NOTHING_ALONE, Attribution, reasons, rule_reason, sentence
from bankportal.domain.schema import Customer
from bankportal.registry.registry import LoadedModel
from bankportal.services.models import Models
from bankportal.services.recorder import Recorder
from bankportal.store.decisions import Decisions, submission_digest

# In place of a factor's position in the encoding: no further reason, or a rule of the policy.
NO_REASON, RULE = -1, -2
Floats = NDArray[np.float64]


class Scoring:
    """Scores validated customers and records decisions."""

    def __init__(self, models: Models, decisions: Decisions):
        self.models = models
        self.decisions = decisions
        self._recorder = Recorder(self._decide)

    def score(self, customer: Customer) -> Outcome:
        """Return the outcome and record nothing; `NoActiveModel` where the product has no model that can score."""
        return self.score_all([customer])[0]

    def score_all(self, customers: Sequence[Customer]) -> list[Outcome]:
        """Return the outcomes of some customers in their order, each as `score` does."""
        groups = defaultdict[Product, list[Customer]](list)
        for customer in customers:
            groups[customer.product].append(customer)
        outcomes = {product: iter(outcomes_of(own, self.models.serving(product))) for product, own in groups.items()}
        return [next(outcomes[customer.product]) for customer in customers]

    def decide(self, customer: Customer, submission: str | None, provenance: Provenance) -> Decision:
        """Score a customer, record the decision and return it after the commit.

        The same submission token and values again return the same decision; without a token it is a new one. Customers
        from several threads at the same time are scored together and share a commit. Raises `Conflict` where the
        customer's product was declared but never applied.
        """
        return self._recorder.record((customer, _digest(submission, customer), provenance))

    def decide_all(self, customers: Sequence[tuple[Customer, str | None, Provenance]]) -> list[Decision]:
        """Score and record customers with their submission tokens, all or none; return the decisions in order."""
        return self._decide(
            [(customer, _digest(token, customer), provenance) for customer, token, provenance in customers]
        )

    def _decide(self, submissions: Sequence[tuple[Customer, str | None, Provenance]]) -> list[Decision]:
        """Score and record customers with their submissions' digests.

        A single submission that was recorded before is returned even where no model can score any more.
        """
        try:
            outcomes = self.score_all([customer for customer, _, _ in submissions])
        except PortalError:
            digest = submissions[0][1] if len(submissions) == 1 else None
            if digest and (recorded := self.decisions.find(digest)):
                return [recorded]
            raise
        return self.decisions.record_all(
            [
                (customer, outcome, digest, provenance)
                for (customer, digest, provenance), outcome in zip(submissions, outcomes, strict=True)
            ]
        )


def _digest(token: str | None, customer: Customer) -> str | None:
    return None if token is None else submission_digest(token, customer)


def outcome_of(customer: Customer, model: LoadedModel) -> Outcome:
    """Return a customer's outcome by a model version; bands, words and limit are those of the customer's product.

    Raises `ExplanationRefused` where base and contributions do not add up to the score.
    """
    return outcomes_of([customer], model)[0]


def outcomes_of(customers: Sequence[Customer], model: LoadedModel) -> list[Outcome]:
    """Return the outcomes of some customers of one product in order, each as `outcome_of` does."""
    matrix = model.encoding.rows([customer.scored for customer in customers])
    scores = model.forest.score(matrix).tolist()
    contributions = model.explainer.explain(matrix).tolist()
    effects = model.effects.of_rows(matrix).tolist()
    return list(map(partial(_outcome, model), customers, scores, contributions, effects))


def _outcome(
    model: LoadedModel, customer: Customer, score: float, shares: list[float], effects: list[float]
) -> Outcome:
    product, factors = customer.product, model.encoding.factors
    _check_sum(product, model, shares, score)
    band = product.band(score)
    suggested = limit(customer, band)
    contributions = dict(zip(factors, shares, strict=True))
    attribution = Attribution(contributions, dict(zip(factors, effects, strict=True)))
    return Outcome(
        product=product,
        score=score,
        band=band,
        limit=suggested,
        flags=model.seen.flags(product, customer.scored),
        base=model.explainer.base,
        contributions=contributions,
        reasons=reasons(product, band, customer.scored, attribution, suggested),
        model_version=model.version,
        model_digest=model.manifest_digest,
        policy_version=product.policy_version,
    )


def limit(customer: Customer, band: Band) -> Limit | None:
    """Return the limit that the policy of a customer's product suggests; `None` where it has no policy."""
    policy = customer.product.policy
    if policy is None:
        return None
    return policy.suggest(band.name, customer.scored, amount_of(customer.policy.get(policy.requested)))


def _check_sum(product: Product, model: LoadedModel, contributions: Sequence[float], score: float) -> None:
    # Turned round, so that NaN, which is neither more nor less, is refused.
    if not abs(model.explainer.base + math.fsum(contributions) - score) <= model.explainer.tolerance:
        raise ExplanationRefused(f"{product.title} {model.version}: the contributions do not add up to the score.")


@dataclass(frozen=True, eq=False)
class OutcomeColumns:
    """The outcomes of many customers as columns; the same as `outcome_of` gives for each.

    `scores` (rows,) and `contributions` (rows, factors) are float64. `bands` (rows,) are positions in the product's
    bands. `limits` has one for each row, or is `None` without a policy. `reasons` (rows, MAX_REASONS) int8 are
    positions in the encoding's factors, `NO_REASON` or `RULE`; `sentences` (rows, MAX_REASONS) are their sentences,
    blank where there is no reason. `flags` has the rows with any flag.
    """

    scores: Floats
    bands: NDArray[np.intp]
    limits: list[Limit] | None
    contributions: Floats
    reasons: NDArray[np.int8]
    sentences: NDArray[np.object_]
    flags: Mapping[int, tuple[UnseenValue, ...]]


def outcome_columns(columns: Mapping[str, NDArray[Any]], product: Product, model: LoadedModel) -> OutcomeColumns:
    """Return the outcomes of many customers of a product at once, with the same bits as `outcome_of` for each.

    `columns` has an array (rows,) for each scored and policy factor: float64 with NaN for blank, or objects with `None`
    for a blank choice. Raises `ExplanationRefused` as `outcome_of` does.
    """
    matrix = model.encoding.matrix(columns)
    scores = model.forest.score(matrix)
    bands = np.searchsorted(product.cut_offs, scores, side="right")
    limits = _limits(columns, product, bands)
    contributions = model.explainer.explain(matrix)
    _check_sums(product, model, contributions, scores)
    rules = _rules(product, bands, limits)
    chosen = _choose_reasons(
        product, model.encoding.factors, rules, bands, contributions, model.effects.of_rows(matrix)
    )
    sentences = _sentences(product, model.encoding.factors, columns, contributions, chosen)
    for row, rule in rules.items():
        sentences[row, 0] = rule.sentence
    flags = model.seen.flags_of_rows(product, columns)
    return OutcomeColumns(scores, bands, limits, contributions, chosen, sentences, flags)


def _limits(columns: Mapping[str, NDArray[Any]], product: Product, bands: NDArray[np.intp]) -> list[Limit] | None:
    policy = product.policy
    if policy is None:
        return None
    names = [product.bands[band].name for band in bands.tolist()]
    factors = (policy.salary, policy.obligations)
    values = (
        dict(zip(factors, known, strict=True))
        for known in zip(*(_known(columns[factor]) for factor in factors), strict=True)
    )
    return list(map(policy.suggest, names, values, _known(columns[policy.requested])))


def _known(values: NDArray[Any]) -> list[Any]:
    """Return a column's values as a list, with `None` for blank, as `Customer` has them."""
    return [None if value != value else value for value in values.tolist()]


def _check_sums(product: Product, model: LoadedModel, contributions: Floats, scores: Floats) -> None:
    differences = np.abs(model.explainer.base + contributions.sum(axis=1) - scores)
    # Rows within half of the tolerance are right: two orders of addition differ by far less than the other half.
    for row in np.flatnonzero(~(differences < model.explainer.tolerance / 2)).tolist():
        _check_sum(product, model, contributions[row].tolist(), float(scores[row]))


def _rules(product: Product, bands: NDArray[np.intp], limits: list[Limit] | None) -> dict[int, Reason]:
    """Return the policy rules that are reasons, by row."""
    rows = enumerate(zip(bands.tolist(), limits or (), strict=False))
    rules = ((row, rule_reason(product, product.bands[band], limit)) for row, (band, limit) in rows if limit.cut)
    return {row: rule for row, rule in rules if rule}


def _choose_reasons(
    product: Product,
    factors: Sequence[str],
    rules: Mapping[int, Reason],
    bands: NDArray[np.intp],
    contributions: Floats,
    effects: Floats,
) -> NDArray[np.int8]:
    """Return the reasons of many rows, (rows, MAX_REASONS), chosen as `reasons` does for one customer.

    `factors` are those of the encoding. `bands` are (rows,), `contributions` and `effects` (rows, factors).
    """
    thresholds = product.thresholds
    all_rows, rule_rows = np.arange(len(bands)), np.array(list(rules), dtype=np.intp)
    adverse = np.array([product.decides_credit and band.tone is Tone.BAD for band in product.bands])[bands]
    adverse[rule_rows] = product.decides_credit
    nameable = (contributions * effects > 0) & ((contributions < 0) | ~adverse[:, None])
    by_name = np.array(sorted(range(len(factors)), key=factors.__getitem__), dtype=np.int8)
    weight = np.where(nameable, np.abs(contributions), 0.0)[:, by_name]  # of equal weights, the first name comes first
    chosen = np.full((len(bands), MAX_REASONS), NO_REASON, dtype=np.int8)
    minimum = np.zeros(len(bands))
    for place in range(MAX_REASONS):
        largest = weight.argmax(axis=1)
        amount = weight[all_rows, largest]
        chosen[:, place] = np.where((amount > 0) & (amount >= minimum), by_name[largest], NO_REASON)
        weight[all_rows, largest] = 0.0
        if place == 0:
            minimum = np.maximum(thresholds.min_points, thresholds.min_share * amount)
    chosen[rule_rows, 1:] = chosen[rule_rows, :-1]
    chosen[rule_rows, 0] = RULE
    chosen[[row for row, rule in rules.items() if rule.rule == ABILITY_TO_PAY], 1:] = NO_REASON
    return chosen


class _FactorSentences(dict[Value, str]):
    """One factor's sentences by value, for values that raise the score or that lower it; made when first needed."""

    def __init__(self, product: Product, factor: str, *, raises: bool) -> None:
        super().__init__()
        self._sentence = partial(sentence, product, factor, raises=raises)

    def __missing__(self, value: Value) -> str:
        self[value] = words = self._sentence(value)
        return words


def _sentences(
    product: Product,
    factors: Sequence[str],
    columns: Mapping[str, NDArray[Any]],
    contributions: Floats,
    chosen: NDArray[np.int8],
) -> NDArray[np.object_]:
    """Return the sentences of the chosen contributions, (rows, MAX_REASONS); blank where a rule is the reason."""
    sentences = np.full(chosen.shape, "", dtype=object)
    sentences[chosen[:, 0] == NO_REASON, 0] = NOTHING_ALONE
    for number, factor in enumerate(factors):
        for raises in (True, False):
            row, place = np.nonzero((chosen == number) & ((contributions[:, number] > 0) == raises)[:, None])
            by_value = _FactorSentences(product, factor, raises=raises)
            values = _known(columns[factor][row])
            sentences[row, place] = [by_value[value] for value in values]
    return sentences
