"""Histograms of the training customers by factor, kept with the model version."""

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
    """How many training customers have which values of one factor.

    A number has `edges` (bars + 1,), rising, and `counts` (bars,). A bar includes its lower edge; the last bar includes
    both edges. A yes/no factor or choice has `options` and `counts` (options,). `unknown` counts the blanks.
    """

    counts: tuple[int, ...]
    unknown: int
    edges: tuple[float, ...] = ()
    options: tuple[str, ...] = ()

    def bar(self, value: float | str) -> int | None:
        """Return the position of the bar that a value is in, or `None` for an unknown option.

        Values beyond the edges are in the first or last bar.
        """
        if self.options:
            text = str(value)
            return self.options.index(text) if text in self.options else None
        place = int(np.searchsorted(self.edges, float(value), side="right")) - 1
        return min(max(place, 0), len(self.counts) - 1)


def histograms_of(product: Product, columns: Mapping[str, NDArray[Any]]) -> dict[str, Histogram]:
    """Return the histograms by factor; `columns` are as in `data.reading.Table`.

    A factor without any value has no histogram.
    """
    histograms = {}
    for factor in product.scored:
        values = columns.get(factor.name)
        if values is not None and not (unknown := blank(values)).all():
            known = values[~unknown]
            histogram = _of_numbers if isinstance(factor.constraint, Number) else _of_options
            histograms[factor.name] = histogram(known, int(unknown.sum()))
    return histograms


def _of_numbers(known: NDArray[Any], unknown: int) -> Histogram:
    """Return bars of equal width between the 1st and 99th percentile; the outer bars include the values beyond."""
    low, high = np.quantile(known, [0.01, 0.99])
    edges = np.linspace(low, high if high > low else low + 1.0, BARS + 1)
    counts = np.histogram(np.clip(known, edges[0], edges[-1]), edges)[0]
    return Histogram(tuple(int(count) for count in counts), unknown, edges=tuple(float(edge) for edge in edges))


def _of_options(known: NDArray[Any], unknown: int) -> Histogram:
    texts = [str(int(value)) if isinstance(value, float) else str(value) for value in known.tolist()]
    options = tuple(sorted(set(texts)))
    return Histogram(tuple(texts.count(option) for option in options), unknown, options=options)


def to_json(histograms: Mapping[str, Histogram]) -> dict[str, Any]:
    """Return the histograms as the manifest keeps them."""
    return {
        name: {
            "counts": histogram.counts,
            "unknown": histogram.unknown,
            "edges": histogram.edges,
            "options": histogram.options,
        }
        for name, histogram in histograms.items()
    }


def from_json(content: Mapping[str, Any]) -> dict[str, Histogram]:
    """Read what `to_json` wrote; `ValueError` where it is anything else."""
    try:
        return {
            name: Histogram(
                tuple(fields["counts"]), fields["unknown"], tuple(fields["edges"]), tuple(fields["options"])
            )
            for name, fields in content.items()
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError("the population is not readable") from error
