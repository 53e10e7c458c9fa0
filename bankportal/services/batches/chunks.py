"""Scoring blocks of a file: each row's outcome, with the same bits as `scoring.outcome_of`, as a line of a file.

The worker, `flask score` and a cluster use the same function.
"""

import csv
import hashlib
import heapq
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bankportal.data.blocks import Block, Layout
from bankportal.data.columns import CellProblem, ValidatedBlock, validate_block
from bankportal.data.formulas import neutralise
from bankportal.domain.batch import Job
from bankportal.domain.errors import VersionRefused
from bankportal.domain.policy import Limit
from bankportal.domain.products import Product
from bankportal.domain.reasons import MAX_REASONS
from bankportal.registry.registry import LoadedModel
from bankportal.services.models import Models
from bankportal.services.scoring import NO_REASON as NO_REASON  # part of what this module offers
from bankportal.services.scoring import RULE as RULE
from bankportal.services.scoring import OutcomeColumns, outcome_columns

REASONS = tuple(f"reason_{number}" for number in range(1, MAX_REASONS + 1))
LIMIT = ("limit", "limit_rule", "counteroffer", "policy_version")
REJECT_COLUMNS = ("line", "column", "code", "message", "row")
# A cell and the character that ends it, as `_csv` writes them. The csv module would refuse cells that apostrophes have
# made longer than its limit.
WRITTEN_CELL = re.compile(r'(?:"([^"]*+(?:""[^"]*+)*+)"|([^",\n]*+))([,\n])')
# The record of a scored row in `results.npy`: enough to sort, to filter, and to open the row.
RESULT = np.dtype(
    [
        ("position", np.int64),  # among the file's rows, from 0
        ("line", np.int64),  # in the uploaded file
        ("offset", np.int64),  # byte at which the row starts in the uploaded file
        ("score", np.float64),
        ("limit", np.float64),  # NaN where the product has no limit policy
        ("band", np.uint8),  # its position in the product's bands
        ("flags", np.uint8),  # how many values are outside the ranges seen in training
        # Positions in the encoding's factors; NO_REASON, or RULE for a rule of the policy.
        ("reasons", np.int8, (MAX_REASONS,)),
        ("customer", np.uint64),  # `customer_key` of the customer's number
        ("at", np.int64),  # byte at which its line starts in the scored part, later in the scored file
        ("length", np.int32),  # bytes of that line
    ]
)


@dataclass(frozen=True)
class Work:
    """What scoring a file's rows needs: the product with its words and policy, the file's layout, mapping, model."""

    product: Product
    layout: Layout
    mapping: Mapping[str, str]
    model: LoadedModel


def work_of(models: Models, job: Job) -> Work:
    """Return the work of a started job; `VersionRefused` where its model or policy cannot be loaded."""
    model = models.registry.model(job.product, job.model_version or "", job.model_digest or "")
    if job.policy_version != job.product.policy_version:
        raise VersionRefused(f"Limit policy {job.policy_version} is not the one that was declared.")
    return Work(job.product, Layout.from_json(job.layout), job.mapping or {}, model)


@dataclass(frozen=True, eq=False)
class Part:
    """A scored block: lines of the scored file and of the rejects file, and `RESULT` records (scored rows,)."""

    scored: bytes
    rejects: bytes
    results: NDArray[Any]
    rows: int
    rejected: int


def score_block(work: Work, block: Block) -> Part:
    """Score a block. `len(part.results) + part.rejected == part.rows`.

    The same input gives the same bytes on every machine. Raises `ExplanationRefused` where a row's contributions do not
    add up to its score.
    """
    validated = validate_block(work.product, work.layout, work.mapping, block)
    good = np.flatnonzero(validated.good)
    columns = {name: values[good] for name, values in validated.columns.items()}
    outcomes = outcome_columns(columns, work.product, work.model)
    uploaded = (block.rows[row] for row in good.tolist())
    scored = _csv_lines(map(operator.add, uploaded, map(list, zip(*_answer_cells(work, outcomes), strict=True))))
    rejects = _csv_lines(_reject_rows(work.layout, validated))
    return Part(
        scored=b"".join(scored),
        rejects=b"".join(rejects),
        results=_results(work.product, block, good, columns, outcomes, scored),
        rows=len(block.rows) + len(block.ragged),
        rejected=len(rejects),
    )


def scored_header(work: Work) -> bytes:
    """Return the scored file's first line: the uploaded columns, then the answer's."""
    return _header(work.layout, answer_columns(limits=work.product.policy is not None))


def answer_columns(*, limits: bool) -> tuple[str, ...]:
    """Return the names of the answer's columns, before any gets a number; `limits`: whether there is a policy."""
    return ("score", "band", *(LIMIT if limits else ()), *REASONS, "flags", "model_version")


def rejects_header(layout: Layout) -> bytes:
    """Return the rejects file's first line: the uploaded columns, then line, column, code, message, and the raw row."""
    return _header(layout, REJECT_COLUMNS)


def reject_lines(layout: Layout, validated: ValidatedBlock) -> bytes:
    """Return a validated block's lines of the rejects file, the same as `score_block` gives."""
    return b"".join(_csv_lines(_reject_rows(layout, validated)))


def reject_all(layout: Layout, block: Block, code: str, message: str) -> bytes:
    """Return the lines of the rejects file for a block of which no row can be scored."""
    lines = _lines(layout, block, range(len(block.rows)))
    return b"".join(_csv_lines([*uploaded, "", code, message, raw] for _, uploaded, raw in lines))


def customer_key(number: str | None) -> int:
    """Return the key by which results are searched for a customer's number: 64 bits of its BLAKE2b; 0 for blank."""
    if not number:
        return 0
    return int.from_bytes(hashlib.blake2b(number.encode(), digest_size=8).digest(), "big")


def _header(layout: Layout, further: Sequence[str]) -> bytes:
    """Return a header line. A further column whose name is taken gets a number, so uploaded names stay the same."""
    names: list[str] = neutralise([[*layout.header, *further]])[0]
    for place, name in enumerate(names):
        number = 1
        while name and names[place] in names[:place]:
            number += 1
            names[place] = f"{name}_{number}"
    return _csv_lines([names])[0]


def _answer_cells(work: Work, outcomes: OutcomeColumns) -> Iterator[Sequence[str]]:
    """Yield the answer's columns in the order of the header, each (rows,)."""
    rows, names = len(outcomes.scores), [band.name for band in work.product.bands]
    yield list(map(repr, outcomes.scores.tolist()))
    yield [names[band] for band in outcomes.bands.tolist()]
    if work.product.policy and outcomes.limits is not None:
        yield from zip(*map(_limit_cells, outcomes.limits), strict=True) if rows else [()] * (len(LIMIT) - 1)
        yield [work.product.policy.version] * rows
    yield from outcomes.sentences.T.tolist()
    flags = {row: " ".join(flag.message for flag in flags) for row, flags in outcomes.flags.items()}
    yield [flags.get(row, "") for row in range(rows)]
    yield [work.model.version] * rows


def _limit_cells(limit: Limit) -> tuple[str, str, str]:
    return repr(limit.amount).removesuffix(".0"), limit.rule, "1" if limit.counteroffer else "0"


def _results(
    product: Product,
    block: Block,
    good: NDArray[np.intp],
    columns: Mapping[str, NDArray[Any]],
    outcomes: OutcomeColumns,
    scored: list[bytes],
) -> NDArray[Any]:
    results = np.zeros(len(good), dtype=RESULT)
    results["position"] = np.array(block.positions, dtype=np.int64)[good]
    results["line"] = np.array(block.lines, dtype=np.int64)[good]
    results["offset"] = np.array(block.offsets, dtype=np.int64)[good]
    results["score"], results["band"], results["reasons"] = outcomes.scores, outcomes.bands, outcomes.reasons
    results["limit"] = np.nan if outcomes.limits is None else [limit.amount for limit in outcomes.limits]
    results["flags"][list(outcomes.flags)] = [len(flags) for flags in outcomes.flags.values()]
    if product.customer_number:
        results["customer"] = list(map(customer_key, columns[product.customer_number.name].tolist()))
    results["length"] = list(map(len, scored))
    results["at"] = np.cumsum(results["length"], dtype=np.int64) - results["length"]
    return results


def _reject_rows(layout: Layout, validated: ValidatedBlock) -> Iterator[list[str]]:
    """Yield the rows of the rejects file in the file's order, one for each reject, however many problems it has."""
    problems = {line: list(group) for line, group in groupby(validated.problems, key=lambda problem: problem.line)}
    for line, uploaded, raw in _lines(layout, validated.block, np.flatnonzero(~validated.good).tolist()):
        yield [*uploaded, *_joined(problems[line]), raw]


def _joined(problems: list[CellProblem]) -> Iterator[str]:
    """Yield the columns, the codes and the messages of a row's problems, each joined by semicolons."""
    for texts in zip(*((p.column or p.factor, p.code, p.message) for p in problems), strict=True):
        yield "; ".join(texts)


def _lines(layout: Layout, block: Block, rows: Iterable[int]) -> Iterator[tuple[int, list[str], str]]:
    """Yield some rows and all ragged records in the file's order: the line; the cells and the line; the raw record.

    The raw record is empty unless the record is ragged. A ragged record's cells are left empty, since their columns are
    not known.
    """
    whole = ((block.lines[row], [*block.rows[row], str(block.lines[row])], "") for row in rows)
    blank = [""] * len(layout.header)
    ragged = (
        (record.line, [*blank[len(record.added) :], *record.added, str(record.line)], _raw(layout, record.fields))
        for record in block.ragged
    )
    yield from heapq.merge(whole, ragged, key=lambda record: record[0])


def _raw(layout: Layout, fields: list[str]) -> str:
    """Return a record as CSV, as it may have been in the file."""
    return _csv([fields], layout.delimiter)[0]


class _Lines(list[str]):
    """A list of lines that the csv module can write to."""

    def write(self, line: str) -> None:
        self.append(line)


def _csv(rows: Iterable[Sequence[str]], delimiter: str) -> list[str]:
    """Return each row as a line of CSV without its end; a cell with any line break in it is quoted."""
    lines = _Lines()
    csv.writer(lines, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    return [line[:-2] for line in lines]


def _csv_lines(rows: Iterable[list[str]]) -> list[bytes]:
    """Return each row as a line of CSV in which spreadsheets find no formula to run."""
    return [f"{line}\n".encode() for line in _csv(neutralise(list(rows)), ",")]


def cells_of(lines: bytes) -> list[list[str]]:
    """Return the cells of lines that this or an earlier release wrote, neutralised as this release does."""
    rows: list[list[str]] = [[]]
    for quoted, plain, end in WRITTEN_CELL.findall(lines.decode()):
        rows[-1].append(quoted.replace('""', '"') or plain)
        if end == "\n":
            rows.append([])
    return [neutralise([row])[0] for row in rows[:-1]]


def begins_with(line: bytes, uploaded: Sequence[str]) -> bool:
    """Return whether a line of the scored file begins with a row's uploaded cells."""
    return [cells[: len(uploaded)] for cells in cells_of(line)] == neutralise([list(uploaded)])
