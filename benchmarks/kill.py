"""Workers killed at random points over one file: is anything lost, doubled or wrong?

Run: python benchmarks/kill.py [--rows 20000] [--workers 3] [--kills 20] [--deadly]; the instance must have an active
churn model. The file is scored once undisturbed and once under fire; the two results must be the same bytes. With
`--deadly` one row of the file ends every process that scores it, besides: its chunk must be quarantined, no other, and
all other rows must be the same bytes.
"""

import argparse
import io
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from common import CHURN

from bankportal import logs, wiring
from bankportal.config import Config, load
from bankportal.domain.batch import REJECTS, RESULTS, SCORED, Job, Span, State
from bankportal.domain.provenance import Door, Provenance
from bankportal.services.batches import isolated_run, worker
from bankportal.services.batches.chunks import score_block
from bankportal.simulation.simulate import SIMULATORS
from bankportal.store.migrate import upgrade

LEASE = 2  # seconds
DEADLY = "DEADLY_POSITION"  # tells a worker's isolated runs the position of the deadly row
NAP = 0.4  # seconds before and after a chunk is scored, so that kills fall into the midst
SPAWN = multiprocessing.get_context("forkserver")
DEADLY_RUN = f"import runpy; runpy.run_path({str(Path(__file__).absolute())!r})['deadly_run']()"


def slow_work(config: Config, deadly: int | None) -> None:
    """Work, slowly enough to be hit; the row at position `deadly` ends the process."""
    logs.configure(config)
    if deadly is not None:
        isolated_run.COMMAND = DEADLY_RUN
        os.environ[DEADLY] = str(deadly)
    scored = worker.score_block

    def score_slowly(work, block):  # type: ignore[no-untyped-def]
        time.sleep(NAP)
        part = (scored if deadly is None else score_deadly)(work, block)
        time.sleep(NAP)
        return part

    worker.score_block = score_slowly
    sys.stdout = io.StringIO()
    wiring.build(config).worker.run(Event())


def score_deadly(work, block):  # type: ignore[no-untyped-def]
    """Score a block; end the process where the deadly row is in it."""
    if int(os.environ[DEADLY]) in block.positions:
        os.kill(os.getpid(), signal.SIGKILL)
    return score_block(work, block)


def deadly_run() -> None:
    """Do what an isolated run does, with the deadly row."""
    isolated_run.score_block = score_deadly
    isolated_run.main()


def started(config: Config, deadly: int | None):  # type: ignore[no-untyped-def]
    """Start a worker process."""
    process = SPAWN.Process(target=slow_work, args=(config, deadly), daemon=True)
    process.start()
    return process


def uploaded(portal: wiring.Services, content: bytes) -> Job:
    """Upload the file, to be checked and scored."""
    job = portal.batches.receive(CHURN, "kill.csv", io.BytesIO(content), provenance=Provenance(Door.COMMAND))
    return portal.batches.check(job, portal.batches.suggestion(job).mapping, start=True)


def simulated(rows: int) -> bytes:
    """Return a simulated bank as CSV, with a ragged row and a bad cell in every hundred."""
    columns = SIMULATORS["churn"](rows, 11).columns
    lines = [",".join(columns)]
    for number, row in enumerate(zip(*columns.values(), strict=True)):
        cells = ["" if cell is None or cell != cell else str(cell) for cell in row]
        cells[0] = "=bad" if number % 100 == 7 else cells[0]
        cells += ["more"] if number % 100 == 42 else []
        lines.append(",".join(cells))
    return "\n".join(lines).encode()


def under_fire(
    portal: wiring.Services, job: Job, workers: int, kills: int, deadly: int | None
) -> tuple[int, int, float]:
    """Have workers score a job while one after another is killed.

    Return the kills that fell before it was done, the workers that died by themselves, and the seconds.
    """
    config, chance, begun = replace(portal.config, lease_seconds=LEASE), random.Random(), time.monotonic()
    running, done, died = [started(config, deadly) for _ in range(workers)], 0, 0
    while not portal.batches.get(job.id).state.at_rest:
        time.sleep(chance.uniform(0.05, 1.0))
        for place, process in enumerate(running):
            if not process.is_alive():
                running[place] = started(config, deadly)
                died += 1
        if done < kills:
            place = chance.randrange(workers)
            os.kill(running[place].pid, signal.SIGKILL)
            running[place].join()
            running[place] = started(config, deadly)
            done += 1
    for process in running:
        process.kill()
        process.join()
    return done, died, time.monotonic() - begun


def files_of(portal: wiring.Services, job: Job) -> dict[str, bytes]:
    """Return a finished job's files."""
    return {name: (portal.batches.storage.home(job.id) / name).read_bytes() for name in (SCORED, REJECTS, RESULTS)}


def without(files: dict[str, bytes], span: Span) -> dict[str, Any]:
    """Return what the files say of all rows but a span's, apart from where a line lies in the scored file."""
    results = np.load(io.BytesIO(files[RESULTS]))
    scored = files[SCORED].splitlines(keepends=True)
    rejects = files[REJECTS].splitlines(keepends=True)
    line = rejects[0].decode().split(",").index("line")
    lines = range(span.line, span.line + span.rows)
    kept = (results["position"] < span.position) | (results["position"] >= span.position + span.rows)
    results["at"] = 0
    return {
        SCORED: [scored[0], *(text for text, keep in zip(scored[1:], kept, strict=True) if keep)],
        REJECTS: [rejects[0], *(text for text in rejects[1:] if int(text.split(b",")[line]) not in lines)],
        RESULTS: results[kept].tobytes(),
    }


def outcome(portal: wiring.Services, disturbed: Job, undisturbed: Job, deadly: int | None) -> bool:
    """Print what became of the file; say whether it is as it should be."""
    ours, theirs = files_of(portal, disturbed), files_of(portal, undisturbed)
    positions = np.load(io.BytesIO(ours[RESULTS]))["position"]
    spans = [span for span, quarantined in portal.batches.store.score_spans(disturbed) if quarantined]
    if deadly is None:
        expected, same = not spans, {name: ours[name] == theirs[name] for name in ours}
    else:
        expected = len(spans) == 1 and spans[0].position <= deadly < spans[0].position + spans[0].rows
        rest = [without(files, spans[0]) for files in (ours, theirs)] if expected else [{}, {}]
        same = {name: rest[0][name] == rest[1][name] for name in rest[0]}
    summary = disturbed.summary
    assert summary is not None
    assert disturbed.checked is not None
    accounted = summary.scored + summary.rejected == disturbed.checked.rows
    doubled = len(positions) - len(set(positions.tolist()))
    print(f"rows {disturbed.checked.rows:,}: scored {summary.scored:,}, rejected {summary.rejected:,}", end=", ")
    print(f"quarantined {summary.quarantined:,}; accounted for: {accounted}; doubled: {doubled}")
    print(f"quarantined what should be and nothing else: {expected}; same bytes as the undisturbed run:", same)
    return accounted and not doubled and expected and all(same.values())


def main() -> None:
    """Run it and print the outcome; exit with 1 where anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--deadly", action="store_true", help="have one row end every process that scores it")
    arguments = parser.parse_args()
    deadly = arguments.rows // 2 + 3 if arguments.deadly else None
    SPAWN.set_forkserver_preload(["bankportal.wiring"])
    with tempfile.TemporaryDirectory() as folder:
        config = replace(load(), storage=Path(folder))
        logs.configure(config)
        portal = wiring.build(config)
        upgrade(portal.database)
        portal.models.serving(CHURN)  # says what to run where there is no model
        content = simulated(arguments.rows)
        undisturbed = uploaded(portal, content)
        while portal.worker.step():
            pass
        job = uploaded(portal, content)
        kills, died, seconds = under_fire(portal, job, arguments.workers, arguments.kills, deadly)
        disturbed, undisturbed = portal.batches.get(job.id), portal.batches.get(undisturbed.id)
        print(
            f"{kills} kills of {arguments.workers} workers in {seconds:.0f} s, {died} died of the deadly row", end=": "
        )
        print(disturbed.state.value, disturbed.message)
        finished = disturbed.state is State.DONE and kills == arguments.kills
        right = finished and outcome(portal, disturbed, undisturbed, deadly)
        portal.database.close()
    sys.exit(not right)


if __name__ == "__main__":
    main()
