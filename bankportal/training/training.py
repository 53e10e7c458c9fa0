"""Train a forest on a table, evaluate it on held-out rows, and return it as plain arrays.

Training side only: this module imports scikit-learn.
"""

import hashlib
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from bankportal.data.reading import Table
from bankportal.data.report import Separation, customer_numbers, leaks, refuse_leaks, repeated, unfit
from bankportal.domain.errors import DataRefused
from bankportal.domain.products import Product
from bankportal.explanation.building import build
from bankportal.explanation.effects import Effects
from bankportal.model.encoding import Encoding
from bankportal.model.forest import DTYPES, EVERY_KNOWN_VALUE, LEAF, Forest
from bankportal.model.histograms import histograms_of
from bankportal.model.seen_ranges import SeenRanges
from bankportal.registry.trained import TrainedModel
from bankportal.training.evaluation import Ceiling, behaviour_columns, evaluate

TEST_SHARE = 0.2
# Trees grown between two reports of progress.
STEP = 10

Matrix = NDArray[np.float64]
Rows = NDArray[np.int64]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class ForestParameters:
    """How a forest is grown.

    No tree may be deeper than 8: the tables that explain a score depend on it. The forest is fitted on every training
    row and a copy of it with blanks: all behavioural factors in the share `blank_behaviour` of the copies, and each
    optional factor in the share `blank_optional`. So it can score a file of base columns alone, and a half-filled form.
    """

    trees: int = 100
    depth: int = 8
    rows_in_leaf: int = 10
    share_of_columns: float = 0.5
    blank_behaviour: float = 0.9
    blank_optional: float = 0.1


PARAMETERS = ForestParameters()


def train(
    table: Table,
    *,
    seed: int = 0,
    allow_leakage: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
    ceiling: Ceiling | None = None,
) -> TrainedModel:
    """Train on 80 % of a table's customers and evaluate on the others.

    The same table and seed give the same arrays for any number of `jobs` (threads; `None`: one a core). Rows that
    repeat an earlier one are dropped. `ceiling` is as for `evaluate`. Raises `DataRefused` where a required column is
    missing, there are too few rows or too few of one label, or a factor gives the label away and `allow_leakage` is
    false.
    """
    leaking = _require_fit(table, allow_leakage=allow_leakage)
    kept = table.take(~repeated(table))
    train_rows, test_rows = split(kept, seed)
    learned, held_out = kept.take(train_rows), kept.take(test_rows)
    encoding = Encoding.of(table.product)
    forest = grow(learned, encoding, seed=seed, jobs=jobs, progress=progress)
    if progress:
        progress(PARAMETERS.trees, PARAMETERS.trees, "Evaluating on the customers held out")
    evaluation = evaluate(forest, encoding, learned, held_out, ceiling)
    if progress:
        progress(PARAMETERS.trees, PARAMETERS.trees, "Making the tables that explain")
    reference = reference_population(table.product, forest, encoding.matrix(learned.columns))
    evaluation["warnings"] += [leak.warning for leak in leaking]
    return TrainedModel(
        product=table.product,
        forest=forest,
        encoding=encoding,
        seen=SeenRanges.of(table.product, learned.columns),
        tables=build(forest, encoding, reference),
        effects=Effects.build(forest, encoding, reference),
        histograms=histograms_of(table.product, learned.columns),
        reference=_about_reference(table.product, reference),
        evaluation=evaluation,
        parameters=asdict(PARAMETERS),
        seed=seed,
        data=_facts(table, kept, learned, held_out) | {"leaks": [asdict(leak) for leak in leaking]},
        libraries=libraries(),
    )


def _require_fit(table: Table, *, allow_leakage: bool) -> tuple[Separation, ...]:
    """Return the leaks that are allowed; `DataRefused` where a table is unfit or leaks and must not."""
    if reasons := unfit(table):
        raise DataRefused(reasons[0])
    leaking = leaks(table)
    if not allow_leakage:
        refuse_leaks(leaking, table)
    return leaking


def _about_reference(product: Product, reference: Matrix) -> dict[str, Any]:
    sha256 = hashlib.sha256(np.ascontiguousarray(reference).tobytes()).hexdigest()
    return {"meaning": product.reference.meaning, "rows": len(reference), "sha256": sha256}


def reference_population(product: Product, forest: Forest, matrix: Matrix) -> Matrix:
    """Return the rows of the training customers (rows, columns) that a customer is compared with.

    Where the product names a band, those that score at or just above its start, fewest first; all of them where nobody
    does.
    """
    named = product.reference
    if named.band is None:
        return matrix
    score = forest.score(matrix)
    passed = np.flatnonzero(score >= product.band_named(named.band).start)
    nearest = passed[np.argsort(score[passed], kind="stable")][: named.size]
    return matrix[np.sort(nearest)] if len(nearest) else matrix


def split(table: Table, seed: int) -> tuple[Rows, Rows]:
    """Return the numbers of the training rows and of the test rows, a fifth, alike in their share of label 1.

    All rows of one customer stand on one side. The table must be fit, see `check.unfit`.
    """
    assert table.label is not None
    group = customer_numbers(table)
    customers, first = np.unique(group, return_index=True)
    label = table.label[first]
    _, held_out = train_test_split(customers, test_size=TEST_SHARE, stratify=label, random_state=seed)
    in_test = np.isin(group, held_out)
    return np.flatnonzero(~in_test), np.flatnonzero(in_test)


def grow(
    table: Table, encoding: Encoding, *, seed: int = 0, jobs: int | None = None, progress: Progress | None = None
) -> Forest:
    """Grow a forest on all rows of a labelled table and their copies with blanks.

    Columns without any value take no part, so that they do not use up the tree's draws of columns.
    """
    assert table.label is not None
    matrix = encoding.matrix(table.columns)
    used = np.flatnonzero(~np.isnan(matrix).all(axis=0))
    with_copies = np.vstack([matrix, with_blanks(matrix, encoding, table.product, seed)])[:, used]
    label = np.tile(table.label.astype(np.int64), 2)
    model = RandomForestClassifier(
        max_depth=PARAMETERS.depth,
        min_samples_leaf=PARAMETERS.rows_in_leaf,
        max_features=PARAMETERS.share_of_columns,
        n_jobs=jobs or -1,
        random_state=seed,
        warm_start=True,
    )
    for trees in range(STEP, PARAMETERS.trees + 1, STEP):
        model.set_params(n_estimators=trees).fit(with_copies, label)
        if progress:
            progress(trees, PARAMETERS.trees, "Growing trees")
    return forest_from_sklearn(model, used)


def with_blanks(matrix: Matrix, encoding: Encoding, product: Product, seed: int) -> Matrix:
    """Return a copy of a (rows, columns) matrix with blanks as `ForestParameters` says; required factors stay."""
    draws = np.random.default_rng(seed)
    copy = matrix.copy()
    bare = draws.random(len(copy)) < PARAMETERS.blank_behaviour
    copy[np.ix_(bare, behaviour_columns(encoding, product))] = np.nan
    for factor in product.optional:
        chosen = draws.random(len(copy)) < PARAMETERS.blank_optional
        copy[np.ix_(chosen, encoding.positions(factor.name))] = np.nan
    return copy


def forest_from_sklearn(model: RandomForestClassifier, columns: Rows | None = None) -> Forest:
    """Return a fitted two-class forest (labels 0 and 1) as plain arrays.

    `columns` gives for each of the model's features the number of its column, where it was fitted on some only.
    """
    trees = [tree.tree_ for tree in model.estimators_]
    start = np.cumsum([0, *(tree.node_count for tree in trees)])
    columns = np.arange(model.n_features_in_) if columns is None else columns
    parts = [_nodes(tree, int(first), columns) for tree, first in zip(trees, start, strict=False)]
    arrays: dict[str, NDArray[Any]] = {
        name: np.concatenate([part[name] for part in parts]).astype(DTYPES[name]) for name in parts[0]
    }
    return Forest(**arrays, roots=start[:-1].astype(DTYPES["roots"]))


def _nodes(tree: Any, first: int, columns: Rows) -> dict[str, NDArray[Any]]:
    """Return one scikit-learn tree's arrays as `Forest` has them, its first node having the number `first`."""
    leaf = tree.children_left < 0
    return {
        "feature": np.where(leaf, LEAF, columns[np.maximum(tree.feature, 0)]),
        "threshold": np.where(leaf, 0.0, np.minimum(tree.threshold, EVERY_KNOWN_VALUE)),
        "left": np.where(leaf, LEAF, tree.children_left + first),
        "right": np.where(leaf, LEAF, tree.children_right + first),
        "missing_left": np.where(leaf, 0, tree.missing_go_to_left),
        "value": np.clip(tree.value[:, 0, 1], 0.0, 1.0),
    }


def _facts(table: Table, kept: Table, learned: Table, held_out: Table) -> dict[str, Any]:
    assert kept.label is not None
    return {
        "file": table.name,
        "sha256": table.sha256,
        "rows_in_file": table.rows_in_file,
        "rows_rejected": table.rejected,
        "duplicates_dropped": len(table) - len(kept),
        "rows_used": len(kept),
        "rows_train": len(learned),
        "rows_test": len(held_out),
        "label_rate": float(kept.label.mean()),
    }


def libraries() -> dict[str, str]:
    """Return the versions of what trains."""
    return {"python": platform.python_version(), "numpy": np.__version__, "scikit-learn": sklearn.__version__}
