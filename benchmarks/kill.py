"""Workers killed at random points over one file: is anything lost, doubled or wrong?

Run: python benchmarks/kill.py [--rows 20000] [--workers 3] [--kills 20]; the instance must have an active churn model.
The file is scored once undisturbed and once under fire; the two results must be the same bytes.
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

import numpy as np

from bankportal import logs, wiring
from bankportal.config import Config, load
from bankportal.domain.batch import Job, State
from bankportal.domain.products import CHURN
from bankportal.ml.simulate import SIMULATORS
from bankportal.services import working
from bankportal.store.migrate import upgrade
from bankportal.store.storage import REJECTS, RESULTS, SCORED

LEASE = 2  # seconds
NAP = 0.4  # seconds before and after a chunk is scored, so that kills fall into the midst
SPAWN = multiprocessing.get_context("forkserver")


def slow_work(config: Config) -> None:
    """Work, slowly enough to be hit."""
    logs.configure(config)
    scored = working.score_block

    def score_slowly(work, block):  # type: ignore[no-untyped-def]
        time.sleep(NAP)
        part = scored(work, block)
        time.sleep(NAP)
        return part

    working.score_block = score_slowly
    sys.stdout = io.StringIO()
    wiring.build(config).worker.run(Event())


def started(config: Config):  # type: ignore[no-untyped-def]
    """Start a worker process."""
    process = SPAWN.Process(target=slow_work, args=(config,), daemon=True)
    process.start()
    return process


def uploaded(portal: wiring.Services, content: bytes) -> Job:
    """Upload the file, to be checked and scored."""
    job = portal.batches.receive(CHURN, "kill.csv", io.BytesIO(content))
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


def under_fire(portal: wiring.Services, job: Job, workers: int, kills: int) -> tuple[int, float]:
    """Have workers score a job while one after another is killed; return the kills that fell before it was done."""
    config, chance, begun = replace(portal.config, lease_seconds=LEASE), random.Random(), time.monotonic()
    running, done = [started(config) for _ in range(workers)], 0
    while not portal.batches.get(job.id).state.at_rest:
        time.sleep(chance.uniform(0.05, 1.0))
        if done < kills:
            place = chance.randrange(workers)
            os.kill(running[place].pid, signal.SIGKILL)
            running[place].join()
            running[place] = started(config)
            done += 1
    for process in running:
        process.kill()
        process.join()
    return done, time.monotonic() - begun


def outcome(portal: wiring.Services, disturbed: Job, undisturbed: Job) -> bool:
    """Print what became of the file; say whether it is as it should be."""
    homes = [portal.batches.storage.home(job.id) for job in (disturbed, undisturbed)]
    positions = np.load(homes[0] / RESULTS)["position"]
    same = {
        name: (homes[0] / name).read_bytes() == (homes[1] / name).read_bytes() for name in (SCORED, REJECTS, RESULTS)
    }
    summary = disturbed.summary
    assert summary is not None
    assert disturbed.checked is not None
    accounted = summary.scored + summary.rejected == disturbed.checked.rows
    doubled = len(positions) - len(set(positions.tolist()))
    print(f"rows {disturbed.checked.rows:,}: scored {summary.scored:,}, rejected {summary.rejected:,}", end=", ")
    print(f"quarantined {summary.quarantined:,}; accounted for: {accounted}; doubled: {doubled}")
    print("same bytes as the undisturbed run:", same)
    return accounted and all(same.values())


def main() -> None:
    """Run it and print the outcome; exit with 1 where anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    asked = parser.parse_args()
    SPAWN.set_forkserver_preload(["bankportal.wiring"])
    with tempfile.TemporaryDirectory() as folder:
        config = replace(load(), storage=Path(folder))
        logs.configure(config)
        portal = wiring.build(config)
        upgrade(portal.database)
        portal.models.serving(CHURN)  # says what to run where there is no model
        content = simulated(asked.rows)
        undisturbed = uploaded(portal, content)
        while portal.worker.step():
            pass
        job = uploaded(portal, content)
        kills, seconds = under_fire(portal, job, asked.workers, asked.kills)
        disturbed, undisturbed = portal.batches.get(job.id), portal.batches.get(undisturbed.id)
        print(
            f"{kills} kills of {asked.workers} workers in {seconds:.0f} s: {disturbed.state.value} {disturbed.message}"
        )
        right = disturbed.state is State.DONE and kills == asked.kills and outcome(portal, disturbed, undisturbed)
        portal.database.close()
    sys.exit(not right)


if __name__ == "__main__":
    main()
