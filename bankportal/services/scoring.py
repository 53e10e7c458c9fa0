"""Scoring one customer: the same for form, API and file."""

from bankportal.domain.outcome import Decision, Outcome
from bankportal.domain.policy import Limit
from bankportal.domain.products import Band
from bankportal.domain.schema import Customer
from bankportal.services.models import Models
from bankportal.store.decisions import Decisions, submission_digest


class Scoring:
    """Answers for validated customers, and records the answers that count."""

    def __init__(self, models: Models, decisions: Decisions):
        self.models = models
        self.decisions = decisions

    def score(self, customer: Customer) -> Outcome:
        """Return the outcome and record nothing; `NoActiveModel` where the product has no model that can score."""
        product = customer.product
        model = self.models.serving(product)
        score = float(model.forest.score(model.encoding.row(customer.scored)[None, :])[0])
        band = product.band(score)
        return Outcome(
            product=product,
            score=score,
            band=band,
            limit=limit(customer, band),
            flags=model.seen.flags(customer.scored),
            model_version=model.version,
            model_digest=model.manifest_digest,
            policy_version=product.policy.version if product.policy else None,
        )

    def decide(self, customer: Customer, submission: str) -> Decision:
        """Score, record and return the decision; the same submission token and values again give the same decision."""
        digest = submission_digest(submission, customer)
        return self.decisions.find(digest) or self.decisions.record(customer, self.score(customer), digest)


def limit(customer: Customer, band: Band) -> Limit | None:
    """Ask the product's limit policy; `None` where it has none."""
    policy = customer.product.policy
    if policy is None:
        return None
    requested = customer.policy.get("RequestedLimit")
    assert requested is None or isinstance(requested, float)
    return policy.suggest(band.name, customer.scored, requested)
