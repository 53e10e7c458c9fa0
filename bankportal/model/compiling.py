"""Compiling kernels and running them on several threads. Imported only when first needed.

Numba compiles a kernel once and keeps the result on disk. Where Numba is missing, or `BANKPORTAL_NO_NUMBA` is 1,
callers use NumPy instead, which gives the same bits. All kernels release the interpreter's lock. The threads are a pool
of our own: two threads must not enter Numba's `prange` at once where its workqueue layer is the only one, and the
threads of a web server would.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
NO_NUMBA = "BANKPORTAL_NO_NUMBA"
# A thread gets at least MIN_ROWS, since fewer are not worth it, and at most MAX_ROWS at once.
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
    """Return whether compiled kernels may be used."""
    return NUMBA is not None and os.environ.get(NO_NUMBA) != "1"


def compiled(kernel: Kernel) -> Kernel:
    """Return a kernel that Numba compiles at its first call; the function itself where Numba is missing."""
    if NUMBA is None:
        return kernel
    compiled_kernel: Kernel
    try:
        compiled_kernel = NUMBA.njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # no folder that can be written to: compile for this process alone
        compiled_kernel = NUMBA.njit(nogil=True)(kernel)
    return compiled_kernel


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(processors(), thread_name_prefix="kernels")


# Threads do not survive a fork; the child starts its own.
os.register_at_fork(after_in_child=_pool.cache_clear)


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_parallel(work: Callable[[int, int], None], rows: int) -> None:
    """Call `work(start, end)` for ranges that cover all rows, on all processors; its errors are raised here."""
    piece = min(max(-(-rows // processors()), MIN_ROWS), MAX_ROWS)
    starts = range(0, rows, piece)
    if len(starts) < 2:
        work(0, rows)
        return
    for _ in _pool().map(lambda start: work(start, min(start + piece, rows)), starts):
        pass
