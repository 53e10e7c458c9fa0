"""One table of settings: name, default, help. Documentation is generated from it.

A setting is read from the environment (`BANKPORTAL_` + name), else from `settings.env` in the instance folder, else it
has its default.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from bankportal.domain.errors import SettingsRefused
from bankportal.resources import PACKAGE, in_checkout

HOST = "127.0.0.1"  # the only address served, until there are accounts
PREFIX = "BANKPORTAL_"
SETTINGS_FILE = "settings.env"


@dataclass(frozen=True)
class Setting:
    """One thing an operator can set. In `default`, `{instance}` is the instance folder."""

    name: str
    default: str | None
    help: str


SETTINGS = (
    Setting(
        "INSTANCE",
        None,
        "Folder of the portal's own files: settings, database, models. Default: `instance/` in a checkout, "
        "`<sys.prefix>/var/bankportal-instance` where the package is installed, by Flask's rule.",
    ),
    Setting(
        "SECRET_KEY",
        None,
        "Signs sessions and form tokens, 16 characters or more. No default: `flask up` makes one and keeps it in "
        "`settings.env`; the portal refuses to start without it.",
    ),
    Setting(
        "DATABASE_URL",
        "sqlite:///{instance}/bankportal.sqlite3",
        "Database, as an SQLAlchemy URL: SQLite, whose file its owner alone can read, or PostgreSQL.",
    ),
    Setting("PORT", "8000", "Port of the web server, on the loopback interface: there are no accounts yet."),
    Setting("THREADS", "32", "Threads of the web server, from 1 to 64."),
    Setting(
        "STORAGE",
        "{instance}/batches",
        "Folder of uploaded files and their results. The web server and all workers must use the same one.",
    ),
    Setting("UPLOAD_MEGABYTES", "1024", "Largest size of an uploaded file, in millions of bytes."),
    Setting("UPLOAD_COLUMNS", "200", "Largest number of columns of an uploaded file."),
    Setting(
        "LEASE_SECONDS",
        "60",
        "Seconds without a sign of life from a worker until another takes over its chunk, from 2 to 3600.",
    ),
    Setting(
        "TRUSTED_HOSTS",
        "localhost,127.0.0.1",
        "Host names that requests may use, separated by commas. A proxy before the portal must pass on `Host` and set "
        "`X-Forwarded-Proto`: pages may act only where both are those of the address in the browser.",
    ),
    Setting(
        "LEGACY_API",
        "0",
        "`1` serves the older system's paths too: `POST /predict_churn`, `POST /predict_allowance`, and `GET /` "
        "for clients that do not ask for `text/html`.",
    ),
    Setting(
        "CORS_ORIGINS",
        "",
        "Origins whose pages may call the older system's paths from a browser, such as `https://crm.bank.example`, "
        "separated by commas; `null` stands for pages opened from a file, and for any other page without an origin of "
        "its own. None by default.",
    ),
    Setting(
        "NO_NUMBA",
        None,
        "`1` switches the compiled kernels off: the same answers, slower. Read from the environment alone.",
    ),
    Setting("LOG_FORMAT", "console", "`console` for people or `json` for machines."),
)
FORMATS = ("console", "json")
MIN_PORT, MAX_PORT = 1, 65_535
BACKENDS = ("sqlite", "postgresql")
MIN_SECRET_LENGTH = 16
MEGABYTE = 1_000_000  # bytes
ORIGIN = re.compile(r"https?://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?|null")


@dataclass(frozen=True)
class Config:
    """The settings as values."""

    instance: Path
    secret_key: str | None
    database_url: URL
    port: int
    threads: int
    storage: Path
    upload_megabytes: int
    upload_columns: int
    lease_seconds: int
    trusted_hosts: tuple[str, ...]
    legacy_api: bool
    cors_origins: tuple[str, ...]
    log_format: str

    @property
    def upload_bytes(self) -> int:
        """How large a file may be."""
        return self.upload_megabytes * MEGABYTE

    @property
    def models(self) -> Path:
        """Folder of the model versions."""
        return self.instance / "models"

    @property
    def declarations(self) -> Path:
        """Folder of the bank's own declarations; it need not be there."""
        return self.instance / "declarations"

    @property
    def reasons(self) -> Path:
        """File of the bank's own words for reasons; it need not be there."""
        return self.instance / "reasons.toml"

    @property
    def data(self) -> Path:
        """Folder of the data files the portal made for itself."""
        return self.instance / "data"


def default_instance() -> Path:
    """Return the instance folder where none is set, by Flask's rule for packages."""
    return PACKAGE.parent / "instance" if in_checkout() else Path(sys.prefix) / "var" / "bankportal-instance"


def load(environ: Mapping[str, str] | None = None) -> Config:
    """Read the settings; `SettingsRefused` names a setting whose value has no meaning."""
    environ = os.environ if environ is None else environ
    instance = Path(environ.get(f"{PREFIX}INSTANCE") or default_instance()).absolute()
    written = _written(instance / SETTINGS_FILE)
    chosen = {each.name: environ.get(PREFIX + each.name) or written.get(PREFIX + each.name) for each in SETTINGS}
    values = {each.name: chosen[each.name] or each.default or "" for each in SETTINGS}
    if values["LOG_FORMAT"] not in FORMATS:
        raise SettingsRefused(f"{PREFIX}LOG_FORMAT must be {' or '.join(FORMATS)}")
    return Config(
        instance=instance,
        secret_key=values["SECRET_KEY"] or None,
        database_url=_database_url(chosen["DATABASE_URL"], instance),
        port=_whole("PORT", values["PORT"], MIN_PORT, MAX_PORT),
        threads=_whole("THREADS", values["THREADS"], 1, 64),
        storage=Path(chosen["STORAGE"] or instance / "batches").absolute(),
        upload_megabytes=_whole("UPLOAD_MEGABYTES", values["UPLOAD_MEGABYTES"], 1, 1_000_000),
        upload_columns=_whole("UPLOAD_COLUMNS", values["UPLOAD_COLUMNS"], 1, 10_000),
        lease_seconds=_whole("LEASE_SECONDS", values["LEASE_SECONDS"], 2, 3600),
        trusted_hosts=_listed(values["TRUSTED_HOSTS"]),
        legacy_api=bool(_whole("LEGACY_API", values["LEGACY_API"], 0, 1)),
        cors_origins=_origins(values["CORS_ORIGINS"]),
        log_format=values["LOG_FORMAT"],
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _origins(text: str) -> tuple[str, ...]:
    """Return the origins as browsers write them. `*` is refused: these pages read customers' scores."""
    origins = _listed(text)
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise SettingsRefused(
                f"{PREFIX}CORS_ORIGINS: {origin!r} is no origin such as https://crm.bank.example or null."
            )
    return origins


def _written(path: Path) -> Mapping[str, str | None]:
    try:
        return dotenv_values(path) if path.is_file() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsRefused(f"{path} cannot be read as settings: {error}.") from error


def _database_url(chosen: str | None, instance: Path) -> URL:
    if chosen is None:  # made from parts, so that no character of the folder's name has a meaning in it
        return URL.create("sqlite", database=str(instance / "bankportal.sqlite3"))
    try:
        url = make_url(chosen)
    except ArgumentError:
        url = None
    if url is None or url.get_backend_name() not in BACKENDS:
        raise SettingsRefused(f"{PREFIX}DATABASE_URL must be an SQLAlchemy URL for {' or '.join(BACKENDS)}.")
    return url


def require_secret(config: Config) -> str:
    """Return the secret key; `SettingsRefused` where there is none or it is too short to be one."""
    if config.secret_key is None:
        raise SettingsRefused(f"{PREFIX}SECRET_KEY is not set. `flask up` makes one, or set it yourself.")
    if len(config.secret_key) < MIN_SECRET_LENGTH:
        raise SettingsRefused(f"{PREFIX}SECRET_KEY must have {MIN_SECRET_LENGTH} characters or more.")
    return config.secret_key


def _whole(name: str, text: str, smallest: int, largest: int) -> int:
    if text.isascii() and text.isdigit() and smallest <= int(text) <= largest:
        return int(text)
    raise SettingsRefused(f"{PREFIX}{name} must be a whole number from {smallest} to {largest}, not {text!r}")
