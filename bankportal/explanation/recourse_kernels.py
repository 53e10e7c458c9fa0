"""Compiled search for the cheapest change of two factors. Imported only when first needed.

The same search in NumPy, with the same answers to the last bit, is `recourse`'s own; see there for what the arrays
mean. The kernels check no bounds: callers pass arrays derived from a checked forest.
"""

from typing import Any

import numpy as np

from bankportal.model.compiling import available, compiled

__all__ = ["available", "cheapest"]


@compiled
def band_of(score: Any, cuts: Any) -> Any:
    """Return the number of the band that holds a score."""
    band = 0
    while band < len(cuts) and cuts[band] <= score:
        band += 1
    return band


@compiled
def leaves(nodes: Any, first: Any, second: Any, stack: Any, spans: Any, heights: Any) -> Any:
    """Write the leaves that can be reached: their candidates' spans (start and end of each factor) and heights.

    Returns their number, and the sums over the trees of the lowest and of the highest.
    """
    kind, left, right, roots, _, units, goes_left, code = nodes
    count, lowest, highest = 0, 0, 0
    for root in roots:
        begin, top = count, 1
        stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3], stack[0, 4] = root, first[1], first[2], second[1], second[2]
        while top > 0:
            top -= 1
            node, a, b, c, d = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3], stack[top, 4]
            while kind[node] != -1:
                if kind[node] == first[0]:
                    middle = min(max(code[node], a), b)
                    if a < middle < b:
                        stack[top, 0], stack[top, 1], stack[top, 2] = right[node], middle, b
                        stack[top, 3], stack[top, 4] = c, d
                        top += 1
                        b = middle
                    node = left[node] if a < middle else right[node]
                elif kind[node] == second[0]:
                    middle = min(max(code[node], c), d)
                    if c < middle < d:
                        stack[top, 0], stack[top, 1], stack[top, 2] = right[node], a, b
                        stack[top, 3], stack[top, 4] = middle, d
                        top += 1
                        d = middle
                    node = left[node] if c < middle else right[node]
                else:
                    node = left[node] if goes_left[node] else right[node]
            spans[count, 0], spans[count, 1], spans[count, 2], spans[count, 3] = a, b, c, d
            heights[count] = units[node]
            count += 1
        lowest += heights[begin:count].min()
        highest += heights[begin:count].max()
    return count, lowest, highest


@compiled
def cells(spans: Any, place: Any, side: Any, chosen: Any) -> Any:
    """Put together candidates that no leaf tells apart: number their cells in place of the spans' ends.

    `place` is 0 or 2, the spans' columns of the factor; returns each cell's candidate nearest to the customer's own.
    """
    _, low, high, own, _ = side
    number = np.zeros(high - low + 1, np.int64)
    for leaf in range(len(spans)):
        number[spans[leaf, place] - low] = 1
    starts = np.flatnonzero(number)
    number = np.cumsum(number)
    number[high - low] = len(starts) + 1
    for leaf in range(len(spans)):
        spans[leaf, place] = number[spans[leaf, place] - low] - 1
        spans[leaf, place + 1] = number[spans[leaf, place + 1] - low] - 1
    for cell in range(len(starts)):
        start = starts[cell] + low
        end = starts[cell + 1] + low if cell + 1 < len(starts) else high
        chosen[cell] = start if own < start else min(own, end - 1)
    return len(starts)


@compiled
def exact(nodes: Any, first: Any, candidate: Any, second: Any, other: Any) -> Any:
    """Return the score at two candidates, added up as `Forest.score` does."""
    kind, left, right, roots, value, _, goes_left, code = nodes
    total = 0.0
    for root in roots:
        node = root
        while kind[node] != -1:
            if kind[node] == first:
                here = candidate < code[node]
            elif kind[node] == second:
                here = other < code[node]
            else:
                here = goes_left[node]
            node = left[node] if here else right[node]
        total += value[node]
    return total / len(roots)


@compiled
def any_better(low: Any, high: Any, cuts: Any, better: Any) -> Any:
    """Say whether a band from one score to another is better."""
    found = False
    for band in range(band_of(low, cuts), band_of(high, cuts) + 1):
        found = found or better[band]
    return found


@compiled
def settled(score: Any, near: Any, cuts: Any, better: Any) -> Any:
    """Return 1 or 0 where a score is surely in a better band or surely not, -1 where it is too near to a cut-off."""
    low, high = band_of(score - near, cuts), band_of(score + near, cuts)
    if low != high:
        return -1
    return 1 if better[low] else 0


@compiled
def cheapest(nodes: Any, first: Any, second: Any, limit: Any, bands: Any, room: Any) -> Any:
    """Return the least effort below `limit` that reaches a better band, and the two candidates; -1, -1 for none."""
    cuts, better, unit, near = bands
    stack, all_spans, heights, chosen, others = room
    count, lowest, highest = leaves(nodes, first, second, stack, all_spans, heights)
    if not any_better(lowest * unit - near, highest * unit + near, cuts, better):
        return limit, -1, -1
    spans = all_spans[:count]
    rows, columns = cells(spans, 0, first, chosen), cells(spans, 2, second, others)
    change = np.zeros((rows + 1, columns + 1), np.int64)
    for leaf in range(count):
        a, b, c, d = spans[leaf, 0], spans[leaf, 1], spans[leaf, 2], spans[leaf, 3]
        change[a, c] += heights[leaf]
        change[b, c] -= heights[leaf]
        change[a, d] -= heights[leaf]
        change[b, d] += heights[leaf]
    column = np.zeros(columns, np.int64)
    best, found, found_other = limit, -1, -1
    for row in range(rows):
        total = 0
        candidate = chosen[row]
        for number in range(columns):
            column[number] += change[row, number]
            total += column[number]
            other = others[number]
            effort = first[4][candidate] + second[4][other]
            if effort >= best or candidate == first[3] or other == second[3]:
                continue
            good = settled(total * unit, near, cuts, better)
            if good < 0:
                score = exact(nodes, first[0], candidate, second[0], other)
                good = 1 if better[band_of(score, cuts)] else 0
            if good == 1:
                best, found, found_other = effort, candidate, other
    return best, found, found_other
