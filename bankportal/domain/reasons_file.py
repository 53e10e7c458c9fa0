"""The older file of a bank's own words for reasons, `reasons.toml` in the instance folder.

Declarations hold these words now. The file is still read, and its words go over the declared ones.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

from bankportal.domain.errors import SettingsRefused
from bankportal.domain.factors import Factor, Phrase
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product

RULES = "rules"
AMOUNTS = {"ceiling", "amount", "smallest"}  # what a rule's sentence may name in braces


def with_words(portfolio: Portfolio, text: str) -> Portfolio:
    """Return the products with a bank's own words in place of the declared ones.

    `text` is TOML: a table for each factor with any of `many`, `one`, `zero`, `unknown`, `plural`, and a table `rules`.
    A product whose words it leaves alone is returned as it is. Raises `SettingsRefused`, which names what cannot be
    used.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsRefused(f"The catalogue of reasons is not TOML: {error}.") from None
    rules = _rules(portfolio, tables.pop(RULES, {}))
    known = _scored(portfolio)
    for name, words in tables.items():
        _require_words(name, words, known)
    return Portfolio((_reworded(product, tables, rules) for product in portfolio.values()), portfolio.withdrawn)


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


def _rules(portfolio: Portfolio, sentences: object) -> Mapping[str, str]:
    if not isinstance(sentences, dict) or not all(isinstance(words, str) for words in sentences.values()):
        raise SettingsRefused("The catalogue of reasons needs a table of sentences under rules.")
    if unknown := set(sentences) - set(_sentences(portfolio)):
        raise SettingsRefused(f"The catalogue of reasons has under rules: {', '.join(sorted(unknown))}.")
    for name, words in sentences.items():
        if set(re.findall(r"{([^}]*)}", words)) - AMOUNTS:
            raise SettingsRefused(f"The catalogue of reasons has a name in braces in {name} that means nothing.")
    return sentences


def _reworded(product: Product, tables: Mapping[str, dict[str, Any]], rules: Mapping[str, str]) -> Product:
    policy = product.policy
    if policy:
        own = {rule: words for rule, words in rules.items() if rule in policy.sentences}
        sentences = {**policy.sentences, **own}
        policy = replace(policy, sentences=MappingProxyType(sentences)) if sentences != policy.sentences else policy
    required, optional = (
        tuple(_with_phrase(factor, tables.get(factor.name, {})) for factor in factors)
        for factors in (product.required, product.optional)
    )
    if policy is product.policy and (required, optional) == (product.required, product.optional):
        return product
    return replace(product, required=required, optional=optional, policy=policy)


def _with_phrase(factor: Factor, words: dict[str, Any]) -> Factor:
    if not words:
        return factor
    return replace(factor, phrase=replace(factor.phrase, **words) if factor.phrase else Phrase(**words))


def _table(name: str, phrase: Phrase) -> str:
    words: dict[str, Any] = {field.name: getattr(phrase, field.name) for field in fields(phrase)}
    lines = [f'{key} = "{word}"' for key, word in words.items() if isinstance(word, str) and word]
    return "\n".join([f"[{name}]", *lines, f"plural = {str(phrase.plural).lower()}", ""])
