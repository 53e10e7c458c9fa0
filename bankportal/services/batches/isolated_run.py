"""The isolated run of a chunk: a separate process scores it, and the result is discarded.

A chunk gets an isolated run after a worker was lost while it held the chunk. A lost worker proves nothing by itself:
machines are restarted, and other programs use up the memory. But where the separate process dies and the worker that
started it goes on, the chunk has crashed the process.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from bankportal.data.blocks import Layout, blocks
from bankportal.domain.batch import Job, Span
from bankportal.domain.declaration import product_of
from bankportal.registry.registry import Registry
from bankportal.services.batches.checking import BLOCK_ROWS
from bankportal.services.batches.chunks import Work, score_block

COMMAND = "from bankportal.services.batches.isolated_run import main; main()"
# Written when all is loaded that every chunk needs: a crash before it is not the chunk's fault.
BEGUN = b"begun"
POLL_SECONDS = 0.05


def crashes_the_worker(
    job: Job, span: Span | None, source: Path, models: Path, heartbeat: Callable[[], None], max_seconds: float
) -> bool:
    """Score a span of a started job's file in a separate process and return whether that crashed it.

    `models` is the folder of the model versions. A process that has not ended after `max_seconds` counts as crashed.
    `heartbeat` is called while the process runs; an error that it raises ends the run. The process has ended when this
    function returns or raises.
    """
    payload = payload_of(job, span, source, models, max_seconds)
    command = [sys.executable, "-c", COMMAND]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603  # this package
        try:
            _send(process.stdin, payload)
            end = time.monotonic() + max_seconds
            while process.poll() is None and time.monotonic() < end:
                heartbeat()
                time.sleep(POLL_SECONDS)
            heartbeat()  # raises where this worker is being stopped, which may have ended the process too
        finally:
            process.kill()
        output = process.stdout.read() if process.stdout else b""
    return BEGUN in output and process.returncode != 0


def payload_of(job: Job, span: Span | None, source: Path, models: Path, max_seconds: float) -> dict[str, Any]:
    """Return what the separate process is sent, as plain JSON data; it knows no product but the one in it."""
    return {
        "models": str(models),
        "source": str(source),
        "span": asdict(span) if span else None,
        "max_seconds": max_seconds,
        "declaration": job.product.text,
        "policy": job.product.policy.text if job.product.policy else None,
        "version": job.model_version,
        "digest": job.model_digest,
        "layout": job.layout,
        "mapping": job.mapping,
    }


def _send(pipe: IO[bytes] | None, payload: dict[str, Any]) -> None:
    """Send the payload and leave the pipe open: when it closes, the process knows that its worker is gone."""
    assert pipe is not None
    try:
        pipe.write(json.dumps(payload).encode() + b"\n")
        pipe.flush()
    except BrokenPipeError:  # the process has ended already
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def main() -> None:
    """Score the span of the payload on standard input; end when the worker that sent it ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # such signals are for the worker, which stops this process
    payload = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_worker, daemon=True).start()
    # Ends the process even where no thread can run any more to notice that the worker is gone.
    signal.setitimer(signal.ITIMER_REAL, 2 * payload["max_seconds"])
    _be_killed_first()
    with contextlib.suppress(Exception):  # the worker will meet the same error and report it
        _score(payload)
    os._exit(0)  # without the libraries' exit handlers: a crash in them would not be the chunk's fault


def _end_with_worker() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _be_killed_first() -> None:
    """Make the kernel kill this process before all others when memory runs out (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _score(payload: dict[str, Any]) -> None:
    product = product_of(payload["declaration"], payload["policy"])
    work = Work(
        product=product,
        layout=Layout.from_json(payload["layout"]),
        mapping=payload["mapping"],
        model=Registry(Path(payload["models"])).model(product, payload["version"], payload["digest"]),
    )
    work.model.warm_up()
    os.write(1, BEGUN)
    for block in blocks(Path(payload["source"]), work.layout, BLOCK_ROWS, Span(**payload["span"])):
        score_block(work, block)
