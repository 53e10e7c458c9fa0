"""Is the simulated bank like the real one, and is what augmenting adds worth learning?

    python benchmarks/realism.py [path of the public Churn.csv]

Prints, beside the target of each:

a. a forest trained on the shipped Final_bank.csv, on its rows as they are and once more with the behaviours blank, and
   scored on the real file, behaviours blank;
b. the real file augmented: the factor that alone tells most, and the test AUC of a forest;
c. the shipped file: the test AUC of a forest against the best achievable and against the truth;
d. shares, quantiles and leave rates, real and simulated.

It needs the public file, which the project does not hold, and stops with a message where it is absent.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import CHURN
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from bankportal.data.measures import area_under_curve
from bankportal.data.reading import Table, read
from bankportal.resources import resource
from bankportal.simulation import customers, recipe

ROOT = Path(__file__).resolve().parents[1]
SEED = 1
SPLITS = range(5)
BEHAVIOURAL = {factor.name for factor in CHURN.scored if factor.behavioural}
Floats = NDArray[np.float64]


def encoded(table: Table, *, blank: bool = False) -> Floats:
    """Return the scored factors as (rows, columns), Geography one-hot, the behaviours NaN where `blank`."""
    columns: list[Floats] = []
    for factor in CHURN.scored:
        absent = factor.name not in table.columns or (blank and factor.name in BEHAVIOURAL)
        values = np.full(len(table), np.nan) if absent else table.columns[factor.name]
        columns += [values == name for name in customers.COUNTRIES] if factor.name == "Geography" else [values]
    return np.column_stack(columns).astype(np.float64)


def fitted(inputs: Floats, labels: Floats) -> RandomForestClassifier:
    """Return the forest all figures here are made with."""
    forest = RandomForestClassifier(n_estimators=100, max_depth=8, min_samples_leaf=5, max_features=0.5, random_state=0)
    return forest.fit(inputs, labels)


def masked_too(table: Table, rows: NDArray[np.int64]) -> RandomForestClassifier:
    """Return the forest trained on rows as they are and again with their behaviours blank."""
    inputs = np.concatenate([encoded(table)[rows], encoded(table, blank=True)[rows]])
    return fitted(inputs, np.tile(table.label[rows], 2))


def auc(forest: RandomForestClassifier, inputs: Floats, labels: Floats) -> float:
    """Return the forest's ROC AUC."""
    return area_under_curve(forest.predict_proba(inputs)[:, 1], labels)


def splits(table: Table) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield training and test rows, 80 and 20 percent, stratified, the first split first."""
    for seed in SPLITS:
        train, test = train_test_split(np.arange(len(table)), test_size=0.2, stratify=table.label, random_state=seed)
        yield train, test


def transfer(shipped: Table, real: Table) -> None:
    """Print figure a."""
    forest = masked_too(shipped, np.arange(len(shipped)))
    print(f"a. trained on simulated, scored on real: AUC {auc(forest, encoded(real), real.label):.4f} (at least 0.845)")
    known = {name: real.columns[name] for name in customers.BASE_ORDER}
    best = area_under_curve(customers.best_chance_of_leaving(known), real.label)
    print(f"   the simulator's own probabilities on real: AUC {best:.4f}")


def augmented_real(real_path: Path) -> None:
    """Print figure b."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "augmented.csv"
        recipe.augment_file(real_path, read(real_path, CHURN), target, SEED)
        table = read(target, CHURN)
    name, most = max(single_factors(table), key=lambda pair: pair[1])
    print(f"b. real file augmented, strongest single factor: {name}, AUC {most:.4f} (below 0.85)")
    inputs = encoded(table)
    aucs = [auc(fitted(inputs[t], table.label[t]), inputs[v], table.label[v]) for t, v in splits(table)]
    print(f"   test AUC of a forest, {len(aucs)} splits: {said(aucs)} (0.88 to 0.95)")


def single_factors(table: Table) -> Iterator[tuple[str, float]]:
    """Yield each number's name with its AUC alone, in whichever direction."""
    for name, values in table.columns.items():
        if values.dtype.kind == "f":
            known = ~np.isnan(values)
            alone = area_under_curve(values[known], table.label[known])
            yield name, max(alone, 1 - alone)


def against_ceiling(path: Path, shipped: Table) -> None:
    """Print figure c."""
    simulated = recipe.truth_for(path)
    if simulated is None:
        raise SystemExit(f"{path.name} is not what its recipe says")
    inputs, labels, aucs, shares = encoded(shipped), shipped.label, [], {"achievable": [], "truth": []}
    for train, test in splits(shipped):
        aucs.append(auc(masked_too(shipped, train), inputs[test], labels[test]))
        for kind, reached in shares.items():
            reached.append(aucs[-1] / area_under_curve(getattr(simulated, kind)[test], labels[test]))
    print(f"c. shipped file, test AUC of a forest, {len(aucs)} splits: {said(aucs)}")
    print(f"   share of the best achievable: {said(shares['achievable'])} (at least 0.97)")
    print(f"   share of the truth: {said(shares['truth'])}")


def said(figures: list[float]) -> str:
    """Say several figures as their mean and range."""
    return f"mean {np.mean(figures):.4f}, {min(figures):.4f} to {max(figures):.4f}"


def marginals(real: Table, shipped: Table) -> None:
    """Print table d."""
    print(f"\nd. {'':34}{'real':>14}{'simulated':>14}")
    line("label rate", *(f"{table.label.mean():.4f}" for table in (real, shipped)))
    for name in ("CreditScore", "Age", "Tenure", "Balance", "EstimatedSalary"):
        line(f"{name} mean", *(f"{table.columns[name].mean():,.1f}" for table in (real, shipped)))
        for at in (0.05, 0.5, 0.95):
            line(f"{name} {at:.0%} quantile", *(f"{np.quantile(t.columns[name], at):,.0f}" for t in (real, shipped)))
    for title, groups in GROUPS.items():
        for group, (name, low, high) in groups.items():
            line(f"{title} {group}: share, leave rate", *(of_group(t, name, low, high) for t in (real, shipped)))


def line(title: str, real: str, simulated: str) -> None:
    """Print one line of the table."""
    print(f"   {title:34}{real:>14}{simulated:>14}")


def of_group(table: Table, name: str, low: float | str, high: float) -> str:
    """Return a group's share of the customers and its leave rate; a text names the group itself."""
    values = table.columns[name]
    rows = values == low if isinstance(low, str) else (values >= low) & (values <= high)
    return f"{rows.mean():.3f} {table.label[rows].mean():.3f}"


INFINITE = float("inf")
AGE_BANDS = ((18, 29), (30, 39), (40, 44), (45, 49), (50, 54), (55, 60), (61, 69), (70, 120))
GROUPS: dict[str, dict[str, tuple[str, float | str, float]]] = {
    "Age": {f"{low} to {high}": ("Age", low, high) for low, high in AGE_BANDS},
    "Products": {str(held): ("NumOfProducts", held, held) for held in (1, 2, 3, 4)},
    "Country": {name: ("Geography", name, 0) for name in customers.COUNTRIES},
    "Gender": {name: ("Gender", name, 0) for name in ("Female", "Male")},
    "Member": {"inactive": ("IsActiveMember", 0, 0), "active": ("IsActiveMember", 1, 1)},
    "Balance": {"zero": ("Balance", 0, 0), "above zero": ("Balance", 0.01, INFINITE)},
}


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", nargs="?", type=Path, default=ROOT / ".." / "shared" / "data" / "Churn.csv")
    real_path: Path = parser.parse_args().real
    if not real_path.exists():
        print(f"skipped: there is no public file at {real_path}")
        return
    shipped_path = resource("migrations_data") / "Final_bank.csv"
    real, shipped = read(real_path, CHURN), read(shipped_path, CHURN)
    transfer(shipped, real)
    augmented_real(real_path)
    against_ceiling(shipped_path, shipped)
    marginals(real, shipped)


if __name__ == "__main__":
    main()
