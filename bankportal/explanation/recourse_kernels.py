"""Compiled search for the cheapest change of two factors. Imported only when first needed.

`recourse` has the same search in NumPy, with the same answers to the last bit, and describes the arrays. The kernels
check no bounds: callers pass arrays derived from a checked forest.
"""

from typing import Any

import numpy as np

from bankportal.model.compiling import available, compiled

__all__ = ["available", "cheapest"]


@compiled
def band_of(score: Any, cuts: Any) -> Any:
    """Return the position of the band that a score is in."""
    band = 0
    while band < len(cuts) and cuts[band] <= score:
        band += 1
    return band


@compiled
def leaves(nodes: Any, first: Any, second: Any, stack: Any, spans: Any, heights: Any) -> Any:
    """Write the spans and heights of the leaves that can be reached.

    Returns their number, and the sums over the trees of each tree's lowest and of its highest leaf.
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
def cells(spans: Any, place: Any, search_range: Any, nearest: Any) -> Any:
    """Combine candidates that no leaf separates into cells; write each cell's candidate nearest to the own value.

    In `spans` the numbers of cells take the place of the numbers of candidates; `place` is the factor's first column, 0
    or 2. Returns the number of cells.
    """
    _, low, high, own, _ = search_range
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
        nearest[cell] = start if own < start else min(own, end - 1)
    return len(starts)


@compiled
def exact(nodes: Any, first: Any, of_first: Any, second: Any, of_second: Any) -> Any:
    """Return the score at two candidates, added as in `Forest.score`."""
    kind, left, right, roots, value, _, goes_left, code = nodes
    total = 0.0
    for root in roots:
        node = root
        while kind[node] != -1:
            if kind[node] == first:
                to_left = of_first < code[node]
            elif kind[node] == second:
                to_left = of_second < code[node]
            else:
                to_left = goes_left[node]
            node = left[node] if to_left else right[node]
        total += value[node]
    return total / len(roots)


@compiled
def any_better(low: Any, high: Any, cuts: Any, better: Any) -> Any:
    """Return whether any band from one score to another is better."""
    reached = False
    for band in range(band_of(low, cuts), band_of(high, cuts) + 1):
        reached = reached or better[band]
    return reached


@compiled
def settled(score: Any, near: Any, cuts: Any, better: Any) -> Any:
    """Return 1 where a score is certainly in a better band, 0 where not, -1 where it is too near to a cut-off."""
    low, high = band_of(score - near, cuts), band_of(score + near, cuts)
    if low != high:
        return -1
    return 1 if better[low] else 0


@compiled
def cheapest(nodes: Any, first: Any, second: Any, max_effort: Any, bands: Any, workspace: Any) -> Any:
    """Return the least effort below `max_effort` that reaches a better band, and both candidates; -1, -1 for none."""
    cuts, better, unit, near = bands
    stack, all_spans, heights, nearest_of_first, nearest_of_second = workspace
    count, lowest, highest = leaves(nodes, first, second, stack, all_spans, heights)
    if not any_better(lowest * unit - near, highest * unit + near, cuts, better):
        return max_effort, -1, -1
    spans = all_spans[:count]
    rows, columns = cells(spans, 0, first, nearest_of_first), cells(spans, 2, second, nearest_of_second)
    change = np.zeros((rows + 1, columns + 1), np.int64)
    for leaf in range(count):
        a, b, c, d = spans[leaf, 0], spans[leaf, 1], spans[leaf, 2], spans[leaf, 3]
        change[a, c] += heights[leaf]
        change[b, c] -= heights[leaf]
        change[a, d] -= heights[leaf]
        change[b, d] += heights[leaf]
    column = np.zeros(columns, np.int64)
    least, best_of_first, best_of_second = max_effort, -1, -1
    for row in range(rows):
        total = 0
        of_first = nearest_of_first[row]
        for number in range(columns):
            column[number] += change[row, number]
            total += column[number]
            of_second = nearest_of_second[number]
            effort = first[4][of_first] + second[4][of_second]
            if effort >= least or of_first == first[3] or of_second == second[3]:
                continue
            reaches = settled(total * unit, near, cuts, better)
            if reaches < 0:
                score = exact(nodes, first[0], of_first, second[0], of_second)
                reaches = 1 if better[band_of(score, cuts)] else 0
            if reaches == 1:
                least, best_of_first, best_of_second = effort, of_first, of_second
    return least, best_of_first, best_of_second
