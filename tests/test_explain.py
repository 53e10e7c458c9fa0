"""Contributions: equal to their definition, to other implementations, and to themselves on every path."""

import hashlib
import itertools
import warnings
from dataclasses import replace
from functools import cache
from math import factorial

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from bankportal.explanation.building import build
from bankportal.explanation.explainer import Explainer
from bankportal.explanation.plan import plan
from bankportal.explanation.tables import Tables
from bankportal.model import compiling
from bankportal.model.encoding import EncodedColumn, Encoding
from bankportal.model.forest import Forest
from bankportal.training.training import forest_from_sklearn

SMALL = Encoding(
    (
        EncodedColumn("Age"),
        EncodedColumn("Geography", "France"),
        EncodedColumn("Geography", "Germany"),
        EncodedColumn("Geography", "Spain"),
        EncodedColumn("Balance"),
        EncodedColumn("Tenure"),
        EncodedColumn("IsActive"),
        EncodedColumn("Salary"),
    )
)
LARGE = Encoding(tuple(EncodedColumn(f"Number{number}") for number in range(20)))


def customers(encoding, rows, seed, blanks=0.1):
    """Return rows as the encoding makes them: a choice has one option or, rarely, none; blank in all its columns."""
    random = np.random.default_rng(seed)
    matrix = np.empty((rows, len(encoding.columns)))
    for factor in encoding.factors:
        positions = encoding.positions(factor)
        if len(positions) > 1:
            matrix[:, positions] = np.eye(len(positions) + 1)[random.choice(len(positions) + 1, rows), :-1]
        else:
            matrix[:, positions] = np.round(random.normal(size=(rows, 1)), random.integers(0, 3))
        matrix[np.ix_(random.random(rows) < blanks, positions)] = np.nan
    return matrix


def trained(encoding, rows, *, blanks=0.1, seed=0, **settings):
    """Return a scikit-learn forest, our forest and what it was trained on."""
    matrix = customers(encoding, rows, seed, blanks)
    random = np.random.default_rng(seed + 1)
    known = np.nan_to_num(matrix, nan=0.7)
    signal = known @ random.normal(size=known.shape[1]) + known[:, 0] * known[:, -1] - known[:, 4] * known[:, 1]
    label = signal + random.normal(size=rows) > 0
    defaults = {"max_features": 0.5, "min_samples_leaf": 5, "max_depth": 8, "random_state": seed}
    model = RandomForestClassifier(**(defaults | settings)).fit(matrix, label)
    forest = forest_from_sklearn(model)
    forest.check(len(encoding.columns))
    return model, forest, matrix


@cache
def small(seed=0):
    return trained(SMALL, 400, n_estimators=6, max_depth=5, min_samples_leaf=3, seed=seed)


@cache
def large(blanks=0.1):
    model, forest, matrix = trained(LARGE, 3000, n_estimators=100, blanks=blanks)
    return model, forest, matrix, build(forest, LARGE, matrix)


def by_definition(forest, encoding, reference, row):
    """Return Shapley values summed over all coalitions of factors."""
    factors = len(encoding.factors)
    worth = {}
    for coalition in itertools.product((False, True), repeat=factors):
        mixed = reference.copy()
        for factor, inside in zip(encoding.factors, coalition, strict=True):
            if inside:
                mixed[:, encoding.positions(factor)] = row[encoding.positions(factor)]
        worth[coalition] = forest.score(mixed).mean()
    values = np.zeros(factors)
    for coalition, without in worth.items():
        for player in (number for number in range(factors) if not coalition[number]):
            size = sum(coalition)
            joined = (*coalition[:player], True, *coalition[player + 1 :])
            weight = factorial(size) * factorial(factors - size - 1) / factorial(factors)
            values[player] += weight * (worth[joined] - without)
    return values


@pytest.fixture(params=["compiled", "numpy"])
def path(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setenv(compiling.NO_NUMBA, "1")
    elif not compiling.available():
        pytest.skip("Numba is not installed")


def test_it_works(path):
    _, forest, matrix = small()
    explainer = Explainer(forest, SMALL, build(forest, SMALL, matrix))
    contributions = explainer.explain(matrix)
    assert contributions.shape == (400, len(SMALL.factors))
    assert explainer.tolerance == 1e-9
    assert explainer.base == pytest.approx(forest.score(matrix).mean(), abs=1e-15)
    np.testing.assert_allclose(explainer.base + contributions.sum(axis=1), forest.score(matrix), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_to_all_coalitions(path, seed):
    _, forest, matrix = small(seed)
    reference, rows = matrix[:60], customers(SMALL, 12, seed + 50, blanks=0.3)
    assert np.isnan(reference).any()
    assert np.isnan(rows).any()
    expected = [by_definition(forest, SMALL, reference, row) for row in rows]
    contributions = Explainer(forest, SMALL, build(forest, SMALL, reference)).explain(rows)
    np.testing.assert_allclose(contributions, expected, rtol=0, atol=1e-12)


def test_equal_to_all_coalitions_on_three_factors(path):
    encoding = Encoding(SMALL.columns[:5])
    _, forest, matrix = trained(encoding, 300, n_estimators=5, min_samples_leaf=1)
    assert forest.depth > len(encoding.factors)  # factors come up again on a path
    reference, rows = matrix[:50], customers(encoding, 10, 9, blanks=0.3)
    expected = [by_definition(forest, encoding, reference, row) for row in rows]
    contributions = Explainer(forest, encoding, build(forest, encoding, reference)).explain(rows)
    np.testing.assert_allclose(contributions, expected, rtol=0, atol=1e-12)


def test_rows_that_no_encoding_makes_are_explained_as_well(path):
    _, forest, matrix = small()
    rows = np.random.default_rng(3).choice([np.nan, 0, 1, 0.5, 1e300, -1e300], (6, len(SMALL.columns)))
    rows[:, 0] = np.inf
    with np.errstate(over="ignore"):
        expected = [by_definition(forest, SMALL, matrix[:40], row) for row in rows]
        contributions = Explainer(forest, SMALL, build(forest, SMALL, matrix[:40])).explain(rows)
    np.testing.assert_allclose(contributions, expected, rtol=0, atol=1e-12)


def test_equal_to_shap_on_a_forest_of_real_size():
    """Numbers only: shap's players are columns, ours factors. Values summed over a choice's columns are another game.

    shap sends a blank where its own default says, not where the forest does; the coalitions above cover blanks. And it
    rounds thresholds, not values, to float32, so no value here stands as near to a threshold as rounded ones do.
    """
    shap = pytest.importorskip("shap", reason="shap comes with the [bench] extra")
    model, forest, matrix, _ = large(blanks=0.0)
    random = np.random.default_rng(6)
    reference, rows = matrix[:25], customers(LARGE, 200, 5, blanks=0.0)
    reference, rows = (values + random.normal(scale=1e-3, size=values.shape) for values in (reference, rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shap's own
        peer = shap.TreeExplainer(model, data=reference, feature_perturbation="interventional")
        expected = peer.shap_values(rows, check_additivity=False)[:, :, 1]
    explainer = Explainer(forest, LARGE, build(forest, LARGE, reference))
    np.testing.assert_allclose(explainer.explain(rows), expected, rtol=0, atol=1e-6)
    assert explainer.base == pytest.approx(np.ravel(peer.expected_value)[1], abs=1e-6)


def test_base_and_contributions_add_up_to_the_score():
    _, forest, _, tables = large()
    rows = customers(LARGE, 1000, 8, blanks=0.3)
    explainer = Explainer(forest, LARGE, tables)
    total = explainer.base + explainer.explain(rows).sum(axis=1)
    np.testing.assert_allclose(total, forest.score(rows), rtol=0, atol=1e-9)


def test_the_reference_contributes_nothing_on_average():
    _, forest, matrix, tables = large()
    np.testing.assert_allclose(Explainer(forest, LARGE, tables).explain(matrix).mean(axis=0), 0, atol=1e-12)


def test_one_row_and_many_give_the_same_bits(path):
    _, forest, _, tables = large()
    rows = customers(LARGE, 300, 4, blanks=0.3)
    explainer = Explainer(forest, LARGE, tables)
    alone = np.array([explainer.explain_row(row) for row in rows[:50]])
    assert (explainer.explain(rows)[:50] == alone).all()


@pytest.mark.parametrize("rows", [2, 3, 15, 16, 17, 33, 128, 129])
def test_few_rows_and_many_give_the_same_bits(path, rows):
    _, forest, _, tables = large()
    matrix = customers(LARGE, 600, 4, blanks=0.3)
    explainer = Explainer(forest, LARGE, tables)
    assert explainer.explain(matrix[:rows]).tobytes() == explainer.explain(matrix)[:rows].tobytes()


@pytest.mark.skipif(not compiling.available(), reason="Numba is not installed")
@pytest.mark.parametrize("rows", [1, 3, 20])
def test_a_column_with_too_many_thresholds_for_steps_gives_the_same_bits(monkeypatch, rows):
    _, forest, matrix = small(2)
    explainer = Explainer(forest, SMALL, build(forest, SMALL, matrix))
    expected = explainer.explain(matrix[:rows])
    assert explainer._plan.steps is not None
    plan.cache_clear()
    monkeypatch.setattr("bankportal.explanation.plan.MAX_STEP_CODE", 5)
    explainer = Explainer(forest, SMALL, build(forest, SMALL, matrix))
    plan.cache_clear()
    assert explainer._plan.steps is None
    assert explainer.explain(matrix[:rows]).tobytes() == expected.tobytes()


@pytest.mark.skipif(not compiling.available(), reason="Numba is not installed")
def test_compiled_and_numpy_give_the_same_bits(monkeypatch):
    _, forest, _, tables = large()
    rows = customers(LARGE, 1200, 4, blanks=0.3)  # two threads share them
    explainer = Explainer(forest, LARGE, tables)
    explainer.warm_up()
    compiled = explainer.explain(rows)
    monkeypatch.setenv(compiling.NO_NUMBA, "1")
    assert (explainer.explain(rows) == compiled).all()


def test_any_layout_of_rows_is_taken(path):
    _, forest, matrix = small()
    explainer = Explainer(forest, SMALL, build(forest, SMALL, matrix))
    expected = explainer.explain(matrix)
    frozen = matrix.copy()
    frozen.flags.writeable = False
    assert (explainer.explain(np.asfortranarray(matrix)) == expected).all()
    assert (explainer.explain(frozen) == expected).all()
    assert (explainer.explain(np.repeat(matrix, 2, axis=0)[::2]) == expected).all()
    assert explainer.explain(matrix[:0]).shape == (0, len(SMALL.factors))


def test_a_tree_of_one_leaf(path):
    forest = Forest(
        *(np.array([value], dtype=dtype) for value, dtype in ((-1, np.int32), (0, float), (-1, np.int32))),
        *(np.array([value], dtype=dtype) for value, dtype in ((-1, np.int32), (False, bool), (0.25, float))),
        np.array([0], dtype=np.int32),
    )
    explainer = Explainer(forest, SMALL, build(forest, SMALL, np.zeros((3, 8))))
    assert explainer.base == 0.25
    assert not explainer.explain(np.zeros((4, 8))).any()
    assert not explainer.explain_row(np.zeros(8)).any()


def test_32_bit_tables_add_up_to_1e_6(path, monkeypatch):
    _, forest, matrix = small(1)
    plan.cache_clear()
    monkeypatch.setattr("bankportal.explanation.plan.MAX_BYTES", 1000)
    explainer = Explainer(forest, SMALL, build(forest, SMALL, matrix))
    plan.cache_clear()
    assert explainer.tolerance == 1e-6
    contributions = explainer.explain(matrix)
    assert (explainer.explain_row(matrix[7]) == contributions[7]).all()
    assert (explainer.explain(matrix[:9]) == contributions[:9]).all()
    np.testing.assert_allclose(explainer.base + contributions.sum(axis=1), forest.score(matrix), rtol=0, atol=1e-6)


def test_equal_forests_have_equal_tables():
    _, forest, matrix = small()
    content = build(forest, SMALL, matrix).to_bytes()
    assert build(forest, SMALL, matrix[::-1]).to_bytes() == content
    back = Tables.from_bytes(content, forest, SMALL)
    assert back.to_bytes() == content
    assert back.values.ctypes.data % 64 == 0


def test_wrong_matrices_are_refused():
    _, forest, matrix = small()
    explainer = Explainer(forest, SMALL, build(forest, SMALL, matrix))
    for wrong in (matrix[:, :-1], matrix[0], np.zeros((2, 9))):
        with pytest.raises(ValueError, match="8 columns"):
            explainer.explain(wrong)
    with pytest.raises(ValueError, match="8 columns"):
        explainer.explain_row(matrix[0, :3])
    with pytest.raises(ValueError, match="empty"):
        build(forest, SMALL, matrix[:0])


def test_paths_of_more_than_eight_factors_are_refused():
    _, forest, matrix = trained(LARGE, 2000, n_estimators=3, max_depth=14)
    with pytest.raises(ValueError, match="more than 8 factors"):
        build(forest, LARGE, matrix)


def test_tables_of_another_forest_are_refused():
    _, forest, matrix = small()
    tables = build(forest, SMALL, matrix)
    content = tables.to_bytes()
    other = replace(forest, value=forest.value * 0.999)
    renamed = Encoding((EncodedColumn("Years"), *SMALL.columns[1:]))
    for stranger, encoding in ((small(1)[1], SMALL), (other, SMALL), (forest, renamed)):
        with pytest.raises(ValueError, match="another forest"):
            Tables.from_bytes(content, stranger, encoding)
        with pytest.raises(ValueError, match="another forest"):
            Explainer(stranger, encoding, tables)


@pytest.mark.parametrize(
    "change",
    [
        lambda tables: {"values": tables.values[:-1]},
        lambda tables: {"values": tables.values[:, :7]},
        lambda tables: {"values": tables.values.astype(np.float32)},
        lambda tables: {"values": np.full_like(tables.values, np.nan)},
        lambda tables: {"base": np.array([np.inf])},
        lambda tables: {"base": np.array([0.5, 0.5])},
        lambda tables: {"reference": np.array([0])},
        lambda tables: {"format": np.array([2])},
        lambda tables: {"forest": tables.forest.astype(np.int64)},
    ],
)
def test_impossible_tables_are_refused(change):
    _, forest, matrix = small()
    tables = build(forest, SMALL, matrix)
    with pytest.raises(ValueError, match="tables"):
        Tables.from_bytes(replace(tables, **change(tables)).to_bytes(), forest, SMALL)


def test_a_thousand_corruptions_are_refused_or_change_nothing():
    _, forest, matrix = small()
    tables = build(forest, SMALL, matrix)
    content = tables.to_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for number in range(1000):
        damaged = bytearray(content)
        if number % 4 == 0:
            del damaged[random.integers(len(content)) :]
        else:
            # Half in the directory at the end and the first header, where there is more to confuse than a checksum.
            places = [(0, len(content)), (len(content) - 600, len(content)), (0, 200)][number % 3]
            damaged[random.integers(*places)] ^= random.integers(1, 256)
        try:
            found = Tables.from_bytes(bytes(damaged), forest, SMALL)
        except ValueError:
            refused += 1
        else:
            assert hashlib.sha256(found.to_bytes()).digest() == hashlib.sha256(content).digest()
    assert refused > 600


def test_other_files_are_refused():
    _, forest, _ = small()
    for content in (b"", b"PK", b"\x80\x04N.", forest.to_bytes()):
        with pytest.raises(ValueError, match="tables"):
            Tables.from_bytes(content, forest, SMALL)
