"""Builds the services that pages, API and command line use."""

from dataclasses import dataclass

from bankportal.config import Config
from bankportal.registry.registry import Registry
from bankportal.services.audit import Audit
from bankportal.services.batches.uploads import Batches
from bankportal.services.batches.worker import Worker
from bankportal.services.declarations import Declarations
from bankportal.services.explaining import Explaining
from bankportal.services.models import Models
from bankportal.services.scoring import Scoring
from bankportal.store import migrate
from bankportal.store.chain import Chain
from bankportal.store.decisions import Decisions
from bankportal.store.declarations import DeclarationStore
from bankportal.store.idempotency import IdempotencyKeys
from bankportal.store.jobs import JobStore
from bankportal.store.sessions import Database
from bankportal.store.storage import Storage
from bankportal.store.versions import Versions


@dataclass(frozen=True)
class Services:
    """All a page or a command may call."""

    config: Config
    database: Database
    declarations: Declarations
    decisions: Decisions
    keys: IdempotencyKeys
    models: Models
    scoring: Scoring
    explaining: Explaining
    audit: Audit
    batches: Batches
    worker: Worker


def build(config: Config) -> Services:
    """Wire the services; no file is read and no database is asked yet."""
    database = Database(config.database_url)
    recorded = DeclarationStore(database)
    decisions = Decisions(database, recorded)
    jobs, storage = JobStore(database, recorded), Storage(config.storage)
    models = Models(Registry(config.models), Versions(database), recorded)
    declarations = Declarations(recorded, models, config.declarations, config.reasons)
    return Services(
        config=config,
        database=database,
        declarations=declarations,
        decisions=decisions,
        keys=IdempotencyKeys(database),
        models=models,
        scoring=Scoring(models, decisions),
        explaining=Explaining(models, declarations.portfolio),
        audit=Audit(Chain(database), models, recorded, jobs, storage),
        batches=Batches(config, jobs, storage, models, declarations.portfolio),
        worker=Worker(config, jobs, storage, models, declarations.portfolio),
    )


def require_writable(services: Services) -> None:
    """Raise one of `outages.OUTAGE_ERRORS` where no decision could be recorded or no upload be stored."""
    services.database.require_writable()
    services.batches.storage.require_writable()


def upgrade(services: Services, report: migrate.Report = migrate.silent) -> list[str]:
    """Bring the database to the tables and declarations of this release; nothing to do is fine.

    `report` is called while many rows are copied, with how far that is and how far it goes. Returns in words what of an
    earlier release's file of words cannot be taken over.
    """
    migrate.upgrade(services.database, report)
    return services.declarations.adopt()


def is_migrated(services: Services) -> bool:
    """Say whether the database has the tables of this release; an SQLAlchemy error where it does not answer."""
    return migrate.is_migrated(services.database)
