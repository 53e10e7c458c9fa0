"""The products' factors as JSON Schema, made from their declarations."""

from functools import cache
from typing import Any

from bankportal.domain.constraints import Source
from bankportal.domain.products import Product, ProductFactor
from bankportal.domain.schema import schema


def customer_name(product: Product) -> str:
    """Return what the schema of a product's customers is called."""
    return schema(product).__name__


def customers_name(product: Product) -> str:
    """Return what the schema of many of a product's customers is called."""
    return f"{customer_name(product)}s"


@cache
def customer_schema(product: Product) -> dict[str, Any]:
    """Return a product's factors as JSON Schema: meaning, unit and bounds of each, an example of its own type."""
    made = schema(product).model_json_schema()
    for entry in product.factors:
        _complete(entry, made["properties"][entry.factor.name])
    made["description"] = f"{product.question} The score is {product.quantity}."
    return made


def _complete(entry: ProductFactor, made: dict[str, Any]) -> None:
    factor = entry.factor
    described = factor.constraint.describe()
    made["description"] += f" {described[0].upper()}{described[1:]}{_role(entry)}."
    made["x-unit"], made["x-group"], made["x-role"] = factor.unit, factor.group.value, entry.role.value
    made.pop("default", None)
    if factor.example:
        made["examples"] = [factor.constraint.validate(factor.example, Source.TEXT)]


def _role(entry: ProductFactor) -> str:
    return "; required" if entry.required else "; null or left out where unknown"


@cache
def example(product: Product) -> dict[str, Any]:
    """Return the declared example customer, typed."""
    factors = (entry.factor for entry in product.factors if entry.factor.example)
    return {factor.name: factor.constraint.validate(factor.example, Source.TEXT) for factor in factors}
