"""Where a customer stands: how the training customers spread over each factor, kept with the model version."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.data.columns import blank
from bankportal.domain.constraints import Number
from bankportal.domain.products import Product

BARS = 16


@dataclass(frozen=True)
class Histogram:
    """How many customers have which values of one factor.

    A number has `edges` (bars + 1, rising) and `counts` (bars): a bar holds its lower edge, the last one both. A flag
    or choice has `options` and `counts`. `unknown` counts the blanks.
    """

    counts: tuple[int, ...]
    unknown: int
    edges: tuple[float, ...] = ()
    options: tuple[str, ...] = ()

    def bar(self, value: float | str) -> int | None:
        """Return the number of the bar that holds a value; the first or last one beyond the edges."""
        if self.options:
            text = str(value)
            return self.options.index(text) if text in self.options else None
        place = int(np.searchsorted(self.edges, float(value), side="right")) - 1
        return min(max(place, 0), len(self.counts) - 1)


def histograms_of(product: Product, columns: Mapping[str, NDArray[Any]]) -> dict[str, Histogram]:
    """Count the training customers, columns as in `read.Table`; factors without any value are left out."""
    found = {}
    for factor in product.scored:
        values = columns.get(factor.name)
        if values is not None and not (unknown := blank(values)).all():
            known = values[~unknown]
            count = _numbers if isinstance(factor.constraint, Number) else _options
            found[factor.name] = count(known, int(unknown.sum()))
    return found


def _numbers(known: NDArray[Any], unknown: int) -> Histogram:
    """Bars of equal width over all but the outermost hundredth on each side, which the outer bars take in."""
    low, high = np.quantile(known, [0.01, 0.99])
    edges = np.linspace(low, high if high > low else low + 1.0, BARS + 1)
    counts = np.histogram(np.clip(known, edges[0], edges[-1]), edges)[0]
    return Histogram(tuple(int(count) for count in counts), unknown, edges=tuple(float(edge) for edge in edges))


def _options(known: NDArray[Any], unknown: int) -> Histogram:
    texts = [str(int(value)) if isinstance(value, float) else str(value) for value in known.tolist()]
    options = tuple(sorted(set(texts)))
    return Histogram(tuple(texts.count(option) for option in options), unknown, options=options)


def to_json(found: Mapping[str, Histogram]) -> dict[str, Any]:
    """Return what the manifest keeps."""
    return {
        name: {"counts": spread.counts, "unknown": spread.unknown, "edges": spread.edges, "options": spread.options}
        for name, spread in found.items()
    }


def from_json(content: Mapping[str, Any]) -> dict[str, Histogram]:
    """Read what `to_json` wrote; `ValueError` where it is not that."""
    try:
        return {
            name: Histogram(tuple(one["counts"]), one["unknown"], tuple(one["edges"]), tuple(one["options"]))
            for name, one in content.items()
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("the population is not readable") from error
