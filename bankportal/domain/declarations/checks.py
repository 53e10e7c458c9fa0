"""What must hold between the tables of declarations: roles and factors, names, bands, policy and product.

The checks take contents of which parts can be `None`, because they did not fit; of those they say nothing.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from string import Formatter
from typing import Any

from bankportal.domain.constraints import ConstraintViolation, Source
from bankportal.domain.declaration import constraint_from
from bankportal.domain.declarations.shape import Content, header, stands
from bankportal.domain.errors import DeclarationProblem
from bankportal.domain.factors import normalised_name
from bankportal.domain.policy import AMOUNTS
from bankportal.domain.products import NO_LIMIT

Tables = Mapping[str, Any]
# Keys of products stand in addresses and name blueprints: these are taken (tests/test_declaration_files.py).
RESERVED_KEYS = frozenset(
    {
        "api",
        "batches",
        "decisions",
        "docs",
        "documentation",
        "health",
        "healthz",
        "metrics",
        "models",
        "openapi",
        "overview",
        "products",
        "static",
    }
)
RESERVED_KEY_PREFIX = "many-"  # the API's operation score-many-churn is churn's, never that of a product many-churn
# Names of factors are fields of forms: these are taken there (tests/test_declaration_files.py).
RESERVED_NAMES = frozenset(
    {
        "Meta",
        "csrf_token",
        "data",
        "declaration",
        "errors",
        "form_errors",
        "hidden_tag",
        "is_submitted",
        "meta",
        "populate_obj",
        "post_process",
        "process",
        "show",
        "submission",
        "validate",
        "validate_on_submit",
    }
)
PLACEHOLDER = re.compile(r"\{[^{}]*\}|[{}]")
CURRENCY = "{currency}"
SCORED_ROLES = ("required", "optional")
MAX_FACTORS = 200


def policy_problems(content: Content) -> Iterator[DeclarationProblem]:
    """Yield what is wrong with a policy by itself."""
    policy = content.tables
    for name, sentence in (policy["sentences"] or {}).items():
        if unknown := _unknown_amounts(sentence or ""):
            message = f"has {unknown} in braces; {', '.join(f'{{{name}}}' for name in AMOUNTS)} may stand there"
            yield _problem(content, ("sentences",), name, sentence, message)
    reads = policy["factors"] or {}
    names = [name for name in reads.values() if name]
    for key, name in reads.items():
        if names.count(name) > 1:
            yield _problem(content, ("factors",), key, name, "is read twice; each must be a factor of its own")


def _unknown_amounts(sentence: str) -> str:
    try:
        parts = list(Formatter().parse(sentence))
    except ValueError:
        return "a single one"
    for _, name, form, conversion in parts:
        if name is not None and (name not in AMOUNTS or form or conversion):
            return f"“{name}”"
    return ""


def factor_problems(content: Content) -> Iterator[DeclarationProblem]:
    """Yield what is wrong with the factors that a file declares, each by itself."""
    for name, factor in (content.tables["factors"] or {}).items():
        if name in RESERVED_NAMES:
            yield _problem(content, ("factors",), name, name, "is a name that forms use themselves; take another")
        if factor is not None:
            yield from _constraint_problems(content, name, factor)
            yield from _word_problems(content, name, factor)
            yield from _change_problems(content, name, factor)


def _constraint_problems(content: Content, name: str, factor: Tables) -> Iterator[DeclarationProblem]:
    constraint = factor["constraint"]
    if constraint is None or None in constraint.values():
        return
    path = ("factors", name, "constraint")
    match constraint["kind"]:
        case "number" if constraint["minimum"] >= constraint["maximum"]:
            message = f"must be above minimum, which is {stands(constraint['minimum'])}"
            yield _problem(content, path, "maximum", constraint["maximum"], message)
        case "number" if constraint["whole"]:
            for bound in ("minimum", "maximum"):
                if isinstance(constraint[bound], float):
                    message = "must be a whole number, because whole is true"
                    yield _problem(content, path, bound, constraint[bound], message)
        case "choice":
            options = constraint["options"]
            if None not in options and (len(options) < 2 or len(set(options)) < len(options)):
                yield _problem(content, path, "options", options, "must be 2 or more different names")
                return
    yield from _example_problems(content, name, factor)


def _example_problems(content: Content, name: str, factor: Tables) -> Iterator[DeclarationProblem]:
    constraint, example = factor["constraint"], factor["example"]
    if not example or None in constraint.get("options", []):
        return
    try:
        constraint_from(constraint).validate(example, Source.TEXT)
    except ConstraintViolation as violation:
        yield _problem(content, ("factors", name), "example", example, violation.message)


def _word_problems(content: Content, name: str, factor: Tables) -> Iterator[DeclarationProblem]:
    table, phrase = ("factors", name), factor["phrase"] or {}
    texts: list[tuple[tuple[str, ...], str, str | None, list[str]]] = [
        *((table, key, factor[key], [CURRENCY]) for key in ("label", "help", "unit")),
        ((*table, "phrase"), "many", phrase.get("many"), [CURRENCY, "{value}"]),
        *(((*table, "phrase"), key, phrase.get(key), [CURRENCY]) for key in ("one", "zero", "unknown")),
    ]
    for path, key, text, allowed in texts:
        if unknown := [each for each in PLACEHOLDER.findall(text or "") if each not in allowed]:
            message = f"has {unknown[0]}; in braces {' and '.join(allowed)} may stand there"
            yield _problem(content, path, key, text, message)
    if phrase:
        yield from _phrase_problems(content, name, factor)


def _phrase_problems(content: Content, name: str, factor: Tables) -> Iterator[DeclarationProblem]:
    path, phrase = ("factors", name, "phrase"), factor["phrase"]
    kind = (factor["constraint"] or {}).get("kind")
    if kind == "yes-no":
        for key in ("one", "zero"):
            if phrase[key] == "":
                yield _problem(content, path, key, None, "is missing; the phrase of a yes-no factor needs it")
    elif kind and phrase["many"] is not None and "{value}" not in phrase["many"]:
        yield _problem(content, path, "many", phrase["many"] or None, "must contain {value}")


def _change_problems(content: Content, name: str, factor: Tables) -> Iterator[DeclarationProblem]:
    change, constraint = factor["change"], factor["constraint"]
    if change is None or constraint is None:
        return
    if constraint["kind"] not in {"number", "yes-no"}:
        yield _problem(content, ("factors", name), "change", change, "may stand with numbers and yes-no factors only")
    elif constraint.get("whole", True) and isinstance(change["step"], float):
        message = "must be a whole number, as the factor's values are"
        yield _problem(content, ("factors", name, "change"), "step", change["step"], message)


def product_problems(
    content: Content, factors: Mapping[str, Tables | None], known: Iterable[str], policy: Tables | None
) -> Iterator[DeclarationProblem]:
    """Yield what is wrong with a product.

    `factors` are its own and the shared factors by name, `None` where one does not fit; `known` are the keys of the
    policies that there are, `policy` is the one it names.
    """
    if content.key in RESERVED_KEYS or (content.key or "").startswith(RESERVED_KEY_PREFIX):
        message = "is taken by the portal's own addresses; take another key"
        yield _problem(content, (), "key", content.key, message)
    yield from _role_problems(content, factors)
    yield from _scoring_problems(content, factors)
    yield from _name_problems(content, factors)
    yield from _band_problems(content)
    yield from _reference_problems(content)
    yield from _label_problems(content)
    yield from _policy_in_product_problems(content, factors, known, policy)


def roles_of(product: Tables) -> Iterator[tuple[str, str]]:
    """Yield each role that names a factor, with the name."""
    for role, names in (product["roles"] or {}).items():
        yield from ((role, name) for name in names or () if name is not None)


def _role_problems(content: Content, factors: Mapping[str, Tables | None]) -> Iterator[DeclarationProblem]:
    seen: dict[str, str] = {}
    for role, name in roles_of(content.tables):
        if name in seen:
            message = f"is in the role {seen[name]} already; a factor has one role"
            yield _problem(content, ("roles",), role, name, message)
        seen.setdefault(name, role)
        if name not in factors and ("", "shared") not in content.unfitting and content.tables["factors"] is not None:
            near = get_close_matches(name, factors, 1)
            message = f"is no factor of this file or of the shared ones{f'; there is {near[0]}' if near else ''}"
            yield _problem(content, ("roles",), role, name, message)
    for name in content.tables["factors"] or {}:
        if name not in seen and not _any_unfitting(content, "[roles]"):
            yield _problem(content, ("factors",), name, None, "is in no role; name it under [roles] or remove it")
    if len(seen) > MAX_FACTORS:
        yield _problem(content, (), "roles", None, f"must name {MAX_FACTORS} factors or fewer, not {len(seen)}")
    if not any(role in SCORED_ROLES for role in seen.values()) and not _any_unfitting(content, "[roles]"):
        yield _problem(content, ("roles",), "required", None, "must name a factor, or optional must: nothing is scored")


def _any_unfitting(content: Content, table: str) -> bool:
    return content.tables["roles"] is None or any(place == table for place, _ in content.unfitting)


def _scoring_problems(content: Content, factors: Mapping[str, Tables | None]) -> Iterator[DeclarationProblem]:
    credit = content.tables["decides_credit"]
    for role, name in roles_of(content.tables):
        factor = factors.get(name)
        if factor is None:
            continue
        if role in {*SCORED_ROLES, "policy"}:
            if factor["protection"] == "always" or (factor["protection"] == "credit" and credit):
                protection = "never scored" if factor["protection"] == "always" else "never scored in a credit decision"
                yield _problem(content, ("roles",), role, name, f"is {protection}: it may stand under protected")
            if (factor["constraint"] or {}).get("kind") == "text":
                yield _problem(content, ("roles",), role, name, "is a text, which cannot be scored")
        if (
            role in SCORED_ROLES
            and factor["phrase"] is None
            and (header(("factors", name)), "phrase") not in (content.unfitting)
        ):
            yield _problem(content, ("roles",), role, name, "is scored, so it needs a phrase for reasons")
        if role == "required" and factor["example"] == "":
            yield _problem(content, ("roles",), role, name, "is required, so it needs an example")


def _name_problems(content: Content, factors: Mapping[str, Tables | None]) -> Iterator[DeclarationProblem]:
    """Yield the names and aliases that two columns share, whatever their case, spaces, `_` and `-`."""
    claims: dict[str, str] = {}
    declared: list[tuple[tuple[str, ...], str, Tables]] = [
        (("factors", name), name, factors[name] or {})
        for name in dict.fromkeys(name for _, name in roles_of(content.tables))
        if name in factors
    ]
    if content.tables["label"]:
        declared.append((("label",), content.tables["label"]["name"] or "", content.tables["label"]))
    for path, name, table in declared:
        for key, column in [("", name), *(("aliases", alias) for alias in table.get("aliases") or ())]:
            owner = claims.setdefault(normalised_name(column or ""), name)
            if column and (owner != name or (key and normalised_name(column) == normalised_name(name))):
                message = f"is a name of {owner} already, as case, spaces, _ and - do not matter"
                yield _problem(content, path, key or "name", column, message)
        twice = [normalised_name(alias or "") for alias in table.get("aliases") or ()]
        if any(alias and twice.count(alias) > 1 for alias in twice):
            yield _problem(content, path, "aliases", table["aliases"], "must be different names")


def _band_problems(content: Content) -> Iterator[DeclarationProblem]:
    bands = content.tables["bands"]
    if bands is None:
        return
    if not bands:
        yield _problem(content, (), "bands", bands, "must be one or more tables [[bands]]")
    names: set[str] = set()
    previous: float | None = None
    for place, band in enumerate(bands):
        start, name = (band or {}).get("start"), (band or {}).get("name")
        path = ("bands", place)
        if start is not None and place == 0 and start != 0:
            yield _problem(content, path, "start", start, "must be 0: the first band starts there")
        if start is not None and previous is not None and start <= previous:
            yield _problem(content, path, "start", start, f"must be above {previous}, where the band before it starts")
        if name in names:
            yield _problem(content, path, "name", name, "is the name of another band")
        if name and name.casefold() == NO_LIMIT.casefold():
            yield _problem(content, path, "name", name, "is what a refusal is called; take another name")
        previous = previous if start is None else start
        names |= {name} if name else set()


def _reference_problems(content: Content) -> Iterator[DeclarationProblem]:
    reference, bands = content.tables["reference"], content.tables["bands"]
    if reference is None or _any_unfitting_in(content, "[reference]"):
        return
    band, size = reference["band"], reference["size"]
    if (band is None) != (size is None):
        key = "size" if size is None else "band"
        yield _problem(content, ("reference",), key, None, "is missing; band and size go together")
    names = _band_names(bands)
    if band is not None and names is not None and band not in names:
        yield _problem(content, ("reference",), "band", band, f"must be a band: {_listed(names)}")


def _any_unfitting_in(content: Content, table: str) -> bool:
    return any(place == table for place, _ in content.unfitting)


def _band_names(bands: list[Any] | None) -> list[str] | None:
    """Return the names of the bands; `None` where one does not fit."""
    if bands is None or any(band is None or band["name"] is None for band in bands):
        return None
    return [band["name"] for band in bands]


def _label_problems(content: Content) -> Iterator[DeclarationProblem]:
    label = content.tables["label"] or {}
    texts = label.get("positive"), label.get("negative")
    for key, own, other in zip(("positive", "negative"), texts, reversed(texts), strict=True):
        if own == []:
            yield _problem(content, ("label",), key, own, "must be one text or more")
        if own and other and key == "negative" and (both := {*own} & {*other} - {None}):
            yield _problem(content, ("label",), key, sorted(both)[0], "stands under positive as well")


def _policy_in_product_problems(
    content: Content, factors: Mapping[str, Tables | None], known: Iterable[str], policy: Tables | None
) -> Iterator[DeclarationProblem]:
    key, roles = content.tables["policy"], content.tables["roles"] or {}
    requested = ((policy or {}).get("factors") or {}).get("requested")
    if ("", "policy") not in content.unfitting:
        for name in roles.get("policy") or ():
            if name is not None and (key is None or (requested is not None and name != requested)):
                message = f"is read by no policy{f'; {key} reads {requested}' if key else ''}"
                yield _problem(content, ("roles",), "policy", name, message)
    if key is None:
        return
    if key not in known:
        yield _problem(content, (), "policy", key, f"is no policy; there are: {_listed(sorted(known)) or 'none'}")
    if content.tables["decides_credit"] is False:
        message = "must be true: a product whose policy sets a limit decides on credit"
        yield _problem(content, (), "decides_credit", False, message)
    if policy is not None:
        yield from _reading_problems(content, factors, policy)
        yield from _limit_problems(content, policy)


READ_AS = {
    "salary": (("required",), "a required number"),
    "obligations": (SCORED_ROLES, "a scored number"),
    "requested": (("policy",), "a number in the role policy"),
}


def _reading_problems(
    content: Content, factors: Mapping[str, Tables | None], policy: Tables
) -> Iterator[DeclarationProblem]:
    """Yield the factors that the policy reads and that the product lacks, or has in another role or of another kind."""
    if _any_unfitting(content, "[roles]"):
        return
    roles = {name: role for role, name in roles_of(content.tables)}
    for read, name in (policy["factors"] or {}).items():
        allowed, words = READ_AS[read]
        constraint = (factors.get(name) or {}).get("constraint")
        right_kind = constraint is None or constraint["kind"] == "number"
        if name is not None and not (roles.get(name) in allowed and right_kind):
            message = f"must have {name} as {words}: the policy {policy['key']} reads it as {read}"
            yield _problem(content, (), "roles", None, message)
        elif read == "requested" and constraint:
            yield from _smallest_problems(content, name, constraint, policy)


def _smallest_problems(content: Content, name: str, constraint: Tables, policy: Tables) -> Iterator[DeclarationProblem]:
    minimum, smallest = constraint["minimum"], policy["smallest"]
    if None not in (minimum, smallest) and minimum < smallest:
        message = f"has a minimum of {minimum}, which must be {smallest} or more: the policy {policy['key']} grants no "
        yield _problem(content, ("roles",), "policy", name, f"{message}smaller limit")


def _limit_problems(content: Content, policy: Tables) -> Iterator[DeclarationProblem]:
    """Yield the bands that the policy lacks or has beside the product's, or whose limit does not go with their tone."""
    names, months = _band_names(content.tables["bands"]), policy["band_months"]
    if names is None or months is None:
        return
    if set(names) != set(months):
        message = f"must be those of the policy {policy['key']}: {_listed(months)}"
        yield _problem(content, (), "bands", names, message)
        return
    for place, band in enumerate(content.tables["bands"]):
        limit = months[band["name"]]
        if None not in (limit, band["tone"]) and (limit == 0) != (band["tone"] == "bad"):
            wanted = 'must be "bad"' if limit == 0 else 'must be "good" or "fair"'
            message = f"{wanted}: the policy {policy['key']} grants {'no' if limit == 0 else 'a'} limit in this band"
            yield _problem(content, ("bands", place), "tone", band["tone"], message)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _problem(
    content: Content, table: tuple[str | int, ...], key: str, value: object, message: str
) -> DeclarationProblem:
    """Return a problem; a value of `None` stands for nothing."""
    return DeclarationProblem(content.file, header(table), key, "" if value is None else stands(value), message)
