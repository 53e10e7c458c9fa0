"""Resolves setup.cfg into the lock files: exact versions with hashes, for every platform, without index addresses."""

import subprocess
import sys
from pathlib import Path

UV = Path(sys.executable).with_name("uv")
BUILD = "setuptools>=80,<84\n"  # as in pyproject.toml: the package is built in the locked environment
OPTIONS = [
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-header",
    "--no-annotate",
    "--no-emit-index-url",
]


def lock(target: str, extras: list[str]) -> None:
    """Write one lock file for the package with these extras."""
    subprocess.run(
        [UV, "pip", "compile", "setup.cfg", "-", "-o", target, *OPTIONS, *(f"--extra={extra}" for extra in extras)],
        input=BUILD,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    lock("requirements.lock", ["postgres", "fastapi"])
    lock("requirements-dev.lock", ["postgres", "fastapi", "dask", "test", "check"])
