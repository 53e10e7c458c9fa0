"""Progress as server-sent events. A stream holds a thread of the web server, so there are few and they are short."""

import json
import time
from collections.abc import Iterator
from threading import BoundedSemaphore

from flask import Flask, Response, current_app

from bankportal.domain.batch import Job, State
from bankportal.services.batches.uploads import Batches
from bankportal.web.jobs import progress_facts

EVERY = 0.5  # seconds between two events
MAX_SECONDS = 25.0  # seconds; the browser connects again by itself
RETRY = 300  # milliseconds until it does
PLACES = "bankportal.streams"


def register(app: Flask) -> None:
    """Let half of a process's threads hold streams; none of one, or nobody else would be answered."""
    app.extensions[PLACES] = BoundedSemaphore(app.extensions["bankportal"].config.threads // 2)


def progress_stream(batches: Batches, job: Job, seen: State) -> Response:
    """Return the stream of a job's progress; 503 where too many are open, and the browser asks again and again."""
    places: BoundedSemaphore = current_app.extensions[PLACES]
    if not places.acquire(blocking=False):
        return Response("Too many watch already.\n", 503, mimetype="text/plain", headers={"Retry-After": "2"})
    response = Response(events(batches, job, seen), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(places.release)
    return response


def events(batches: Batches, job: Job, seen: State) -> Iterator[str]:
    """Yield a job's progress until it has left the state that the page was drawn in, or for a while."""
    yield f"retry: {RETRY}\n\n"
    end = time.monotonic() + MAX_SECONDS
    while time.monotonic() < end:
        progress = batches.progress(job)
        moved = progress.state is not seen
        name = "event: rest\n" if moved else ""
        yield f"{name}id: {progress.rows_done}\ndata: {json.dumps(progress_facts(progress))}\n\n"
        if moved:
            return
        time.sleep(EVERY)
