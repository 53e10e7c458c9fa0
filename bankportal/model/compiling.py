"""Compiled loops: what compiles them and shares rows out among threads. Imported only when first needed.

Numba compiles them once and keeps the result on disk; where Numba is missing, or `BANKPORTAL_NO_NUMBA` is 1, callers
take their NumPy path, which gives the same bits. All kernels release the interpreter's lock. Rows are shared out by a
pool of threads of our own: Numba's `prange` must not be entered by two threads at once where its workqueue layer is
all there is, and a web server does just that.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
OFF = "BANKPORTAL_NO_NUMBA"
# Fewer rows than this are not worth a second thread; more than that are handed out piece by piece.
MIN_ROWS, MAX_ROWS = 512, 4096


def _import_numba() -> Any:
    try:
        import numba
    except ImportError:
        return None
    # Numba leaves this pass of LLVM off by default. With it a table's eight numbers are added in two steps.
    setattr(numba.config, "SLP_VECTORIZE", 1)  # noqa: B010  # made at run time: type checkers do not know it
    return numba


NUMBA = _import_numba()


def available() -> bool:
    """Say whether compiled kernels may be used."""
    return NUMBA is not None and os.environ.get(OFF) != "1"


def compiled(kernel: Kernel) -> Kernel:
    """Compile a kernel when first called, kept on disk, free of the interpreter lock; as it is without Numba."""
    if NUMBA is None:
        return kernel
    made: Kernel
    try:
        made = NUMBA.njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # no folder that can be written to: compile for this process alone
        made = NUMBA.njit(nogil=True)(kernel)
    return made


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(processors(), thread_name_prefix="kernels")


# Threads do not survive a fork; the child starts its own.
os.register_at_fork(after_in_child=_pool.cache_clear)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share_out(work: Callable[[int, int], None], rows: int) -> None:
    """Call `work(start, end)` for pieces that cover all rows, on all processors; an error is raised here."""
    piece = min(max(-(-rows // processors()), MIN_ROWS), MAX_ROWS)
    starts = range(0, rows, piece)
    if len(starts) < 2:
        work(0, rows)
        return
    for _ in _pool().map(lambda start: work(start, min(start + piece, rows)), starts):
        pass
