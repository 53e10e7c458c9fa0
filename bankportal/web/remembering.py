"""What a browser session remembers of the columns that its person chose: in the signed cookie, of nobody else.

Only what names leave open is kept, by the columns' places, for the headers used last.
"""

import json
from collections.abc import Mapping

from flask import session

from bankportal.domain.batch import Job
from bankportal.web.jobs import header

KEY = "columns"
MAX_CHARACTERS = 2_000  # browsers keep cookies of up to 4,096 bytes


def remembered(job: Job) -> dict[str, str]:
    """Return what was chosen in this session for a job's header, column to factor."""
    places: Mapping[str, str] = dict(session.get(KEY, ())).get(_name(job), {})
    return {column: places[str(place)] for place, column in enumerate(header(job)) if str(place) in places}


def remember(job: Job, mapping: Mapping[str, str], by_names: Mapping[str, str]) -> None:
    """Keep what of a confirmed mapping is not by the columns' names; the oldest headers make room."""
    columns = {column: factor for column, factor in mapping.items() if by_names.get(column) != factor}
    places = {str(place): columns[column] for place, column in enumerate(header(job)) if column in columns}
    kept = [[name, chosen] for name, chosen in session.get(KEY, ()) if name != _name(job)]
    kept += [[_name(job), places]] if places else []
    while len(json.dumps(kept)) > MAX_CHARACTERS:
        kept.pop(0)
    session[KEY] = kept


def _name(job: Job) -> str:
    return f"{job.product.key} {job.header_digest[:16]}"
