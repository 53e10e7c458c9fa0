"""The examples of docs/api.md, run as they stand against a live portal on each engine; what they print is compared."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bankportal import asgi
from bankportal.api import openapi
from bankportal.api.schemas import example
from bankportal.app import create_app
from bankportal.config import Config
from bankportal.domain.constraints import Source
from bankportal.domain.schema import validate
from bankportal.wiring import Services
from tests.api.conftest import ENGINES, served
from tests.browser.conftest import CHROMIUM
from tests.conftest import PATIENCE, listening
from tests.shipped import BY_PAGE, CHURN, PRODUCTS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"
ADDRESS = "http://127.0.0.1:8000"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANY = "…"
NODE = shutil.which("node")
COMMANDS = {
    "sh": ["sh", "-euc"],
    "python": [sys.executable, "-W", "error", "-c"],
    "js": [NODE, "--input-type=module", "-e"] if NODE else [sys.executable, "-m", "tests.api.in_chromium"],
}
LANGUAGES = tuple(COMMANDS)
OUTPUTS = ("json", "text")


@dataclass(frozen=True)
class Example:
    """One block of code, and the block that states what it prints, where there is one."""

    section: str
    language: str
    code: str
    kind: str = ""
    stated: str = ""


def examples() -> list[Example]:
    """Read the page's examples. What is stated holds for all blocks of code between it and the last such statement."""
    found = []
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, waiting = section.partition("\n")[0], []
        for language, content in FENCE.findall(section):
            if language in LANGUAGES:
                waiting.append(Example(title, language, content))
                continue
            assert language in OUTPUTS, f"{title}: a block of {language}"
            found += [Example(title, each.language, each.code, language, content) for each in waiting]
            waiting = []
        found += waiting
    return found


EXAMPLES = examples()


@dataclass(frozen=True)
class Live:
    """A portal that listens."""

    address: str
    services: Services


@contextmanager
def _flask(config: Config) -> Iterator[Live]:
    app = create_app(config)
    with listening(app) as port:
        yield Live(f"http://127.0.0.1:{port}", app.extensions["bankportal"])


@contextmanager
def _fastapi(config: Config) -> Iterator[Live]:
    app = asgi.create_app(config)
    with served(app) as address:
        yield Live(address.replace("localhost", "127.0.0.1"), app.state.services)


@pytest.fixture(scope="module", params=ENGINES)
def live(request, instance) -> Iterator[Live]:
    """A portal on each engine with some decisions, a worker, and the older system's paths switched on."""
    stopping = threading.Event()
    with {"flask": _flask, "fastapi": _fastapi}[request.param](instance(legacy_api=True)) as found:
        worker = threading.Thread(target=found.services.worker.run, args=[stopping])
        worker.start()
        for number in range(3):
            found.services.scoring.decide(validate(CHURN, example(CHURN), Source.TYPED), f"earlier-{number}", BY_PAGE)
        yield found
        stopping.set()
        worker.join()
        found.services.database.close()


def printed_by(block: Example, live: Live, folder: Path) -> str:
    """Run an example in a folder and return what it printed."""
    if block.language == "js" and not NODE and not CHROMIUM:
        pytest.skip("neither Node nor Chromium to run JavaScript")
    command = [*COMMANDS[block.language], block.code.replace(ADDRESS, live.address), live.address]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'client'}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda each: f"{each.section}-{each.language}".replace(" ", "-"))
def test_each_example_runs_and_prints_what_is_stated(block, live, tmp_path) -> None:
    printed = printed_by(block, live, tmp_path)
    if block.kind == "json":
        assert differing(json.loads(block.stated), json.loads(printed)) == []
    elif block.kind == "text":
        assert pattern(block.stated).fullmatch(printed), printed
    else:
        assert printed.strip()


def test_the_first_example_of_the_document_runs(live, tmp_path) -> None:
    ((language, code),) = FENCE.findall(openapi.about(PRODUCTS))
    band, *sentences = printed_by(Example("about", language, code), live, tmp_path).splitlines()
    assert band.split()[0] in {band.name for band in CHURN.bands}
    assert len(sentences) in range(1, 5)


def pattern(stated: str) -> re.Pattern[str]:
    """Return a pattern of a stated output: `…` stands for anything on its line."""
    return re.compile(re.escape(stated).replace(ANY, ".+"))


def differing(stated: Any, found: Any, place: str = "") -> list[str]:
    """Name the places where an answer is not the one stated: `…` stands for any value, last in a list for any more."""
    if stated == ANY:
        return []
    if isinstance(stated, dict) and isinstance(found, dict) and stated.keys() == found.keys():
        return [each for name in stated for each in differing(stated[name], found[name], f"{place}/{name}")]
    if isinstance(stated, list) and isinstance(found, list):
        known = stated[:-1] if stated[-1:] == [ANY] else stated
        if len(known) == len(found) or (len(known) < len(stated) and len(known) <= len(found)):
            pairs = zip(known, found, strict=False)
            return [each for at, pair in enumerate(pairs) for each in differing(*pair, f"{place}/{at}")]
    return [] if stated == found and type(stated) is type(found) else [f"{place}: {found!r} instead of {stated!r}"]


def test_each_section_shows_all_three_languages() -> None:
    shown: dict[str, set[str]] = {}
    for block in EXAMPLES:
        shown.setdefault(block.section, set()).add(block.language)
    assert len(shown) >= 8
    assert {section: languages for section, languages in shown.items() if languages != set(LANGUAGES)} == {}


def test_the_comparison_finds_what_differs() -> None:
    assert differing({"a": [1, ANY], "b": ANY}, {"a": [1, 2, 3], "b": None}) == []
    for stated, found in [({"a": 1}, {"a": 2}), ({"a": ANY}, {}), ({}, {"a": 1}), ([1], [1, 2]), ([1, 2], [1])]:
        assert len(differing(stated, found)) == 1
    assert differing({"a": [1, ANY]}, {"a": [2]}) == ["/a/0: 2 instead of 1"]
    assert differing(1, True) == [": True instead of 1"]
    assert pattern("a …\n").fullmatch("a b\n")
    assert not pattern("a …\n").fullmatch("a b\nc\n")
