"""Compiled kernels: the bits of the NumPy path, from any number of threads, and no trouble where there are none."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from bankportal.model import compiling
from bankportal.model.forest import Forest

needs_numba = pytest.mark.skipif(not compiling.available(), reason="Numba is not installed")


def forest_of(trees, columns, seed, depth=7):
    """Return a forest of random trees with thresholds where float32 and float64 disagree."""
    random = np.random.default_rng(seed)
    nodes = []

    def grow(level):
        number = len(nodes)
        nodes.append(None)
        if level == depth or (level and random.random() < 0.1):
            nodes[number] = (-1, 0.0, -1, -1, False, random.random())
            return number
        threshold = random.choice([random.normal(), 0.1, 0.2, 0.3, 1e300, -1e300, float(np.finfo(np.float32).max)])
        feature, missing_left = int(random.integers(columns)), bool(random.random() < 0.5)
        nodes[number] = (feature, threshold, grow(level + 1), grow(level + 1), missing_left, random.random())
        return number

    roots = [grow(0) for _ in range(trees)]
    feature, threshold, left, right, missing_left, value = zip(*nodes, strict=True)
    forest = Forest(
        np.array(feature, np.int32),
        np.array(threshold),
        np.array(left, np.int32),
        np.array(right, np.int32),
        np.array(missing_left),
        np.array(value),
        np.array(roots, np.int32),
    )
    forest.check(columns)
    return forest


def rows_of(rows, columns, seed):
    random = np.random.default_rng(seed)
    special = random.choice([np.nan, 0.1, 0.2, 0.3, np.inf, -np.inf, float(np.float32(0.1))], (rows, columns))
    return np.where(random.random((rows, columns)) < 0.5, special, random.normal(size=(rows, columns)))


def on_numpy(forest, matrix):
    return forest._score_block(matrix.astype(np.float32))


@needs_numba
@pytest.mark.parametrize("rows", [0, 1, 3, 4, 127, 128, 131, 1500])
def test_it_works(rows):
    forest = forest_of(11, 6, seed=1)
    matrix = rows_of(rows, 6, seed=2)
    scores = forest.compiled_scorer(matrix)
    assert scores.dtype == np.float64
    assert (scores == on_numpy(forest, matrix)).all()


@needs_numba
def test_trees_of_one_leaf_and_uneven_trees():
    for depth in (0, 1, 9):
        forest = forest_of(4, 3, seed=3, depth=depth)
        matrix = rows_of(40, 3, seed=4)
        assert (forest.compiled_scorer(matrix) == on_numpy(forest, matrix)).all()


@needs_numba
def test_a_row_alone_scores_as_among_others():
    forest = forest_of(20, 5, seed=5)
    matrix = rows_of(600, 5, seed=6)
    score = forest.compiled_scorer
    assert (score(matrix) == np.concatenate([score(matrix[row : row + 1]) for row in range(600)])).all()


@needs_numba
def test_any_layout_of_rows_is_taken():
    forest = forest_of(5, 4, seed=7)
    matrix = rows_of(50, 4, seed=8)
    score = forest.compiled_scorer
    frozen = matrix.copy()
    frozen.flags.writeable = False
    assert (score(np.asfortranarray(matrix)) == score(matrix)).all()
    assert (score(frozen) == score(matrix)).all()


@needs_numba
def test_many_threads_at_once():
    forest = forest_of(20, 5, seed=9)
    matrix = rows_of(3000, 5, seed=10)
    score = forest.compiled_scorer
    expected = score(matrix)
    wrong = []

    def work():
        wrong.extend(number for number in range(10) if not (score(matrix) == expected).all())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_rows_are_shared_out_once_each():
    for rows in (0, 1, 511, 512, 1025, 20_000):
        seen = np.zeros(rows, dtype=int)

        def work(start, end, seen=seen):
            seen[start:end] += 1

        compiling.run_in_parallel(work, rows)
        assert (seen == 1).all()


def test_an_error_in_a_thread_is_raised():
    def work(start, end):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        compiling.run_in_parallel(work, 10_000)


def test_switched_off(monkeypatch):
    monkeypatch.setenv(compiling.NO_NUMBA, "1")
    assert not compiling.available()
    assert forest_of(2, 3, seed=0).compiled_scorer is None


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=False
    )


def test_without_numba():
    """The import works and there are no kernels."""
    program = """
import sys
sys.modules["numba"] = None
from bankportal.model import compiling, kernels
assert not compiling.available() and kernels.scorer({}, None) is None
"""
    assert run(program).stderr == ""


def test_explaining_does_not_import_numba_before_it_is_needed():
    program = "import sys; import bankportal.explanation.explainer; assert 'numba' not in sys.modules"
    assert run(program).stderr == ""


@needs_numba
def test_no_folder_for_the_cache():
    """Where nothing can be written, kernels are compiled for the process alone."""
    program = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
for name in ("_UserProvidedCacheLocator", "_InTreeCacheLocator", "_UserWideCacheLocator", "_IPythonCacheLocator",
             "InTreeCacheLocator", "UserWideCacheLocator"):
    if hasattr(caching, name):
        setattr(getattr(caching, name), "from_function", classmethod(lambda cls, function, file: None))
from bankportal.model import compiling
assert compiling.available()
"""
    assert run(program).stderr == ""
