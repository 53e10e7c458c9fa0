"""A bank's own product: its declaration files, and a small forest for it."""

from pathlib import Path

import numpy as np
import pytest

from bankportal.domain.declaration import Kind
from bankportal.domain.declarations.files import read
from bankportal.domain.portfolio import portfolio_from
from tests.conftest import plant_few_trees, write_csv

FILES = sorted((Path(__file__).parent / "fixtures" / "declarations").glob("*.toml"))
DECLARED = read({path.name: path.read_bytes() for path in FILES})
HOME_EQUITY = portfolio_from(each for each in DECLARED if each.kind in {Kind.PRODUCT, Kind.POLICY})["home-equity"]
EXAMPLE = {entry.factor.name: entry.factor.example for entry in HOME_EQUITY.factors}


def columns(rows: int = 800, seed: int = 5) -> dict[str, np.ndarray]:
    """Simulate customers."""
    generator = np.random.default_rng(seed)
    credit, value = generator.integers(300, 851, rows), generator.uniform(4e4, 9e5, rows).round()
    due, delinquent = (value * generator.uniform(0, 1.1, rows)).round(), generator.poisson(0.6, rows)
    chance = 1 / (1 + np.exp(-1.5 - (credit - 575) / 110 + 2 * due / value + 0.9 * delinquent))
    return {
        "CustomerId": np.arange(1, rows + 1),
        "Surname": np.array(["Novak"] * rows),
        "CreditScore": credit,
        "EstimatedSalary": generator.uniform(2e4, 1.5e5, rows).round(),
        "HomeValue": value,
        "MortgageDue": due,
        "Occupation": generator.choice(["Office", "Trade", "Self-employed", "Other"], rows),
        "YearsOnJob": generator.uniform(0, 30, rows).round(1),
        "Delinquencies": delinquent,
        "MonthlyObligations": generator.uniform(0, 2500, rows).round(),
        "HasLoan": generator.integers(0, 2, rows),
        "RequestedLoan": generator.integers(2, 120, rows) * 1000,
        "Gender": generator.choice(["Female", "Male", "Other"], rows),
        "Age": generator.integers(21, 80, rows),
        "PaidBack": np.where(generator.random(rows) < chance, "paid", "defaulted"),
    }


def train_home_equity(folder: Path):
    """Train a small forest."""
    from bankportal.data.reading import read as read_file
    from bankportal.training.training import train

    path = write_csv(folder / "home-equity.csv", columns())
    with pytest.MonkeyPatch.context() as patch:
        plant_few_trees(patch)
        return train(read_file(path, HOME_EQUITY), seed=1)
