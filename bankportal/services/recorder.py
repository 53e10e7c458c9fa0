"""Group commit: what several threads want written at the same time is written in one transaction.

A commit waits for the disk, whatever it holds. The thread that comes first writes, and takes along all that came while
the one before it wrote; nobody waits for company, and a lone caller writes at once. No thread of its own is needed.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Call(Generic[Item, Result]):
    """One thread's item, and what came of it."""

    def __init__(self, item: Item):
        self.item = item
        self.results: list[Result] = []
        self.error: BaseException | None = None
        self._turn = threading.Lock()
        self._turn.acquire()

    def wait(self) -> None:
        """Sleep until the item is written, or until it is this thread's turn to write."""
        self._turn.acquire()

    def wake(self) -> None:
        """Let the thread go on."""
        self._turn.release()

    @property
    def done(self) -> bool:
        return bool(self.results) or self.error is not None

    def answer(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.results[0]


class Recorder(Generic[Item, Result]):
    """Calls `write` with all items that wait, by one thread at a time; safe under threads.

    `write` returns a result for each item, in their order, once they are committed; where it raises, none of them is.
    """

    def __init__(self, write: Callable[[Sequence[Item]], Sequence[Result]]):
        self._write = write
        self._waiting: list[_Call[Item, Result]] = []
        self._writing = False
        self._lock = threading.Lock()

    def record(self, item: Item) -> Result:
        """Write an item, with others or alone, and return its result after the commit; or raise why it was not."""
        call = _Call[Item, Result](item)
        with self._lock:
            self._waiting.append(call)
            waits, self._writing = self._writing, True
        if waits:
            call.wait()
        if not call.done:  # it is this thread's turn
            self._write_all()
        return call.answer()

    def _write_all(self) -> None:
        """Write all that waits, and hand over to the first of those who came meanwhile."""
        with self._lock:
            calls, self._waiting = self._waiting, []
        try:
            self._perform(calls)
        finally:
            with self._lock:
                following = self._waiting[:1]
                self._writing = bool(following)
            for call in (*following, *calls):
                call.wake()

    def _perform(self, calls: Sequence[_Call[Item, Result]]) -> None:
        """Write all in one transaction; where one of them is at fault, each in its own."""
        try:
            for call, result in zip(calls, self._write([call.item for call in calls]), strict=True):
                call.results.append(result)
        except (OperationalError, PoolTimeout) as error:  # the database is at fault, and would be for each
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
