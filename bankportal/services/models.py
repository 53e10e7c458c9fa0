"""The model versions: registering, activating, and the one that serves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog

from bankportal.domain.errors import NoActiveModel, VersionRefused
from bankportal.domain.products import Product
from bankportal.domain.reasons import Catalogue
from bankportal.model import histograms
from bankportal.registry.registry import ARRAYS, EFFECTS, TABLES, LoadedModel, Registry, refusal
from bankportal.registry.trained import TrainedModel
from bankportal.store.versions import Registered, Versions
from bankportal.version import __version__

log = structlog.get_logger()
Used = TypeVar("Used")


@dataclass(frozen=True)
class ModelVersion:
    """A registered version with what its manifest says of it."""

    product: Product
    version: str
    manifest_digest: str
    forest_digest: str
    trained_at: datetime
    active: bool
    seed: int
    data: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    parameters: Mapping[str, Any]
    libraries: Mapping[str, str]


class Models:
    """The registry's files and the database's word on which are registered and active, together."""

    def __init__(self, registry: Registry, versions: Versions, catalogue: Catalogue):
        self.registry = registry
        self.store = versions
        self.catalogue = catalogue
        self._reported: set[str] = set()

    def serving(self, product: Product) -> LoadedModel:
        """Return the model that scores: the active version, or, where its files are refused, the one before it.

        Raises `NoActiveModel` where no activated version can be loaded.
        """
        return self._newest(product, self.registry.model)[1]

    def _serves(self, product: Product) -> Registered:
        """Return the version that `serving` loads, without building it: pages need its figures alone."""
        return self._newest(product, self.registry.verify)[0]

    def _newest(self, product: Product, use: Callable[[Product, str, str], Used]) -> tuple[Registered, Used]:
        """Return the version activated last that can be used, and what came of it."""
        why = f"Run: flask train {product.key}"
        for registered in self.store.activated(product.key):
            try:
                return registered, use(product, registered.version, registered.manifest_digest)
            except VersionRefused as error:
                self._report(str(error))
                why = str(error)
        raise NoActiveModel(f"There is no {product.key} model that can score. {why}")

    def refusal(self, product: Product) -> str | None:
        """Say why the version activated last does not serve; `None` where it does, or none was activated."""
        for active in self.store.activated(product.key)[:1]:
            try:
                self.registry.verify(product, active.version, active.manifest_digest)
            except VersionRefused as error:
                return str(error)
        return None

    def _report(self, why: str) -> None:
        if why not in self._reported:
            self._reported.add(why)
            log.error("model version refused", why=why)

    def active(self, product: Product) -> ModelVersion:
        """Describe the version that serves; `NoActiveModel` if there is none."""
        serving = self._serves(product)
        return self._describe(product, serving, serving.version)

    def versions(self, product: Product) -> list[ModelVersion]:
        """Describe all registered versions whose manifest can be read, newest first."""
        serving = self._serving_version(product)
        described = []
        for registered in self.store.all(product.key):
            try:
                described.append(self._describe(product, registered, serving))
            except VersionRefused as error:
                self._report(str(error))
        return described

    def get(self, product: Product, version: str) -> ModelVersion:
        """Describe one version; `NotFound` if it is not registered, `VersionRefused` if its manifest is not right."""
        return self._describe(product, self.store.get(product.key, version), self._serving_version(product))

    def add(self, trained: TrainedModel, *, activate: bool | None = None) -> ModelVersion:
        """Register a trained forest; make it active where told, or where none can serve (`activate` not given)."""
        product = trained.product
        if activate is None:
            activate = self._serving_version(product) is None
        files = {
            ARRAYS: trained.forest.to_bytes(),
            TABLES: trained.tables.to_bytes(),
            EFFECTS: trained.effects.to_bytes(),
        }
        taken = [known.version for known in self.store.all(product.key)]
        version, manifest_digest = self.registry.add(product, _manifest(trained), files, taken)
        self._refuse_unfit(product, version, manifest_digest)
        self.store.register(product.key, version, manifest_digest, activate=activate)
        return self.get(product, version)

    def activate(self, product: Product, version: str) -> ModelVersion:
        """Make a version active after verifying its files; `NotFound` or `VersionRefused` where it cannot be."""
        registered = self.store.get(product.key, version)
        self._refuse_unfit(product, version, registered.manifest_digest)
        self.store.activate(product.key, version)
        return self.get(product, version)

    def _refuse_unfit(self, product: Product, version: str, manifest_digest: str) -> None:
        """Raise `VersionRefused` where a version's files are not right or it scores a factor that has no words."""
        model = self.registry.model(product, version, manifest_digest)
        if wordless := self.catalogue.missing(model.encoding.factors):
            raise refusal(product, version, f"the catalogue of reasons has no words for {', '.join(wordless)}")

    def verify(self, product: Product) -> dict[str, str | None]:
        """Check every registered version's files afresh: version -> why it is refused, `None` where it is right."""
        fresh = Registry(self.registry.folder)
        return {found.version: _fault(fresh, product, found) for found in self.store.all(product.key)}

    def _serving_version(self, product: Product) -> str | None:
        try:
            return self._serves(product).version
        except NoActiveModel:
            return None

    def _describe(self, product: Product, registered: Registered, serving: str | None) -> ModelVersion:
        manifest = self.registry.manifest(product, registered.version, registered.manifest_digest)
        return ModelVersion(
            product=product,
            version=registered.version,
            manifest_digest=registered.manifest_digest,
            forest_digest=manifest["files"][ARRAYS],
            trained_at=datetime.fromisoformat(manifest["trained_at"]),
            active=registered.version == serving,
            seed=manifest["seed"],
            data=manifest["data"],
            evaluation=manifest["evaluation"],
            parameters=manifest["parameters"],
            libraries=manifest["libraries"],
        )


def _fault(registry: Registry, product: Product, registered: Registered) -> str | None:
    try:
        registry.model(product, registered.version, registered.manifest_digest)
    except VersionRefused as error:
        return str(error)
    return None


def _manifest(trained: TrainedModel) -> dict[str, Any]:
    return {
        "product": trained.product.key,
        "portal": __version__,
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": trained.seed,
        "parameters": trained.parameters,
        "libraries": trained.libraries,
        "data": trained.data,
        "evaluation": trained.evaluation,
        "encoding": trained.encoding.to_json(),
        "seen": trained.seen.to_json(),
        "reference": trained.reference,
        "population": histograms.to_json(trained.histograms),
    }
