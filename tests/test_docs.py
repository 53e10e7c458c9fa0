"""What the documents and docstrings say is what the code does."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_readme_points_at_files_that_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = {part.split(")")[0] for part in text.split("](")[1:]}
    assert len(links) >= 4
    assert [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()] == []


def test_the_receipt_script_needs_the_standard_library_alone(tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    command = [sys.executable, "-I", "-S", ROOT / "docs" / "verify_receipts.py", tmp_path / "empty.jsonl"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "not right: there is no receipt in it\n")
