"""The Python client of the portal's API: typed answers, and retries that never record twice."""

from .client import *  # noqa: F403  # what its `__all__` names
from .version import __version__ as __version__
