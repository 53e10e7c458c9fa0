"""What stands behind a recorded decision: what would change it, the score along one factor, where the customer stands.

All of it is worked out anew from the decision's own inputs and model version, so it shows what was decided then.
"""

from collections.abc import Mapping

from bankportal.domain.errors import NoActiveModel, NotFound
from bankportal.domain.outcome import Decision
from bankportal.domain.products import PRODUCTS
from bankportal.ml.curve import Curve, curve
from bankportal.ml.population import Spread
from bankportal.ml.recourse import Recourse, kernels, recourse
from bankportal.ml.registry import Model
from bankportal.services.models import Models


class Explaining:
    """Answers about a decision's grounds; `VersionRefused` where its model version's files are not right."""

    def __init__(self, models: Models):
        self.models = models

    def warm_up(self) -> None:
        """Load every product's model and compile its kernels, or load them compiled; no model is fine."""
        kernels()
        for product in PRODUCTS.values():
            try:
                self.models.serving(product).warm_up()
            except NoActiveModel:
                continue

    def model(self, decision: Decision) -> Model:
        """Return the very model version that decided."""
        outcome = decision.outcome
        return self.models.registry.model(outcome.product, outcome.model_version, outcome.model_digest)

    def recourse(self, decision: Decision) -> Recourse:
        """Return the smallest changes that reach a better band, within what the model saw in training."""
        model = self.model(decision)
        values = decision.customer.scored
        return recourse(model.product, model.forest, model.encoding, values, model.seen.ranges)

    def curve(self, decision: Decision, factor: str) -> Curve:
        """Return the score at every value of one factor, all others as they were; `NotFound` if it is not scored."""
        model = self.model(decision)
        if factor not in {scored.name for scored in model.product.scored}:
            raise NotFound(f"{model.product.title} scores no factor {factor[:40]}.")
        return curve(model.product, model.forest, model.encoding, decision.customer.scored, factor, model.seen)

    def spreads(self, decision: Decision) -> Mapping[str, Spread]:
        """Return how the training customers spread over each factor."""
        return self.model(decision).spreads

    def reference(self, decision: Decision) -> str:
        """Say whom the customer was compared with: how many, and who they are."""
        reference = self.model(decision).manifest["reference"]
        return f"{reference['rows']:,}: {reference['meaning']}"
