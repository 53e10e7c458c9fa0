"""A trained model, as training hands it over to be registered."""

from dataclasses import dataclass
from typing import Any

from bankportal.domain.products import Product
from bankportal.explanation.effects import Effects
from bankportal.explanation.tables import Tables
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest
from bankportal.model.histograms import Histogram
from bankportal.model.seen_ranges import SeenRanges


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A forest with all that its version's files contain; the dictionaries are plain JSON data for the manifest."""

    product: Product
    forest: Forest
    encoding: Encoding
    seen: SeenRanges
    tables: Tables
    effects: Effects
    histograms: dict[str, Histogram]
    reference: dict[str, Any]
    evaluation: dict[str, Any]
    parameters: dict[str, Any]
    seed: int
    data: dict[str, Any]
    libraries: dict[str, str]
