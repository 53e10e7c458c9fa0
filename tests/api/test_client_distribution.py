"""The client's own distribution: built, installed where nothing else is, and called against a portal."""

import configparser
import json
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from bankportal.api.schemas import example
from tests.conftest import listening
from tests.shipped import CHURN

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "client" / "bankportal_client"
MODULES = ("answers.py", "client.py", "version.py")
ABSENT = ("bankportal", "flask", "joblib", "numba", "numpy", "pandas", "scipy", "sklearn", "sqlalchemy", "werkzeug")
CODE = f"""
import importlib.util, json, sys
from bankportal_client import Portal, Problem, __version__

with Portal(sys.argv[1]) as portal:
    answer = portal.score("churn", json.loads(sys.argv[2]), contributions=True)
    assert portal.decision(answer.decision.id).outcome == answer, "not what was recorded"
    try:
        portal.score("churn", {{"Age": 5}})
    except Problem as problem:
        faults = len(problem.errors)
present = [name for name in {ABSENT} if importlib.util.find_spec(name)]
print(json.dumps([answer.band, answer.score, faults, present, __version__]))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, the wheel made from it, and in `tree` the wheel made from the checkout."""
    copy, dist = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in ("client", "bankportal"):
        ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "LICENSE", copy)
    build = [sys.executable, "-m", "build", "--no-isolation"]
    for options in (["--outdir", dist], ["--wheel", "--outdir", dist / "tree"]):
        subprocess.run([*build, *options, copy / "client"], check=True, capture_output=True)
    return dist


@pytest.fixture(scope="module")
def python(built) -> Path:
    """A Python with the client and what it requires, and nothing else."""
    venv.create(built / "venv", with_pip=False)
    python = built / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    required = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]["dependencies"]
    done = subprocess.run([*pip, *required], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"httpx and pydantic cannot be installed here: {done.stderr.splitlines()[-1]}")
    (wheel,) = built.glob("*.whl")
    subprocess.run([*pip, "--no-index", wheel], capture_output=True, check=True)  # all it requires is there
    return python


def test_it_calls_a_portal_without_anything_of_the_portal(python, app, services) -> None:
    with listening(app) as port:
        command = [python, "-I", "-c", CODE, f"http://localhost:{port}", json.dumps(example(CHURN))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    band, score, faults, present, version = json.loads(done.stdout)
    outcome = services.decisions.latest(1)[0].outcome
    assert (band, score) == (outcome.band.name, outcome.score)
    assert faults > 1
    assert present == []
    assert (ROOT / "bankportal" / "version.py").read_text().endswith(f'__version__ = "{version}"\n')


def test_sdist_and_checkout_make_the_same_wheel(built) -> None:
    (wheel,), (of_tree,) = built.glob("*.whl"), (built / "tree").glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(of_tree) as other:
        modules = {name for name in one.namelist() if not name.endswith("/RECORD")}
        assert modules == {name for name in other.namelist() if not name.endswith("/RECORD")}
        assert {f"bankportal_client/{name}" for name in (*MODULES, "__init__.py", "py.typed")} < modules
        assert {name: one.read(name) for name in modules} == {name: other.read(name) for name in modules}


def test_the_sdist_has_no_links(built) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as members:
        assert [member.name for member in members if member.issym() or member.islnk()] == []


@pytest.mark.parametrize("name", MODULES)
def test_its_modules_are_the_portals_own(name) -> None:
    assert (PACKAGE / name).is_symlink()
    assert (PACKAGE / name).resolve() == ROOT / "bankportal" / name


def test_it_requires_what_the_portal_requires_for_it() -> None:
    required = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]["dependencies"]
    portal = configparser.ConfigParser()
    portal.read(ROOT / "setup.cfg")
    extra = portal["options.extras_require"]["client"].split()
    pydantic = [each for each in portal["options"]["install_requires"].split() if each.startswith("pydantic")]
    assert sorted(required) == sorted(extra + pydantic)
