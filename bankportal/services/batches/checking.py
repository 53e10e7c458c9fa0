"""The check of a whole file: every row read and judged once, what is wrong grouped by repair, chunks marked out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bankportal.data.blocks import Block, Layout, blocks
from bankportal.data.columns import CellProblem, validate_block
from bankportal.domain.batch import CheckResult, Job, ProblemExample, ProblemGroup, Span
from bankportal.services.batches.chunks import reject_lines, rejects_header
from bankportal.services.batches.parts import Output

BLOCK_ROWS = 5_000
MARK_ROWS = 500  # a chunk begins at a mark
CHUNK_ROWS = 5_000
CHUNKS = 20  # as many as a small file has, so that its progress shows
MAX_GROUPS = 200
MAX_EXAMPLES = 3
Heartbeat = Callable[[int], None]  # rows done so far; raises where the work must end


@dataclass(frozen=True)
class Survey:
    """What a check found, the spans of the chunks to come, and the rejects' SHA-256."""

    checked: CheckResult
    spans: list[Span]
    rejects_digest: str


def check(job: Job, source: Path, rejects: Path, heartbeat: Heartbeat) -> Survey:
    """Judge a job's whole file and write its rejects; `DataRefused` where the file as a whole cannot be read.

    Memory is a block's and the groups', whatever the file's size.
    """
    layout, mapping = Layout.from_json(job.layout), job.mapping or {}
    groups, marks, rows, good = _Groups(), _Marks(), 0, 0
    with Output(rejects) as output:
        output.write(rejects_header(layout))
        for block in blocks(source, layout, BLOCK_ROWS, name=job.file_name):
            judged = validate_block(job.product, layout, mapping, block)
            output.write(reject_lines(layout, judged))
            groups.add(judged.problems)
            marks.add(block)
            rows, good = rows + block.span.rows, good + int(judged.good.sum())
            heartbeat(rows)
    return Survey(CheckResult(rows, good, rows - good, groups.largest(), groups.more), marks.spans(), output.digest)


class _Groups:
    """Bad cells grouped by the repair that mends them: the first `MAX_GROUPS` repairs are kept, others counted."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str, str], ProblemGroup] = {}
        self.more = 0

    def add(self, problems: tuple[CellProblem, ...]) -> None:
        for problem in problems:
            key = (problem.column, problem.factor, problem.code, problem.message)
            group = self.found.get(key)
            if group is None and len(self.found) == MAX_GROUPS:
                self.more += 1
                continue
            self.found[key] = _with(group or ProblemGroup(*key, rows=0, examples=()), problem)

    def largest(self) -> tuple[ProblemGroup, ...]:
        return tuple(sorted(self.found.values(), key=lambda group: -group.rows))


def _with(group: ProblemGroup, problem: CellProblem) -> ProblemGroup:
    examples = group.examples
    if len(examples) < MAX_EXAMPLES:
        examples = (*examples, ProblemExample(problem.line, problem.text))
    return replace(group, rows=group.rows + 1, examples=examples)


class _Marks:
    """Where chunks may begin: a row every `MARK_ROWS` records."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, int, int]] = []  # byte, line, position
        self.end = self.rows = 0

    def add(self, block: Block) -> None:
        span = block.span
        due = self.marks[-1][2] + MARK_ROWS if self.marks else 0
        for start, line, position in zip(block.offsets, block.lines, block.positions, strict=True):
            if position >= due:
                first = (start, line, position) if self.marks else (span.start, span.line, span.position)
                self.marks.append(first)
                due = first[2] + MARK_ROWS
        if not self.marks:  # nothing but ragged records so far
            self.marks.append((span.start, span.line, span.position))
        self.end, self.rows = span.end, span.position + span.rows

    def spans(self) -> list[Span]:
        """Return chunks of `CHUNK_ROWS` or fewer rows, where records allow: some `CHUNKS` of a small file."""
        size = min(CHUNK_ROWS, max(MARK_ROWS, -(-self.rows // CHUNKS)))
        begins = list(self._begins(size))
        ends = [*((start, position) for start, _, position in begins[1:]), (self.end, self.rows)]
        return [
            Span(start, end, line, position, past - position)
            for (start, line, position), (end, past) in zip(begins, ends, strict=True)
        ]

    def _begins(self, size: int) -> Iterator[tuple[int, int, int]]:
        due = 0
        for mark in self.marks:
            if mark[2] >= due:
                yield mark
                due = mark[2] + size
