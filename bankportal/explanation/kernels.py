"""Compiled kernels that add contributions from the tables. Imported only when first needed.

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
    """Write to `codes` (2 x columns, rows) uint16 how many of its column's thresholds are below each cell.

    Row 2c is for nodes that send a blank of column c left, row 2c + 1 for nodes that send it right.
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
    """Write the rows' states at a child: the parent's states, with the bit set where the child's condition fails."""
    none = np.uint16(0)
    if is_left:
        for row in range(len(here)):
            here[row] = parent[row] | (bit if codes[row] > code else none)
    else:
        for row in range(len(here)):
            here[row] = parent[row] | (none if codes[row] > code else bit)


@compiled
def mark_right(state: Any, codes: Any, code: Any, bit: Any) -> None:
    """Set the bit in the states of the rows that a node sends right."""
    none = np.uint16(0)
    for row in range(len(state)):
        state[row] = state[row] | (bit if codes[row] > code else none)


@compiled
def add_up(state: Any, offset: Any, values: Any, sums: Any) -> None:
    """Add a group's contributions to the lanes' sums (rows, lanes); vectorised, eight additions are about two."""
    # Unsigned indices: signed ones would be tested for counting from the end.
    base = np.uint64(offset)
    for number in range(len(state)):
        row = np.uint64(number)
        cell = base + np.uint64(state[row])
        # Everything is read before anything is written: otherwise the compiler could not combine lanes.
        a, b, c, d = values[cell, 0], values[cell, 1], values[cell, 2], values[cell, 3]
        e, f, g, h = values[cell, 4], values[cell, 5], values[cell, 6], values[cell, 7]
        a, b, c, d = a + sums[row, 0], b + sums[row, 1], c + sums[row, 2], d + sums[row, 3]
        e, f, g, h = e + sums[row, 4], f + sums[row, 5], g + sums[row, 6], h + sums[row, 7]
        sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3] = a, b, c, d
        sums[row, 4], sums[row, 5], sums[row, 6], sums[row, 7] = e, f, g, h


@compiled
def flush_lanes(sums: Any, before: Any, after: Any, total: Any) -> None:
    """Add a lane's sum to its factor's totals (factors + 1, rows), and clear it, where the lane's factor changes.

    `before` and `after` are the lanes' factors before and after the change.
    """
    for lane in range(8):
        if before[lane] != after[lane]:
            factor_total = total[before[lane]]
            for row in range(len(sums)):
                factor_total[row] += sums[row, lane]
                sums[row, lane] = 0.0


@compiled
def add_up_one(cells: Any, factor: Any, values: Any, out: Any) -> None:
    """Write one row's contributions from its cells in the tables, added in the order of `explain_rows`."""
    touched = 0.0
    for number in range(len(cells)):
        touched += values[cells[number], 0]  # fetches the cache line; the loop is short, so many fetches overlap
    sums = np.zeros(8)
    total = np.zeros(len(out) + 1)
    total[len(out)] = touched  # not returned; without this use the compiler would remove the fetches
    for number in range(len(cells)):
        cell = cells[number]
        for lane in range(8):
            before = factor[max(number - 1, 0), lane]
            if before != factor[number, lane]:
                total[before] += sums[lane]
                sums[lane] = 0.0
            sums[lane] += values[cell, lane]
    for lane in range(8):
        total[factor[len(factor) - 1, lane]] += sums[lane]
    for place in range(len(out)):
        out[place] = total[place]


@compiled
def explain_rows(matrix: Any, out: Any, cells: Any, visits: Any, groups: Any, inner: Any, values: Any) -> None:
    """Write the contributions (rows, factors) of a matrix's rows, group by group, so that a table stays in the cache.

    The tuples are those of `plan.Plan`. One vector comparison serves sixteen rows, one look-up serves eight factors.
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
    sums = np.zeros((rows, 8))
    total = np.zeros((out.shape[1] + 1, rows))
    for visit in range(len(depth)):
        level = depth[visit]
        if level > 0:
            step_down(path[level - 1], path[level], codes[column[visit]], code[visit], bit[visit], is_left[visit])
        number = group[visit]
        if number >= 0:
            at_group = path[level]
            for row in range(rows):
                state[row] = at_group[row]
            for node in range(first[number], last[number]):
                mark_right(state, codes[inner_column[node]], inner_code[node], inner_bit[node])
            flush_lanes(sums, factor[max(number - 1, 0)], factor[number], total)
            add_up(state, offset[number], values, sums)
    flush_lanes(sums, factor[len(factor) - 1], np.full(8, out.shape[1], np.uint16), total)
    for row in range(rows):
        for place in range(out.shape[1]):
            out[row, place] = total[place, row]


@compiled
def explain_one(matrix: Any, out: Any, cells: Any, visits: Any, groups: Any, inner: Any, values: Any) -> None:
    """Write the contributions of a matrix's only row, with the same bits as `explain_rows`.

    All cells are located before any is read, so that the look-ups do not wait for one another.
    """
    thresholds, starts = cells
    depth, column, code, bit, is_left, group = visits
    first, last, offset, factor = groups
    inner_column, inner_code, inner_bit = inner
    codes = np.empty((2 * matrix.shape[1], 1), np.uint16)
    code_rows(matrix, thresholds, starts, codes)
    # Kept as numbers that are multiplied below: as branches, half of them would be predicted wrongly.
    above, right = np.empty(len(depth), np.uint8), np.empty(len(inner_code), np.uint8)
    for visit in range(len(depth)):
        above[visit] = codes[column[visit], 0] > code[visit]
    for node in range(len(inner_code)):
        right[node] = codes[inner_column[node], 0] > inner_code[node]
    path = np.zeros(depth.max() + 1, np.int64)
    table_cells = np.empty(len(offset), np.uint64)
    for visit in range(len(depth)):
        level = depth[visit]
        if level > 0:
            fails = np.int64(above[visit]) ^ (np.int64(1) - np.int64(is_left[visit]))
            path[level] = path[level - 1] | (fails * np.int64(bit[visit]))
        number = group[visit]
        if number >= 0:
            state = path[level]
            for node in range(first[number], last[number]):
                state |= np.int64(right[node]) * np.int64(inner_bit[node])
            table_cells[number] = np.uint64(offset[number] + state)
    add_up_one(table_cells, factor, values, out[0])


@compiled
def explain_few(matrix: Any, out: Any, cells: Any, visits: Any, groups: Any, inner: Any, values: Any) -> None:
    """Write the contributions of a few rows, one after the other, with the same bits as `explain_rows`."""
    for row in range(len(matrix)):
        explain_one(matrix[row : row + 1], out[row : row + 1], cells, visits, groups, inner, values)
