"""Declarations as they are recorded: canonical texts, and the products and policies that they make.

A declaration's canonical text is JSON in one way of writing (`bankportal.domain.canonical`), names its format, and is
whole: the factors that a product shares with others stand in it. So what a bank decided with years ago can be made
again from the text alone. The readers of a format stay as they are; another format gets readers of its own.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any

from bankportal.domain.canonical import sha256
from bankportal.domain.constraints import Choice, Constraint, Number, Text, YesNo
from bankportal.domain.factors import Changeability, Direction, Factor, Group, Phrase, Protection
from bankportal.domain.policy import LimitPolicy
from bankportal.domain.products import Band, Label, Product, ReasonThresholds, Reference, Tone, Verb

FORMAT = 1


class Kind(Enum):
    """What a declaration declares."""

    PRODUCT = "product"
    POLICY = "policy"
    FACTORS = "factors"


@dataclass(frozen=True)
class Declaration:
    """One declaration of a kind under a key, by its canonical text."""

    kind: Kind
    key: str
    text: str

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the canonical text, in hexadecimal."""
        return sha256(self.text)

    @cached_property
    def content(self) -> Mapping[str, Any]:
        """What the text says, as plain data."""
        return MappingProxyType(json.loads(self.text))


def product_from(text: str, policy: LimitPolicy | None) -> Product:
    """Return the product that a canonical text declares, with its policy; the same object for the same texts."""
    if policy is None or policy is policy_from(policy.text):
        return product_of(text, policy and policy.text)
    return _PRODUCT_READERS[_format(text)](json.loads(text), policy, text)


@lru_cache(maxsize=256)
def policy_from(text: str) -> LimitPolicy:
    """Return the policy that a canonical text declares; the same object for the same text."""
    return _POLICY_READERS[_format(text)](json.loads(text), text)


@lru_cache(maxsize=256)
def product_of(text: str, policy_text: str | None) -> Product:
    """Return the product that a canonical text declares, with the policy of another; as `product_from`."""
    policy = None if policy_text is None else policy_from(policy_text)
    return _PRODUCT_READERS[_format(text)](json.loads(text), policy, text)


def needs_new_model(trained: Product, now: Product) -> list[str]:
    """Say why a model that was trained under one declaration of a product cannot serve another; empty where it can.

    A model reads the scored factors and predicts the label. Words, help, aliases, bounds, bands, thresholds and policy
    are read anew for each answer. The order of factors and choices and which factors are required do not matter: a
    model's columns are named.
    """
    before = {factor.name: factor.constraint for factor in trained.scored}
    after = {factor.name: factor.constraint for factor in now.scored}
    reasons = [f"{name} is scored now, and the model has not learnt from it" for name in after if name not in before]
    reasons += [f"{name} is not scored any more, and the model needs it" for name in before if name not in after]
    for name in before:
        if name in after and (what := _unlike(before[name], after[name])):
            reasons.append(f"{name} {what}")
    for what, old, new in (
        ("is called", trained.label.name, now.label.name),
        ("means", trained.label.meaning, now.label.meaning),
        ("says yes by", trained.label.positive, now.label.positive),
        ("says no by", trained.label.negative, now.label.negative),
    ):
        if old != new:
            reasons.append(f"the label {what} {_as_words(new)} now, and {_as_words(old)} when the model was trained")
    return reasons


def _as_words(what: str | tuple[str, ...]) -> str:
    return f"“{what}”" if isinstance(what, str) else " or ".join(f"“{each}”" for each in what)


def _unlike(trained: Constraint, now: Constraint) -> str:
    """Say how a factor's values differ in kind; nothing where they do not: a bound is no kind."""
    if type(trained) is not type(now):
        return f"is {now.describe()} now, and was {trained.describe()} when the model was trained"
    if isinstance(trained, Number) and isinstance(now, Number) and trained.whole != now.whole:
        return f"is {_number_kind(now)} now, and was {_number_kind(trained)} when the model was trained"
    if isinstance(trained, Choice) and isinstance(now, Choice) and {*trained.options} != {*now.options}:
        return f"is {now.describe()} now, and was {trained.describe()} when the model was trained"
    return ""


def _number_kind(number: Number) -> str:
    return "a whole number" if number.whole else "a number"


def _format(text: str) -> int:
    return int(json.loads(text)["format"])


def _product_of_format_1(content: Mapping[str, Any], policy: LimitPolicy | None, text: str) -> Product:
    factors = {name: _factor_of_format_1(name, factor) for name, factor in content["factors"].items()}
    roles = {role: tuple(factors[name] for name in names) for role, names in content["roles"].items()}
    label, reference, verbs = content["label"], content["reference"], content["verbs"]
    return Product(
        key=content["key"],
        title=content["title"],
        question=content["question"],
        quantity=content["quantity"],
        decides_credit=content["decides_credit"],
        currency=content["currency"],
        identifiers=roles["identifiers"],
        required=roles["required"],
        optional=roles["optional"],
        policy_factors=roles["policy"],
        protected=roles["protected"],
        label=Label(
            name=label["name"],
            meaning=label["meaning"],
            aliases=tuple(label["aliases"]),
            positive=tuple(label["positive"]),
            negative=tuple(label["negative"]),
        ),
        bands=tuple(
            Band(name=band["name"], start=float(band["start"]), tone=Tone(band["tone"]), meaning=band["meaning"])
            for band in content["bands"]
        ),
        raises=Verb(verbs["raises"]["singular"], verbs["raises"]["plural"]),
        lowers=Verb(verbs["lowers"]["singular"], verbs["lowers"]["plural"]),
        reference=Reference(reference["meaning"], reference["band"], reference["size"]),
        thresholds=ReasonThresholds(float(content["reasons"]["min_points"]), float(content["reasons"]["min_share"])),
        policy=policy,
        text=text,
    )


_PROTECTIONS = {"none": Protection.NONE, "credit": Protection.CREDIT, "always": Protection.ALWAYS}


def _factor_of_format_1(name: str, content: Mapping[str, Any]) -> Factor:
    phrase, change = content["phrase"], content["change"]
    return Factor(
        name=name,
        label=content["label"],
        group=Group(content["group"]),
        constraint=constraint_from(content["constraint"]),
        help=content["help"],
        example=content["example"],
        unit=content["unit"],
        aliases=tuple(content["aliases"]),
        protection=_PROTECTIONS[content["protection"]],
        behavioural=content["behavioural"],
        phrase=phrase
        and Phrase(
            many=phrase["many"],
            one=phrase["one"],
            zero=phrase["zero"],
            unknown=phrase["unknown"],
            plural=phrase["plural"],
        ),
        change=change
        and Changeability(
            direction=Direction(change["direction"]),
            effort=change["months"] / change["units"],
            step=float(change["step"]),
        ),
    )


def constraint_from(content: Mapping[str, Any]) -> Constraint:
    """Return the constraint of a factor in the content of format 1."""
    match content["kind"]:
        case "number":
            return Number(minimum=content["minimum"], maximum=content["maximum"], whole=content["whole"])
        case "yes-no":
            return YesNo()
        case "choice":
            return Choice(options=tuple(content["options"]))
        case "text":
            return Text(longest=content["longest"])
        case kind:
            raise ValueError(f"no constraint is called {kind}")


def _policy_of_format_1(content: Mapping[str, Any], text: str) -> LimitPolicy:
    return LimitPolicy(
        key=content["key"],
        version=content["version"],
        band_months=MappingProxyType({band: float(months) for band, months in content["band_months"].items()}),
        living_share=float(content["living_share"]),
        unknown_obligations_share=float(content["unknown_obligations_share"]),
        minimum_payment=float(content["minimum_payment"]),
        payment_share=float(content["payment_share"]),
        step=content["step"],
        smallest=content["smallest"],
        salary=content["factors"]["salary"],
        obligations=content["factors"]["obligations"],
        requested=content["factors"]["requested"],
        rules=MappingProxyType(content["rules"]),
        sentences=MappingProxyType(content["sentences"]),
        text=text,
    )


_PRODUCT_READERS: Mapping[int, Callable[[Mapping[str, Any], LimitPolicy | None, str], Product]] = MappingProxyType(
    {1: _product_of_format_1}
)
_POLICY_READERS: Mapping[int, Callable[[Mapping[str, Any], str], LimitPolicy]] = MappingProxyType(
    {1: _policy_of_format_1}
)
