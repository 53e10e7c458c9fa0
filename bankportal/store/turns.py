"""The order in which processes write to an SQLite database: who came first is first."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

ASK_AGAIN = 0.001  # seconds
_COUNTER, _FIRST = 0, 1  # bytes that are locked: that of who takes a number, and that of number 0
_BYTES = 8  # of the last number taken, in the file
_NUMBERS = 1 << 62


class Turns:
    """Turns by numbers: who waits has the next number and asks whether the one before is done. Safe for threads.

    SQLite alone lets the fastest have its lock: it asks more and more seldom, and who writes without a pause is always
    there before who sleeps. Here each locks the byte of its number in a file; the system frees it however its process
    ends. Order is all that is kept: SQLite's lock still guards the database, should a turn not come in time.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file: int | None = None
        self._ours = threading.Lock()  # such locks are the process's; of its threads one asks, and the others sleep

    @contextmanager
    def turn(self, seconds: float) -> Iterator[bool]:
        """Wait for this thread's turn and pass it on in the end; say whether it came within so many seconds.

        Where the file cannot be used every turn comes at once.
        """
        end = time.monotonic() + seconds
        if not self._ours.acquire(timeout=seconds):
            yield False
            return
        try:
            number = self._take_number(end)
            yield number is None or self._comes(number, end)
        finally:
            self._unlock_all()
            self._ours.release()

    def _take_number(self, end: float) -> int | None:
        if sys.platform == "win32":  # which has no such locks
            return None
        try:
            if self._file is None:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            while not self._lock(_COUNTER):
                if time.monotonic() > end:
                    return None
                time.sleep(ASK_AGAIN)
            number = (int.from_bytes(os.pread(self._file, _BYTES, 0)) + 1) % _NUMBERS
            self._lock(_FIRST + number)
            os.pwrite(self._file, number.to_bytes(_BYTES), 0)
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _COUNTER)
        except OSError:
            return None
        return number

    def _comes(self, number: int, end: float) -> bool:
        while not self._lock(_FIRST + (number - 1) % _NUMBERS):
            if time.monotonic() > end:
                return False
            time.sleep(ASK_AGAIN)
        return True

    def _lock(self, byte: int) -> bool:
        """Lock a byte, unless another process holds it."""
        assert self._file is not None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):  # the two that POSIX allows
            return False
        return True

    def _unlock_all(self) -> None:
        with suppress(OSError):
            if self._file is not None:
                fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file; the next turn opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
