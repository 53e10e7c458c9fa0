"""The older file of a bank's own words for reasons, `reasons.toml` in the instance folder.

Declarations hold these words now. The file is still read, and its words go over the declared ones.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from bankportal.domain.canonical import canonical
from bankportal.domain.declaration import Kind, product_of
from bankportal.domain.errors import SettingsRefused
from bankportal.domain.factors import Factor, Phrase
from bankportal.domain.policy import AMOUNTS
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product

RULES = "rules"


def with_words(portfolio: Portfolio, text: str) -> Portfolio:
    """Return the products with a bank's own words in place of the declared ones.

    `text` is TOML: a table for each factor with any of `many`, `one`, `zero`, `unknown`, `plural`, and a table `rules`.
    Each product has the canonical text of a declaration with these words. Raises `SettingsRefused`, which names what
    cannot be used.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsRefused(f"The catalogue of reasons is not TOML: {error}.") from None
    _require_rules(portfolio, tables.get(RULES, {}))
    known = _scored(portfolio)
    for name, words in tables.items():
        if name != RULES:
            _require_words(name, words, known)
    return Portfolio((_reworded(product, tables) for product in portfolio.values()), portfolio.withdrawn)


def to_toml(portfolio: Portfolio) -> str:
    """Return the words of all products as such a file."""
    phrases = {factor.name: factor.phrase for factor in _scored(portfolio).values() if factor.phrase}
    rules = "\n".join([f"[{RULES}]", *(f'{name} = "{words}"' for name, words in _sentences(portfolio).items()), ""])
    return "\n".join([*(_table(name, phrase) for name, phrase in phrases.items()), rules])


def _scored(portfolio: Portfolio) -> dict[str, Factor]:
    return {factor.name: factor for product in portfolio.values() for factor in product.scored}


def _sentences(portfolio: Portfolio) -> dict[str, str]:
    policies = (product.policy for product in portfolio.values() if product.policy)
    return {rule: words for policy in policies for rule, words in policy.sentences.items()}


def _require_words(name: str, words: object, known: Mapping[str, Factor]) -> None:
    if name not in known:
        raise SettingsRefused(f"The catalogue of reasons names {name}, which no product scores.")
    if not isinstance(words, dict) or (unknown := set(words) - {field.name for field in fields(Phrase)}):
        what = ", ".join(sorted(unknown)) if isinstance(words, dict) else "no table"
        raise SettingsRefused(f"The catalogue of reasons has under {name}: {what}.")
    for key, word in words.items():
        if not isinstance(word, bool if key == "plural" else str):
            raise SettingsRefused(f"The catalogue of reasons has under {name} a {key} of the wrong type.")
    if "many" in words and "{value}" not in words["many"]:
        raise SettingsRefused(f"The catalogue of reasons needs {{value}} in {name}'s many.")
    if known[name].phrase is None and "unknown" not in words:
        raise SettingsRefused(f"The catalogue of reasons needs under {name} an unknown, for a blank value.")


def _require_rules(portfolio: Portfolio, sentences: object) -> None:
    if not isinstance(sentences, dict) or not all(isinstance(words, str) for words in sentences.values()):
        raise SettingsRefused("The catalogue of reasons needs a table of sentences under rules.")
    if unknown := set(sentences) - set(_sentences(portfolio)):
        raise SettingsRefused(f"The catalogue of reasons has under rules: {', '.join(sorted(unknown))}.")
    for name, words in sentences.items():
        if set(re.findall(r"{([^}]*)}", words)).difference(AMOUNTS):
            raise SettingsRefused(f"The catalogue of reasons has a name in braces in {name} that means nothing.")


def _reworded(product: Product, tables: Mapping[str, Any]) -> Product:
    policy = product.policy and reworded(product.policy.text, tables)
    return product_of(reworded(product.text, tables), policy)


def reworded(text: str, tables: Mapping[str, Any]) -> str:
    """Return a declaration's canonical text with the words of such a file, which were checked, in place of its own."""
    content = json.loads(text)
    if content["kind"] == Kind.POLICY.value:
        sentences = content["sentences"]
        content["sentences"] |= {rule: words for rule, words in tables.get(RULES, {}).items() if rule in sentences}
    else:
        for name in tables.keys() & content["factors"].keys():
            factor = content["factors"][name]
            factor["phrase"] = _words_of(Phrase(unknown="")) | (factor["phrase"] or {}) | tables[name]
    return canonical(content)


def _words_of(phrase: Phrase) -> dict[str, Any]:
    return {field.name: getattr(phrase, field.name) for field in fields(phrase)}


def _table(name: str, phrase: Phrase) -> str:
    lines = [f'{key} = "{word}"' for key, word in _words_of(phrase).items() if isinstance(word, str) and word]
    return "\n".join([f"[{name}]", *lines, f"plural = {str(phrase.plural).lower()}", ""])
