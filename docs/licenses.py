"""The licence of every package that the lock files name, read from the metadata of what is installed."""

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNTIME, DEVELOPMENT = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"
# What a package that the portal installs may have. GPL, AGPL, BSL and whatever nobody has read are not among them.
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "LGPL-3.0-only",  # psycopg, an unchanged library that an extra installs
    "MIT",
    "MPL-2.0",
    "PSF-2.0",
    "Zlib",
}
# What older metadata call them.
IDENTIFIERS = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD License": "BSD",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
# Packages without metadata on their licence, read in their licence file, and packages that not every platform installs.
DECLARED = {
    "axe-playwright-python": "MIT",
    "colorama": "BSD-3-Clause",
    "importlib-metadata": "Apache-2.0",
    "lazy-importer": "Apache-2.0",
    "librt": "MIT",
    "psycopg-binary": "LGPL-3.0-only",
    "pysqlite3": "Zlib",  # the SQLite in it is in the public domain
    "zipp": "MIT",
}
BRACKETS = re.compile(r"\(([^()]*)\)")  # the innermost ones
MAX_NAME = 60  # characters; a longer text in the field for the licence's name is the licence itself


def packages(lock: Path) -> set[str]:
    """Return the names of the packages that a lock file names, for any platform."""
    return set(re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(encoding="utf-8"), re.MULTILINE))


def licences(package: str) -> list[str]:
    """Return what a package's metadata say of its licence, as SPDX identifiers, the most exact first.

    An expression stands alone; an older name and classifiers may stand beside each other. Packages that are not
    installed, and those whose metadata say nothing, have what is declared for them; none means unknown.
    """
    try:
        fields = metadata(package)
    except PackageNotFoundError:
        return _declared(package)
    if expression := fields.get("License-Expression"):
        return [expression]
    name = (fields.get("License") or "").strip()
    classifiers = [each for each in fields.get_all("Classifier", []) if each.startswith("License :: ")]
    names = [name] if 0 < len(name) <= MAX_NAME else []
    names += [classifier.split(" :: ")[-1] for classifier in classifiers]
    return [IDENTIFIERS.get(each, each) for each in names] or _declared(package)


def _declared(package: str) -> list[str]:
    return [DECLARED[package]] if package in DECLARED else []


def is_allowed(expression: str) -> bool:
    """Say whether an SPDX expression leaves a choice of which every part is allowed."""
    while (without := BRACKETS.sub(lambda inner: str(is_allowed(inner[1])), expression)) != expression:
        expression = without
    choices = expression.split(" OR ")
    return any(all(part in ALLOWED or part == str(True) for part in choice.split(" AND ")) for choice in choices)


def refused(package: str) -> bool:
    """Say whether a package's licence is unknown, or not allowed by one of the things said of it."""
    return not all(map(is_allowed, licences(package) or [""]))
