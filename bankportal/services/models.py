"""The model versions: registering and activating them, and loading the one that serves."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import structlog

from bankportal.domain.declaration import needs_new_model
from bankportal.domain.errors import NoActiveModel, VersionRefused
from bankportal.domain.products import Product
from bankportal.domain.reasons import without_words
from bankportal.model import histograms
from bankportal.registry.registry import ARRAYS, EFFECTS, TABLES, LoadedModel, Registry, refusal
from bankportal.registry.trained import TrainedModel
from bankportal.store.declarations import DeclarationStore
from bankportal.store.versions import Registered, Versions
from bankportal.version import __version__

log = structlog.get_logger()
Used = TypeVar("Used")


@dataclass(frozen=True)
class ModelVersion:
    """A registered version, described by its manifest."""

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
    """The model versions: their files in the registry, and which are registered and active in the database."""

    def __init__(self, registry: Registry, versions: Versions, declarations: DeclarationStore):
        self.registry = registry
        self.store = versions
        self.declarations = declarations
        self._problems_known: WeakKeyDictionary[Product, dict[str, list[str]]] = WeakKeyDictionary()
        self._reported: set[str] = set()

    def serving(self, product: Product) -> LoadedModel:
        """Return the model that scores: the active version, or the one activated before where it is refused.

        It is refused where its files were changed, or where it does not fit the product's declaration. Raises
        `NoActiveModel` where no activated version can be loaded.
        """
        return self._newest(product, self.registry.model)[1]

    def _serves(self, product: Product) -> Registered:
        """Return the version that `serving` loads, without loading it: pages need its figures only."""
        return self._newest(product, self.registry.verify)[0]

    def _newest(self, product: Product, use: Callable[[Product, str, str], Used]) -> tuple[Registered, Used]:
        """Return the version activated last for which `use` does not refuse, and the result of `use`."""
        reason = f"Run: flask train {product.key}"
        for registered in self.store.activated(product.key):
            try:
                self._require_fit(product, registered)
                return registered, use(product, registered.version, registered.manifest_digest)
            except VersionRefused as error:
                self._report(str(error))
                reason = str(error)
        raise NoActiveModel(f"There is no {product.key} model that can score. {reason}")

    def refusal(self, product: Product) -> str | None:
        """Return why the version activated last does not serve; `None` where it does, or where none was activated."""
        for active in self.store.activated(product.key)[:1]:
            try:
                self._require_fit(product, active)
                self.registry.verify(product, active.version, active.manifest_digest)
            except VersionRefused as error:
                return str(error)
        return None

    def misfit(self, product: Product) -> str | None:
        """Return why the version activated last cannot score a declaration of a product; `None` where it can.

        It is `None` as well where no version was activated, or its files were changed.
        """
        for active in self.store.activated(product.key)[:1]:
            with suppress(VersionRefused):
                if problems := self._problems(product, active):
                    return str(refusal(product, active.version, "; ".join(problems)))
        return None

    def _report(self, reason: str) -> None:
        """Log a refusal once."""
        if reason not in self._reported:
            self._reported.add(reason)
            log.error("model version refused", why=reason)

    def active(self, product: Product) -> ModelVersion:
        """Return the version that serves; `NoActiveModel` if there is none."""
        serving = self._serves(product)
        return self._describe(product, serving, serving.version)

    def versions(self, product: Product) -> list[ModelVersion]:
        """Return all registered versions whose manifest can be read, newest first."""
        serving = self._serving_version(product)
        described = []
        for registered in self.store.all(product.key):
            try:
                described.append(self._describe(product, registered, serving))
            except VersionRefused as error:
                self._report(str(error))
        return described

    def get(self, product: Product, version: str) -> ModelVersion:
        """Return one version; `NotFound` if it is not registered, `VersionRefused` if its manifest was changed."""
        return self._describe(product, self.store.get(product.key, version), self._serving_version(product))

    def add(self, trained: TrainedModel, *, activate: bool | None = None) -> ModelVersion:
        """Register a trained model and return its version.

        `activate` says whether it becomes active; with `None` it does where no version can serve.
        """
        product = trained.product
        if activate is None:
            activate = self._serving_version(product) is None
        files = {
            ARRAYS: trained.forest.to_bytes(),
            TABLES: trained.tables.to_bytes(),
            EFFECTS: trained.effects.to_bytes(),
        }
        names = [registered.version for registered in self.store.all(product.key)]
        version, manifest_digest = self.registry.add(product, _manifest(trained), files, names)
        self.registry.model(product, version, manifest_digest)
        self.store.register(product.key, version, manifest_digest, activate=activate)
        return self.get(product, version)

    def require_fit(self, product: Product, version: str) -> None:
        """Raise as `activate` does where a version could not score a product, which need not be in force."""
        registered = self.store.get(product.key, version)
        self._require_fit(product, registered)
        self.registry.model(product, version, registered.manifest_digest)

    def activate(self, product: Product, version: str) -> ModelVersion:
        """Make a version active after verifying its files.

        Raises `NotFound` where it is not registered, `VersionRefused` where its files fail their check or it does not
        fit the product's declaration.
        """
        self.require_fit(product, version)
        self.store.activate(product.key, version)
        return self.get(product, version)

    def _require_fit(self, product: Product, registered: Registered) -> None:
        """Raise `VersionRefused` where a version was trained for another label or other factors than the product's."""
        if problems := self._problems(product, registered):
            raise refusal(product, registered.version, "; ".join(problems))

    def _problems(self, product: Product, registered: Registered) -> list[str]:
        """Return why a version does not fit a product; found out once for each declaration and version."""
        known = self._problems_known.setdefault(product, {})
        if (problems := known.get(registered.manifest_digest)) is None:
            manifest = self.registry.manifest(product, registered.version, registered.manifest_digest)
            trained = self._declaration(product, manifest)
            problems = needs_new_model(trained, product) if trained else []
            problems += [f"the declaration has no words for {name}" for name in without_words(product)]
            known[registered.manifest_digest] = problems
        return problems

    def _declaration(self, product: Product, manifest: Mapping[str, Any]) -> Product | None:
        """Return the product as a version was trained under it; `None` where its declaration was recorded elsewhere.

        Manifests of format 1 name none: they stand on what release 0.1.0 shipped.
        """
        digest = manifest.get("declaration")
        if digest == product.digest:
            return product
        if digest is None:
            return self.declarations.product(product.key, None, None)
        return self.declarations.product_with(product.key, digest)

    def verify(self, product: Product) -> dict[str, str | None]:
        """Check the files of every registered version again; return why each version is refused, or `None`.

        A version that was trained under an earlier declaration is checked against that one.
        """
        registry = Registry(self.registry.folder)  # a new one has loaded nothing yet
        return {each.version: self._problem(registry, product, each) for each in self.store.all(product.key)}

    def _problem(self, registry: Registry, product: Product, registered: Registered) -> str | None:
        try:
            manifest = registry.manifest(product, registered.version, registered.manifest_digest)
            trained = self._declaration(product, manifest) or product
            registry.model(trained, registered.version, registered.manifest_digest)
        except VersionRefused as error:
            return str(error)
        return None

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


def _manifest(trained: TrainedModel) -> dict[str, Any]:
    return {
        "product": trained.product.key,
        "declaration": trained.product.digest,
        "portal": __version__,
        "trained_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": trained.seed,
        "parameters": trained.parameters,
        "libraries": trained.libraries,
        "data": trained.data,
        "evaluation": trained.evaluation,
        "encoding": trained.encoding.to_json(),
        "seen": trained.seen.to_json(trained.product),
        "reference": trained.reference,
        "population": histograms.to_json(trained.histograms),
    }
