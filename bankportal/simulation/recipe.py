"""Writing simulated and augmented files, and the recipe beside each from which it can be made again.

The recipe of `bank.csv` is `bank.csv.recipe.json`. True probabilities never stand in a file: `truth_for` has them again
from the recipe, and only while the file is, byte for byte, what the recipe makes.
"""

import csv
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from bankportal.data.formulas import neutralise
from bankportal.data.reading import Table
from bankportal.files import replacing
from bankportal.simulation import customers, simulate
from bankportal.simulation.augment import augment, augment_known, in_public_order, labels_of
from bankportal.simulation.likelihoods import Column, Columns, rows_of
from bankportal.simulation.simulate import Ceiling, Simulated
from bankportal.version import __version__

BLOCK = 10_000
# Coarser than the last bits, in which processors may differ, so that a recipe made anywhere reads the same.
DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a file was made.

    `command` is "simulate" or "augment"; `base` says that a churn file has base factors alone; `sha256` is the file's,
    `version` the portal's. `achievable` and `truth` are the ceilings, `None` where the file is not simulated. Augmented
    files have `source_sha256`, the digest of what was augmented, and its recipe as `source` where it had a valid one.
    """

    command: str
    product: str
    base: bool
    rows: int
    seed: int
    sha256: str
    version: str
    achievable: Ceiling | None = None
    truth: Ceiling | None = None
    source_sha256: str | None = None
    source: "Recipe | None" = None

    def to_json(self) -> str:
        """Write the recipe as indented JSON, figures rounded."""
        return json.dumps(asdict(self, dict_factory=_rounded), indent=2) + "\n"

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> "Recipe":
        """Return the recipe from parsed JSON; raises `TypeError` where it is not one."""
        source = values.get("source")
        ceilings = {key: Ceiling(**values[key]) for key in ("achievable", "truth") if values.get(key)}
        return cls(**values | ceilings | {"source": cls.from_values(source) if source else None})


def _rounded(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known = {key: value for key, value in pairs if value is not None}
    return {key: _round(value) if isinstance(value, float) else value for key, value in known.items()}


def _round(value: float) -> float | None:
    return None if math.isnan(value) else round(value, DECIMALS)


def recipe_path(path: Path) -> Path:
    """Return where a file's recipe stands."""
    return path.with_name(f"{path.name}.recipe.json")


def simulate_file(path: Path, product: str, rows: int, seed: int, *, base: bool = False) -> tuple[Simulated, Recipe]:
    """Simulate a product's file, write it with its recipe, and return both.

    With `base`, a churn file has the public file's columns, without behaviours. Raises `ValueError` where `rows` is not
    from 1 to 1,000,000 or another product is to have `base`, `KeyError` for an unknown product, `OSError` where writing
    fails.
    """
    simulated = _simulate(product, rows, seed, base=base)
    recipe = Recipe(
        command="simulate",
        product=product,
        base=base,
        rows=rows,
        seed=seed,
        sha256=write_csv(path, simulated.columns),
        version=__version__,
        achievable=simulated.achievable_ceiling(),
        truth=simulated.true_ceiling(),
    )
    _write_recipe(path, recipe)
    return simulated, recipe


def _simulate(product: str, rows: int, seed: int, *, base: bool) -> Simulated:
    if base and product != customers.PRODUCT:
        raise ValueError(f"only {customers.PRODUCT} has base files")
    return simulate.base(rows, seed) if base else simulate.SIMULATORS[product](rows, seed)


def augment_file(source: Path, table: Table, target: Path, seed: int) -> Recipe:
    """Augment the good rows of `table`, read from `source`; write `target` with its recipe, and return the recipe.

    The columns stand in the public files' order, see `augment.in_public_order`; columns that are no factors are left
    out. Raises `OSError` where reading or writing fails.
    """
    source_recipe = read_recipe(source)
    if source_recipe and source_recipe.sha256 != table.sha256:
        source_recipe = None
    augmented = augment(in_public_order(table), labels_of(table), seed)
    sha256 = write_csv(target, augmented)
    simulated = _augmented(source_recipe, seed, sha256) if source_recipe else None
    recipe = Recipe(
        command="augment",
        product=customers.PRODUCT,
        base=False,
        rows=rows_of(augmented),
        seed=seed,
        sha256=sha256,
        version=__version__,
        achievable=simulated.achievable_ceiling() if simulated else None,
        truth=simulated.true_ceiling() if simulated else None,
        source_sha256=table.sha256,
        source=source_recipe,
    )
    _write_recipe(target, recipe)
    return recipe


def read_recipe(path: Path) -> Recipe | None:
    """Return the recipe beside a file if it is the recipe of this very file, else `None`."""
    try:
        recipe = Recipe.from_values(json.loads(recipe_path(path).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return None
    return recipe if recipe.sha256 == file_sha256(path) else None


def truth_for(path: Path) -> Simulated | None:
    """Make a simulated file again, with `truth` and `achievable` in its rows' order.

    `None` where the file has no recipe, is not what its recipe says, holds real customers, or was made by a portal
    whose simulator differed from this one's.
    """
    recipe = read_recipe(path)
    return _make_again(recipe) if recipe else None


def _make_again(recipe: Recipe) -> Simulated | None:
    if recipe.command == "augment":
        return _augmented(recipe.source, recipe.seed, recipe.sha256) if recipe.source else None
    try:
        simulated = _simulate(recipe.product, recipe.rows, recipe.seed, base=recipe.base)
    except (ValueError, KeyError, TypeError):
        return None
    return simulated if columns_sha256(simulated.columns) == recipe.sha256 else None


def _augmented(source: Recipe, seed: int, sha256: str) -> Simulated | None:
    """Augment a simulated base again; a full file keeps its own behaviours, so there is no truth to have for it."""
    simulated = _make_again(source) if source.base else None
    if simulated is None:
        return None
    columns, truth = augment_known(simulated.columns, simulated.labels, seed)
    again = Simulated(customers.PRODUCT, customers.LABEL, columns, truth)
    return again if columns_sha256(columns) == sha256 else None


class _Sink(Protocol):
    def write(self, text: str, /) -> object: ...


class _Digest:
    """Takes text as a file does and keeps its SHA-256 alone."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, text: str, /) -> None:
        self.sha256.update(text.encode())


def write_csv(path: Path, columns: Columns) -> str:
    """Write columns as UTF-8 CSV with LF line ends and return the file's SHA-256.

    Whole numbers are written as such, others in the shortest form that reads back the same, unknown values blank. The
    file is written aside and moved into place. Raises `OSError` where that fails.
    """
    with replacing(path) as file:
        _write(file, columns)
    return file_sha256(path)


def columns_sha256(columns: Columns) -> str:
    """Return the SHA-256 that `write_csv` would, without writing."""
    digest = _Digest()
    _write(digest, columns)
    return digest.sha256.hexdigest()


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_recipe(path: Path, recipe: Recipe) -> None:
    with replacing(recipe_path(path)) as file:
        file.write(recipe.to_json())


def _write(sink: _Sink, columns: Columns) -> None:
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(columns)
    for start in range(0, rows_of(columns), BLOCK):
        texts = (_texts(values[start : start + BLOCK]) for values in columns.values())
        writer.writerows(neutralise(list(map(list, zip(*texts, strict=True)))))


def _texts(values: Column) -> list[str]:
    write: Callable[[Any], str] = {"i": str, "u": str, "U": str}.get(values.dtype.kind, _text)
    return [write(value) for value in values.tolist()]


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
