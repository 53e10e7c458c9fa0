"""Declaration files: from TOML to the declarations that are recorded, or to all that is wrong with them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from bankportal.domain.canonical import canonical
from bankportal.domain.declaration import Declaration, Kind
from bankportal.domain.declarations.checks import (
    CURRENCY,
    Tables,
    factor_problems,
    policy_problems,
    product_problems,
    roles_of,
)
from bankportal.domain.declarations.shape import Content, opened
from bankportal.domain.errors import DeclarationProblem, DeclarationRefused
from bankportal.resources import resource

Known = dict[tuple[str, str], Tables]


def read(files: Mapping[str, bytes], in_force: Iterable[Declaration] = ()) -> tuple[Declaration, ...]:
    """Read declaration files together, by name.

    What a file names and no other file declares is taken from what is `in_force`, else from what the release ships.
    Returns the declarations of the files, in their order, then the products in force that change with the factors they
    share. Raises `DeclarationRefused` with every problem, also those of products in force with another policy or other
    factors.
    """
    return _read(files, tuple(in_force), shipped())


@cache
def shipped() -> tuple[Declaration, ...]:
    """Return the declarations that this release ships."""
    folder = resource("declarations")
    return _read({path.name: path.read_bytes() for path in sorted(folder.glob("*.toml"))}, (), ())


def _read(
    files: Mapping[str, bytes], in_force: tuple[Declaration, ...], fallback: tuple[Declaration, ...]
) -> tuple[Declaration, ...]:
    problems: list[DeclarationProblem] = []
    contents = [content for name, text in files.items() if (content := opened(name, text, problems))]
    problems += _twice(contents)
    before: Known = {(each.kind.value, each.key): each.content for each in (*fallback, *in_force)}
    known = before | {(each.kind, each.key): each.tables for each in contents if each.key}
    for content in contents:
        if content.kind == "policy":
            problems += policy_problems(content, before.get(("policy", content.key or "")))
        else:
            problems += factor_problems(content)
    products = [content for content in contents if content.kind == "product"]
    changed = {(each.kind, each.key): each.file for each in contents}
    products += [
        Content(file, "product", _as_filed(each.content))
        for each in in_force
        if each.kind is Kind.PRODUCT and ("product", each.key) not in changed
        if (file := _changed_by(each.content, changed))
    ]
    whole = {id(product.tables): _whole(product, known, problems, changed) for product in products}
    if problems:
        raise DeclarationRefused(problems)
    tables = [whole.get(id(each.tables), each.tables) for each in contents]
    tables += [whole[id(each.tables)] for each in products if ("product", each.key) not in changed]
    return tuple(Declaration(Kind(each["kind"]), each["key"], canonical(each)) for each in tables)


def _twice(contents: list[Content]) -> Iterable[DeclarationProblem]:
    seen: dict[tuple[str, str], str] = {}
    for content in contents:
        if content.key and (other := seen.setdefault((content.kind, content.key), content.file)) != content.file:
            message = f"is declared by {other} as well"
            yield DeclarationProblem(content.file, "", "key", f'"{content.key}"', message)


def _as_filed(product: Tables) -> dict[str, Any]:
    """Return a recorded product as its file had it: with its own factors only."""
    return {**product, "factors": {name: product["factors"][name] for name in product["own"]}}


def _changed_by(product: Tables, changed: Mapping[tuple[str, str | None], str]) -> str | None:
    """Return the file that changes the policy or the shared factors of a product; `None` if none does."""
    return changed.get(("factors", product["shared"])) or changed.get(("policy", product["policy"]))


def _whole(
    product: Content, known: Known, problems: list[DeclarationProblem], changed: Mapping[tuple[str, str | None], str]
) -> dict[str, Any]:
    """Return a product with the shared factors written into it, and add what is wrong with it to the problems."""
    tables = product.tables
    shared: Tables = {}
    found: list[DeclarationProblem] = []
    if tables["shared"] is not None:
        if ("factors", tables["shared"]) in known:
            shared = known["factors", tables["shared"]]["factors"] or {}
        else:
            there = ", ".join(sorted(key for kind, key in known if kind == "factors")) or "none"
            message = f"is the key of no shared factors; there are: {there}"
            found.append(DeclarationProblem(product.file, "", "shared", f'"{tables["shared"]}"', message))
    own = tables["factors"] or {}
    factors = {**shared, **own}
    policies = [key for kind, key in known if kind == "policy"]
    found += product_problems(product, factors, policies, known.get(("policy", tables["policy"] or "")))
    if ("product", product.key) not in changed:
        place = f"the product {product.key}, which is in force"
        found = [replace(each, table=", ".join(filter(None, (place, each.table)))) for each in found]
    problems += found
    used = dict.fromkeys(name for _, name in roles_of(tables))
    written = {name: _in_currency(factors.get(name), tables["currency"]) for name in used}
    return {**tables, "factors": written, "own": sorted(own)}


def _in_currency(factor: Tables | None, currency: str | None) -> Any:
    return json.loads(canonical(factor).replace(CURRENCY, currency or CURRENCY))
