"""What kind of outage an exception is: decided here alone, for pages, API and health."""

import errno
from dataclasses import dataclass

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bankportal.sqlite import driver

FULL_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL_SQLSTATE = "53100"  # PostgreSQL's disk_full
FULL_SQLITE = "database or disk is full"  # SQLite's words for SQLITE_FULL, whatever the driver
DATABASE_ERRORS = (DBAPIError, PoolTimeout, driver.Error, FileNotFoundError)  # the last: SQLite's file is gone
OUTAGE_ERRORS = (*DATABASE_ERRORS, OSError)


@dataclass(frozen=True)
class Outage:
    """Something the portal needs is not to be had: its code and title, and the HTTP status that says so."""

    code: str
    status: int
    title: str


DATABASE = Outage("database", 503, "The database does not answer")
STORAGE = Outage("storage", 503, "The storage cannot be used")
DISK_FULL = Outage("storage-full", 507, "The disk is full")
OUTAGES = (DATABASE, STORAGE, DISK_FULL)


def outage_of(error: BaseException) -> Outage | None:
    """Return which outage an exception comes from; `None` where it comes from none, and is a fault of ours."""
    if not isinstance(error, OUTAGE_ERRORS):
        return None
    if _is_full(error.orig if isinstance(error, DBAPIError) else error):
        return DISK_FULL
    return DATABASE if isinstance(error, DATABASE_ERRORS) else STORAGE


def _is_full(cause: BaseException | None) -> bool:
    if isinstance(cause, OSError):
        return cause.errno in FULL_ERRORS
    return getattr(cause, "sqlstate", None) == FULL_SQLSTATE or FULL_SQLITE in str(cause)
