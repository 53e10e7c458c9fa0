"""How the portal's processes log: for people or for machines, as the settings say.

A stack trace never shows the values of variables: they are customers'.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer

from bankportal.config import Config


def configure(config: Config) -> None:
    """Set up structlog for this process."""
    for_machines = config.log_format == "json"
    last: Any = (
        structlog.processors.JSONRenderer(serializer=_json)
        if for_machines
        else structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    )
    traces = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([traces] if for_machines else []),
            last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(),
    )


def _json(event: Any, default: Callable[[Any], Any]) -> str:
    try:
        return orjson.dumps(event, default=default).decode()
    except TypeError:  # half a character, or a number of more than 64 bits: rare, and logged all the same
        return json.dumps(event, default=default)


class RequestLog:
    """Writes a line for each call of the API. Its logger is made once, with what is configured at that time."""

    def __init__(self) -> None:
        self._log = structlog.get_logger().bind()

    def write(self, request_id: str, method: str, path: str, status: int, started: float) -> None:
        """Say how a call was answered that began at `started` by `time.perf_counter`."""
        took = round((time.perf_counter() - started) * 1000, 1)
        self._log.info("request", method=method, path=path, status=status, milliseconds=took, request_id=request_id)
