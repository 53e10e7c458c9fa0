"""Declaration files: from TOML to the declarations that are recorded, or to all that is wrong with them."""

import json
from collections.abc import Iterable, Iterator, Mapping
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
    for content in contents:
        problems += policy_problems(content) if content.kind == "policy" else factor_problems(content)
    known: Known = {(each.kind.value, each.key): each.content for each in (*fallback, *in_force)}
    known |= {(each.kind, each.key): each.tables for each in contents if each.key}
    tables = [
        _whole(content, known, problems) if content.kind == "product" else content.tables
        for content in (*contents, *_affected(in_force, contents))
    ]
    if problems:
        raise DeclarationRefused(problems)
    return tuple(Declaration(Kind(each["kind"]), each["key"], canonical(each)) for each in tables)


def _affected(in_force: Iterable[Declaration], contents: Iterable[Content]) -> Iterator[Content]:
    """Yield the products in force whose policy or shared factors the files declare anew, as their own files had them.

    Each goes by the name of the file that changes it.
    """
    files = {(content.kind, content.key): content.file for content in contents}
    for each in in_force:
        if each.kind is Kind.PRODUCT and ("product", each.key) not in files:
            product = each.content
            file = files.get(("factors", product["shared"])) or files.get(("policy", product["policy"]))
            if file:
                own = {name: product["factors"][name] for name in product["own"]}
                yield Content(file, "product", {**product, "factors": own}, in_force=True)


def _twice(contents: list[Content]) -> Iterable[DeclarationProblem]:
    seen: dict[tuple[str, str], str] = {}
    for content in contents:
        if content.key and (other := seen.setdefault((content.kind, content.key), content.file)) != content.file:
            message = f"is declared by {other} as well"
            yield DeclarationProblem(content.file, "", "key", f'"{content.key}"', message)


def _whole(product: Content, known: Known, problems: list[DeclarationProblem]) -> dict[str, Any]:
    """Return a product with the shared factors written into it, and add what is wrong with it to the problems."""
    tables = product.tables
    wrong: list[DeclarationProblem] = []
    if tables["shared"] is not None and ("factors", tables["shared"]) not in known:
        there = ", ".join(sorted(key for kind, key in known if kind == "factors")) or "none"
        message = f"is the key of no shared factors; there are: {there}"
        wrong.append(DeclarationProblem(product.file, "", "shared", f'"{tables["shared"]}"', message))
        product = replace(product, unfitting=product.unfitting | {("", "shared")})  # no factor of them is missed
    shared = known.get(("factors", tables["shared"] or ""), {}).get("factors") or {}
    own = tables["factors"] or {}
    factors = {**shared, **own}
    policies = [key for kind, key in known if kind == "policy"]
    wrong += product_problems(product, factors, policies, known.get(("policy", tables["policy"] or "")))
    if product.in_force:
        place = f"the product {product.key}, which is in force"
        wrong = [replace(each, table=", ".join(filter(None, (place, each.table)))) for each in wrong]
    problems += wrong
    used = dict.fromkeys(name for _, name in roles_of(tables))
    written = {name: _in_currency(factors.get(name), tables["currency"]) for name in used}
    return {**tables, "factors": written, "own": sorted(own)}


def _in_currency(factor: Tables | None, currency: str | None) -> Any:
    return json.loads(canonical(factor).replace(CURRENCY, currency or CURRENCY))
