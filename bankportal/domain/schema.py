"""One pydantic model for each product, derived from its declaration: the only validation there is.

Form, API and CSV hand their raw values to `validate` and get the same `Customer` or the same problems.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    create_model,
)
from pydantic_core import PydanticCustomError

from bankportal.domain.constraints import ConstraintViolation, Source
from bankportal.domain.errors import FieldProblem, InvalidInput
from bankportal.domain.policy import Value
from bankportal.domain.products import Product, ProductFactor, Role

Values = dict[str, Value]
MAX_QUOTED = 80
PREFIX = "factor_"


@dataclass(frozen=True)
class Customer:
    """One customer's validated values by role and factor. Every factor of the product is a key; unknown is `None`."""

    product: Product
    identifiers: Values
    scored: Values
    policy: Values
    protected: Values

    def all_values(self) -> Values:
        """Return all values by factor."""
        return self.identifiers | self.scored | self.policy | self.protected


def is_blank(value: object) -> bool:
    """Return whether a raw value means unknown: `None`, or white space only."""
    return value is None or (isinstance(value, str) and not value.strip())


def validator(product_factor: ProductFactor) -> Any:
    """Return the annotated type by which pydantic validates one factor.

    The validation's context is the `Source` of the values; without one they are taken as typed.
    """
    check = _check(product_factor)

    def validated(value: object, info: ValidationInfo) -> Value:
        try:
            return check(value, info.context or Source.TYPED)
        except ConstraintViolation as violation:
            raise PydanticCustomError(violation.code, "{message}", {"message": violation.message}) from None

    json_schema = product_factor.factor.constraint.json_schema()
    if not product_factor.required:
        json_schema = {"anyOf": [json_schema, {"type": "null"}]}
    return Annotated[Any, BeforeValidator(validated), WithJsonSchema(json_schema)]


def _check(product_factor: ProductFactor) -> Callable[[object, Source], Value]:
    """Return the function that validates one factor, or raises `ConstraintViolation`."""
    constraint, required = product_factor.factor.constraint, product_factor.required

    def check(value: object, source: Source) -> Value:
        # White space is unknown in a form or a file; in JSON, where a number is expected, it is an error.
        if value is not None and not (source is Source.TEXT and is_blank(value)):
            validated: Value = constraint.validate(value, source)
            if validated is not None and validated != "":
                return validated
        if required:
            raise ConstraintViolation("required", "is required")
        return None

    return check


@cache
def schema(product: Product) -> type[BaseModel]:
    """Return the product's pydantic model: strict, unknown fields are refused.

    Each factor has a field, which goes by the factor's name in what is validated and in the JSON Schema. Its name in
    Python has a prefix, since pydantic has names of its own, such as `json`.
    """
    fields: dict[str, Any] = {}
    for product_factor in product.factors:
        factor = product_factor.factor
        unit = f" Unit: {factor.unit}." if factor.unit else ""
        field = Field(
            default=... if product_factor.required else None,
            alias=factor.name,
            title=factor.label,
            description=f"{factor.help}{unit}",
            examples=[factor.example] if factor.example else None,
        )
        fields[PREFIX + factor.name] = (validator(product_factor), field)
    return create_model(
        f"{product.component_name}Customer", __config__=ConfigDict(extra="forbid", strict=True), **fields
    )


def validate(product: Product, raw: object, source: Source) -> Customer:
    """Validate raw values (a mapping of factor names to values) and return the customer.

    Raises `InvalidInput` with every problem, in the order of the product's factors; unknown names come last.
    """
    if (customer := _valid(product, raw, source)) is not None:
        return customer
    try:
        values = vars(schema(product).model_validate(raw, context=source))
    except ValidationError as error:
        raise InvalidInput(_problem(product, details) for details in error.errors(include_url=False)) from None
    return Customer(
        product, *({name: values[PREFIX + name] for name, _ in checks} for checks in _checks_by_role(product))
    )


def _valid(product: Product, raw: object, source: Source) -> Customer | None:
    """Return the customer of a dictionary without any problem; `None` where pydantic has to say more.

    The checks are those that the pydantic model makes; without its bookkeeping they take about half of the time.
    """
    if type(raw) is not dict or not raw.keys() <= _names(product):
        return None
    value_of = raw.get
    try:
        roles = [{name: check(value_of(name), source) for name, check in checks} for checks in _checks_by_role(product)]
    except ValueError:
        return None
    return Customer(product, *roles)


@cache
def _names(product: Product) -> frozenset[str]:
    return frozenset(product_factor.factor.name for product_factor in product.factors)


@cache
def _checks_by_role(product: Product) -> tuple[tuple[tuple[str, Callable[[object, Source], Value]], ...], ...]:
    """Return the factors' names and checks by role, in the order of `Customer`'s fields."""
    roles = (Role.IDENTIFIER, Role.SCORED, Role.POLICY, Role.PROTECTED)
    return tuple(
        tuple(
            (product_factor.factor.name, _check(product_factor))
            for product_factor in product.factors
            if product_factor.role is role
        )
        for role in roles
    )


def _problem(product: Product, details: Mapping[str, Any]) -> FieldProblem:
    field = str(details["loc"][0]) if details["loc"] else ""
    match details["type"]:
        case "missing":
            return FieldProblem(field, "required", "is required")
        case "extra_forbidden":
            return FieldProblem(
                _cut(field), "unknown-field", f"is not a factor of {product.key}", _cut(details["input"])
            )
        case "model_type" | "model_attributes_type":
            return FieldProblem(
                "", "not-an-object", "The values must be given as an object of factor names and values."
            )
        case code:
            return FieldProblem(field, code, details["msg"], _cut(details["input"]))


def _cut(value: object) -> str:
    """Return a submitted value as text, shortened: a text as it is, any other value as JSON."""
    text = (
        "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    )
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
