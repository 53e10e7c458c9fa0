"""No package enters the lock files whose licence the bank could not live with."""

from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import flask_swagger_ui
import pytest

from docs import licenses

PACKAGES = licenses.packages(licenses.RUNTIME) | licenses.packages(licenses.DEVELOPMENT)


def installed(package: str) -> bool:
    try:
        return bool(metadata(package))
    except PackageNotFoundError:
        return False


def plant(monkeypatch, **fields: str) -> None:
    """Let every package have these metadata."""
    message = Message()
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    monkeypatch.setattr(licenses, "metadata", lambda package: message)


def test_it_works() -> None:
    assert {"flask", "numpy", "psycopg"} <= licenses.packages(licenses.RUNTIME)
    assert [package for package in sorted(PACKAGES) if licenses.refused(package)] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"License_Expression": "AGPL-3.0-only"},
        {"License_Expression": "GPL-2.0-or-later"},
        {"License_Expression": "BUSL-1.1"},
        {"License_Expression": "MIT AND GPL-3.0-only"},
        {"License_Expression": "GPL-3.0-only AND (BUSL-1.1 OR MIT OR Zlib)"},
        {"License": "GPLv3"},
        {"License": "Business Source License 1.1"},
        {"License": "BSD", "Classifier": "License :: OSI Approved :: GNU Affero General Public License v3"},
        {"Classifier": "License :: Other/Proprietary License"},
        {"License": "Copyright, and many words more on what may be done with it, and what may not be done"},
        {},
    ],
)
def test_what_is_not_allowed_or_unknown_is_refused(monkeypatch, fields) -> None:
    plant(monkeypatch, **fields)
    assert licenses.refused("planted")


@pytest.mark.parametrize(
    "fields",
    [
        {"License_Expression": "MIT"},
        {"License_Expression": "GPL-3.0-only OR MIT"},
        {"License_Expression": "MPL-2.0 AND (Apache-2.0 OR GPL-3.0-only)"},
        {"License_Expression": "GPL-3.0-only OR (MIT AND (BSD-3-Clause OR AGPL-3.0-only))"},
        {"License_Expression": "LGPL-3.0-only"},
        {"License": "MIT License"},
        {"Classifier": "License :: OSI Approved :: BSD License"},
    ],
)
def test_what_is_allowed_is_not_refused(monkeypatch, fields) -> None:
    plant(monkeypatch, **fields)
    assert not licenses.refused("planted")


@pytest.mark.parametrize("package", sorted(filter(installed, licenses.DECLARED)))
def test_what_is_declared_is_what_the_metadata_say(package) -> None:
    assert licenses.licences(package) == [licenses.DECLARED[package]]


def test_nothing_is_declared_that_no_lock_file_names() -> None:
    assert licenses.DECLARED.keys() <= PACKAGES


def test_swagger_ui_is_under_the_licence_that_the_document_names() -> None:
    text = (Path(flask_swagger_ui.__file__).parent / "dist" / "LICENSE").read_text()
    assert "SmartBear Software" in text
    assert "Apache License, Version 2.0" in text
