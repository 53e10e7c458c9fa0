"""How many decisions a second one process scores, explains and records, by threads: `python benchmarks/record.py`.

Works on a copy of the instance folder, whose models it uses; its records are thrown away.
"""

import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import CHURN

from bankportal import wiring
from bankportal.config import load
from bankportal.domain.constraints import Source
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.schema import Customer, validate
from bankportal.store.migrate import upgrade

THREADS = (1, 4, 16)
SECONDS = 4.0


def main() -> None:
    """Measure each number of threads and print a table."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        services = _services(Path(folder) / "instance")
        raw = {entry.factor.name: entry.factor.example for entry in CHURN.factors}
        customer = validate(CHURN, raw, Source.TEXT)
        services.explaining.warm_up()
        print("| threads | decisions/s | median ms | p99 ms |\n|---:|---:|---:|---:|")
        for threads in THREADS:
            rate, waits = measure(services, customer, threads)
            print(
                f"| {threads} | {rate:,.0f} | {statistics.median(waits) * 1e3:.2f}"
                f" | {statistics.quantiles(waits, n=100)[98] * 1e3:.2f} |"
            )
            sys.stdout.flush()
        services.database.close()


def _services(instance: Path) -> wiring.Services:
    shutil.copytree(load().instance, instance)
    services = wiring.build(load({"BANKPORTAL_INSTANCE": str(instance)}))
    upgrade(services.database)
    return services


def measure(services: wiring.Services, customer: Customer, threads: int) -> tuple[float, list[float]]:
    """Return decisions a second over all threads, and how long each took."""
    waits: list[float] = []
    end = time.perf_counter() + SECONDS

    def work(name: int) -> None:
        count, start = 0, time.perf_counter()
        while start < end:
            services.scoring.decide(customer, f"{threads}-{name}-{count}", Provenance(Door.COMMAND))
            now = time.perf_counter()
            waits.append(now - start)
            count, start = count + 1, now

    workers = [threading.Thread(target=work, args=(name,)) for name in range(threads)]
    begun = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(waits) / (time.perf_counter() - begun), waits


if __name__ == "__main__":
    main()
