"""The declarations: which products and policies are in force, and how a bank changes them."""

import hashlib
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from bankportal.domain.declaration import Declaration, Kind, product_of
from bankportal.domain.declarations.files import read, shipped
from bankportal.domain.errors import Conflict, DeclarationRefused, NotFound, PortalError
from bankportal.domain.portfolio import Portfolio, portfolio_from, shipped_portfolio
from bankportal.domain.products import Product
from bankportal.domain.provenance import SYSTEM
from bankportal.domain.reasons_file import reworded, with_words
from bankportal.files import replacing
from bankportal.services.declaration_text import differences, to_toml
from bankportal.services.models import Models
from bankportal.store.declarations import Change as Change  # part of what this module offers
from bankportal.store.declarations import DeclarationBroken, DeclarationStore, Key, Origin, Timeline

# Seconds within which a running portal notices what another process applied; its own changes count at once.
NOTICED_WITHIN = 1.0
DIGEST_SHOWN = 12  # characters of a digest that tell declarations apart
MIN_DIGEST = 6  # characters of a digest that a person must give

log = structlog.get_logger()


@dataclass(frozen=True)
class Planned:
    """A declaration to be put in force in the place of `before`; `None` where nothing is in force.

    `source` is the SHA-256 of the file that it was read from. Without one, it is a product that takes over what its
    shared factors became.
    """

    declaration: Declaration
    before: Declaration | None
    source: str | None = None

    @property
    def of_product(self) -> bool:
        """Whether it declares a product."""
        return self.declaration.kind is Kind.PRODUCT

    @property
    def differences(self) -> list[str]:
        """What differs from before, a line each; nothing where there was none before."""
        return differences(self.before.content, self.declaration.content) if self.before else []


@dataclass(frozen=True)
class Plan:
    """What files would change. `misfits` say of each product, by its key, why its active model could not go on.

    `declared` are the files' declarations, changed or not, and `newest` the event that all of it follows.
    """

    declared: tuple[Declaration, ...]
    changes: tuple[Planned, ...]
    misfits: Mapping[str, str]
    newest: int


class Declarations:
    """The declarations of products and policies, and the portfolio that is in force. Safe for threads.

    `folder` keeps the files that a bank applied; `flask up` adopts those there that were never applied. `words` is
    an earlier release's file of the bank's own words for reasons.
    """

    def __init__(self, store: DeclarationStore, models: Models, folder: Path, words: Path):
        self.store = store
        self.models = models
        self.folder = folder
        self.words = words
        self._portfolio = shipped_portfolio()
        self._newest: int | None = None  # the change that the portfolio follows; `None` before it was read
        self._fresh_until = 0.0
        self._refreshing = threading.Lock()
        self._logged: set[str] = set()

    # What is in force

    def portfolio(self) -> Portfolio:
        """Return the portfolio that is in force; the same object until a declaration changes.

        The database is asked once a second at most. While it does not answer, or what it holds cannot be used, this is
        the portfolio known last: at first the shipped one while it does not answer, else that of the products that can
        be used.
        """
        if time.monotonic() >= self._fresh_until and self._refreshing.acquire(blocking=not self._fresh_until):
            try:
                if time.monotonic() >= self._fresh_until:
                    self._refresh()
            finally:
                self._refreshing.release()
        return self._portfolio

    def _refresh(self) -> None:
        """Make the portfolio anew where a change came in since it was read."""
        try:
            if not self.store.database.is_missing() and (newest := self.store.changes()) != self._newest:
                self._portfolio = self._read_portfolio() if newest else shipped_portfolio()
                self._newest = newest
        except SQLAlchemyError as error:
            self._log_once(f"What is in force cannot be read: {error}")
        except (PortalError, ValueError, LookupError, TypeError) as error:
            self._log_once(f"What is in force cannot be read: {error}")
            if self._newest is None and (sound := self._read_sound_portfolio()) != self._portfolio:
                self._portfolio = sound
        self._fresh_until = time.monotonic() + NOTICED_WITHIN

    def _read_portfolio(self) -> Portfolio:
        timeline = self._timeline()
        withdrawn = [change for change in timeline.withdrawn.values() if change.kind is Kind.PRODUCT]
        return portfolio_from(
            self._in_force(timeline), [self.product(self._declaration(each), timeline) for each in withdrawn]
        )

    def _read_sound_portfolio(self) -> Portfolio:
        """Return what is in force without products whose declaration or policy cannot be used.

        The shipped ones do not stand in for them: that would be to decide by what the bank replaced.
        """
        sound: list[Declaration] = []
        try:
            changes = list(self._timeline().in_force.values())
        except (PortalError, ValueError, LookupError, TypeError):
            changes = []
        for change in changes:
            with suppress(DeclarationBroken):
                sound.append(self._declaration(change))
        policies = {None} | {each.key for each in sound if each.kind is Kind.POLICY}
        return portfolio_from(each for each in sound if each.content.get("policy") in policies)

    def product(self, declaration: Declaration, timeline: Timeline | None = None) -> Product:
        """Return the product that a declaration makes with the policy that is in force, or was last."""
        policy = (timeline or self._timeline()).applied.get((Kind.POLICY, declaration.content["policy"]))
        return product_of(declaration.text, self._declaration(policy).text if policy else None)

    def _timeline(self, connection: Connection | None = None) -> Timeline:
        return self.store.timeline(connection)

    def _declaration(self, change: Change) -> Declaration:
        return Declaration(change.kind, change.key, self.store.recorded(change.kind, change.key, change.number).text)

    def _log_once(self, what: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            log.error("declarations", why=what)

    # Changing what is in force

    def check(self, files: Mapping[str, bytes]) -> Plan:
        """Return what declaration files, by their names, would change; `DeclarationRefused` with every problem."""
        return self._plan(files, self._timeline())

    def apply(
        self,
        files: Mapping[str, bytes],
        actor: str = SYSTEM,
        activate: Mapping[str, str] | None = None,
        *,
        without_model: bool = False,
    ) -> Plan:
        """Put declaration files in force, all together or none; return what they changed.

        `activate` names for products, by their keys, the model versions that become active with them. A product whose
        active model cannot read its new declaration needs one of these, or `without_model`: then it has no model that
        can score. Raises `DeclarationRefused` with every problem of the files, `Conflict` where a model does not fit,
        `NotFound` for a version that is not registered.
        """
        plan = self._put_in_force(lambda timeline: self._plan(files, timeline), actor, activate or {}, without_model)
        try:
            self._keep(files, plan)
        except OSError as error:  # they are in force all the same, and their texts are recorded
            log.warning("files of declarations not kept", folder=str(self.folder), why=error.strerror)
        return plan

    def _put_in_force(
        self,
        planned: Callable[[Timeline], Plan],
        actor: str,
        activate: Mapping[str, str] | None = None,
        without_model: bool = False,
    ) -> Plan:
        """Carry out a plan in one transaction; it is made again where somebody else changed what it follows."""
        plan = planned(self._timeline())
        if not (plan.changes or activate):
            return plan
        with self.store.changing() as connection:
            timeline = self._timeline(connection)
            if timeline.newest != plan.newest:
                plan = planned(timeline)
            self._require_models(plan, timeline, activate or {}, without_model=without_model)
            for change in plan.changes:
                origin = Origin.SHIPPED if change.declaration in shipped() else Origin.BANK
                self.store.apply(connection, change.declaration, origin, actor, change.source)
            for product, version in (activate or {}).items():
                self.models.store.activate_within(connection, product, version, actor)
        self.models.store.forget()
        self._ask_again()
        return plan

    def _ask_again(self) -> None:
        """Let the next call of `portfolio` wait for what the database says now."""
        with self._refreshing:
            self._fresh_until = 0.0

    def _require_models(
        self, plan: Plan, timeline: Timeline, activate: Mapping[str, str], *, without_model: bool
    ) -> None:
        declared = (*self._in_force(timeline), *plan.declared)
        after = {product.key: product for product in _made(plan.declared, {_key_of(each): each for each in declared})}
        for key, version in activate.items():
            if key not in after:
                raise NotFound(f"There is no product {key} in these files.")
            self.models.require_fit(after[key], version)
        for key, why in plan.misfits.items():
            if key not in activate and not without_model:
                raise Conflict(
                    f"{after[key].title} needs a new model: {why} Train one (flask train {key} --data CUSTOMERS "
                    "--declaration FILE) and apply with --activate VERSION; or apply with --without-model, and nothing "
                    "is scored until then."
                )

    def record(self, declaration: Declaration, actor: str = SYSTEM) -> None:
        """Record a declaration under which a model is trained; that does not put it in force."""
        with self.store.changing() as connection:
            self.store.record(connection, declaration, actor)

    def withdraw(self, key: str, actor: str = SYSTEM) -> Declaration:
        """Take a product, policy or shared factors out of force and return what was in force.

        Raises `NotFound` where nothing of that key is in force, `Conflict` where a product in force needs it.
        """
        with self.store.changing() as connection:
            timeline = self._timeline(connection)
            change = _only(key, [change for (_, name), change in timeline.in_force.items() if name == key])
            users = [each for each in self._in_force(timeline) if _uses(each, change.kind, key)]
            if users:
                raise Conflict(
                    f"{change.kind.value.capitalize()} {key} cannot be withdrawn: "
                    f"{', '.join(f'product {each.key}' for each in users)} in force uses it."
                )
            self.store.withdraw(connection, change.kind, key, actor)
        self._ask_again()
        return self._declaration(change)

    # Looking up

    def in_force(self) -> list[Change]:
        """Return what is in force, each by the change that put it in force."""
        return list(self._timeline().in_force.values())

    def withdrawn(self) -> list[Change]:
        """Return what was withdrawn, each by the change that withdrew it."""
        return list(self._timeline().withdrawn.values())

    def history(self, key: str) -> list[Change]:
        """Return all that happened to the declarations of a key, newest first; `NotFound` where there were none."""
        changes = [change for change in self._timeline().changes if change.key == key]
        if not changes:
            raise NotFound(f"No product, policy or factors of the key {key} was ever in force.")
        return changes[::-1]

    def find(self, key_or_digest: str) -> Declaration:
        """Return what is in force under a key, else the recorded declaration whose digest begins so; `NotFound`."""
        timeline = self._timeline()
        named = [change for (_, name), change in timeline.in_force.items() if name == key_or_digest]
        if not named and len(key_or_digest) >= MIN_DIGEST:
            by_digest = {change.digest: change for change in timeline.changes}
            named = [change for digest, change in by_digest.items() if digest.startswith(key_or_digest)]
        return self._declaration(_only(key_or_digest, named))

    def as_file(self, declaration: Declaration) -> str:
        """Return a declaration as a TOML file that makes the same again.

        Factors that it shared with others are in it where they are no longer what they were.
        """
        changed: Iterable[str] = ()
        if declaration.kind is Kind.PRODUCT:
            factors = declaration.content["factors"]
            try:
                now = self.read("", to_toml(declaration.content).encode()).content["factors"]
            except DeclarationRefused:
                now = {}
            changed = [name for name, factor in factors.items() if now.get(name) != factor]
        return to_toml(declaration.content, whole=changed)

    def read(self, name: str, content: bytes) -> Declaration:
        """Return the declaration of one file, by its name; `DeclarationRefused` with every problem."""
        return read({name: content}, self._in_force(self._timeline()))[0]

    # Plans

    def _plan(self, files: Mapping[str, bytes], timeline: Timeline) -> Plan:
        in_force = self._in_force(timeline)
        declared = read(files, in_force)
        sources = dict(zip((each.digest for each in declared), map(source_of, files.values()), strict=False))
        return self._plan_for(declared, in_force, timeline, sources)

    def _plan_for(
        self,
        declared: Iterable[Declaration],
        in_force: Iterable[Declaration],
        timeline: Timeline,
        sources: Mapping[str, str],
    ) -> Plan:
        """Return the plan of putting declarations in force; `sources` are their files' SHA-256 by digest."""
        before = {(each.kind, each.key): each for each in in_force}
        declared = tuple(sorted(declared, key=_place))
        changes = tuple(
            Planned(each, old, sources.get(each.digest))
            for each in declared
            if (old := before.get((each.kind, each.key))) is None or old.digest != each.digest
        )
        after = before | {(each.kind, each.key): each for each in declared}
        self._refuse_policies(changes, after, timeline)
        products = _made([change.declaration for change in changes], after)
        refusals = {product.key: self.models.refusal(product) for product in products}
        return Plan(declared, changes, {key: why for key, why in refusals.items() if why}, timeline.newest)

    def _refuse_policies(
        self, changes: Iterable[Planned], after: Mapping[Key, Declaration], timeline: Timeline
    ) -> None:
        """Raise `Conflict` where a policy's version has stood for other rules, or a product's policy was withdrawn."""
        for change in changes:
            declaration = change.declaration
            if declaration.kind is Kind.POLICY:
                self._refuse_version(declaration, timeline)
            policy = declaration.content["policy"] if change.of_product else None
            if policy and (Kind.POLICY, policy) not in after:
                raise Conflict(
                    f"Product {declaration.key} names the policy {policy}, which is not in force: apply its file "
                    "together with this one."
                )

    def _refuse_version(self, policy: Declaration, timeline: Timeline) -> None:
        numbers = {(each.digest, each.number): each for each in timeline.changes if _key_of(each) == _key_of(policy)}
        for other in map(self._declaration, numbers.values()):
            same_version = other.content["version"] == policy.content["version"]
            if same_version and _rules(other.content) != _rules(policy.content):
                raise Conflict(
                    f"Policy {policy.key}: version {policy.content['version']!r} is recorded with other rules "
                    f"({other.digest[:DIGEST_SHOWN]}). Other rules need another version."
                )

    def _in_force(self, timeline: Timeline) -> list[Declaration]:
        return [self._declaration(change) for change in timeline.in_force.values()]

    # The folder of a bank's files

    def _keep(self, files: Mapping[str, bytes], plan: Plan) -> None:
        """Keep applied files in the folder; a file that lies there already is not touched."""
        applied = {change.source: change.declaration for change in plan.changes if change.source}
        for content in files.values():
            if declaration := applied.get(source_of(content)):
                self._keep_one(content, declaration)

    def _keep_one(self, content: bytes, declaration: Declaration) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        names = f"{declaration.key}.toml", f"{declaration.key}-{declaration.digest[:DIGEST_SHOWN]}.toml"
        for path in map(self.folder.joinpath, names):
            if path.is_file() and path.read_bytes() == content:
                return
            if not path.exists():
                with replacing(path) as file:
                    file.buffer.write(content)
                return

    def adopt(self) -> list[str]:
        """Put in force what the release ships, where it never was; return in words what is refused.

        A shipped declaration stays out where a bank's stands in its place or it was withdrawn. An earlier release's
        file of a bank's own words goes over what is in force. Nothing is written where there is nothing to do.
        """
        self._put_in_force(self._shipped_plan, SYSTEM, without_model=True)
        return list(self._adopt_words())

    def adopt_folder(self) -> list[str]:
        """Put in force the files of the folder that were never applied; return in words what is refused.

        They are tried together, and where that is refused, one after the other beside those that were taken, so that a
        broken file stops no other. Of two files that declare the same the first is taken.
        """
        files = self._new_files()
        refusal = self._adopt_files(files) if files else ""
        return self._adopt_singly(files) if refusal and len(files) > 1 else [refusal] if refusal else []

    def _adopt_singly(self, files: Mapping[str, bytes]) -> list[str]:
        """Put files in force one after the other, again for those that wait for another; return what is refused."""
        taken: dict[str, bytes] = {}
        waiting = dict(files)
        while True:
            refused: dict[str, str] = {}
            for name, content in waiting.items():
                if why := self._adopt_files({**taken, name: content}):
                    refused[name] = why
                else:
                    taken[name] = content
            if len(refused) in {0, len(waiting)}:
                return list(refused.values())
            waiting = {name: waiting[name] for name in refused}

    def _shipped_plan(self, timeline: Timeline) -> Plan:
        new = [each for each in shipped() if self._follows(each, timeline)]
        return self._plan_for(new, self._in_force(timeline) if new else (), timeline, {})

    @staticmethod
    def _follows(declaration: Declaration, timeline: Timeline) -> bool:
        """Say whether a shipped declaration is new, and nothing of the bank's stands in its place."""
        last = timeline.last.get(_key_of(declaration))
        if last is None:
            return True
        known = _identity(declaration) in timeline.digests
        return last.applied and last.origin is Origin.SHIPPED and not known

    def _adopt_words(self) -> Iterator[str]:
        content = self.words.read_bytes() if self.words.is_file() else b""
        if not content or source_of(content) in self._timeline().sources:
            return
        try:
            text = content.decode("utf-8-sig")
            with_words(self.portfolio(), text)
            self._put_in_force(lambda timeline: self._plan_of_words(text, source_of(content), timeline), SYSTEM)
        except UnicodeDecodeError:
            yield f"{self.words} is not written in UTF-8."
        except PortalError as error:
            yield f"{self.words}: {error}"

    def _plan_of_words(self, text: str, source: str, timeline: Timeline) -> Plan:
        in_force, words = self._in_force(timeline), tomllib.loads(text)
        new = [replace(each, text=reworded(each.text, words)) for each in in_force]
        plan = self._plan_for(new, in_force, timeline, {})
        return replace(plan, changes=tuple(replace(change, source=source) for change in plan.changes))

    def _new_files(self) -> dict[str, bytes]:
        """Return the files of the folder that were never applied."""
        paths = sorted(self.folder.glob("*.toml")) if self.folder.is_dir() else []
        if not paths:
            return {}
        files, known = {str(path): path.read_bytes() for path in paths}, self._timeline().sources
        return {name: content for name, content in files.items() if source_of(content) not in known}

    def _adopt_files(self, files: Mapping[str, bytes]) -> str:
        """Put files in force; return why they are refused, nothing where they are not."""
        try:
            self._put_in_force(lambda timeline: _of_new(self._plan(files, timeline), timeline), SYSTEM)
        except PortalError as error:
            return str(error)
        return ""


def _of_new(plan: Plan, timeline: Timeline) -> Plan:
    """Return a plan without what was in force before: a file that says the same in other bytes takes nothing back."""
    known = timeline.digests
    new = [each for each in plan.changes if _identity(each.declaration) not in known]
    return replace(plan, changes=tuple(new))


def _identity(declaration: Declaration) -> tuple[Kind, str, str]:
    return declaration.kind, declaration.key, declaration.digest


def source_of(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _key_of(named: Declaration | Change) -> Key:
    return named.kind, named.key


def _place(declaration: Declaration) -> int:
    """Order declarations so that each comes after what it names."""
    return (Kind.FACTORS, Kind.POLICY, Kind.PRODUCT).index(declaration.kind)


def _only(name: str, changes: list[Change]) -> Change:
    """Return the one change there is; `NotFound` where there is none, `Conflict` where there are several."""
    if not changes:
        raise NotFound(f"There is no declaration {name} in force.")
    if len(changes) > 1:
        raise Conflict(f"{name} is ambiguous: {', '.join(f'{each.kind.value} {each.digest}' for each in changes)}.")
    return changes[0]


def _uses(declaration: Declaration, kind: Kind, key: str) -> bool:
    """Say whether a product names a policy or shared factors of this key."""
    named = {Kind.POLICY: "policy", Kind.FACTORS: "shared"}.get(kind)
    return declaration.kind is Kind.PRODUCT and named is not None and declaration.content[named] == key


def _rules(policy: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's content without its words."""
    return {key: value for key, value in policy.items() if key not in {"rules", "sentences"}}


def _made(changed: Iterable[Declaration], after: Mapping[Key, Declaration]) -> list[Product]:
    """Return the products among some declarations, each with the policy that would then be in force."""
    products = [each for each in changed if each.kind is Kind.PRODUCT]
    policies = [after.get((Kind.POLICY, each.content["policy"])) for each in products]
    return [
        product_of(product.text, policy.text if policy else None)
        for product, policy in zip(products, policies, strict=True)
    ]
