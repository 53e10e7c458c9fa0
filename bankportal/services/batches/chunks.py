"""Scoring many rows at once: the outcome that `scoring.answer` gives each, to the last bit, as lines of a file.

The same function serves the worker, `flask score` and a cluster.
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
from bankportal.domain.factors import CUSTOMER_ID
from bankportal.domain.policy import POLICIES, Limit, LimitPolicy
from bankportal.domain.products import Product
from bankportal.domain.reasons import MAX_REASONS, Catalogue
from bankportal.registry.registry import LoadedModel
from bankportal.services.models import Models
from bankportal.services.scoring import NO_REASON as NO_REASON  # part of what this module offers
from bankportal.services.scoring import RULE as RULE
from bankportal.services.scoring import Answers, answers

REASONS = tuple(f"reason_{number}" for number in range(1, MAX_REASONS + 1))
LIMIT = ("limit", "limit_rule", "counteroffer", "policy_version")
REJECTED = ("line", "column", "code", "message", "row")
# A cell and what ends it, as `_csv` writes them. The csv module would refuse one that apostrophes made too long for it.
WRITTEN_CELL = re.compile(r'(?:"([^"]*+(?:""[^"]*+)*+)"|([^",\n]*+))([,\n])')
# What is kept of each scored row, beside its line in the scored file: enough to sort, filter, and open it.
RESULT = np.dtype(
    [
        ("position", np.int64),  # among the file's rows, from 0
        ("line", np.int64),  # in the uploaded file
        ("offset", np.int64),  # byte at which the row starts in the uploaded file
        ("score", np.float64),
        ("limit", np.float64),  # NaN where the product has no limit policy
        ("band", np.uint8),  # its number among the product's bands
        ("flags", np.uint8),  # how many values are unlike all the forest has seen
        (
            "reasons",
            np.int8,
            (MAX_REASONS,),
        ),  # numbers among the encoding's factors; NO_REASON, or RULE for a policy's rule
        ("customer", np.uint64),  # `customer_key` of the customer's number
        ("at", np.int64),  # byte at which its line starts in the scored part, later in the scored file
        ("length", np.int32),  # bytes of that line
    ]
)


@dataclass(frozen=True)
class Work:
    """What scoring a file's rows needs: its layout and mapping, and who answers."""

    product: Product
    layout: Layout
    mapping: Mapping[str, str]
    model: LoadedModel
    catalogue: Catalogue
    policy: LimitPolicy | None


def work_of(models: Models, job: Job) -> Work:
    """Return what scoring a started job's rows needs; `VersionRefused` where its model or policy cannot be had."""
    model = models.registry.model(job.product, job.model_version or "", job.model_digest or "")
    if job.policy_version and job.policy_version not in POLICIES:
        raise VersionRefused(f"Limit policy {job.policy_version} is no longer known.")
    policy = POLICIES[job.policy_version] if job.policy_version else None
    return Work(job.product, Layout.from_json(job.layout), job.mapping or {}, model, models.catalogue, policy)


@dataclass(frozen=True, eq=False)
class Part:
    """A block's answers: lines of the scored file and of the rejects, and (scored rows,) `RESULT` records."""

    scored: bytes
    rejects: bytes
    results: NDArray[Any]
    rows: int
    rejected: int


def score_block(work: Work, block: Block) -> Part:
    """Score a block. `len(part.results) + part.rejected == part.rows`; the same input gives the same bytes anywhere.

    Raises `ExplanationRefused` where a row's contributions do not add up to its score.
    """
    judged = validate_block(work.product, work.layout, work.mapping, block)
    good = np.flatnonzero(judged.good)
    columns = {name: values[good] for name, values in judged.columns.items()}
    found = answers(columns, work.model, work.catalogue, work.policy)
    uploaded = (block.rows[row] for row in good.tolist())
    scored = _written(map(operator.add, uploaded, map(list, zip(*_answer_cells(work, found), strict=True))))
    rejects = _written(_rejected(work.layout, judged))
    return Part(
        scored=b"".join(scored),
        rejects=b"".join(rejects),
        results=_results(block, good, columns, found, scored),
        rows=len(block.rows) + len(block.ragged),
        rejected=len(rejects),
    )


def scored_header(work: Work) -> bytes:
    """Return the scored file's first line: the original columns, then the answer's."""
    return _header(work.layout, answer_columns(limits=work.policy is not None))


def answer_columns(*, limits: bool) -> tuple[str, ...]:
    """Return the names of the answer's columns, before any gets a number; `limits`: whether a policy set some."""
    return ("score", "band", *(LIMIT if limits else ()), *REASONS, "flags", "model_version")


def rejects_header(layout: Layout) -> bytes:
    """Return the rejects file's first line: the original columns, then line, column, code, message, and the raw row."""
    return _header(layout, REJECTED)


def reject_lines(layout: Layout, judged: ValidatedBlock) -> bytes:
    """Return the rejects lines of a judged block, as scoring it gives them."""
    return b"".join(_written(_rejected(layout, judged)))


def reject_all(layout: Layout, block: Block, code: str, message: str) -> bytes:
    """Return the rejects lines of a block of which no row can be scored."""
    lines = _lines(layout, block, range(len(block.rows)))
    return b"".join(_written([*uploaded, "", code, message, raw] for _, uploaded, raw in lines))


def customer_key(number: str | None) -> int:
    """Return what a customer's number is found by among the results: 64 bits of its BLAKE2b; 0 where it is blank."""
    if not number:
        return 0
    return int.from_bytes(hashlib.blake2b(number.encode(), digest_size=8).digest(), "big")


def _header(layout: Layout, further: Sequence[str]) -> bytes:
    """Write column names; one that is taken gets a number, so that the uploaded ones stay what they are."""
    names: list[str] = neutralise([[*layout.header, *further]])[0]
    for place, name in enumerate(names):
        number = 1
        while name and names[place] in names[:place]:
            number += 1
            names[place] = f"{name}_{number}"
    return _written([names])[0]


def _answer_cells(work: Work, found: Answers) -> Iterator[Sequence[str]]:
    """Yield the answer's columns in the order of the header, each (rows,)."""
    rows, names = len(found.scores), [band.name for band in work.product.bands]
    yield list(map(repr, found.scores.tolist()))
    yield [names[band] for band in found.bands.tolist()]
    if work.policy and found.limits is not None:
        yield from zip(*map(_limit_cells, found.limits), strict=True) if rows else [()] * (len(LIMIT) - 1)
        yield [work.policy.version] * rows
    yield from found.sentences.T.tolist()
    flags = {row: " ".join(flag.message for flag in flags) for row, flags in found.flags.items()}
    yield [flags.get(row, "") for row in range(rows)]
    yield [work.model.version] * rows


def _limit_cells(limit: Limit) -> tuple[str, str, str]:
    return repr(limit.amount).removesuffix(".0"), limit.rule, "1" if limit.counteroffer else "0"


def _results(
    block: Block, good: NDArray[np.intp], columns: Mapping[str, NDArray[Any]], found: Answers, scored: list[bytes]
) -> NDArray[Any]:
    results = np.zeros(len(good), dtype=RESULT)
    results["position"] = np.array(block.positions, dtype=np.int64)[good]
    results["line"] = np.array(block.lines, dtype=np.int64)[good]
    results["offset"] = np.array(block.offsets, dtype=np.int64)[good]
    results["score"], results["band"], results["reasons"] = found.scores, found.bands, found.reasons
    results["limit"] = np.nan if found.limits is None else [limit.amount for limit in found.limits]
    results["flags"][list(found.flags)] = [len(flags) for flags in found.flags.values()]
    results["customer"] = list(map(customer_key, columns[CUSTOMER_ID.name].tolist()))
    results["length"] = list(map(len, scored))
    results["at"] = np.cumsum(results["length"], dtype=np.int64) - results["length"]
    return results


def _rejected(layout: Layout, judged: ValidatedBlock) -> Iterator[list[str]]:
    """Yield the rejected rows in the file's order, one line each, whatever number of problems it has."""
    problems = {line: list(each) for line, each in groupby(judged.problems, key=lambda problem: problem.line)}
    for line, uploaded, raw in _lines(layout, judged.block, np.flatnonzero(~judged.good).tolist()):
        yield [*uploaded, *_joined(problems[line]), raw]


def _joined(problems: list[CellProblem]) -> Iterator[str]:
    """Yield column, code and message of a row's problems, several after one another."""
    for told in zip(*((p.column or p.factor, p.code, p.message) for p in problems), strict=True):
        yield "; ".join(told)


def _lines(layout: Layout, block: Block, rows: Iterable[int]) -> Iterator[tuple[int, list[str], str]]:
    """Yield some rows and all ragged records in the file's order: line; cells and line; the raw row if ragged.

    A ragged record's own cells are left empty: nobody knows under which column they belong.
    """
    whole = ((block.lines[row], [*block.rows[row], str(block.lines[row])], "") for row in rows)
    blank = [""] * len(layout.header)
    ragged = (
        (each.line, [*blank[len(each.added) :], *each.added, str(each.line)], _raw(layout, each.fields))
        for each in block.ragged
    )
    yield from heapq.merge(whole, ragged, key=lambda record: record[0])


def _raw(layout: Layout, fields: list[str]) -> str:
    """Write a record as it may have stood in the file."""
    return _csv([fields], layout.delimiter)[0]


class _Sink(list[str]):
    """What the csv module writes to: a list of lines."""

    def write(self, line: str) -> None:
        self.append(line)


def _csv(rows: Iterable[Sequence[str]], delimiter: str) -> list[str]:
    """Return each row as a line of CSV without its end; a cell with any line break in it is quoted."""
    lines = _Sink()
    csv.writer(lines, delimiter=delimiter, lineterminator="\r\n").writerows(rows)
    return [line[:-2] for line in lines]


def _written(rows: Iterable[list[str]]) -> list[bytes]:
    """Return each row as a line of a file that spreadsheets open without running anything."""
    return [f"{line}\n".encode() for line in _csv(neutralise(list(rows)), ",")]


def cells_of(lines: bytes) -> list[list[str]]:
    """Return the cells of lines that this module wrote, in this release or an earlier one, as it writes them today."""
    rows: list[list[str]] = [[]]
    for quoted, plain, end in WRITTEN_CELL.findall(lines.decode()):
        rows[-1].append(quoted.replace('""', '"') or plain)
        if end == "\n":
            rows.append([])
    return [neutralise([row])[0] for row in rows[:-1]]


def begins_with(line: bytes, uploaded: Sequence[str]) -> bool:
    """Say whether a line of the scored file begins with a row's uploaded cells."""
    return [cells[: len(uploaded)] for cells in cells_of(line)] == neutralise([list(uploaded)])
