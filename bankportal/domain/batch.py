"""A batch upload as plain values, without a database.

A *job* is one uploaded file. A *chunk* is a unit of its work. A *reject* is a row that could not be scored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from bankportal.domain.products import Product
from bankportal.domain.provenance import Provenance

# Names of the files of a batch: the upload, and its results.
INPUT = "input.csv"
SCORED, REJECTS, RESULTS = "scored.csv", "rejects.csv", "results.npy"


class State(Enum):
    """Where a job stands."""

    UPLOADED = "uploaded"  # stored; its mapping has not been confirmed
    CHECKING = "checking"
    CHECKED = "checked"  # rows counted and validated; waits to be started
    SCORING = "scoring"
    DONE = "done"
    REFUSED = "refused"  # the file as a whole cannot be read; `message` says why
    CANCELLED = "cancelled"
    FAILED = "failed"  # the portal's fault, not the file's; `message` says why

    @property
    def at_rest(self) -> bool:
        """Whether no worker will work on the job any more."""
        return self in {State.DONE, State.REFUSED, State.CANCELLED, State.FAILED}

    @property
    def at_work(self) -> bool:
        """Whether there is work for a worker, begun or not."""
        return self in {State.CHECKING, State.SCORING}


class Stage(Enum):
    """What a chunk of work does."""

    CHECK = "check"  # reads the whole file, validates every row, divides it into chunks
    SCORE = "score"  # scores one span of rows
    FINISH = "finish"  # joins the parts, records the digests, adds the batch to the chain of receipts


@dataclass(frozen=True)
class Span:
    """Consecutive rows of a file: the bytes from `start` up to `end`, which is not included.

    `line` is the line at which they start. `position` is the first row's place among all rows, from 0. `rows` counts
    all of them, rejects included.
    """

    start: int
    end: int
    line: int
    position: int
    rows: int


@dataclass(frozen=True)
class ProblemExample:
    """An example of a problem: the line it is on, and the cell's text."""

    line: int
    text: str

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data, as it is stored; the receipt's format fixes the keys."""
        return {"line": self.line, "text": self.text}


@dataclass(frozen=True)
class ProblemGroup:
    """Rejected cells with the same problem, which one repair removes.

    `column` is the file's own name for the column; it is empty where the whole row is at fault. `rows` counts the rows
    concerned. `examples` are the first few of them.
    """

    column: str
    factor: str
    code: str
    message: str
    rows: int
    examples: tuple[ProblemExample, ...]

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data, as it is stored; the receipt's format fixes the keys."""
        return {
            "column": self.column,
            "factor": self.factor,
            "code": self.code,
            "message": self.message,
            "rows": self.rows,
            "examples": [example.to_record() for example in self.examples],
        }


@dataclass(frozen=True)
class CheckResult:
    """The result of checking a whole file. `good + rejected == rows`.

    `groups` is sorted by size, largest first. `more` counts the bad cells that belong to no group in `groups`, because
    only so many groups are kept.
    """

    rows: int
    good: int
    rejected: int
    groups: tuple[ProblemGroup, ...]
    more: int = 0

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data, as it is stored; the receipt's format fixes the keys."""
        return {
            "rows": self.rows,
            "good": self.good,
            "rejected": self.rejected,
            "groups": [group.to_record() for group in self.groups],
            "more": self.more,
        }


@dataclass(frozen=True)
class Summary:
    """The figures of a finished job. `scored + rejected == rows`.

    `bands` counts the scored rows by band. `quarantined` counts the rejects of quarantined chunks.
    """

    scored: int
    rejected: int
    quarantined: int
    bands: Mapping[str, int]
    mean_score: float | None

    def to_record(self) -> dict[str, Any]:
        """Return it as plain data, as it is stored; the receipt's format fixes the keys."""
        return {
            "scored": self.scored,
            "rejected": self.rejected,
            "quarantined": self.quarantined,
            "bands": dict(self.bands),
            "mean_score": self.mean_score,
        }


@dataclass(frozen=True)
class Job:
    """A batch upload as it is recorded. What is not known yet is `None`. Times are in UTC.

    `product` and its policy are those that it was uploaded under. `provenance` is `None` where the job is older than
    the record of it.

    `mapping` maps the file's columns to factors. `layout` is `data.blocks.Layout` as plain data. `model_version`,
    `model_digest` and `policy_version` are set when scoring starts and do not change afterwards. `files` gives the
    SHA-256 of the finished files by name (`scored.csv`, `rejects.csv`, `results.npy`). `rows_done` counts the rows of
    the finished chunks of the present stage.
    """

    id: str
    number: int
    product: Product
    state: State
    at: datetime
    file_name: str
    input_digest: str
    input_bytes: int
    header_digest: str
    layout: Mapping[str, Any]
    mapping: Mapping[str, str] | None
    start_when_checked: bool
    message: str
    checked: CheckResult | None
    model_version: str | None
    model_digest: str | None
    policy_version: str | None
    started_at: datetime | None
    finished_at: datetime | None
    summary: Summary | None
    files: Mapping[str, str] | None
    rows_done: int = 0
    provenance: Provenance | None = None


@dataclass(frozen=True)
class Progress:
    """How far a job is: `rows_done` of `rows`, `rate` in rows a second, and the seconds left.

    `None` for what is not known yet. `begun` says whether a worker has started the present stage. `silent` is for how
    many seconds no worker has reported; it is `None` while a worker may still be at work.
    """

    state: State
    rows_done: int
    rows: int | None
    rate: float | None
    seconds_left: float | None
    message: str = ""
    begun: bool = True
    silent: float | None = None


@dataclass(frozen=True)
class Chunk:
    """A unit of work that a worker has claimed.

    Every claim raises `token`: a write that names an older token is refused. `faults` counts the failures that the
    chunk itself caused as far as is known; `losses` counts the workers that were lost while they held it, for whatever
    reason. `files` maps the names of its result files to their SHA-256.
    """

    number: int
    job_number: int
    stage: Stage
    place: int
    span: Span | None
    token: int
    faults: int
    losses: int
    files: Mapping[str, str] = field(default_factory=dict)
