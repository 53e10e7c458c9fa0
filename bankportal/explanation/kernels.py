"""Compiled loops that add up contributions from tables. Imported only when first needed.

The kernels check no bounds: callers pass arrays derived from a checked forest.
"""

from typing import Any

import numpy as np

from bankportal.explanation.plan import BLANK_RIGHT
from bankportal.model.compiling import available as available  # part of what this module offers
from bankportal.model.compiling import compiled
from bankportal.model.compiling import run_in_parallel as run_in_parallel


@compiled
def code_rows(matrix: Any, thresholds: Any, starts: Any, codes: Any) -> None:
    """Write how many of its column's thresholds lie below each cell, (2 x columns, rows) uint16.

    Row 2c is for nodes that send a blank of column c left, row 2c + 1 for those that send it right.
    """
    rows, columns = matrix.shape
    for column in range(columns):
        start, count = starts[column], starts[column + 1] - starts[column]
        for row in range(rows):
            cell = np.float64(np.float32(matrix[row, column]))
            if cell != cell:
                codes[2 * column, row] = 0
                codes[2 * column + 1, row] = BLANK_RIGHT
                continue
            low, length = start, count
            while length > 0:
                half = length >> 1
                if thresholds[low + half] < cell:
                    low += half + 1
                    length -= half + 1
                else:
                    length = half
            codes[2 * column, row] = low - start
            codes[2 * column + 1, row] = low - start


@compiled
def step_down(parent: Any, here: Any, codes: Any, code: Any, bit: Any, is_left: Any) -> None:
    """Write the rows' states at a child: the parent's, and the bit where the child's condition fails."""
    none = np.uint16(0)
    if is_left:
        for row in range(len(here)):
            here[row] = parent[row] | (bit if codes[row] > code else none)
    else:
        for row in range(len(here)):
            here[row] = parent[row] | (none if codes[row] > code else bit)


@compiled
def mark_right(state: Any, codes: Any, code: Any, bit: Any) -> None:
    """Set the bit in the states of rows that a node sends right."""
    none = np.uint16(0)
    for row in range(len(state)):
        state[row] = state[row] | (bit if codes[row] > code else none)


@compiled
def add_up(state: Any, offset: Any, values: Any, held: Any) -> None:
    """Add a group's contributions to the sums that the lanes hold, (rows, lanes): eight additions in two or so."""
    # Unsigned indices: signed ones would be tested for counting from the end.
    base = np.uint64(offset)
    for number in range(len(state)):
        row = np.uint64(number)
        cell = base + np.uint64(state[row])
        # All is read before anything is written, or the compiler could not put lanes together.
        a, b, c, d = values[cell, 0], values[cell, 1], values[cell, 2], values[cell, 3]
        e, f, g, h = values[cell, 4], values[cell, 5], values[cell, 6], values[cell, 7]
        a, b, c, d = a + held[row, 0], b + held[row, 1], c + held[row, 2], d + held[row, 3]
        e, f, g, h = e + held[row, 4], f + held[row, 5], g + held[row, 6], h + held[row, 7]
        held[row, 0], held[row, 1], held[row, 2], held[row, 3] = a, b, c, d
        held[row, 4], held[row, 5], held[row, 6], held[row, 7] = e, f, g, h


@compiled
def put_down(held: Any, before: Any, after: Any, total: Any) -> None:
    """Where a lane is to hold another factor, add what it holds to its factor's totals, (factors + 1, rows)."""
    for lane in range(8):
        if before[lane] != after[lane]:
            mine = total[before[lane]]
            for row in range(len(held)):
                mine[row] += held[row, lane]
                held[row, lane] = 0.0


@compiled
def add_up_one(found: Any, factor: Any, values: Any, out: Any) -> None:
    """Write one row's contributions from its cells, in the order of `explain_rows`."""
    touched = 0.0
    for number in range(len(found)):
        touched += values[found[number], 0]  # fetches the cache line: so little work that many are on their way at once
    held = np.zeros(8)
    total = np.zeros(len(out) + 1)
    total[len(out)] = touched  # a place that is not returned; without a use there would be no fetching
    for number in range(len(found)):
        cell = found[number]
        for lane in range(8):
            before = factor[max(number - 1, 0), lane]
            if before != factor[number, lane]:
                total[before] += held[lane]
                held[lane] = 0.0
            held[lane] += values[cell, lane]
    for lane in range(8):
        total[factor[len(factor) - 1, lane]] += held[lane]
    for place in range(len(out)):
        out[place] = total[place]


@compiled
def explain_rows(matrix: Any, out: Any, cells: Any, visits: Any, groups: Any, inner: Any, values: Any) -> None:
    """Write the contributions (rows, factors) of a matrix's rows, group by group so that a table stays in cache.

    The tuples are those of `plan.Plan`: one comparison serves sixteen rows at a time, one look-up eight factors.
    """
    thresholds, starts = cells
    depth, column, code, bit, is_left, group = visits
    first, last, offset, factor = groups
    inner_column, inner_code, inner_bit = inner
    rows = len(matrix)
    codes = np.empty((2 * matrix.shape[1], rows), np.uint16)
    code_rows(matrix, thresholds, starts, codes)
    path = np.zeros((depth.max() + 1, rows), np.uint16)
    state = np.empty(rows, np.uint16)
    held = np.zeros((rows, 8))
    total = np.zeros((out.shape[1] + 1, rows))
    for visit in range(len(depth)):
        level = depth[visit]
        if level > 0:
            step_down(path[level - 1], path[level], codes[column[visit]], code[visit], bit[visit], is_left[visit])
        number = group[visit]
        if number >= 0:
            way = path[level]
            for row in range(rows):
                state[row] = way[row]
            for node in range(first[number], last[number]):
                mark_right(state, codes[inner_column[node]], inner_code[node], inner_bit[node])
            put_down(held, factor[max(number - 1, 0)], factor[number], total)
            add_up(state, offset[number], values, held)
    put_down(held, factor[len(factor) - 1], np.full(8, out.shape[1], np.uint16), total)
    for row in range(rows):
        for place in range(out.shape[1]):
            out[row, place] = total[place, row]


@compiled
def explain_one(matrix: Any, out: Any, cells: Any, visits: Any, groups: Any, inner: Any, values: Any) -> None:
    """Write the contributions of a matrix's only row, with the bits of `explain_rows`.

    All cells are found first, so that the look-ups after them do not wait for one another.
    """
    thresholds, starts = cells
    depth, column, code, bit, is_left, group = visits
    first, last, offset, factor = groups
    inner_column, inner_code, inner_bit = inner
    codes = np.empty((2 * matrix.shape[1], 1), np.uint16)
    code_rows(matrix, thresholds, starts, codes)
    # Kept as numbers and multiplied below: as jumps these would be guessed wrong half the time.
    way, right = np.empty(len(depth), np.uint8), np.empty(len(inner_code), np.uint8)
    for visit in range(len(depth)):
        way[visit] = codes[column[visit], 0] > code[visit]
    for node in range(len(inner_code)):
        right[node] = codes[inner_column[node], 0] > inner_code[node]
    path = np.zeros(depth.max() + 1, np.int64)
    found = np.empty(len(offset), np.uint64)
    for visit in range(len(depth)):
        level = depth[visit]
        if level > 0:
            fails = np.int64(way[visit]) ^ (np.int64(1) - np.int64(is_left[visit]))
            path[level] = path[level - 1] | (fails * np.int64(bit[visit]))
        number = group[visit]
        if number >= 0:
            state = path[level]
            for node in range(first[number], last[number]):
                state |= np.int64(right[node]) * np.int64(inner_bit[node])
            found[number] = np.uint64(offset[number] + state)
    add_up_one(found, factor, values, out[0])


@compiled
def explain_each(matrix: Any, out: Any, cells: Any, visits: Any, groups: Any, inner: Any, values: Any) -> None:
    """Write the contributions of a few rows, one after the other: the bits of `explain_rows`, faster for so few."""
    for row in range(len(matrix)):
        explain_one(matrix[row : row + 1], out[row : row + 1], cells, visits, groups, inner, values)
