"""Effects: equal to their definition, and to the last bit on every path."""

import numpy as np
import pytest

from bankportal.explanation.effects import MAX_STEP_FACTORS, MAX_TREES, Effects
from bankportal.model import compiling
from bankportal.model.encoding import EncodedColumn, Encoding
from bankportal.model.forest import Forest
from tests.test_explain import SMALL, customers, small
from tests.test_kernels import forest_of, needs_numba, rows_of

SIX = Encoding(tuple(EncodedColumn(f"Number{number}") for number in range(6)))


@pytest.fixture(params=["compiled", "numpy"])
def path(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setenv(compiling.NO_NUMBA, "1")
    elif not compiling.available():
        pytest.skip("Numba is not installed")


def any_effects(seed, **settings):
    """Return the effects of a random forest against random rows."""
    return Effects.build(forest_of(9, 6, seed, **settings), SIX, rows_of(40, 6, seed + 100))


def on_numpy(effects, matrix, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setenv(compiling.NO_NUMBA, "1")
        return effects.of_rows(matrix)


def same(one, other):
    """Say whether two arrays have the same bits."""
    return one.shape == other.shape and one.tobytes() == other.tobytes()


def test_it_works(path):
    """The score less the mean score with one factor alone put at the reference's values."""
    _, forest, reference = small()
    effects = Effects.build(forest, SMALL, reference)
    rows = customers(SMALL, 12, seed=5)
    for row, found in zip(rows, effects.of_rows(rows), strict=True):
        for number, factor in enumerate(SMALL.factors):
            moved = np.repeat(row[None, :], len(reference), axis=0)
            columns = SMALL.positions(factor)
            moved[:, columns] = reference[:, columns]
            expected = forest.score(row[None, :])[0] - forest.score(moved).mean()
            assert found[number] == pytest.approx(expected, abs=1e-12)


@needs_numba
@pytest.mark.parametrize("rows", [0, 1, 2, 8, 9, 15, 16, 17, 25, 63, 64, 128, 129, 256, 257, 1500])
def test_many_rows_have_the_bits_of_numpy(rows, monkeypatch):
    effects, matrix = any_effects(seed=1), rows_of(rows, 6, seed=2)
    assert same(effects.of_rows(matrix), on_numpy(effects, matrix, monkeypatch))


@needs_numba
@pytest.mark.parametrize("depth", [0, 1, 9])
def test_trees_of_one_leaf_and_deep_ones(depth, monkeypatch):
    effects, matrix = any_effects(seed=3, depth=depth), rows_of(80, 6, seed=4)
    assert same(effects.of_rows(matrix), on_numpy(effects, matrix, monkeypatch))
    assert same(effects.of(matrix[7]), effects.of_rows(matrix)[7])


def chain(factors):
    """Return a tree of so many inner nodes below one another, each of a factor of its own."""
    nodes, inner = np.arange(2 * factors + 1, dtype=np.int32), np.arange(2 * factors + 1) % 2 == 0
    inner[-1] = False
    random = np.random.default_rng(factors)
    return Forest(
        feature=np.where(inner, nodes // 2, -1).astype(np.int32),
        threshold=np.where(inner, random.normal(size=len(nodes)), 0.0),
        left=np.where(inner, nodes + 1, -1).astype(np.int32),
        right=np.where(inner, nodes + 2, -1).astype(np.int32),
        missing_left=inner & (random.random(len(nodes)) < 0.5),
        value=random.random(len(nodes)),
        roots=np.zeros(1, dtype=np.int32),
    )


@needs_numba
@pytest.mark.parametrize(("factors", "in_steps"), [(1, True), (MAX_STEP_FACTORS, True), (MAX_STEP_FACTORS + 1, False)])
def test_paths_of_as_many_factors_as_a_state_has_bits_for_and_more(factors, in_steps, monkeypatch):
    encoding = Encoding(tuple(EncodedColumn(f"Number{number}") for number in range(factors)))
    forest = chain(factors)
    forest.check(factors)
    effects = Effects.build(forest, encoding, rows_of(40, factors, seed=8))
    assert (effects._kernel_arrays.steps is not None) == in_steps
    # Rows that reach the end of the chain, but for one factor or none: elsewhere several fail.
    matrix = np.where(rows_of(100, factors, seed=9) < 2, 9.0, np.nan)
    matrix[np.arange(100), np.arange(100) % factors] *= -1
    assert same(effects.of_rows(matrix), on_numpy(effects, matrix, monkeypatch))
    assert effects.of_rows(matrix).any()


@needs_numba
def test_a_column_with_too_many_thresholds_for_steps_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr("bankportal.explanation.effects.MAX_STEP_CODE", 3)
    effects, matrix = any_effects(seed=1), rows_of(40, 6, seed=2)
    assert effects._kernel_arrays.steps is None
    assert same(effects.of_rows(matrix), on_numpy(effects, matrix, monkeypatch))


def test_a_row_alone_is_as_among_others(path):
    _, forest, reference = small()
    effects = Effects.build(forest, SMALL, reference)
    rows = customers(SMALL, 300, seed=6, blanks=0.3)
    assert same(effects.of_rows(rows), np.stack([effects.of(row) for row in rows]))


@needs_numba
def test_any_layout_of_rows_is_taken():
    effects, matrix = any_effects(seed=5), rows_of(70, 6, seed=6)
    frozen = matrix.copy()
    frozen.flags.writeable = False
    assert same(effects.of_rows(np.asfortranarray(matrix)), effects.of_rows(matrix))
    assert same(effects.of_rows(frozen), effects.of_rows(matrix))


def test_a_forest_whose_sums_could_overflow_is_refused():
    forest = forest_of(MAX_TREES + 1, 6, seed=7, depth=0)
    with pytest.raises(ValueError, match="trees"):
        Effects(forest, SIX, np.ones((MAX_TREES + 1, 6)))
