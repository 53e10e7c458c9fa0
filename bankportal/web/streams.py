"""Progress as server-sent events. A stream holds a thread of the web server, so there are few and they are short."""

import json
import time
from collections.abc import Iterator
from threading import BoundedSemaphore

from flask import Response, current_app

from bankportal.config import Config
from bankportal.domain.batch import Job, State
from bankportal.services.batches.uploads import Batches
from bankportal.web.jobs import progress_facts

INTERVAL = 0.5  # seconds between two events
MAX_DURATION = 25.0  # seconds; the browser connects again by itself
RETRY = 300  # milliseconds until it does
SLOTS = "bankportal.streams"  # under which an app keeps the slots that are left


def slots(config: Config) -> BoundedSemaphore:
    """Allow streams on half of a process's threads; a process with one thread has none, to answer other requests."""
    return BoundedSemaphore(config.threads // 2)


def progress_stream(batches: Batches, job: Job, shown_state: State) -> Response:
    """Return the stream of a job's progress; 503 where too many are open, and the script polls instead."""
    slots: BoundedSemaphore = current_app.extensions[SLOTS]
    if not slots.acquire(blocking=False):
        return Response("Too many watch already.\n", 503, mimetype="text/plain", headers={"Retry-After": "2"})
    response = Response(events(batches, job, shown_state), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"
    response.call_on_close(slots.release)
    return response


def events(batches: Batches, job: Job, shown_state: State) -> Iterator[str]:
    """Yield a job's progress until it leaves the state that the page shows, for at most `MAX_DURATION`."""
    yield f"retry: {RETRY}\n\n"
    end = time.monotonic() + MAX_DURATION
    while time.monotonic() < end:
        progress = batches.progress(job)
        moved = progress.state is not shown_state
        name = "event: rest\n" if moved else ""
        yield f"{name}id: {progress.rows_done}\ndata: {json.dumps(progress_facts(progress))}\n\n"
        if moved:
            return
        time.sleep(INTERVAL)
