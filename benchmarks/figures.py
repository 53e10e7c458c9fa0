"""The honest figures of README.md, all from the portal's own training.

    python benchmarks/figures.py [path of the public Churn.csv]

Prints a table; the rows on real customers need the public file, which the project does not hold, and say so where it is
absent.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import CHURN, PRODUCTS
from sklearn.model_selection import StratifiedKFold

from bankportal.cli.train import MADE_ROWS, MADE_SEED, SHIPPED
from bankportal.data.measures import area_under_curve
from bankportal.data.reading import Table, read
from bankportal.data.report import separations
from bankportal.domain.products import Product
from bankportal.model.encoding import Encoding
from bankportal.registry.trained import TrainedModel
from bankportal.resources import resource
from bankportal.simulation.recipe import augment_file, simulate_file, truth_for
from bankportal.training.training import grow, train

ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(5)
FOLDS = 5
Row = tuple[str, str, str]


def shipped(product: Product, folder: Path) -> Path:
    """Return the file that `make up` trains a product on."""
    if product.key in SHIPPED:
        return resource("migrations_data") / SHIPPED[product.key]
    path = folder / f"{product.title}.csv"
    simulate_file(path, product.key, MADE_ROWS, MADE_SEED)
    return path


def trained_on(path: Path, product: Product, seed: int = 0) -> TrainedModel:
    """Train as `flask train` does."""
    simulated = truth_for(path)
    ceiling = {"achievable": simulated.achievable, "truth": simulated.truth} if simulated else None
    return train(read(path, product), seed=seed, ceiling=ceiling)


def on_simulated(product: Product, path: Path) -> Iterator[Row]:
    """Yield a simulated product's figures: the forest that `make up` makes, and the spread over splits."""
    found = [trained_on(path, product, seed).evaluation for seed in SEEDS]
    first = found[0]
    auc, logistic = first["auc"], first["baselines"][-1]
    interval = f"{auc['low']:.3f} to {auc['high']:.3f}"
    yield f"{product.key}: ROC AUC on held-out customers (95% interval)", f"{auc['value']:.3f} ({interval})", ""
    yield (
        f"{product.key}: Brier score, calibration error",
        f"{first['brier']:.3f}, {first['calibration_error']:.3f}",
        "",
    )
    yield f"{product.key}: logistic regression, AUC and Brier", f"{logistic['auc']:.3f}, {logistic['brier']:.3f}", ""
    for kind in ("achievable", "truth"):
        shares = [one["auc"]["value"] / one["ceiling"][kind]["auc"] for one in found]
        spread = f"{np.mean(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"
        bar = "at least 97%" if kind == "achievable" else ""
        yield f"{product.key}: share of the ceiling ({kind}), {len(shares)} splits", spread, bar


def on_real(real: Path, folder: Path) -> Iterator[Row]:
    """Yield the figures on the public customers."""
    table = read(real, CHURN)
    made = trained_on(shipped(CHURN, folder), CHURN)
    scored = made.forest.score(made.encoding.matrix(table.columns))
    yield "trained on the shipped bank, scored on real customers: AUC", f"{auc_of(table, scored):.4f}", "at least 0.845"
    yield f"trained on real base columns, {FOLDS}-fold: AUC", f"{cross_validated(table):.4f}", "at least 0.860"
    augmented = folder / "augmented.csv"
    augment_file(real, table, augmented, 0)
    best = separations(read(augmented, CHURN))[0]
    yield "real customers augmented: strongest single factor", f"{best.factor}, {best.auc:.3f}", "at most 0.85"
    aucs = [trained_on(augmented, CHURN, seed).evaluation["auc"]["value"] for seed in SEEDS]
    spread = f"{np.mean(aucs):.3f} ({min(aucs):.3f} to {max(aucs):.3f})"
    yield f"real customers augmented: test AUC, {len(aucs)} splits", spread, "0.88 to 0.95"


def cross_validated(table: Table) -> float:
    """Return the mean AUC over folds of a forest trained on the others."""
    assert table.label is not None
    encoding = Encoding.of(CHURN)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(len(table)), table.label)
    return float(np.mean([_fold(table, encoding, *rows) for rows in folds]))


def _fold(table: Table, encoding: Encoding, fitted: np.ndarray, held_out: np.ndarray) -> float:
    forest = grow(table.take(fitted), encoding)
    evaluated = table.take(held_out)
    return auc_of(evaluated, forest.score(encoding.matrix(evaluated.columns)))


def auc_of(table: Table, score: np.ndarray) -> float:
    """Return the ROC AUC of scores for a labelled table."""
    assert table.label is not None
    return area_under_curve(score, table.label)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", nargs="?", type=Path, default=ROOT.parent / "shared" / "data" / "Churn.csv")
    real = parser.parse_args().real
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [row for product in PRODUCTS.values() for row in on_simulated(product, shipped(product, folder))]
        if real.is_file():
            rows += on_real(real, folder)
        else:
            print(f"{real} is not there: no figures on real customers.\n")
    print("| figure | measured | bar |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
