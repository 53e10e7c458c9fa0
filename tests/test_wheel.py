"""The wheel works where there is no checkout."""

import os
import random
import shutil
import socket
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = (
    "bankportal",
    "templates",
    "static",
    "migrations_data",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python with the wheel installed and the tests' libraries beside it, and no checkout in reach."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", folder]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    # A path line reaches the libraries of the environment the tests run in, but not its link to the checkout.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(python: Path, folder: Path, *arguments: str | Path) -> str:
    """Run Python in a folder, on an instance of the folder's own, without the checkout's settings."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("BANKPORTAL_", "FLASK_", "PYTHON"))
    }
    environment = kept | {"BANKPORTAL_INSTANCE": str(folder / "instance"), "BANKPORTAL_PORT": str(free_port())}
    done = subprocess.run(
        [python, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def free_port() -> int:
    """Return a port below those that systems hand out, so that no connection takes it before the portal does."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def test_it_works(python, tmp_path) -> None:
    assert str(ROOT) not in run(python, tmp_path, "-c", "import bankportal; print(bankportal.__file__)")
    shutil.copy(ROOT / "tests" / "smoke.py", tmp_path)
    assert "4 decisions on flask: recorded, verified, replayed" in run(python, tmp_path, "smoke.py", "flask")


def test_its_metadata_names_the_licence(python, tmp_path) -> None:
    code = "from importlib.metadata import distribution as d; print(d('bankportal').metadata.get_all('{}'))"
    assert run(python, tmp_path, "-c", code.format("License-Expression")) == "['Apache-2.0']"
    assert run(python, tmp_path, "-c", code.format("License-File")) == "['LICENSE']"
