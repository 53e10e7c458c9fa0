"""One table of settings: name, default, help. Documentation is generated from it.

A setting is read from the environment (`BANKPORTAL_` + name), else from `settings.env` in the instance folder, else it
has its default.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from bankportal.domain.errors import SettingsRefused
from bankportal.resources import PACKAGE, in_checkout

HOST = "127.0.0.1"  # the only address served, until there are accounts
PREFIX = "BANKPORTAL_"
SETTINGS_FILE = "settings.env"


@dataclass(frozen=True)
class Setting:
    """One thing an operator can set. `default` is as written there; `{instance}` is the instance folder."""

    name: str
    default: str | None
    help: str


SETTINGS = (
    Setting(
        "INSTANCE",
        None,
        "Folder of what a running portal owns: settings, database, models. Default: `instance/` in a checkout, "
        "`<sys.prefix>/var/bankportal-instance` where installed, as Flask does.",
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
        "Database, as an SQLAlchemy URL: SQLite or PostgreSQL.",
    ),
    Setting("PORT", "8000", "Port of the web server, on the loopback interface: there are no accounts yet."),
    Setting("THREADS", "8", "Threads of the web server, from 1 to 64."),
    Setting("TRUSTED_HOSTS", "localhost,127.0.0.1,[::1]", "Host names that requests may use, separated by commas."),
    Setting("LOG_FORMAT", "console", "`console` for people or `json` for machines."),
)
FORMATS = ("console", "json")


@dataclass(frozen=True)
class Config:
    """The settings as values."""

    instance: Path
    secret_key: str | None
    database_url: str
    port: int
    threads: int
    trusted_hosts: tuple[str, ...]
    log_format: str

    @property
    def models(self) -> Path:
        """Folder of the model versions."""
        return self.instance / "models"

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
    """Read the settings; `SettingsRefused` names the setting that has no meaning."""
    environ = os.environ if environ is None else environ
    instance = Path(environ.get(f"{PREFIX}INSTANCE") or default_instance()).absolute()
    written = dotenv_values(instance / SETTINGS_FILE) if (instance / SETTINGS_FILE).is_file() else {}
    values = {
        setting.name: environ.get(PREFIX + setting.name)
        or written.get(PREFIX + setting.name)
        or (setting.default or "").replace("{instance}", str(instance))
        for setting in SETTINGS
    }
    if values["LOG_FORMAT"] not in FORMATS:
        raise SettingsRefused(f"{PREFIX}LOG_FORMAT must be {' or '.join(FORMATS)}")
    return Config(
        instance=instance,
        secret_key=values["SECRET_KEY"] or None,
        database_url=_database_url(values["DATABASE_URL"]),
        port=_whole("PORT", values["PORT"], 1, 65_535),
        threads=_whole("THREADS", values["THREADS"], 1, 64),
        trusted_hosts=tuple(host.strip() for host in values["TRUSTED_HOSTS"].split(",") if host.strip()),
        log_format=values["LOG_FORMAT"],
    )


def _database_url(text: str) -> str:
    try:
        make_url(text)
    except ArgumentError as error:
        raise SettingsRefused(
            f"{PREFIX}DATABASE_URL is not an SQLAlchemy URL such as sqlite:///portal.sqlite3"
        ) from error
    return text


def _whole(name: str, text: str, smallest: int, largest: int) -> int:
    if text.isascii() and text.isdigit() and smallest <= int(text) <= largest:
        return int(text)
    raise SettingsRefused(f"{PREFIX}{name} must be a whole number from {smallest} to {largest}, not {text!r}")
