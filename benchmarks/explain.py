"""How fast contributions are, beside shap and woodelf-explainer on the same forest and rows.

    python benchmarks/explain.py

Prints tables and writes them to `results.md` beside it. shap is measured path-dependent, its fastest way, on fewer rows
than the 100,000 and scaled up; woodelf-explainer has the background that our tables were made with.
"""

import time
import warnings

import numpy as np
import pandas as pd
from common import MANY, Bar, Peer, World, attempt, bars, make_world, ratio_bar, seconds, table, write

from bankportal.explanation.building import build
from bankportal.explanation.explainer import Explainer
from bankportal.explanation.tables import Tables

OURS, SHAP, WOODELF = "bankportal", "shap, path-dependent", "woodelf-explainer"
SHAP_ROWS, TURNS, SINGLE_ROWS = 400, 3, 500


def shap(world: World, count: int) -> Peer:
    """Return shap's peer for one row, or for fewer rows than `count`, scaled."""
    from shap import TreeExplainer

    explainer = TreeExplainer(world.model)
    piece = min(count, SHAP_ROWS)
    return Peer(
        SHAP,
        lambda repeat: explainer.shap_values(world.rows[repeat : repeat + piece], check_additivity=False),
        scale=count / piece,
        note="another kind of value" + (f"; measured on {piece} rows" if piece < count else ""),
    )


def woodelf(world: World, count: int) -> Peer:
    """Return woodelf's peer; it takes all rows and its background in one call."""
    from woodelf import WoodelfExplainer

    names = [f"c{number}" for number in range(world.rows.shape[1])]
    rows = pd.DataFrame(world.rows[: max(count, SINGLE_ROWS)], columns=names)
    background = pd.DataFrame(world.reference, columns=names)

    def run(first: int, last: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its own
            WoodelfExplainer(world.model, background).shap_values(rows.iloc[first:last], verbose=False)

    run(0, 10)
    return Peer(WOODELF, lambda repeat: run(repeat, repeat + count), most=1, note="once; its background included")


def peers(world: World, explainer: Explainer, count: int) -> list[Peer]:
    """Return all that are measured on `count` rows; one row goes the way it goes in the portal."""

    def many(repeat: int) -> object:
        return explainer.explain(world.rows[:count])

    def one(repeat: int) -> object:
        return explainer.explain_row(world.rows[repeat % SINGLE_ROWS])

    return [
        Peer(OURS, one if count == 1 else many),
        attempt(SHAP, lambda: shap(world, count)),
        attempt(WOODELF, lambda: woodelf(world, count)),
    ]


def make_tables(world: World) -> tuple[Tables, float]:
    """Return the tables and the seconds it took to make them."""
    start = time.perf_counter()
    return build(world.forest, world.encoding, world.reference), time.perf_counter() - start


def exactness(world: World, explainer: Explainer) -> Bar:
    """Ask that base and contributions add up to the score, for 1,000 rows."""
    rows = world.rows[:1000]
    off = float(np.abs(explainer.base + explainer.explain(rows).sum(axis=1) - world.forest.score(rows)).max())
    bound = f"to {explainer.tolerance:.0e}"
    return Bar("base + contributions = score, 1,000 rows", bound, f"off by {off:.0e}", off <= explainer.tolerance)


def main() -> None:
    """Measure and write down."""
    world = make_world()
    tables, made_in = make_tables(world)
    explainer = Explainer(world.forest, world.encoding, tables)
    explainer.warm_up()
    alone, many = peers(world, explainer, 1), peers(world, explainer, MANY)
    own = seconds(alone[:1], 1, in_a_row=SINGLE_ROWS)[OURS]
    one, hundred_thousand = seconds(alone, TURNS, in_a_row=20), seconds(many, TURNS)
    size = len(tables.to_bytes()) / 1e6
    found = [
        ratio_bar("contributions, 100,000 rows", hundred_thousand, OURS, SHAP, 100),
        ratio_bar("contributions, 100,000 rows", hundred_thousand, OURS, WOODELF, 10),
        Bar(
            f"contributions, one row, in process, {SINGLE_ROWS} rows", "≤ 0.5 ms", f"{own * 1e3:.3f} ms", own <= 0.5e-3
        ),
        ratio_bar("contributions, one row, in process", one, OURS, SHAP, 10),
        Bar("tables, size", "≤ 64 MB", f"{size:.1f} MB, {tables.values.dtype}", size <= 64),
        Bar(f"tables, time to make, {len(world.reference):,} rows", "≤ 30 s", f"{made_in:.1f} s", made_in <= 30),
        exactness(world, explainer),
    ]
    leaves = int((world.forest.feature < 0).sum())
    write(
        "python benchmarks/explain.py",
        [
            f"100 trees of depth 8, {leaves:,} leaves, on simulated churn customers; reference {len(world.reference):,}"
            f" rows. Medians; the peers took turns.",
            bars(found),
            table("100,000 rows", many, hundred_thousand),
            table("One row", alone, one),
        ],
    )


if __name__ == "__main__":
    main()
