"""Documents the tables and keys of declaration files, from the models that check them."""

from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bankportal.domain.declarations.shape import annotations_of, stripped, words_of
from bankportal.domain.declarations.tables import FactorsTable, PolicyTable, ProductTable, Table

EXAMPLES = Path(__file__).parents[1] / "tests" / "fixtures" / "declarations"
INTRO = """\
# Declarations

What the portal decides with stands in declarations: TOML files, one for each product, one for each policy, and files
of factors that several products share. Those that the portal ships lie in
[`bankportal/declarations/`](../bankportal/declarations). A bank changes them, or adds products of its own, without a
line of code: forms, API, files, training, explanations and letters follow.

## How to make a bank's own

1. Begin with a file that is near to it: `flask declarations show churn > leavers.toml`, or the
   [whole example](#a-whole-example) below. `key` says what the file declares: a key of something in force stands in its
   place, a new key makes a new product.
2. Edit it: key, title, roles, label, bands. Factors that several products share come from the file that `shared` names
   (`flask declarations show factors`); a factor under `[factors]` is the product's own, and stands in place of a shared
   one of the same name.
3. `flask declarations check FILE…` names everything that is wrong, by file, table and key, and prints what the files
   would change. Nothing is written.
4. `flask declarations apply FILE…` puts the files in force, all together or none. Running portals follow within a
   second. Each version is recorded for good: what was decided under an earlier one is shown, explained, verified and
   replayed under that one.
5. A product without a model scores nothing yet: `flask train KEY --data CUSTOMERS` trains one on a file of customers
   with the label, and activates it.

Other scored factors, kinds of values, choices or another label need a new model; words, help, aliases, bounds, bands
and thresholds do not. Train it by the new file before that is in force, and put both in force together:

```sh
flask train leavers --data customers.csv --declaration leavers.toml
flask declarations apply leavers.toml --activate v2
```

`flask declarations withdraw KEY` ends a product: nothing new is scored, and all that was recorded stays.

What is applied is kept in `instance/declarations/`. A file that merely lies there changes nothing, except that
`flask up` applies those that were never applied. A product names its factors and its policy by key: they are looked up
in the files that are applied with it, then in what is in force, then in what the portal ships.

Names of columns must tell apart after case, spaces, `_` and `-` are left out: `credit_score` is `CreditScore`. No text
has line breaks, control characters or spaces at its ends. A file has 1 MB at most and is in UTF-8.
"""


def page() -> str:
    """Return the document."""
    parts = [INTRO]
    parts += _file("A product", ProductTable, {"factors"})
    parts += _file("A policy", PolicyTable, set())
    parts += _file("Factors that products share", FactorsTable, set())
    parts.append("## A whole example\n")
    parts.append("A product of a bank's own, with factors of its own beside the shared ones:\n")
    parts.append(_example("home-equity.toml"))
    parts.append("The policy that it names:\n")
    parts.append(_example("equity-limit.toml"))
    return "\n".join(parts)


def _example(name: str) -> str:
    return f"```toml\n{(EXAMPLES / name).read_text(encoding='utf-8').strip()}\n```\n"


def _file(title: str, model: type[Table], elsewhere: set[str]) -> list[str]:
    """Document a kind of file; the tables of the keys `elsewhere` are documented with another kind."""
    parts = [f"## {title}\n", f"{_docstring(model)}\n", _keys(model)]
    for key in annotations_of(model):
        if key in elsewhere:
            parts.append(f"### `[{key}.NAME]`\n\nAs in a file of [shared factors](#factors-that-products-share).\n")
        else:
            parts += _tables(annotations_of(model)[key], key)
    return parts


def _tables(annotation: Any, path: str) -> list[str]:
    """Document the tables that stand under a key, and those within them."""
    bare = stripped(annotation)
    if get_origin(bare) is UnionType:
        tables = filter(_is_table, get_args(bare))
        return [part for each in tables for part in _table(each, f"[{path}]", path)]
    if get_origin(bare) is dict:
        return _tables(get_args(bare)[1], f"{path}.NAME")
    if get_origin(bare) is list:
        member = stripped(get_args(bare)[0])
        return _table(member, f"[[{path}]]", path) if _is_table(member) else []
    return _table(bare, f"[{path}]", path) if _is_table(bare) else []


def _table(model: type[BaseModel], header: str, path: str) -> list[str]:
    annotations = annotations_of(model)
    kind = f", of the kind {words_of(annotations['kind'])}" if "kind" in annotations else ""
    parts = [f"### `{header}`{kind}\n", f"{_docstring(model)}\n", _keys(model)]
    for key, annotation in annotations.items():
        parts += _tables(annotation, f"{path}.{key}")
    return parts


def _is_table(bare: Any) -> bool:
    return isinstance(bare, type) and issubclass(bare, BaseModel)


def _docstring(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _keys(model: type[BaseModel]) -> str:
    rows = [("key", "what may stand there", "without it", "meaning"), ("---",) * 4]
    for name, field in model.model_fields.items():
        key = field.alias or name
        words = words_of(annotations_of(model)[key])
        rows.append((f"`{key}`", words, _without(field), field.description or "Says which table this is."))
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def _without(field: FieldInfo) -> str:
    if field.is_required():
        return "is refused"
    match field.default:
        case None:
            return "none"
        case bool():
            return f"`{str(field.default).lower()}`"
        case BaseModel():
            return "the defaults of its keys"
        case "" | [] | {}:
            return "blank" if field.default == "" else "none"
        case list():
            return "`[" + ", ".join(f'"{each}"' for each in field.default) + "]`"
        case str():
            return f'`"{field.default}"`'
    return f"`{field.default}`"
