"""Compiled kernels that add contributions from the tables. Imported only when first needed.

The kernels check no bounds: callers pass arrays derived from a checked forest.
"""

from typing import Any

import numpy as np

from bankportal.explanation.plan import BLANK_RIGHT, MAX_STEP_CODE
from bankportal.model.compiling import available as available  # part of what this module offers
from bankportal.model.compiling import compiled
from bankportal.model.compiling import run_in_parallel as run_in_parallel

# Rows that take a step at once: four words of four states each, the width of a vector register.
ROWS_AT_ONCE = 16
# A state's highest bit in each quarter of a word, and its lowest.
TOP_BITS, EACH_ROW = 0x8000800080008000, 0x0001000100010001
# Groups whose cells are fetched before they are added: those of sixteen rows stay within the second-level cache.
GROUPS_AHEAD = 128


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
def pack_codes(matrix: Any, thresholds: Any, starts: Any, packed: Any) -> None:
    """Write the codes of `Plan.steps`, (4 x columns, words) uint64: four rows in a word, the top bit of each set."""
    rows, columns = matrix.shape
    codes = np.empty((2 * columns, rows), np.uint16)
    code_rows(matrix, thresholds, starts, codes)
    packed[:] = TOP_BITS
    for column in range(2 * columns):
        for row in range(rows):
            code = np.uint64(min(codes[column, row], MAX_STEP_CODE))
            shift = np.uint64(16 * (row & 3))
            packed[2 * column, row >> 2] |= code << shift
            packed[2 * column + 1, row >> 2] |= (np.uint64(MAX_STEP_CODE) - code) << shift


@compiled
def explain_one(matrix: Any, out: Any, cells: Any, steps: Any, groups: Any, handovers: Any, values: Any) -> None:
    """Write the contributions of a matrix's only row, with the same bits as `explain_rows`.

    All cells are located, and fetched, before any is added, so that the look-ups do not wait for one another.
    """
    thresholds, starts = cells
    previous, column, least, shift, end = steps
    offset, factor = groups[2], groups[3]
    until, lanes, factors, kept = handovers
    packed = np.empty((4 * matrix.shape[1], 1), np.uint64)
    pack_codes(matrix, thresholds, starts, packed)
    state = np.zeros(len(previous), np.uint16)
    for number in range(1, len(previous)):
        step = np.uint64(number)
        above = np.uint16(packed[np.uint64(column[step]), 0] - np.uint64(least[step])) & np.uint16(0x8000)
        state[step] = state[np.uint64(previous[step])] | (above >> np.uint16(shift[step]))
    cell_of, fetched = np.empty(len(offset), np.uint64), 0.0
    for number in range(len(offset)):
        group = np.uint64(number)
        cell_of[group] = np.uint64(offset[group]) + np.uint64(state[np.uint64(end[group])])
        fetched += values[cell_of[group], 0]  # fetches the cache line; the loop is short, so many fetches overlap
    sums, total = np.zeros(8), np.zeros(out.shape[1] + 1)
    total[out.shape[1]] = fetched  # not returned; without this use the compiler would remove the fetches
    before = np.uint64(0)
    for number in range(len(offset)):
        group = np.uint64(number)
        cell, after = cell_of[group], np.uint64(until[group])
        for change in range(before, after):
            handed = np.uint64(change)
            total[np.uint64(factors[handed])] += sums[np.uint64(lanes[handed])]
        before = after
        # A sum begins again by a factor of 0: to write 0 into one lane would hold up the next read of all eight.
        a, b, c, d = values[cell, 0], values[cell, 1], values[cell, 2], values[cell, 3]
        e, f, g, h = values[cell, 4], values[cell, 5], values[cell, 6], values[cell, 7]
        a, b = a + sums[0] * kept[group, 0], b + sums[1] * kept[group, 1]
        c, d = c + sums[2] * kept[group, 2], d + sums[3] * kept[group, 3]
        e, f = e + sums[4] * kept[group, 4], f + sums[5] * kept[group, 5]
        g, h = g + sums[6] * kept[group, 6], h + sums[7] * kept[group, 7]
        sums[0], sums[1], sums[2], sums[3] = a, b, c, d
        sums[4], sums[5], sums[6], sums[7] = e, f, g, h
    for lane in range(8):
        total[factor[len(factor) - 1, lane]] += sums[lane]
    for place in range(out.shape[1]):
        out[0, place] = total[place]


@compiled
def take_steps(packed: Any, previous: Any, column: Any, least: Any, shift: Any, state: Any) -> None:
    """Write the states (steps, 4) uint64 of sixteen rows, four in a word, after each step of `Plan.steps`."""
    top_bits, each_row = np.uint64(TOP_BITS), np.uint64(EACH_ROW)
    state[0] = 0
    for number in range(1, len(previous)):
        step = np.uint64(number)
        codes, before, bit = np.uint64(column[step]), np.uint64(previous[step]), np.uint64(shift[step])
        bound = np.uint64(least[step]) * each_row
        # A row's top bit stays set where its code is at least the bound. Read all, then write: see `add_up`.
        a, b, c, d = packed[codes, 0], packed[codes, 1], packed[codes, 2], packed[codes, 3]
        a, b, c, d = (a - bound) & top_bits, (b - bound) & top_bits, (c - bound) & top_bits, (d - bound) & top_bits
        a, b = (a >> bit) | state[before, 0], (b >> bit) | state[before, 1]
        c, d = (c >> bit) | state[before, 2], (d >> bit) | state[before, 3]
        state[step, 0], state[step, 1], state[step, 2], state[step, 3] = a, b, c, d


@compiled
def fetch_cells(state: Any, first: int, last: int, end: Any, offset: Any, values: Any, cell_of: Any) -> float:
    """Write the table cells (groups, rows) of some groups, and return a number that is made by reading each."""
    fetched = 0.0
    for number in range(first, last):
        group, place = np.uint64(number), np.uint64(number - first)
        start, at = np.uint64(offset[group]), np.uint64(end[group])
        for each in range(cell_of.shape[1]):
            row = np.uint64(each)
            shift = np.uint64(16) * (row & np.uint64(3))
            cell = start + ((state[at, row >> np.uint64(2)] >> shift) & np.uint64(0xFFFF))
            cell_of[place, row] = cell
            fetched += values[cell, 0]
    return fetched


@compiled
def add_kept(cell_of: Any, values: Any, kept: Any, sums: Any) -> None:
    """Add a group's cells (rows,) to the lanes' sums (rows, lanes); a sum whose lane is not kept begins again.

    It does so by a factor of 0: to write 0 into one lane would hold up the next read of all eight.
    """
    ka, kb, kc, kd, ke, kf, kg, kh = kept[0], kept[1], kept[2], kept[3], kept[4], kept[5], kept[6], kept[7]
    for each in range(len(cell_of)):
        row = np.uint64(each)
        cell = cell_of[row]
        a, b, c, d = values[cell, 0], values[cell, 1], values[cell, 2], values[cell, 3]
        e, f, g, h = values[cell, 4], values[cell, 5], values[cell, 6], values[cell, 7]
        a, b, c, d = a + sums[row, 0] * ka, b + sums[row, 1] * kb, c + sums[row, 2] * kc, d + sums[row, 3] * kd
        e, f, g, h = e + sums[row, 4] * ke, f + sums[row, 5] * kf, g + sums[row, 6] * kg, h + sums[row, 7] * kh
        sums[row, 0], sums[row, 1], sums[row, 2], sums[row, 3] = a, b, c, d
        sums[row, 4], sums[row, 5], sums[row, 6], sums[row, 7] = e, f, g, h


@compiled
def explain_few(matrix: Any, out: Any, cells: Any, steps: Any, groups: Any, handovers: Any, values: Any) -> None:
    """Write the contributions of up to `ROWS_AT_ONCE` rows, with the same bits as `explain_rows`.

    Sixteen states take a step at once. Cells are fetched a few groups ahead, so that the look-ups do not wait for one
    another.
    """
    thresholds, starts = cells
    previous, column, least, shift, end = steps
    offset, factor = groups[2], groups[3]
    until, lanes, factors, kept = handovers
    rows, before = len(matrix), np.uint64(0)
    packed, state = np.empty((4 * matrix.shape[1], 4), np.uint64), np.empty((len(previous), 4), np.uint64)
    pack_codes(matrix, thresholds, starts, packed)
    take_steps(packed, previous, column, least, shift, state)
    sums, total = np.zeros((rows, 8)), np.zeros((out.shape[1] + 1, rows))
    cell_of = np.empty((GROUPS_AHEAD, rows), np.uint64)
    for first in range(0, len(offset), GROUPS_AHEAD):
        last = min(first + GROUPS_AHEAD, len(offset))
        # Not returned; without this use the compiler would remove the fetches.
        total[out.shape[1], 0] = fetch_cells(state, first, last, end, offset, values, cell_of)
        for number in range(first, last):
            after = np.uint64(until[number])
            for change in range(before, after):
                lane, factor_total = lanes[change], total[factors[change]]
                for row in range(rows):
                    factor_total[row] += sums[row, lane]
            add_kept(cell_of[number - first], values, kept[number], sums)
            before = after
    for lane in range(8):
        factor_total = total[factor[len(factor) - 1, lane]]
        for row in range(rows):
            factor_total[row] += sums[row, lane]
    for row in range(rows):
        for place in range(out.shape[1]):
            out[row, place] = total[place, row]
