"""The check of a whole file: validates every row, groups the problems by repair, divides the file into chunks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bankportal.data.blocks import Block, Layout, blocks
from bankportal.data.columns import CellProblem, validate_block
from bankportal.domain.batch import CheckResult, Job, ProblemExample, ProblemGroup, Span
from bankportal.services.batches.chunks import reject_lines, rejects_header
from bankportal.services.batches.parts import Output

BLOCK_ROWS = 5_000
START_ROWS = 500  # every so many rows, a chunk may start
CHUNK_ROWS = 5_000
CHUNKS = 20  # of a small file, so that its progress can be shown
MAX_GROUPS = 200
MAX_EXAMPLES = 3
Heartbeat = Callable[[int], None]  # called with the rows done so far; raises where the work must end


@dataclass(frozen=True)
class Survey:
    """The result of a check, the spans of the chunks to be scored, and the SHA-256 of the rejects file."""

    checked: CheckResult
    spans: list[Span]
    rejects_digest: str


def check(job: Job, source: Path, rejects: Path, heartbeat: Heartbeat) -> Survey:
    """Validate a job's whole file and write its rejects; `DataRefused` where the file as a whole cannot be read.

    Needs memory for one block and for the groups of problems, however large the file is.
    """
    layout, mapping = Layout.from_json(job.layout), job.mapping or {}
    groups, starts, rows, good = _Groups(), _ChunkStarts(), 0, 0
    with Output(rejects) as output:
        output.write(rejects_header(layout))
        for block in blocks(source, layout, BLOCK_ROWS, name=job.file_name):
            validated = validate_block(job.product, layout, mapping, block)
            output.write(reject_lines(layout, validated))
            groups.add(validated.problems)
            starts.add(block)
            rows, good = rows + block.span.rows, good + int(validated.good.sum())
            heartbeat(rows)
    return Survey(CheckResult(rows, good, rows - good, groups.largest(), groups.more), starts.spans(), output.digest)


class _Groups:
    """Bad cells grouped by column and problem: the first `MAX_GROUPS` groups; the cells of further ones are counted."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, str, str, str], ProblemGroup] = {}
        self.more = 0

    def add(self, problems: tuple[CellProblem, ...]) -> None:
        for problem in problems:
            key = (problem.column, problem.factor, problem.code, problem.message)
            group = self.groups.get(key)
            if group is None and len(self.groups) == MAX_GROUPS:
                self.more += 1
                continue
            self.groups[key] = _with_problem(group or ProblemGroup(*key, rows=0, examples=()), problem)

    def largest(self) -> tuple[ProblemGroup, ...]:
        return tuple(sorted(self.groups.values(), key=lambda group: -group.rows))


def _with_problem(group: ProblemGroup, problem: CellProblem) -> ProblemGroup:
    examples = group.examples
    if len(examples) < MAX_EXAMPLES:
        examples = (*examples, ProblemExample(problem.line, problem.text))
    return replace(group, rows=group.rows + 1, examples=examples)


class _ChunkStarts:
    """The rows at which a chunk may start: about one in `START_ROWS`."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, int, int]] = []  # byte, line, position
        self.end = self.rows = 0

    def add(self, block: Block) -> None:
        span = block.span
        due = self.starts[-1][2] + START_ROWS if self.starts else 0
        for start, line, position in zip(block.offsets, block.lines, block.positions, strict=True):
            if position >= due:
                first = (start, line, position) if self.starts else (span.start, span.line, span.position)
                self.starts.append(first)
                due = first[2] + START_ROWS
        if not self.starts:  # only ragged records so far
            self.starts.append((span.start, span.line, span.position))
        self.end, self.rows = span.end, span.position + span.rows

    def spans(self) -> list[Span]:
        """Return the chunks: of about `CHUNK_ROWS` rows, or about `CHUNKS` of them for a small file."""
        size = min(CHUNK_ROWS, max(START_ROWS, -(-self.rows // CHUNKS)))
        chosen = list(self._chosen(size))
        ends = [*((start, position) for start, _, position in chosen[1:]), (self.end, self.rows)]
        return [
            Span(start, end, line, position, next_position - position)
            for (start, line, position), (end, next_position) in zip(chosen, ends, strict=True)
        ]

    def _chosen(self, size: int) -> Iterator[tuple[int, int, int]]:
        """Yield starts that are at least `size` rows apart."""
        due = 0
        for start in self.starts:
            if start[2] >= due:
                yield start
                due = start[2] + size
