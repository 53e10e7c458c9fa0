"""How fast a forest scores, beside scikit-learn, ONNX Runtime and treelite on the same forest and rows.

    python benchmarks/score.py

Prints tables and writes them to `results.md` beside it. Every peer gets the rows in the type it wants beforehand. How
far its scores are from ours is printed too: one that is far off does not read the forest as scikit-learn does (blanks).
"""

from collections.abc import Callable

import numpy as np
from common import Bar, Floats, Peer, World, attempt, bars, make_world, ratio_bar, seconds, table, write

OURS, SKLEARN, ONNX, TREELITE = "bankportal", "scikit-learn", "onnxruntime", "treelite"
TURNS, SINGLE_ROWS = 5, 500
Predict = Callable[[Floats], Floats]


def ours(world: World) -> tuple[Predict, type]:
    """Return the compiled forest."""
    score = world.forest.compiled_scorer
    assert score is not None, "Numba is missing"
    return score, np.float64


def sklearn(world: World, jobs: int | None) -> tuple[Predict, type]:
    """Return the forest as it was trained."""
    model = world.model.set_params(n_jobs=jobs)
    return (lambda rows: model.predict_proba(rows)[:, 1]), np.float64


def onnx(world: World, threads: int) -> tuple[Predict, type]:
    """Return the forest converted by skl2onnx."""
    import onnxruntime
    from skl2onnx import to_onnx

    graph = to_onnx(world.model, world.reference[:1].astype(np.float32), options={"zipmap": False})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return (lambda rows: session.run(["probabilities"], {name: rows})[0][:, 1]), np.float32


def treelite(world: World, threads: int) -> tuple[Predict, type]:
    """Return the forest in treelite's interpreter (GTIL)."""
    import treelite

    model = treelite.sklearn.import_model(world.model)
    return (lambda rows: treelite.gtil.predict(model, rows, nthread=threads)[:, 0, 1]), np.float64


def peer(name: str, world: World, made: tuple[Predict, type], count: int) -> Peer:
    """Measure `count` rows at a time, other ones each time where it is one."""
    predict, dtype = made
    rows = world.rows.astype(dtype)
    pieces = [rows] if count > 1 else [rows[start : start + 1] for start in range(SINGLE_ROWS)]
    return Peer(name, lambda repeat: predict(pieces[repeat % len(pieces)]), note=differences(world, predict, rows))


def differences(world: World, predict: Predict, rows: Floats) -> str:
    """Say how far a peer's scores are from the forest's NumPy path: on rows with blanks, and with the blanks filled.

    Not all peers carry where a blank goes, nor round to float32 before they compare; they are timed on the same rows.
    """
    shown = world.rows[:2000]
    filled = np.nan_to_num(shown).astype(np.float32).astype(np.float64)
    off = [
        float(np.abs(predict(each.astype(rows.dtype)) - world.forest._score_block(each.astype(np.float32))).max())
        for each in (shown, filled)
    ]
    return f"off by at most {off[0]:.0e}; without blanks, rounded to float32, by {off[1]:.0e}"


def peers(world: World, count: int) -> list[Peer]:
    """Return all that are measured; two threads each for many rows."""
    threads = 2 if count > 1 else 1
    return [
        peer(OURS, world, ours(world), count),
        attempt(SKLEARN, lambda: peer(SKLEARN, world, sklearn(world, 2 if count > 1 else None), count)),
        attempt(ONNX, lambda: peer(ONNX, world, onnx(world, threads), count)),
        attempt(TREELITE, lambda: peer(TREELITE, world, treelite(world, threads), count)),
    ]


def main() -> None:
    """Measure and write down."""
    world = make_world()
    alone, many = peers(world, 1), peers(world, len(world.rows))
    one, hundred_thousand = seconds(alone, TURNS, in_a_row=40), seconds(many, TURNS)
    fastest = min((one[name], name) for name in (ONNX, TREELITE, SKLEARN) if name in one)
    ratio = one[OURS] / fastest[0]
    measure = "score, one row, in process"
    found = [
        ratio_bar(measure, one, OURS, SKLEARN, 100),
        Bar(measure, "within 3 × of onnxruntime or treelite, the faster", f"{ratio:.2f} × {fastest[1]}", ratio <= 3),
    ]
    names = (SKLEARN, ONNX, TREELITE)
    found += [ratio_bar("score, 100,000 rows", hundred_thousand, OURS, name, 1) for name in names]
    write(
        "python benchmarks/score.py",
        [
            "100 trees of depth 8 on simulated churn customers. Medians; the peers took turns.",
            bars(found),
            table("One row", alone, one, "µs"),
            table("100,000 rows, two threads each", many, hundred_thousand),
        ],
    )


if __name__ == "__main__":
    main()
