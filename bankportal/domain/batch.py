"""A batch: one uploaded file as a job, worked through in chunks, its rejects named. Plain values, no database.

The words: a *job* is a batch upload, a *chunk* a unit of its work, a *reject* a row that could not be scored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from bankportal.domain.products import Product

# The files of a batch: as uploaded, and what came of it.
INPUT = "input.csv"
SCORED, REJECTS, RESULTS = "scored.csv", "rejects.csv", "results.npy"


class State(Enum):
    """Where a job stands."""

    UPLOADED = "uploaded"  # stored; its mapping has not been confirmed
    CHECKING = "checking"
    CHECKED = "checked"  # rows counted and judged; waits for its start
    SCORING = "scoring"
    DONE = "done"
    REFUSED = "refused"  # the file as a whole cannot be read; `message` says why
    CANCELLED = "cancelled"
    FAILED = "failed"  # the portal's fault, not the file's; `message` says why

    @property
    def at_rest(self) -> bool:
        """Say whether no worker will touch the job any more."""
        return self in {State.DONE, State.REFUSED, State.CANCELLED, State.FAILED}

    @property
    def at_work(self) -> bool:
        """Say whether a worker has, or waits for, something to do for it."""
        return self in {State.CHECKING, State.SCORING}


class Stage(Enum):
    """What a chunk of work does."""

    CHECK = "check"  # reads the whole file, judges every row, finds where chunks begin
    SCORE = "score"  # scores one span of rows
    FINISH = "finish"  # joins the parts, fixes their digests, adds the batch to the chain of receipts


@dataclass(frozen=True)
class Span:
    """Some consecutive rows of a file: bytes from `start` up to `end`, first line, first row's position from 0.

    `rows` counts all of them, rejects included.
    """

    start: int
    end: int
    line: int
    position: int
    rows: int


@dataclass(frozen=True)
class ProblemExample:
    """One example of a problem: where it stands, and what stood there."""

    line: int
    text: str


@dataclass(frozen=True)
class ProblemGroup:
    """Rejected cells that one repair mends: `cells` bad cells of one column with one code, a few as examples.

    `column` is the file's own name, empty where the whole row is at fault; `rows` counts the rows.
    """

    column: str
    factor: str
    code: str
    message: str
    rows: int
    examples: tuple[ProblemExample, ...]


@dataclass(frozen=True)
class CheckResult:
    """What the check of a whole file found. `good + rejected == rows`.

    `groups` come the largest first; `more` counts the bad cells of groups beyond those that are kept.
    """

    rows: int
    good: int
    rejected: int
    groups: tuple[ProblemGroup, ...]
    more: int = 0


@dataclass(frozen=True)
class Summary:
    """What a finished job says at a glance. `scored + rejected == rows`; `bands` counts the scored rows."""

    scored: int
    rejected: int
    quarantined: int
    bands: Mapping[str, int]
    mean_score: float | None


@dataclass(frozen=True)
class Job:
    """A batch upload as it is recorded; `None` for what is not known yet. Times in UTC.

    `mapping` maps the file's columns to factors; `layout` is `data.blocks.Layout` as plain data; `model_*` and
    `policy_version` are fixed when it starts. `files` gives the finished files' SHA-256 by name (`scored.csv`,
    `rejects.csv`, `results.npy`). `rows_done` counts the rows of finished chunks of the step it is in.
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


@dataclass(frozen=True)
class Progress:
    """How far a job is: rows done of all (`None`: not counted yet), rows a second, and seconds left where known.

    `begun` says whether a worker ever took the present step up; `silent` for how many seconds none has reported, where
    that is too long for one to be at work.
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
    """A claimed unit of work. `token` fences: a write with an older one fails. `files`: name to SHA-256.

    `faults` speak against the chunk; `losses` are workers that were lost over it, for whatever reason.
    """

    number: int
    job_number: int
    step: Stage
    place: int
    span: Span | None
    token: int
    faults: int
    losses: int
    files: Mapping[str, str] = field(default_factory=dict)
