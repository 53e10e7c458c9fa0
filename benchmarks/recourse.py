"""How fast the least change is found that would turn a declined applicant's answer.

    python benchmarks/recourse.py

Prints a table and writes it to `results.md` beside it. A forest of full size is trained as the portal trains, on
simulated applicants with their blank copies; others that it declines are explained, one after the other, pairs of
factors included. Compiled and NumPy searches are compared in passing: they must give the same answers.
"""

import os
import time
from dataclasses import dataclass

import numpy as np
from common import ALLOWANCE, SEED, Bar, Floats, bars, write
from sklearn.ensemble import RandomForestClassifier

from bankportal.domain.constraints import Choice, Number, YesNo
from bankportal.domain.policy import Value
from bankportal.explanation.curve import curve
from bankportal.explanation.recourse import Recourse, candidates, kernels, recourse
from bankportal.model.compiling import NO_NUMBA
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest
from bankportal.model.seen_ranges import SeenRanges
from bankportal.simulation import simulate
from bankportal.training.training import PARAMETERS, forest_from_sklearn, with_blanks

ROWS, APPLICANTS, MAX_MEDIAN = 10_000, 100, 150.0


@dataclass(frozen=True)
class Bank:
    """A forest, what it has seen, and applicants that it declines."""

    forest: Forest
    encoding: Encoding
    seen: SeenRanges
    declined: list[dict[str, Value]]


def make_bank() -> Bank:
    """Train as the portal does, and draw applicants until enough are declined."""
    encoding = Encoding.of(ALLOWANCE)
    columns, labels = applicants(encoding, SEED)
    matrix = encoding.matrix(columns)
    model = RandomForestClassifier(
        PARAMETERS.trees,
        max_depth=PARAMETERS.depth,
        min_samples_leaf=PARAMETERS.rows_in_leaf,
        max_features=PARAMETERS.share_of_columns,
        random_state=SEED,
        n_jobs=2,
    )
    model.fit(np.vstack([matrix, with_blanks(matrix, encoding, ALLOWANCE, SEED)]), np.tile(labels, 2))
    forest = forest_from_sklearn(model)
    others, _ = applicants(encoding, SEED + 1)
    declined = np.flatnonzero(forest.score(encoding.matrix(others)) < ALLOWANCE.cut_offs[0])[:APPLICANTS]
    return Bank(forest, encoding, SeenRanges.of(ALLOWANCE, columns), [values(others, number) for number in declined])


def applicants(encoding: Encoding, seed: int) -> tuple[dict[str, Floats], Floats]:
    """Return simulated applicants' scored factors and labels."""
    assert not any(isinstance(factor.constraint, Choice) for factor in ALLOWANCE.scored)
    simulated = simulate.allowance(ROWS, seed)
    return {name: simulated.columns[name].astype(np.float64) for name in encoding.factors}, simulated.labels


def values(columns: dict[str, Floats], number: int) -> dict[str, Value]:
    """Return one applicant's values as the portal's validation gives them."""
    found: dict[str, Value] = {}
    for factor in ALLOWANCE.scored:
        cell = float(columns[factor.name][number])
        whole = isinstance(factor.constraint, YesNo) or getattr(factor.constraint, "whole", False)
        found[factor.name] = None if np.isnan(cell) else int(cell) if whole else cell
    return found


def ask(bank: Bank) -> tuple[Floats, list[Recourse]]:
    """Return the times in ms and the answers."""
    times, answers = [], []
    for customer in bank.declined:
        start = time.perf_counter()
        answers.append(recourse(ALLOWANCE, bank.forest, bank.encoding, customer, bank.seen.ranges))
        times.append((time.perf_counter() - start) * 1e3)
    return np.array(times), answers


def curves(bank: Bank) -> Floats:
    """Return the times in ms of one applicant's curve of one number, for every number."""
    times = []
    for customer in bank.declined:
        for factor in ALLOWANCE.scored:
            if isinstance(factor.constraint, Number):
                start = time.perf_counter()
                curve(ALLOWANCE, bank.forest, bank.encoding, customer, factor.name, bank.seen)
                times.append((time.perf_counter() - start) * 1e3)
    return np.array(times)


def line(name: str, times: Floats) -> str:
    """Write a row of the table of times."""
    return f"| {name} | {np.median(times):,.1f} | {np.quantile(times, 0.95):,.1f} | {times.max():,.1f} |"


def describe(bank: Bank, answers: list[Recourse]) -> str:
    """Say what was searched and how often a better band is in reach."""
    tried = [candidates(ALLOWANCE, bank.forest, bank.encoding, one, bank.seen.ranges) for one in bank.declined]
    factors = np.median([len(sides) for sides in tried])
    most = max(len(side.values) for sides in tried for side in sides)
    reached = np.mean([bool(answer.suggestions) for answer in answers])
    pairs = np.mean([any(len(one.changes) > 1 for one in answer.suggestions) for answer in answers])
    return (
        f"{len(bank.forest.roots)} trees of depth {bank.forest.depth}, {len(bank.declined)} declined applicants, "
        f"{factors:g} changeable factors (median) of up to {most:,} candidates. A better band is in reach for "
        f"{reached:.0%}; for {pairs:.0%} the cheapest way there is two factors together."
    )


def main() -> None:
    """Measure and write down."""
    bank = make_bank()
    ready = kernels() is not None
    times, answers = ask(bank)
    lines = ["| | median, ms | 95 of 100 within, ms | longest, ms |", "|---|---:|---:|---:|"]
    lines.append(line(f"recourse, {'compiled' if ready else 'NumPy'}", times))
    if ready:
        os.environ[NO_NUMBA] = "1"
        in_numpy, same = ask(bank)
        del os.environ[NO_NUMBA]
        if same != answers:
            raise SystemExit("compiled and NumPy searches differ")
        lines.append(line("recourse, NumPy", in_numpy))
    lines.append(line("what-if curve of one number", curves(bank)))
    median = float(np.median(times))
    bar = Bar(
        "recourse, one declined applicant, pairs included",
        f"≤ {MAX_MEDIAN:g} ms median",
        f"{median:.1f} ms",
        median <= MAX_MEDIAN,
    )
    write("python benchmarks/recourse.py", [describe(bank, answers), bars([bar]), "\n".join(lines)])


if __name__ == "__main__":
    main()
