"""Builds the services that pages, API and command line use."""

from dataclasses import dataclass

from bankportal.config import Config
from bankportal.domain.errors import SettingsRefused
from bankportal.domain.portfolio import Portfolio, shipped_portfolio
from bankportal.domain.reasons_file import with_words
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
    """Wire the services; of all files only the bank's own reasons are read, `SettingsRefused` where they cannot be."""
    database = Database(config.database_url)
    recorded = DeclarationStore(database)
    decisions = Decisions(database, recorded)
    jobs, storage = JobStore(database, recorded), Storage(config.storage)
    models = Models(Registry(config.models), Versions(database))
    declarations = Declarations(portfolio(config))
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
        batches=Batches(config, jobs, storage, models),
        worker=Worker(config, jobs, storage, models),
    )


def portfolio(config: Config) -> Portfolio:
    """Return the shipped products, with a bank's own words for reasons where the instance folder has a file of them."""
    own = config.reasons
    try:
        return with_words(shipped_portfolio(), own.read_text(encoding="utf-8-sig") if own.is_file() else "")
    except UnicodeDecodeError as error:
        raise SettingsRefused(f"{own} is not written in UTF-8.") from error


def require_writable(services: Services) -> None:
    """Raise one of `outages.OUTAGE_ERRORS` where no decision could be recorded or no upload be stored."""
    services.database.require_writable()
    services.batches.storage.require_writable()


def upgrade(services: Services) -> None:
    """Bring the database to the tables of this release; nothing to do is fine."""
    migrate.upgrade(services.database)


def is_migrated(services: Services) -> bool:
    """Say whether the database has the tables of this release; an SQLAlchemy error where it does not answer."""
    return migrate.is_migrated(services.database)
