"""How the portal's processes log: for people or for machines, as the settings say.

A stack trace never shows the values of variables: they are customers'.
"""

import logging
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from bankportal.config import Config


def configure(config: Config) -> None:
    """Set up structlog for this process."""
    for_machines = config.log_format == "json"
    last: Any = (
        structlog.processors.JSONRenderer()
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
    )
