"""Tries the portal with the lowest version of every library that setup.cfg admits, and resolves the highest.

The floors of the package and of the extras that run it are installed into an environment of their own with the oldest
Python that is admitted. There `tests/smoke.py` runs with Flask on SQLite and with FastAPI on PostgreSQL (on SQLite
where `BANKPORTAL_TEST_DATABASE_URL` names no server), and a file is scored alone and on a cluster. The client's own
distribution is imported with its lowest versions.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from sqlalchemy import create_engine, text

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
PYTHON = "3.11"
EXTRAS = ("postgres", "fastapi", "dask")
PORT = "8911"
TO_PARQUET = "from pyarrow import csv, parquet; parquet.write_table(csv.read_csv('churn.csv'), 'churn.parquet')"


def requirements() -> list[Requirement]:
    """Return what setup.cfg requires of the package and the extras, on this platform."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = [setup["options"]["install_requires"], *(setup["options.extras_require"][extra] for extra in EXTRAS)]
    written = [Requirement(line) for text in lists for line in text.splitlines() if line.strip()]
    return [each for each in written if each.marker is None or each.marker.evaluate()]


def install(environment: Path, project: str) -> Path:
    """Install a project with the lowest versions that its requirements admit together; return the Python."""
    python = environment / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", f"--python={PYTHON}", environment], check=True)
    command = [UV, "pip", "install", "--quiet", "--resolution=lowest-direct", f"--python={python}"]
    subprocess.run([*command, project], check=True)
    return python


def require_floors(environment: Path) -> None:
    """End where a declared floor is not what was installed: it would be a version that nobody has tried."""
    (packages,) = environment.glob("lib/python*/site-packages")
    installed = {canonicalize_name(each.name): Version(each.version) for each in distributions(path=[str(packages)])}
    for requirement in requirements():
        lowest = installed[canonicalize_name(requirement.name)]
        if lowest not in {Version(each.version) for each in requirement.specifier if each.operator == ">="}:
            sys.exit(f"setup.cfg admits {requirement}, but the lowest version that can be installed is {lowest}")
        print(f"{requirement.name} {lowest}", flush=True)


def run(command: list[str | Path], folder: Path, **settings: str) -> None:
    """Run a command in a folder, on an instance of the folder's own and with these settings alone."""
    own = ("BANKPORTAL_", "FLASK_", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    settings = {"INSTANCE": str(folder / "instance"), "PORT": PORT} | settings
    environment |= {f"BANKPORTAL_{name}": value for name, value in settings.items()}
    folder.mkdir(exist_ok=True)
    subprocess.run(command, cwd=folder, env=environment, check=True)


@contextmanager
def postgresql() -> Iterator[dict[str, str]]:
    """Give the settings of a new PostgreSQL database, dropped in the end; none where there is no server."""
    if not (url := os.environ.get("BANKPORTAL_TEST_DATABASE_URL")):
        yield {}
        return
    server, name = create_engine(url, isolation_level="AUTOCOMMIT"), f"bankportal_floors_{secrets.token_hex(6)}"
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield {"DATABASE_URL": server.url.set(database=name).render_as_string(hide_password=False)}
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


def score_on_cluster(python: Path, folder: Path) -> None:
    """Score a Parquet file alone and on a cluster of this machine; end where the two differ."""
    score: list[str | Path] = [python, "-m", "flask", "score", "churn", "churn.parquet"]
    run([python, "-c", TO_PARQUET], folder)
    run([*score, "alone.csv"], folder)
    run([*score, "cluster.csv", "--scheduler=local"], folder)
    if (folder / "alone.csv").read_bytes() != (folder / "cluster.csv").read_bytes():
        sys.exit("A file scored on a cluster is not the same bytes.")


def resolve_highest() -> None:
    """End where the newest versions that setup.cfg admits do not go together."""
    command = [
        UV,
        "pip",
        "compile",
        "--quiet",
        "--universal",
        f"--python-version={PYTHON}",
        "--all-extras",
        "setup.cfg",
    ]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    print("The newest admitted versions go together.", flush=True)


def main(folder: Path) -> None:
    """Try the lowest versions, then resolve the highest."""
    python = install(folder / "environment", f"{ROOT}[{','.join(EXTRAS)}]")
    require_floors(folder / "environment")
    smoke = [python, ROOT / "tests" / "smoke.py"]
    run([*smoke, "flask"], folder / "flask")
    score_on_cluster(python, folder / "flask")
    with postgresql() as settings:
        run([*smoke, "fastapi"], folder / "fastapi", **settings)
    run([install(folder / "client", str(ROOT / "client")), "-c", "import bankportal_client"], folder / "client")
    resolve_highest()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
