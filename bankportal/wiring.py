"""Builds the services that pages, API and command line use."""

from dataclasses import dataclass

from bankportal.config import Config
from bankportal.ml.registry import Registry
from bankportal.services.models import Models
from bankportal.services.scoring import Scoring
from bankportal.store.decisions import Decisions
from bankportal.store.sessions import Database
from bankportal.store.versions import Versions


@dataclass(frozen=True)
class Services:
    """All a page or a command may call."""

    config: Config
    database: Database
    decisions: Decisions
    models: Models
    scoring: Scoring


def build(config: Config) -> Services:
    """Wire the services; touches neither database nor files."""
    database = Database(config.database_url)
    decisions = Decisions(database)
    models = Models(Registry(config.models), Versions(database))
    return Services(config, database, decisions, models, Scoring(models, decisions))
