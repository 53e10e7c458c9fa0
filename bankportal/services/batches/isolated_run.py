"""The trial of a chunk over which a worker was lost: a process of its own scores it, and its result is thrown away.

Where that process dies and the worker lives to see it, the chunk has killed it. Workers that are lost whole prove
nothing: machines are restarted, and memory runs out over others' work.
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
from bankportal.domain.policy import POLICIES
from bankportal.domain.products import PRODUCTS
from bankportal.domain.reasons import Catalogue
from bankportal.registry.registry import Registry
from bankportal.services.batches.checking import BLOCK_ROWS
from bankportal.services.batches.chunks import Work, score_block

COMMAND = "from bankportal.services.batches.isolated_run import main; main()"
BEGUN = b"begun"  # said when everything is loaded that any chunk needs: a death before it speaks against none
LOOK_EVERY = 0.05  # seconds


def crashes_the_worker(
    job: Job, span: Span | None, source: Path, models: Path, heartbeat: Callable[[], None], most: float
) -> bool:
    """Have a span of a started job's file scored in a process of its own; say whether that killed it.

    `models` is the folder of the model versions; a process that has not ended after `most` seconds counts as killed.
    `heartbeat` is called all the while, and what it raises ends the run. The process has ended when this returns or
    raises.
    """
    told = {
        "models": str(models),
        "source": str(source),
        "span": asdict(span) if span else None,
        "most": most,
        "product": job.product.key,
        "version": job.model_version,
        "digest": job.model_digest,
        "policy": job.policy_version,
        "layout": job.layout,
        "mapping": job.mapping,
    }
    command = [sys.executable, "-c", COMMAND]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: S603  # ourselves
        try:
            _tell(process.stdin, told)
            end = time.monotonic() + most
            while process.poll() is None and time.monotonic() < end:
                heartbeat()
                time.sleep(LOOK_EVERY)
            heartbeat()  # what stops this worker may have ended the trial too
        finally:
            process.kill()
        said = process.stdout.read() if process.stdout else b""
    return BEGUN in said and process.returncode != 0


def _tell(pipe: IO[bytes] | None, told: dict[str, Any]) -> None:
    """Send the errand and leave the pipe open: its end tells the process that its worker is gone."""
    assert pipe is not None
    try:
        pipe.write(json.dumps(told).encode() + b"\n")
        pipe.flush()
    except BrokenPipeError:  # it has ended already
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def main() -> None:
    """Score the span that standard input names; end with the worker that sent it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # whoever stops the worker means the worker
    told = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_worker, daemon=True).start()
    signal.setitimer(signal.ITIMER_REAL, 2 * told["most"])  # ends it where no thread runs any more to see the worker go
    _go_first()
    with contextlib.suppress(Exception):  # the worker meets the same, and says so
        _score(told)
    os._exit(0)  # what libraries do at their end is not the chunk's


def _end_with_worker() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _go_first() -> None:
    """Have the kernel end this process before all others where memory runs out (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _score(told: dict[str, Any]) -> None:
    product = PRODUCTS[told["product"]]
    work = Work(
        product=product,
        layout=Layout.from_json(told["layout"]),
        mapping=told["mapping"],
        model=Registry(Path(told["models"])).model(product, told["version"], told["digest"]),
        catalogue=Catalogue.declared(),  # nobody reads its sentences
        policy=POLICIES[told["policy"]] if told["policy"] else None,
    )
    work.model.warm_up()
    os.write(1, BEGUN)
    for block in blocks(Path(told["source"]), work.layout, BLOCK_ROWS, Span(**told["span"])):
        score_block(work, block)
