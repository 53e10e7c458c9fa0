"""The columns' meanings that a person chose, kept in the signed cookie of that browser session alone.

Only choices that do not follow from the columns' names are kept, by the columns' places, for the latest headers.
"""

import json
from collections.abc import Mapping

from flask import session

from bankportal.domain.batch import Job
from bankportal.web.drawings.bars import factors_by_name
from bankportal.web.jobs import header

KEY = "columns"
MAX_CHARACTERS = 2_000  # browsers keep cookies of up to 4,096 bytes


def remembered(job: Job) -> dict[str, str]:
    """Return what was chosen in this session for a job's header, column to factor, as far as its product has it."""
    places: Mapping[str, str] = dict(session.get(KEY, ())).get(_name(job), {})
    chosen = {column: places[str(place)] for place, column in enumerate(header(job)) if str(place) in places}
    return {column: factor for column, factor in chosen.items() if factor in factors_by_name(job.product)}


def remember(job: Job, mapping: Mapping[str, str], by_names: Mapping[str, str]) -> None:
    """Keep the part of a confirmed mapping that does not follow from names; the oldest headers are dropped."""
    columns = {column: factor for column, factor in mapping.items() if by_names.get(column) != factor}
    places = {str(place): columns[column] for place, column in enumerate(header(job)) if column in columns}
    kept = [[name, chosen] for name, chosen in session.get(KEY, ()) if name != _name(job)]
    kept += [[_name(job), places]] if places else []
    while len(json.dumps(kept)) > MAX_CHARACTERS:
        kept.pop(0)
    session[KEY] = kept


def _name(job: Job) -> str:
    return f"{job.product.key} {job.header_digest[:16]}"
