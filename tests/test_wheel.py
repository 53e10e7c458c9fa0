"""The wheel works where there is no checkout: trains, serves, scores over HTTP with a form token."""

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.parse
import urllib.request
import venv
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from tests.conftest import PATIENCE

ROOT = Path(__file__).parents[1]
SOURCES = ("bankportal", "templates", "static", "migrations_data", "setup.cfg", "pyproject.toml", "README.md")


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


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("BANKPORTAL_", "FLASK_", "PYTHON"))
    }
    return kept | {"BANKPORTAL_INSTANCE": str(tmp_path / "instance"), "BANKPORTAL_PORT": str(free_port())}


def free_port() -> int:
    """Return a port below those that systems hand out, so that no connection takes it before the portal does."""
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def flask(python, environment, tmp_path, *arguments) -> str:
    command = [python, "-m", "flask", *arguments]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def post(opener, address, values) -> str:
    page = opener.open(address).read().decode()
    hidden = dict(re.findall(r'<input[^>]*name="(csrf_token|submission)"[^>]*value="([^"]+)"', page))
    assert set(hidden) == {"csrf_token", "submission"}
    return opener.open(address, urllib.parse.urlencode(values | hidden).encode()).read().decode()


def wait_for(address: str, process) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{address}/healthz").close()
            return
        except OSError:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
    raise AssertionError("the portal did not answer")


def test_it_works(python, environment, tmp_path, bank_files, examples) -> None:
    where = flask_free(python, environment, "import bankportal; print(bankportal.__file__)", tmp_path)
    assert str(ROOT) not in where
    for product, path in bank_files.items():
        printed = flask(python, environment, tmp_path, "train", product, "--data", str(path))
        assert "is active" in printed
    command = [python, "-m", "flask", "up"]
    with subprocess.Popen(
        command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            address = f"http://127.0.0.1:{environment['BANKPORTAL_PORT']}"
            wait_for(address, process)
            for product in bank_files:
                check_score(python, environment, tmp_path, address, product, examples[product])
        finally:
            process.terminate()


def check_score(python, environment, tmp_path, address, product, values) -> None:
    """Post the form with its token; the gauge's number must be the one the model gives."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    page = post(opener, f"{address}/{product}/", values)
    (shown,) = set(re.findall(r'data-score="([^"]+)"', page))
    code = (
        "from bankportal import wiring; from bankportal.config import load; "
        "from bankportal.domain.constraints import Door; from bankportal.domain.products import PRODUCTS; "
        "from bankportal.domain.schema import validate; "
        f"print(wiring.build(load()).scoring.score(validate(PRODUCTS[{product!r}], {values!r}, Door.TEXT)).score)"
    )
    assert shown == flask_free(python, environment, code, tmp_path)
    assert 'role="meter"' in page


def flask_free(python, environment, code, tmp_path) -> str:
    done = subprocess.run(
        [python, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
