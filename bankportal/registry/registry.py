"""The model registry: versions as folders of arrays and a manifest, verified before they are parsed, loaded lazily.

`<folder>/<product>/<version>/` holds `manifest.json`, `forest.npz`, and the arrays that explain its scores,
`tables.npz` and `effects.npy`. A caller names the SHA-256 of the manifest; the manifest names those of the arrays.

A manifest names its format and those of its files. A format that is read stays readable: its reader returns what a
manifest of the present format would hold.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from bankportal.domain.errors import VersionRefused
from bankportal.domain.products import Product
from bankportal.explanation import tables
from bankportal.explanation.effects import Effects
from bankportal.explanation.explainer import Explainer
from bankportal.explanation.tables import Tables
from bankportal.model import histograms
from bankportal.model.encoding import Encoding
from bankportal.model.forest import Forest
from bankportal.model.histograms import Histogram
from bankportal.model.seen_ranges import SeenRanges

FORMAT = 2  # the format that manifests are written in now
MANIFEST = "manifest.json"
ARRAYS = "forest.npz"
TABLES = "tables.npz"
EFFECTS = "effects.npy"
FILES = (ARRAYS, TABLES, EFFECTS)
# The format that each file is written in, and the only one that is read.
FILE_FORMATS = {ARRAYS: 1, TABLES: tables.FORMAT, EFFECTS: 1}
VERSION = re.compile(r"v([1-9][0-9]{0,8})")
NEWER = "which this release does not know: it was written by a newer release"
Key = tuple[str, str, str]  # of the product, the version, and the SHA-256 of its manifest


@dataclass(frozen=True)
class LoadedModel:
    """A model version that was verified and loaded, ready to score.

    It says nothing about bands, words or limits: those are the product's, also of a product that was declared later.
    """

    version: str
    manifest_digest: str
    manifest: Mapping[str, Any]
    forest: Forest
    encoding: Encoding
    seen: SeenRanges
    explainer: Explainer
    effects: Effects
    histograms: Mapping[str, Histogram]

    def warm_up(self) -> None:
        """Compile the kernels, or load the compiled ones, so that the first request does not wait."""
        self.forest.score(np.full((1, len(self.encoding.columns)), np.nan))
        self.explainer.warm_up()
        self.effects.warm_up()


def digest(content: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


class Registry:
    """The versions in one folder. Safe for threads. Each process reads a version once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._models: dict[Key, LoadedModel] = {}
        self._manifests: dict[Key, Mapping[str, Any]] = {}  # of versions whose files were verified
        self._read_by: WeakKeyDictionary[Product, set[Key]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def add(
        self, product: Product, manifest: Mapping[str, Any], files: Mapping[str, bytes], registered: Iterable[str] = ()
    ) -> tuple[str, str]:
        """Write a new version and return its name and its manifest's SHA-256.

        Its number is one more than the largest in the folder and among the `registered` names, whose files may be gone.
        The version is written to a temporary folder that is then renamed: after a kill it is there as a whole or not at
        all.
        """
        home = self.folder / product.key
        home.mkdir(parents=True, exist_ok=True)
        temporary = home / f".{secrets.token_hex(8)}"
        temporary.mkdir()
        try:
            return self._write(home, temporary, dict(manifest), files, list(registered))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write(
        self, home: Path, temporary: Path, manifest: dict[str, Any], files: Mapping[str, bytes], registered: list[str]
    ) -> tuple[str, str]:
        for name, content in files.items():
            _write_durably(temporary / name, content)
        manifest |= {"format": FORMAT, "files": {name: digest(content) for name, content in files.items()}}
        manifest |= {"formats": FILE_FORMATS}
        while True:
            version = f"v{1 + max((int(name[1:]) for name in _versions(home) + registered), default=0)}"
            content = json.dumps(manifest | {"version": version}, indent=1, sort_keys=True, allow_nan=False).encode()
            _write_durably(temporary / MANIFEST, content)
            try:
                temporary.rename(home / version)
            except OSError:  # another process has taken this number: try the next one
                if not (home / version).exists():
                    raise
                continue
            return version, digest(content)

    def manifest(self, product: Product, version: str, manifest_digest: str) -> Mapping[str, Any]:
        """Return a version's manifest; `VersionRefused` where it is not the registered one."""
        known = self._manifests.get((product.key, version, manifest_digest))
        return known or self._read_manifest(product, version, manifest_digest)

    def verify(self, product: Product, version: str, manifest_digest: str) -> None:
        """Check a version's files without loading the model; `VersionRefused` where one differs or does not fit.

        Each process reads the files once; each declaration of the product is compared with the version once. That is
        enough to choose the version that serves, since a version was loaded before it was registered.
        """
        key = (product.key, version, manifest_digest)
        if key not in self._manifests:
            manifest = self._read_manifest(product, version, manifest_digest)
            for name in FILES:
                self._read(product, version, name, str(manifest["files"].get(name)))
            self._manifests[key] = manifest
        self._require_fit(product, key)

    def model(self, product: Product, version: str, manifest_digest: str) -> LoadedModel:
        """Return a version ready to score; the same object for every declaration of the product that it fits.

        Raises `VersionRefused`, naming version and reason, where its files fail a check, or where the product scores
        other factors or choices than the version was trained with.
        """
        key = (product.key, version, manifest_digest)
        if (model := self._models.get(key)) is None:
            with self._lock:
                if (model := self._models.get(key)) is None:
                    model = self._load(product, version, manifest_digest)
                    self._manifests[key] = model.manifest  # first: whoever finds the model needs it
                    self._models[key] = model
        self._require_fit(product, key)
        return model

    def _require_fit(self, product: Product, key: Key) -> None:
        """Raise `VersionRefused` where a verified version cannot read the product's factors."""
        read = self._read_by.setdefault(product, set())
        if key not in read:
            _from_manifest(product, key[1], self._manifests[key])
            read.add(key)

    def _load(self, product: Product, version: str, manifest_digest: str) -> LoadedModel:
        manifest = self._read_manifest(product, version, manifest_digest)
        content = {name: self._read(product, version, name, str(manifest["files"].get(name))) for name in FILES}
        encoding, seen, training_histograms = _from_manifest(product, version, manifest)
        try:
            forest = Forest.from_bytes(content[ARRAYS], len(encoding.columns))
            explainer = Explainer(forest, encoding, Tables.from_bytes(content[TABLES], forest, encoding))
            effects = Effects.from_bytes(content[EFFECTS], forest, encoding)
        except (ValueError, KeyError, TypeError) as error:
            raise refusal(product, version, str(error)) from error
        return LoadedModel(
            version=version,
            manifest_digest=manifest_digest,
            manifest=manifest,
            forest=forest,
            encoding=encoding,
            seen=seen,
            explainer=explainer,
            effects=effects,
            histograms=training_histograms,
        )

    def _read_manifest(self, product: Product, version: str, manifest_digest: str) -> dict[str, Any]:
        stored = json.loads(self._read(product, version, MANIFEST, manifest_digest))
        if stored.get("product") != product.key:
            raise refusal(product, version, "its manifest is of another product")
        read = READERS.get(stored.get("format"))
        if read is None:
            raise refusal(product, version, f"its manifest has format {stored.get('format')}, {NEWER}")
        manifest = read(stored)
        for name, file_format in manifest["formats"].items():
            if FILE_FORMATS.get(name) != file_format:
                raise refusal(product, version, f"{name} has format {file_format}, {NEWER}")
        return manifest

    def _read(self, product: Product, version: str, name: str, expected: str) -> bytes:
        if not VERSION.fullmatch(version):
            raise refusal(product, version[:20], "that is not a version's name")
        try:
            content = (self.folder / product.key / version / name).read_bytes()
        except OSError as error:
            raise refusal(product, version, f"{name} cannot be read ({error.strerror})") from error
        if digest(content) != expected:
            raise refusal(product, version, f"{name} is not the file that was registered (its SHA-256 differs)")
        return content


def _of_format_1(stored: dict[str, Any]) -> dict[str, Any]:
    """Read a manifest of release 0.1.0, which names neither the declaration nor the formats of its files."""
    return stored | {"declaration": None, "formats": {ARRAYS: 1, TABLES: 1, EFFECTS: 1}}


def _of_format_2(stored: dict[str, Any]) -> dict[str, Any]:
    return stored


# The readers of each format of manifests: they return what a manifest of the present format holds.
READERS: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _of_format_1, 2: _of_format_2}


def _from_manifest(
    product: Product, version: str, manifest: Mapping[str, Any]
) -> tuple[Encoding, SeenRanges, Mapping[str, Histogram]]:
    """Return the manifest's encoding, ranges and histograms, checked against a declaration of the product."""
    try:
        encoding = Encoding.from_json(manifest["encoding"], product)
        return encoding, SeenRanges.from_json(manifest["seen"], product), histograms.from_json(manifest["population"])
    except (ValueError, KeyError, TypeError) as error:
        raise refusal(product, version, str(error)) from error


def refusal(product: Product, version: str, reason: str) -> VersionRefused:
    """Return the error that names a version and the reason why it is not used."""
    return VersionRefused(f"{product.title} model {version} is refused: {reason}.")


def _versions(home: Path) -> list[str]:
    return [path.name for path in home.iterdir() if VERSION.fullmatch(path.name)]


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
