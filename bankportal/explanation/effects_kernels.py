"""Compiled kernels for effects. They add whole numbers, so that every order of additions gives the same bits."""

from typing import Any

import numpy as np

from bankportal.explanation.kernels import EACH_ROW, TOP_BITS, code_rows, pack_codes, take_steps
from bankportal.explanation.kernels import ROWS_AT_ONCE as ROWS_AT_ONCE  # part of what this module offers
from bankportal.model.compiling import available as available  # part of what this module offers
from bankportal.model.compiling import compiled
from bankportal.model.compiling import run_in_parallel as run_in_parallel

# Rows that go down a tree together, one bit each: four words, the width of a vector register.
WORDS = 4
BLOCK_ROWS = 64 * WORDS
# The top six bits of DE_BRUIJN times a word with one bit set are the index in `BIT` of that bit's number (de Bruijn
# sequence).
DE_BRUIJN = 0x03F79D71B4CB0A89
BIT = np.argsort([(1 << number) * DE_BRUIJN % 2**64 >> 58 for number in range(64)]).astype(np.uint64)


@compiled
def effects_of_one(
    matrix: Any, total: Any, cells: Any, nodes: Any, child: Any, roots: Any, gain: Any, loss: Any, widest: int
) -> None:
    """Add the effects of a matrix's only row, in units, to `total` (1, factors) int64.

    All trees are walked at once, one level after the other, along the paths on which at most one factor fails. The loop
    has no branches that depend on the row: a child that is not followed is written and then overwritten.
    """
    thresholds, starts = cells
    column, code, factor, leaf = nodes
    codes = np.empty((2 * matrix.shape[1], 1), np.uint16)
    code_rows(matrix, thresholds, starts, codes)
    at, fails = np.empty((2, widest + 2), np.uint32), np.empty((2, widest + 2), np.int16)
    met, missed = np.empty(len(leaf) + 1, np.uint32), np.empty(len(leaf) + 1, np.int16)
    for tree in range(len(roots)):
        at[0, tree] = roots[tree]
        fails[0, tree] = -1
    count, side, leaves = np.uint64(len(roots)), 0, np.uint64(0)
    one = np.uint64(1)
    while count:
        here, failed, below, fails_below = at[side], fails[side], at[1 - side], fails[1 - side]
        following = np.uint64(0)
        for number in range(count):
            node, before = np.uint64(here[np.uint64(number)]), failed[np.uint64(number)]
            split_factor = factor[node]
            inner = np.uint64(split_factor >= 0)
            right = np.uint64(codes[np.uint64(column[node]), 0] > code[node])
            met[leaves], missed[leaves] = node, before
            leaves += one - inner
            below[following], fails_below[following] = child[np.uint64(2) * node + right], before
            following += inner
            below[following], fails_below[following] = child[np.uint64(2) * node + (one - right)], split_factor
            following += inner & np.uint64((before < 0) | (before == split_factor))
        count, side = following, 1 - side
    for number in range(leaves):
        place = np.uint64(leaf[met[number]])
        if missed[number] < 0:
            for gaining in range(total.shape[1]):
                total[0, gaining] += gain[place, gaining]
        else:
            total[0, missed[number]] -= loss[place, np.uint64(missed[number])]


@compiled
def effects_of_few(
    matrix: Any, total: Any, cells: Any, nodes: Any, child: Any, roots: Any, gain: Any, loss: Any, widest: int
) -> None:
    """Add the effects of a few rows, in units, to `total` (rows, factors) int64, one row after the other."""
    for row in range(len(matrix)):
        effects_of_one(matrix[row : row + 1], total[row : row + 1], cells, nodes, child, roots, gain, loss, widest)


@compiled
def effects_of_sixteen(
    matrix: Any, total: Any, cells: Any, steps: Any, leaves: Any, path_factors: Any, gain: Any, loss: Any
) -> None:
    """Add the effects of up to `ROWS_AT_ONCE` rows, in units, to `total` (rows, factors) int64.

    The states of all rows, four in a word, take a step at once. A row counts at a leaf where its state has one bit, of
    the only factor whose conditions fail there, or none.
    """
    thresholds, starts = cells
    previous, column, least, shift, end = steps
    leaf, known = leaves
    packed, state = np.empty((4 * matrix.shape[1], 4), np.uint64), np.empty((len(previous), 4), np.uint64)
    pack_codes(matrix, thresholds, starts, packed)
    take_steps(packed, previous, column, least, shift, state)
    top_bits, all_but_top, one = np.uint64(TOP_BITS), np.uint64(TOP_BITS - EACH_ROW), np.uint64(1)
    there = np.zeros(4, np.uint64)
    for row in range(len(matrix)):
        there[row >> 2] |= np.uint64(0x8000) << np.uint64(16 * (row & 3))
    to_a, to_b, to_c, to_d = np.uint64(15), np.uint64(14), np.uint64(13), np.uint64(12)
    for number in range(len(end)):
        place, step = np.uint64(number), np.uint64(end[number])
        a, b, c, d = state[step, 0], state[step, 1], state[step, 2], state[step, 3]
        # Each state less one, or 0: it shares a bit with the state where that has several. The sums do not carry.
        less_a, less_b = a - (((a + all_but_top) & top_bits) >> to_a), b - (((b + all_but_top) & top_bits) >> to_a)
        less_c, less_d = c - (((c + all_but_top) & top_bits) >> to_a), d - (((d + all_but_top) & top_bits) >> to_a)
        counts_a, counts_b = there[0] & ~((a & less_a) + all_but_top), there[1] & ~((b & less_b) + all_but_top)
        counts_c, counts_d = there[2] & ~((c & less_c) + all_but_top), there[3] & ~((d & less_d) + all_but_top)
        # The bit of row 4 x word + quarter is 16 x quarter + word.
        rows = (counts_a >> to_a) | (counts_b >> to_b) | (counts_c >> to_c) | (counts_d >> to_d)
        at = np.uint64(leaf[place])
        while rows:
            low = rows & (~rows + one)
            rows ^= low
            bit = BIT[(low * np.uint64(DE_BRUIJN)) >> np.uint64(58)]
            word, shifted = bit & np.uint64(15), bit & np.uint64(48)
            row = np.uint64(4) * word + (shifted >> np.uint64(4))
            failing = (state[step, word] >> shifted) & np.uint64(0xFFFF)
            if failing:
                rank = BIT[(failing * np.uint64(DE_BRUIJN)) >> np.uint64(58)]
                factor = np.uint64(path_factors[at, rank])
                total[row, factor] -= loss[at, factor]
            else:
                for each in range(known[place]):
                    factor = np.uint64(path_factors[at, np.uint64(each)])
                    total[row, factor] += gain[at, factor]


@compiled
def send_right(codes: Any, first: int, here: int, starts: Any, right: Any) -> None:
    """Write for each threshold which rows are above it, one bit each; once with blanks left, once blanks right."""
    none = np.uint64(0)
    right[:] = none
    for column in range(len(starts) - 1):
        count = starts[column + 1] - starts[column]
        for blanks in range(2):
            start = 2 * starts[column] + blanks * count
            column_codes = codes[2 * column + blanks]
            for row in range(here):
                above = min(np.int64(column_codes[first + row]), count)
                if above:
                    right[start + above - 1, row >> 6] |= np.uint64(1) << np.uint64(row & 63)
            for threshold in range(start + count - 2, start - 1, -1):
                for word in range(WORDS):
                    right[threshold, word] |= right[threshold + 1, word]


@compiled
def add_to_rows(rows: Any, amount: int, sums: Any) -> None:
    """Add an amount to the sums of the rows whose bits are set in `rows` (words,)."""
    one = np.uint64(1)
    for word in range(WORDS):
        bits = rows[word]
        while bits:
            low = bits & (~bits + one)
            sums[np.uint64(word * 64) + BIT[(low * np.uint64(DE_BRUIJN)) >> np.uint64(58)]] += amount
            bits ^= low


@compiled
def step_down(before: Any, now: Any, sent: Any, is_left: bool, place: int, is_new: bool, known: int) -> None:
    """Write the rows' states at a child; `place` is that of the parent's factor on the path."""
    all_rows, none = ~np.uint64(0), np.uint64(0)
    flip = all_rows if is_left else none
    kept = none if is_new else all_rows
    for failing in range(known + 1):
        for word in range(WORDS):
            now[failing, word] = before[failing, word] & (sent[word] ^ flip)
    for word in range(WORDS):
        now[place, word] = before[0, word] & ~(sent[word] ^ flip) | before[place, word] & kept


@compiled
def effects_of_rows(matrix: Any, total: Any, cells: Any, visits: Any, path_factors: Any, gain: Any, loss: Any) -> None:
    """Add the effects of a matrix's rows, in units, to `total` (rows, factors) int64.

    Each tree is walked once for `BLOCK_ROWS` rows. `state[level, 0]` has a bit for each row that meets all conditions
    so far. `state[level, place]` has one for each row that fails only conditions on the path's factor at that place.
    """
    thresholds, starts = cells
    depth, condition, is_left, place_of_parent, is_new, known, leaf = visits
    codes = np.empty((2 * matrix.shape[1], len(matrix)), np.uint16)
    code_rows(matrix, thresholds, starts, codes)
    right = np.empty((2 * len(thresholds), WORDS), np.uint64)
    state = np.zeros((depth.max() + 1, known.max() + 1, WORDS), np.uint64)
    sums = np.empty((total.shape[1], BLOCK_ROWS), np.int64)
    for first in range(0, len(matrix), BLOCK_ROWS):
        here = min(BLOCK_ROWS, len(matrix) - first)
        send_right(codes, first, here, starts, right)
        sums[:] = 0
        for word in range(WORDS):
            bits = min(max(here - 64 * word, 0), 64)
            state[0, 0, word] = ~np.uint64(0) >> np.uint64(64 - bits) if bits else np.uint64(0)
        for visit in range(len(depth)):
            level, number = depth[visit], leaf[visit]
            now = state[level]
            if level:
                sent = right[condition[visit]]
                place = place_of_parent[visit]
                step_down(state[level - 1], now, sent, is_left[visit], place, is_new[visit], known[visit])
            if number >= 0:
                for rank in range(known[visit]):
                    factor = path_factors[number, rank]
                    add_to_rows(now[0], gain[number, factor], sums[factor])
                    add_to_rows(now[1 + rank], -loss[number, factor], sums[factor])
        for row in range(here):
            for factor in range(total.shape[1]):
                total[first + row, factor] = sums[factor, row]
