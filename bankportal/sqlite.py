"""The SQLite driver, chosen here alone: the newer of the standard library's and `pysqlite3`, where that is installed.

One process must not open a file with both: closing it in one library ends the locks that the other one holds.
"""

import sqlite3
from types import ModuleType

# Older libraries can corrupt a WAL database when two connections reset the log at the same moment.
SAFE_WAL = (3, 51, 3)


def newest() -> ModuleType:
    """Return the driver with the newer SQLite; `pysqlite3` brings its own, the standard library has the system's."""
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        return sqlite3
    return dbapi2 if dbapi2.sqlite_version_info > sqlite3.sqlite_version_info else sqlite3


driver = newest()
WAL_IS_SAFE: bool = driver.sqlite_version_info >= SAFE_WAL
