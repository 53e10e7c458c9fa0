"""What the benchmarks share: one forest, one clock, one way to write results down."""

import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from bankportal.domain.portfolio import shipped_portfolio
from bankportal.model.compiling import processors
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest
from bankportal.simulation import simulate
from bankportal.training.training import forest_from_sklearn

PRODUCTS = shipped_portfolio()
CHURN, ALLOWANCE = PRODUCTS["churn"], PRODUCTS["allowance"]
RESULTS = Path(__file__).with_name("results.md")
REFERENCE, MANY, SEED = 8_000, 100_000, 7
LIBRARIES = (
    "numpy", "numba", "scikit-learn", "shap", "woodelf-explainer", "onnxruntime", "skl2onnx", "treelite",
)  # fmt: skip
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """The forest all are measured on: 100 trees of depth 8, trained on the reference; and rows it has not seen."""

    encoding: Encoding
    model: RandomForestClassifier
    forest: Forest
    reference: Floats
    rows: Floats


def make_world() -> World:
    """Train on simulated churn customers, blanks included."""
    encoding = Encoding.of(CHURN)
    reference, labels = customers(encoding, REFERENCE, SEED)
    model = RandomForestClassifier(100, max_depth=8, min_samples_leaf=5, max_features=0.5, random_state=0, n_jobs=2)
    model.fit(reference, labels)
    return World(encoding, model, forest_from_sklearn(model), reference, customers(encoding, MANY, SEED + 1)[0])


def customers(encoding: Encoding, rows: int, seed: int) -> tuple[Floats, Floats]:
    """Return a matrix and labels of simulated customers."""
    simulated = simulate.churn(rows, seed)
    columns = {
        name: values.astype(np.float64 if values.dtype.kind in "biuf" else object)
        for name, values in simulated.columns.items()
        if name in encoding.factors
    }
    return encoding.matrix(columns), simulated.labels


@dataclass(frozen=True)
class Peer:
    """One that is measured: what it does once, what part of the whole that is, and how often at most it does it.

    `run` gets the number of the repeat; it is `None` where the peer cannot be measured.
    """

    name: str
    run: Callable[[int], object] | None
    scale: float = 1.0
    most: int = 1_000
    note: str = ""


def attempt(name: str, make: Callable[[], Peer]) -> Peer:
    """Make a peer ready; one that is not installed or cannot take the forest is listed with the reason."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except Exception as error:  # whatever a foreign library raises is the reason
        return Peer(name, None, note=f"not measured: {type(error).__name__}: {str(error).splitlines()[0][:100]}")


def seconds(peers: Sequence[Peer], turns: int, in_a_row: int = 1) -> dict[str, float]:
    """Return each peer's median time for the whole work. They take turns, so that a busy machine is busy for all."""
    taken: dict[str, list[float]] = {peer.name: [] for peer in peers if peer.run}
    for turn in range(turns):
        for peer in peers:
            for repeat in range(turn * in_a_row, (turn + 1) * in_a_row):
                if peer.run and repeat < peer.most:
                    start = time.perf_counter()
                    peer.run(repeat)
                    taken[peer.name].append((time.perf_counter() - start) * peer.scale)
    return {name: statistics.median(times) for name, times in taken.items()}


def table(title: str, peers: Sequence[Peer], taken: dict[str, float], unit: str = "ms") -> str:
    """Write a table of times; the first peer is ours."""
    factor = {"s": 1.0, "ms": 1e3, "µs": 1e6}[unit]
    ours = taken[peers[0].name]
    lines = [f"**{title}**", "", f"| | {unit} | times ours | |", "|---|---:|---:|---|"]
    for peer in peers:
        if peer.name in taken:
            figure, ratio = f"{taken[peer.name] * factor:,.2f}", f"{taken[peer.name] / ours:,.2f}"
        else:
            figure = ratio = "–"
        lines.append(f"| {peer.name} | {figure} | {ratio} | {peer.note} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class Bar:
    """A bound, what was measured, and whether that is enough (`None`: could not be compared)."""

    measure: str
    bound: str
    measured: str
    met: bool | None


def bars(measured: Sequence[Bar]) -> str:
    """Write the bars as a table; one that is missed says so."""
    words = {True: "met", False: "**missed**", None: "not measured"}
    lines = ["| measure | bar | measured | |", "|---|---|---|---|"]
    lines += [f"| {bar.measure} | {bar.bound} | {bar.measured} | {words[bar.met]} |" for bar in measured]
    return "\n".join(lines)


def ratio_bar(measure: str, taken: dict[str, float], ours: str, peer: str, least: float) -> Bar:
    """Ask that ours be at least so many times as fast as a peer."""
    if peer not in taken:
        return Bar(measure, f"≥ {least:g} × {peer}", "–", None)
    ratio = taken[peer] / taken[ours]
    return Bar(measure, f"≥ {least:g} × {peer}", f"{ratio:,.2f} ×", ratio >= least)


def machine() -> str:
    """Say what all this was measured on."""
    cpu = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")]
    load = f"; load average at the end {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    installed = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    return (
        f"{processors()} cores of {names[0] if names else platform.processor()}; Python"
        f" {platform.python_version()}; {installed}{load}"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def write(command: str, parts: Sequence[str]) -> None:
    """Print a benchmark's results and put them in its section of the results, in place of older ones."""
    heading = f"## {command}"
    section = "\n\n".join([heading, *parts, machine()]) + "\n"
    print(section)
    older = RESULTS.read_text() if RESULTS.exists() else "# Measured\n"
    title, *sections = older.split("\n## ")
    kept = [f"## {text.strip()}\n" for text in sections if not text.startswith(f"{command}\n")]
    RESULTS.write_text("\n".join([title.strip() + "\n", *sorted([*kept, section])]))
