"""What the documents and docstrings say is what the code does."""

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from flask import Flask

from bankportal import cli

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "bankportal").rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings(name) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


def test_the_generated_documents_are_not_stale() -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], check=True)


DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_point_at_files_that_are_there(document) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


def test_the_readme_leads_to_the_documents_beside_it() -> None:
    links = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {document.name for document in ROOT.glob("*.md")} - {"README.md"} <= set(links)


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    links = LINK.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert {path.name for path in folder.glob("*.md")} - {"README.md"} <= set(links)


def test_the_guide_for_contributors_names_commands_that_there_are() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(
        re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {"test", "check"} <= named <= targets


def test_the_receipt_script_needs_the_standard_library_alone(tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    command = [sys.executable, "-I", "-S", ROOT / "docs" / "verify_receipts.py", tmp_path / "empty.jsonl"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "not right: there is no receipt in it\n")


def test_every_command_is_documented() -> None:
    app = Flask("commands")
    cli.register(app)
    described = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert [name for name in app.cli.commands if f"## `flask {name}" not in described] == []
