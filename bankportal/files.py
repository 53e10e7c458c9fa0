"""Writing files so that a kill leaves the old file or the new one, never half of one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[TextIO]:
    """Open a text file (UTF-8, line ends as written) that takes the place of `path` when the block ends well.

    `private` files can be read by their owner alone. Raises `OSError` where the file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
