"""Group commit: items that several threads write at the same time are written in one transaction.

A commit waits for the disk, however much it writes. One thread writes at a time. While it writes, others add their
items; then the first of them writes all these items at once. No extra thread is needed.

Callers that were served together usually come back together. So after a group, the next one begins once as many items
wait as were there before, or none has come for a moment. A single caller writes at once.
"""

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Generic, TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

QUIET = 0.001  # seconds without a new item, after which a group begins

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Call(Generic[Item, Result]):
    """One thread's item, and its result or error."""

    def __init__(self, item: Item):
        self.item = item
        self.results: list[Result] = []
        self.error: BaseException | None = None
        self.following: _Call[Item, Result] | None = None
        self._turn = threading.Lock()
        self._turn.acquire()

    def wait(self) -> None:
        """Wait until the item is written, or until it is this thread's turn to write; wake the following one then."""
        self._turn.acquire()
        if self.following:
            self.following.wake()

    def wake(self) -> None:
        """Let the waiting thread continue."""
        self._turn.release()

    @property
    def done(self) -> bool:
        return bool(self.results) or self.error is not None

    def answer(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.results[0]


class Recorder(Generic[Item, Result]):
    """Calls `write` with all waiting items, from one thread at a time. Safe for threads.

    `write` returns the items' results in order, after they are committed. Where it raises, none is committed.
    """

    def __init__(self, write: Callable[[Sequence[Item]], Sequence[Result]]):
        self._write = write
        self._waiting: list[_Call[Item, Result]] = []
        self._writing = False
        self._lock = threading.Lock()
        self._expected = 1  # items
        self._latest = 0.0  # when the next group begins at the latest, by the monotonic clock

    def record(self, item: Item) -> Result:
        """Write an item, alone or with others, and return its result after the commit, or raise its error."""
        call = _Call[Item, Result](item)
        with self._lock:
            self._waiting.append(call)
            waits, self._writing = self._writing, True
        if waits:
            call.wait()
        if not call.done:  # it is this thread's turn
            self._write_all(call)
        return call.answer()

    def _write_all(self, own: _Call[Item, Result]) -> None:
        """Write all waiting items, then wake their threads and the first thread that has come in the meantime.

        Each of them wakes the next: woken all at once, they would stand in each other's way.
        """
        self._gather()
        began = time.monotonic()
        with self._lock:
            calls, self._waiting = self._waiting, []
        try:
            self._perform(calls)
        finally:
            with self._lock:
                following = self._waiting[:1]
                self._writing = bool(following)
                now = time.monotonic()
                self._expected, self._latest = len(calls) + len(self._waiting), now + (now - began) / 2
            woken = [call for call in (*calls, *following) if call is not own]
            for call, after in pairwise(woken):
                call.following = after
            for call in woken[:1]:
                call.wake()

    def _gather(self) -> None:
        """Wait while those come back who were served last: at most half the time that this took."""
        before = 0
        while before < len(self._waiting) < self._expected and time.monotonic() < self._latest:
            before = len(self._waiting)
            time.sleep(QUIET)

    def _perform(self, calls: Sequence[_Call[Item, Result]]) -> None:
        """Write all items in one transaction; where an item causes an error, each in a transaction of its own."""
        try:
            for call, result in zip(calls, self._write([call.item for call in calls]), strict=True):
                call.results.append(result)
        except (OperationalError, PoolTimeout) as error:  # caused by the database, so every item would fail
            _fail(calls, error)
        except Exception as error:
            if len(calls) == 1:
                _fail(calls, error)
            for call in calls if len(calls) > 1 else ():
                self._perform([call])
        except BaseException as error:
            _fail(calls, error)
            raise


def _fail(calls: Sequence[_Call[Item, Result]], error: BaseException) -> None:
    for call in calls:
        call.error = error
