"""Report on a data file before a forest is trained on it: what it holds, what is wrong with it, which factors leak.

NumPy and the domain only.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.data.columns import blank
from bankportal.data.measures import area_under_curve
from bankportal.data.reading import CellProblem, Table
from bankportal.domain.errors import DataRefused

# A factor that alone separates the label better than this was derived from it, or is the label by another name.
LEAK_ABOVE = 0.85
# A number with more different values than this is cut into ranges with equally many rows.
MAX_LEVELS = 10
# With fewer, a held-out fifth is too small to evaluate on.
MIN_ROWS = 200
MIN_OF_EACH_LABEL = 50


@dataclass(frozen=True)
class Rejected:
    """How many cells of one column were bad for one reason, and the first of them; `column` is empty for whole rows."""

    column: str
    code: str
    count: int
    example: CellProblem


@dataclass(frozen=True)
class Separation:
    """How well one factor alone separates the label: ROC AUC, 0.5 (not at all) to 1."""

    factor: str
    auc: float

    @property
    def leaks(self) -> bool:
        """Say whether the AUC is above `LEAK_ABOVE`: the factor knows the label."""
        return self.auc > LEAK_ABOVE

    @property
    def warning(self) -> str:
        """Return the warning that is recorded with a forest trained in spite of the leak."""
        return f"{self.factor} alone separates the label with an AUC of {self.auc:.3f}: the data give the label away."


@dataclass(frozen=True)
class Report:
    """The results of `check`.

    `rows` are usable for training: none where the label or a required column is missing, and repeated ones count once.
    `missing_required` is part of `missing`. `duplicates` counts rows that repeat an earlier one in every recognised
    column, `same_factors` those that repeat one in every scored factor and the label, `same_customer` those with a
    CustomerId of an earlier row. `label_rate` is the share of label 1, `None` without labels. `separations` has one
    entry for each scored factor that the file has, best first; it is empty where labels are absent or all the same.
    `unfit` says why nothing can be learned; leaks are not part of it.
    """

    product: str
    file: str
    sha256: str
    rows: int
    rows_in_file: int
    recognised: dict[str, str]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]
    missing_required: tuple[str, ...]
    rejected: tuple[Rejected, ...]
    duplicates: int
    same_factors: int
    same_customer: int
    label: str
    label_rate: float | None
    separations: tuple[Separation, ...]
    unfit: tuple[str, ...]

    @property
    def leaks(self) -> tuple[Separation, ...]:
        """The factors that give the label away."""
        return tuple(separation for separation in self.separations if separation.leaks)

    @property
    def fit_for_training(self) -> bool:
        """Say whether training would take the file: there is enough to learn from, and no leak."""
        return not self.unfit and not self.leaks

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain data, with its conclusions."""
        return asdict(self) | {
            "leaks": [asdict(leak) for leak in self.leaks],
            "leak_above": LEAK_ABOVE,
            "fit_for_training": self.fit_for_training,
        }

    def lines(self) -> list[str]:
        """Return the report as sentences, one a line."""
        return [*self._about_rows(), *self._about_columns(), *self._about_label()]

    def _about_rows(self) -> Iterator[str]:
        yield f"{self.file}: {self.rows:,} usable rows of {self.rows_in_file:,}."
        for bad in self.rejected:
            yield f"Bad cells: {bad.count:,} × {bad.column or 'the row'} {bad.code}; first {bad.example}."
        if self.duplicates:
            yield f"Duplicates: {self.duplicates:,} rows repeat an earlier row; training drops them."
        if self.same_factors > self.duplicates:
            yield f"Look-alikes: {self.same_factors:,} rows repeat an earlier row's factors and label."
        if self.same_customer:
            yield f"Repeated customers: {self.same_customer:,} rows carry a CustomerId that stood in an earlier row."

    def _about_columns(self) -> Iterator[str]:
        renamed = [f"{column} is {name}" if column != name else name for column, name in self.recognised.items()]
        yield f"Recognised: {', '.join(renamed)}."
        if self.unknown:
            yield f"Unknown, not used: {', '.join(self.unknown)}."
        if self.missing_required:
            yield f"Missing and required: {', '.join(self.missing_required)}."
        if optional := [name for name in self.missing if name not in self.missing_required]:
            yield f"Missing, optional: {', '.join(optional)}."

    def _about_label(self) -> Iterator[str]:
        if self.label_rate is None:
            yield f"Label {self.label}: none, so nothing can be learned from this file."
        else:
            yield f"Label {self.label}: 1 in {self.label_rate:.1%} of the rows."
        for leak in self.leaks:
            yield (
                f"Leak: {leak.factor} alone separates {self.label} with an AUC of {leak.auc:.3f} "
                f"(above {LEAK_ABOVE}): it gives the label away."
            )
        yield from (f"Not enough: {reason}" for reason in self.unfit)
        if self.separations and not self.leaks:
            best = self.separations[0]
            yield f"No leak: the best single factor is {best.factor} with an AUC of {best.auc:.3f}."


def check(table: Table) -> Report:
    """Report on a table."""
    product = table.product
    required = {factor.name for factor in product.required}
    duplicates = int(repeated(table).sum())
    return Report(
        product=product.key,
        file=table.name,
        sha256=table.sha256,
        rows=0 if any(_missing(table)) else len(table) - duplicates,
        rows_in_file=table.rows_in_file,
        recognised=dict(table.recognised),
        unknown=table.unknown,
        missing=table.missing,
        missing_required=tuple(name for name in table.missing if name in required),
        rejected=_rejected(table),
        duplicates=duplicates,
        same_factors=int(_repeats(table, [factor.name for factor in product.scored]).sum()),
        same_customer=int((~_first(known)).sum()) if (known := _customer_ids(table)) is not None else 0,
        label=product.label.name,
        label_rate=float(table.label.mean()) if table.label is not None and len(table) else None,
        separations=separations(table),
        unfit=unfit(table),
    )


def unfit(table: Table) -> tuple[str, ...]:
    """Say why nothing can be learned from a table; empty where it can. Leaks are not looked at."""
    return tuple(_missing(table)) or tuple(_too_few(table))


def _missing(table: Table) -> Iterator[str]:
    """Name the columns without which no row can be learned from."""
    product, name = table.product, table.name
    if required := [factor.name for factor in product.required if factor.name in table.missing]:
        yield f"{name} lacks columns that {product.key} requires: {', '.join(required)}."
    if table.label is None:
        yield f"{name} has no label: a column {product.label.name} with 1 where {product.label.meaning}."


def _too_few(table: Table) -> Iterator[str]:
    name, column, rejected = table.name, table.product.label.name, table.rejected
    table = table.take(~repeated(table))
    label = table.label
    assert label is not None
    if len(table) < MIN_ROWS:
        why = f" {rejected:,} were rejected, the first at {table.problems[0]}." if rejected else ""
        yield f"{name} has {len(table):,} usable rows; training needs {MIN_ROWS} or more.{why}"
    ones = int(label.sum())
    needs = f"training needs {MIN_OF_EACH_LABEL} or more of each."
    if min(ones, len(table) - ones) < MIN_OF_EACH_LABEL:
        yield f"{name} has {ones:,} rows with {column} 1 and {len(table) - ones:,} with 0; {needs}"
        return
    first = label[np.unique(customer_numbers(table), return_index=True)[1]]
    if min(first.sum(), (1 - first).sum()) < MIN_OF_EACH_LABEL:
        yield (
            f"{name} has {int(first.sum()):,} different customers with {column} 1 and {int((1 - first).sum()):,} "
            f"with 0 once repeated rows are taken together; {needs}"
        )


def customer_numbers(table: Table) -> NDArray[np.int64]:
    """Number the customers, (rows,). Without a column CustomerId, rows alike in every scored factor are one customer.

    A row with a blank CustomerId is a customer of its own.
    """
    if "CustomerId" not in table.columns:
        return row_keys(table, [factor.name for factor in table.product.scored], label=False)
    group = row_keys(table, ["CustomerId"], label=False)
    unknown = blank(table.columns["CustomerId"])
    group[unknown] = group.max(initial=0) + 1 + np.arange(unknown.sum())
    return group


def leaks(table: Table) -> tuple[Separation, ...]:
    """Return the factors that alone give the label away."""
    return tuple(separation for separation in separations(table) if separation.leaks)


def refuse_leaks(leaking: Sequence[Separation], table: Table) -> None:
    """Raise `DataRefused` where there are leaks."""
    if leaking:
        named = ", ".join(f"{leak.factor} (AUC {leak.auc:.3f})" for leak in leaking)
        raise DataRefused(
            f"{table.name} gives the label {table.product.label.name} away. Alone above AUC {LEAK_ABOVE}: {named}. "
            "A forest trained on it would look excellent and fail on new customers."
        )


def _rejected(table: Table) -> tuple[Rejected, ...]:
    counts = Counter((problem.column, problem.code) for problem in table.problems)
    first: dict[tuple[str, str], CellProblem] = {}
    for problem in table.problems:
        first.setdefault((problem.column, problem.code), problem)
    return tuple(Rejected(*key, count, first[key]) for key, count in counts.most_common())


def repeated(table: Table) -> NDArray[np.bool_]:
    """Say which rows (rows,) repeat an earlier one in every recognised column, the label included.

    Protected values do not count: they must not decide what a forest learns from.
    """
    protected = {factor.name for factor in table.product.protected}
    return _repeats(table, [name for name in table.columns if name not in protected])


def _repeats(table: Table, names: list[str]) -> NDArray[np.bool_]:
    return ~_first(row_keys(table, names))


def row_keys(table: Table, names: list[str], *, label: bool = True) -> NDArray[np.int64]:
    """Return a number for each row (rows,), the same for rows that agree in the named columns and, by default, label.

    Columns that the table does not have are ignored; blank equals blank.
    """
    codes = [_codes(table.columns[name]) for name in names if name in table.columns]
    if label and table.label is not None:
        codes.append(table.label.astype(np.int64))
    if not codes or not len(table):
        return np.zeros(len(table), dtype=np.int64)
    return np.unique(np.column_stack(codes), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _codes(values: NDArray[Any]) -> NDArray[np.int64]:
    """Number a factor's values; blank is -1."""
    codes = np.full(len(values), -1, dtype=np.int64)
    known = ~blank(values)
    codes[known] = np.unique(values[known], return_inverse=True)[1]
    return codes


def _customer_ids(table: Table) -> NDArray[Any] | None:
    ids = table.columns.get("CustomerId")
    return None if ids is None else ids[~blank(ids)]


def _first(keys: NDArray[Any]) -> NDArray[np.bool_]:
    """Say which keys (rows,) occur for the first time."""
    first = np.zeros(len(keys), dtype=np.bool_)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def separations(table: Table) -> tuple[Separation, ...]:
    """Return how well each scored factor alone separates the label, best first."""
    if table.label is None or len(np.unique(table.label)) < 2:
        return ()
    names = [factor.name for factor in table.product.scored if factor.name in table.columns]
    unsorted = [Separation(name, separation(table.columns[name], table.label)) for name in names]
    return tuple(sorted(unsorted, key=lambda one: -one.auc))


def separation(values: NDArray[Any], label: NDArray[np.float64]) -> float:
    """Return the best AUC of one factor alone, whether the label rises or falls with it; both arrays are (rows,).

    A number is tried in its order, blanks lowest or highest, and as levels; a choice as levels. Levels are ranked by
    their share of label 1, and blank is a level of its own. So a leak through blanks or a middle range shows as well.
    """
    areas = [area_under_curve(LevelRates.fit(values, label).score(values), label)]
    if values.dtype != object:
        unknown = blank(values)
        for stand_in in (-np.inf, np.inf):
            area = area_under_curve(np.where(unknown, stand_in, values), label)
            areas.append(max(area, 1 - area))
    return max(areas)


@dataclass(frozen=True, eq=False)
class LevelRates:
    """A rule on one factor: the share of label 1 at each of its levels, or in ranges of a number.

    `levels` are sorted: options, single numbers, or the ranges' upper ends. `rates` (levels,) are their shares,
    `rate_unknown` is that of the blanks. A level that was not among the values fitted on gets the overall share.
    """

    levels: NDArray[Any]
    rates: NDArray[np.float64]
    rate_unknown: float
    rate_overall: float
    as_ranges: bool

    @classmethod
    def fit(cls, values: NDArray[Any], label: NDArray[np.float64]) -> "LevelRates":
        """Learn the shares from values and labels, both (rows,)."""
        unknown, overall = blank(values), float(label.mean())
        known, known_label = values[~unknown], label[~unknown]
        levels = np.unique(known)
        as_ranges = values.dtype != object and len(levels) > MAX_LEVELS
        if as_ranges:
            levels = np.unique(np.quantile(known, np.linspace(0, 1, MAX_LEVELS + 1)[1:], method="higher"))
        place = np.searchsorted(levels, known)
        count = np.bincount(place, minlength=len(levels))
        ones = np.bincount(place, weights=known_label, minlength=len(levels))
        rates = np.where(count > 0, ones / np.maximum(count, 1), overall)
        return cls(levels, rates, float(label[unknown].mean()) if unknown.any() else overall, overall, as_ranges)

    def score(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the learned share for each value, (rows,)."""
        unknown = blank(values)
        score = np.full(len(values), self.rate_unknown)
        score[~unknown] = self._known_rates(values[~unknown])
        return score

    def _known_rates(self, known: NDArray[Any]) -> NDArray[np.float64]:
        if not len(self.levels):
            return np.full(len(known), self.rate_overall)
        place = np.minimum(np.searchsorted(self.levels, known), len(self.levels) - 1)
        if self.as_ranges:
            return self.rates[place]
        seen = (self.levels[place] == known).astype(np.bool_)
        return np.where(seen, self.rates[place], self.rate_overall)
