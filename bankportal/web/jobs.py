"""How the batch pages show a job: the badge of its state, its columns, its progress, the query of its table."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from bankportal.domain.batch import Job, ProblemGroup, Progress, State
from bankportal.domain.constraints import INVISIBLE
from bankportal.domain.errors import FieldProblem, NotFound
from bankportal.domain.products import Product, ProductFactor, Role, Verdict
from bankportal.services.batches.chunks import REASONS
from bankportal.services.batches.replaying import ReplayDiffers
from bankportal.services.batches.uploads import MappingSuggestion, ScoredRow
from bankportal.web.current import services
from bankportal.web.drawings.charts import Slice, slices
from bankportal.web.words import moment, number, problem_sentence

UNUSED = "-"  # the value of "not used" in a select; blank is "not chosen yet"
FIELD_PREFIX = "column-"
ALL_COLUMNS = "columns"  # the place of problems that are not about one column
VALUES_SHOWN = 3
MAX_STEM_LENGTH = 100
JOINING = "putting the result together"
STEPS = ("Upload", "Columns", "Check", "Score", "Result")
SORTS = ("position", "score", "limit")
CHOOSE = "needs a choice: what it means, or that it is not used"


@dataclass(frozen=True)
class StateBadge:
    """How a state is shown: words, tone, icon, and the step (from 0) to which it belongs."""

    words: str
    tone: str
    icon: str
    step: int


STATE_BADGES: Mapping[State, StateBadge] = {
    State.UPLOADED: StateBadge("Columns to confirm", "fair", "middle", 1),
    State.CHECKING: StateBadge("Being checked", "none", "arrow", 2),
    State.CHECKED: StateBadge("Ready to score", "fair", "middle", 2),
    State.SCORING: StateBadge("Being scored", "none", "arrow", 3),
    State.DONE: StateBadge("Done", "good", "check", 4),
    State.REFUSED: StateBadge("Refused", "bad", "alert", 2),
    State.CANCELLED: StateBadge("Cancelled", "none", "notice", 3),
    State.FAILED: StateBadge("Failed", "bad", "alert", 3),
}


NOTHING_TO_SCORE = StateBadge("Nothing to score", "bad", "alert", 2)


def state_badge(job: Job) -> StateBadge:
    """Return the badge of a job's state."""
    if job.state is State.CHECKED and job.checked and not job.checked.good:
        return NOTHING_TO_SCORE
    return STATE_BADGES[job.state]


def job_slices(job: Job) -> tuple[Slice, ...]:
    """Return a finished job's scored rows by verdict; nothing before, or where the results cannot be read any more."""
    try:
        counts = services().batches.verdict_counts(job)
    except ReplayDiffers:
        return ()
    return slices(job.product, counts) if counts else ()


# --- mapping ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MappedColumn:
    """One column of the file: its first values, the factor chosen for it, and a note on that choice."""

    field: str
    name: str
    values: tuple[str, ...]
    chosen: str
    note: str
    label: bool
    problem: str = ""


@dataclass(frozen=True)
class OptionGroup:
    """Factors that can be chosen for a column, under a heading that says what the product does with them."""

    heading: str
    factors: tuple[ProductFactor, ...]


def option_groups(product: Product) -> tuple[OptionGroup, ...]:
    """Return a product's factors as the choices for a column."""

    def group(heading: str, roles: set[Role], *, required: bool = False) -> OptionGroup:
        members = [each for each in product.factors if each.role in roles and each.required is required]
        return OptionGroup(heading, tuple(members))

    return (
        group("Needed", {Role.SCORED}, required=True),
        group("Optional", {Role.SCORED, Role.POLICY}),
        group("Travels along, never scored", {Role.IDENTIFIER}),
        group("Kept apart, never scored", {Role.PROTECTED}),
    )


def mapped_columns(
    job: Job, suggestion: MappingSuggestion, sample: Sequence[Sequence[str]], chosen: Mapping[str, str] | None
) -> tuple[MappedColumn, ...]:
    """Return the file's columns, each with the factor chosen for it, or suggested where none was chosen yet."""
    return tuple(
        MappedColumn(
            field=f"{FIELD_PREFIX}{place}",
            name=name,
            values=_first_values(sample, place),
            chosen=_suggested(suggestion, name) if chosen is None else chosen.get(name, UNUSED),
            note="" if chosen is not None else _note(suggestion, name),
            label=name == suggestion.label,
        )
        for place, name in enumerate(header(job))
    )


def header(job: Job) -> tuple[str, ...]:
    """Return the names of a file's columns."""
    return tuple(job.layout["header"])


def sent_choices(job: Job, form: Mapping[str, str]) -> dict[str, str]:
    """Return what was chosen for each column: a factor's name, `UNUSED`, or blank where nothing was."""
    return {name: form.get(f"{FIELD_PREFIX}{place}", UNUSED) for place, name in enumerate(header(job))}


def mapping_of(choices: Mapping[str, str]) -> dict[str, str]:
    """Return the columns that are used, to their factors."""
    return {column: factor for column, factor in choices.items() if factor not in {"", UNUSED}}


def with_problems(
    product: Product, columns: Iterable[MappedColumn], problems: Iterable[FieldProblem]
) -> tuple[tuple[MappedColumn, ...], dict[str, str]]:
    """Return the columns with the problems that are about them, and a summary of all problems, field to sentence."""
    columns, summary = list(columns), dict[str, str]()
    for problem in problems:
        sentence = problem_sentence(product, problem)
        about = [place for place, each in enumerate(columns) if problem.field in {each.name, each.chosen}]
        for place in about:
            columns[place] = replace(columns[place], problem=columns[place].problem or sentence)
        field = columns[about[0]].field if about else ALL_COLUMNS
        summary[field] = f"{summary[field]} {sentence}" if field in summary else sentence
    return tuple(columns), summary


def unchosen(choices: Mapping[str, str]) -> tuple[FieldProblem, ...]:
    """Name the columns for which something must still be chosen."""
    return tuple(FieldProblem(column, "required", CHOOSE) for column, factor in choices.items() if factor == "")


def _first_values(sample: Sequence[Sequence[str]], place: int) -> tuple[str, ...]:
    values = dict.fromkeys(row[place] for row in sample if place < len(row) and row[place].strip())
    return tuple(values)[:VALUES_SHOWN]


def _suggested(suggestion: MappingSuggestion, column: str) -> str:
    if column in suggestion.mapping:
        return suggestion.mapping[column]
    return "" if _ambiguous(suggestion, column) else UNUSED


def _ambiguous(suggestion: MappingSuggestion, column: str) -> bool:
    return any(column in columns for columns in suggestion.ambiguous.values())


def _note(suggestion: MappingSuggestion, column: str) -> str:
    if column in suggestion.mapping:
        return "As last time" if column in suggestion.remembered else "Suggested"
    return "Please choose" if _ambiguous(suggestion, column) else "Not recognised"


# --- check -----------------------------------------------------------------------------------------------------------


def group_heading(group: ProblemGroup) -> str:
    """Say what repairs a group of rejects: "CreditScore must be 850 or less"."""
    return f"{group.column or 'The row'} {group.message}".strip()


def cell_words(text: str) -> str:
    """Write the text of a cell; "blank" where it has none."""
    return text if text.strip() else "blank"


# --- progress --------------------------------------------------------------------------------------------------------


def progress_facts(progress: Progress) -> dict[str, Any]:
    """Return how far a job is: numbers for the progress bar, and sentences that the script shows unchanged."""
    done, rows = progress.rows_done, progress.rows
    percent = min(100, 100 * done // rows) if rows else None
    waiting = waiting_words(progress)
    return {
        "state": progress.state.value,
        "rows_done": done,
        "rows": rows,
        "percent": percent,
        "count": f"{number(done)} of {number(rows)} rows" if rows else f"{number(done)} rows so far",
        "rate": f"{number(round(progress.rate))} rows a second" if progress.rate else "",
        "left": "" if waiting else JOINING if rows and done >= rows else seconds_words(progress.seconds_left),
        "waiting": waiting,
        "announcement": "" if percent is None else f"{percent // 25 * 25}% of the rows done",
    }


def waiting_words(progress: Progress) -> str:
    """Say that no worker reports; blank where one is at work, or where there is no work."""
    if not progress.state.at_work:
        return ""
    if not progress.begun:
        return "Waiting for a worker."
    if progress.silent is None:
        return ""
    return f"No worker has reported since {moment(datetime.now(UTC) - timedelta(seconds=progress.silent))}."


def seconds_words(seconds: float | None) -> str:
    """Say how long something will take, rounded to what can be estimated.

    >>> seconds_words(0.4), seconds_words(41), seconds_words(200), seconds_words(9000), seconds_words(None)
    ('a second left', 'about 40 seconds left', 'about 3 minutes left', 'about 2.5 hours left', '')
    """
    if seconds is None:
        return ""
    if seconds <= 1:
        return "a second left"
    if seconds < 90:
        return f"about {max(2, 5 * round(seconds / 5))} seconds left"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes left"
    return f"about {number(round(seconds / 3600, 1))} hours left"


# --- result ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Query:
    """How a finished job's table is sorted and filtered, and which of its pages is shown."""

    sort: str = "position"
    descending: bool = False
    verdict: str | None = None
    factor: str | None = None
    customer: str | None = None
    page: int = 1

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Return the query, with changes, as the arguments of an address; defaults are left out."""
        query = asdict(replace(self, **changes))
        return {name: "1" if value is True else value for name, value in query.items() if value != getattr(Query, name)}

    def sorted_by(self, sort: str) -> dict[str, Any]:
        """Return the arguments that sort the table by a column; in the other direction where it is sorted by it."""
        falling = not self.descending if self.sort == sort else sort != "position"
        return self.arguments(sort=sort, descending=falling, page=1)

    def aria(self, sort: str) -> str:
        """Return the value of `aria-sort` for a column."""
        if self.sort != sort:
            return "none"
        return "descending" if self.descending else "ascending"

    @property
    def filtered(self) -> bool:
        """Say whether rows are left out."""
        return any((self.verdict, self.factor, self.customer))


def query_of(product: Product, sent: Mapping[str, str]) -> Query:
    """Read a table's query from the arguments of an address; `NotFound` where one has no meaning."""
    sorts = SORTS if product.policy else SORTS[:2]
    page = sent.get("page") or "1"
    if not (page.isascii() and page.isdigit() and 1 <= len(page) <= 9 and int(page)):
        raise NotFound("There is no such page of the table.")
    return Query(
        sort=_one_of("order", sent.get("sort"), sorts) or "position",
        descending=sent.get("descending") == "1",
        verdict=_one_of("outcome", sent.get("verdict"), [verdict.name for verdict in product.verdicts]),
        factor=_one_of("factor", sent.get("factor"), [factor.name for factor in product.scored]),
        customer=(sent.get("customer") or "").strip() or None,
        page=int(page),
    )


def _one_of(kind: str, name: str | None, allowed: Sequence[str]) -> str | None:
    if name and name not in allowed:
        raise NotFound(f"There is no {kind} “{name[:40]}”.")
    return name or None


def top_query(product: Product) -> Query:
    """Return the query of a result's first rows: the largest limits, or the highest scores where there are none."""
    return Query(sort="limit" if product.policy else "score", descending=True)


def customer_words(job: Job, row: ScoredRow) -> str:
    """Name a row's customer by the product's identifiers, the last one first, where the file has them."""
    columns = {factor: column for column, factor in (job.mapping or {}).items()}
    identifiers = reversed(job.product.identifiers)
    named = (row.cells[columns[factor.name]] for factor in identifiers if factor.name in columns)
    return ", ".join(text for text in named if text)


def row_verdict(job: Job, row: ScoredRow) -> Verdict:
    """Return a scored row's verdict."""
    return job.product.verdict(job.product.band_named(row.band), row.limit)


def first_reason(row: ScoredRow) -> str:
    """Return the sentence of a row's weightiest reason."""
    return row.answer[REASONS[0]]


# --- files -----------------------------------------------------------------------------------------------------------


def template_csv(product: Product) -> str:
    """Return a file with every factor as a column and one example row: ready to be filled, and to be uploaded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(entry.factor.name for entry in product.factors)
    writer.writerow(entry.factor.example for entry in product.factors)
    return text.getvalue()


def download_name(job: Job, file: str) -> str:
    """Return what a downloaded file is called: "customers-scored.csv" after "customers.csv".

    What an uploaded name holds of folders, control characters and what file systems refuse is left out.
    """
    base = INVISIBLE.sub("", job.file_name.replace("\\", "/"))
    stem = re.sub(r'[<>:"|?*]', "_", PurePosixPath(base).stem).strip(". ")[:MAX_STEM_LENGTH]
    return f"{stem or 'batch'}-{file}"
