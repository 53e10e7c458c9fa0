"""Where what is recorded came from: who or what caused it, and by which door it came in."""

from dataclasses import dataclass
from enum import Enum

SYSTEM = "system"  # the actor until there are accounts


class Door(Enum):
    """By which way values or a file came in."""

    PAGE = "page"
    API = "api"
    COMMAND = "command"


@dataclass(frozen=True)
class Provenance:
    """The `door` that something came in by, and the `actor` who caused it: a person, a program, or `SYSTEM`."""

    door: Door
    actor: str = SYSTEM
