"""What operations take beside a body: pydantic models that read path, query and headers, and describe them."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationInfo, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from bankportal.answers import KEY
from bankportal.domain.errors import NotFound
from bankportal.domain.ids import ALPHABET, ID_LENGTH
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product

LATEST = "latest"
ONE_ID = f"[{ALPHABET}]{{{ID_LENGTH}}}"
PLACES = ("path", "query", "header", "form")
FLAGS = {"true": True, "false": False}
WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,8})")
NO_PRODUCT = "no-product"  # pydantic's type of the error: a key of no product, in words
WHICH, IN_FORCE, EVER_IN_FORCE = "which", "in force", "ever in force"  # of the products a parameter may name


@dataclass(frozen=True)
class Place:
    """Where a parameter stands in a call, what it is for, and an example."""

    place: Literal["path", "query", "header", "form"]
    help: str
    example: Any = None


def _in_force(key: str, info: ValidationInfo) -> Product:
    return _product(Portfolio.product, key, info)


def _ever_in_force(key: str, info: ValidationInfo) -> Product:
    return _product(Portfolio.ever, key, info)


def _product(find: Callable[[Portfolio, str], Product], key: str, info: ValidationInfo) -> Product:
    """Find a product in the portfolio that is the validation's context."""
    try:
        return find(cast(Portfolio, info.context), key)
    except NotFound as error:
        raise PydanticCustomError(NO_PRODUCT, "{message}", {"message": str(error)}) from None


def _whole(text: str) -> int | str:
    """Return a whole number written plainly; other spellings that pydantic would take stay text and are refused."""
    return int(text) if WHOLE.fullmatch(text) else ""


# Each `description` completes the sentence "must be ...".
Switch = Annotated[bool, BeforeValidator(FLAGS.get), Field(description="true or false")]
PageSize = Annotated[int, Field(ge=1, le=200, description="a whole number from 1 to 200"), BeforeValidator(_whole)]
# A product by its key. The portfolio is the validation's context; `Parameter.of` puts its keys into the schema.
InForce = Annotated[InstanceOf[Product], BeforeValidator(_in_force), WithJsonSchema({WHICH: IN_FORCE})]
EverInForce = Annotated[InstanceOf[Product], BeforeValidator(_ever_in_force), WithJsonSchema({WHICH: EVER_IN_FORCE})]
Version = Annotated[
    str, Field(pattern="^[A-Za-z0-9]{1,20}$", max_length=20, description="a version's name, such as v1")
]
Id = Annotated[
    str,
    Field(
        pattern=f"^{ONE_ID}$",
        max_length=ID_LENGTH,
        description=f"a number as it was given out, of {ID_LENGTH} digits and small letters",
    ),
]
IdOrLatest = Annotated[
    str,
    Field(
        pattern=f"^({LATEST}|{ONE_ID})$",
        max_length=ID_LENGTH,
        description=f"a number as it was given out, of {ID_LENGTH} digits and small letters, or {LATEST}",
    ),
]
KeyText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        pattern=r"^[!-+\--~]+$",
        description="one key of 1 to 255 visible ASCII characters, no comma among them",
    ),
]


class Parameters(BaseModel):
    """What an operation takes in path, query and headers: by itself nothing."""

    model_config = ConfigDict(frozen=True)


class Keyed(Parameters):
    """What an operation takes that can be repeated safely."""

    key: Annotated[
        KeyText | None,
        Place(
            "header",
            "Makes a call safe to repeat: the same key with the same content gives the same answer and is recorded "
            "once; with other content it is refused. 1 to 255 visible ASCII characters, such as a UUID; no comma, "
            "since a header sent twice arrives as one with a comma. Keys do not expire.",
        ),
    ] = Field(default=None, validation_alias=KEY)


class ScoreMany(Keyed):
    """How customers are scored."""

    record: Annotated[
        Switch, Place("query", "Whether the decision is recorded; nothing is kept where it is not.", example=True)
    ] = True
    contributions: Annotated[
        Switch, Place("query", "Whether each factor's exact contribution is answered too.", example=False)
    ] = False


class ScoreOne(ScoreMany):
    """How one customer is scored."""

    recourse: Annotated[
        Switch, Place("query", "Whether the smallest changes to a better band are worked out too.", example=False)
    ] = False


class OfProduct(Parameters):
    """Which product is meant."""

    product: Annotated[InForce, Place("path", "The product's key.")]


class OfVersion(Parameters):
    """Which model version is meant."""

    product: Annotated[EverInForce, Place("path", "The product's key.")]
    version: Annotated[Version, Place("path", "The model version.", example="v1")]


class OfId(Parameters):
    """Which decision or batch is meant."""

    id: Annotated[IdOrLatest, Place("path", f"Its number, or `{LATEST}`.", example=LATEST)]


class Page(Parameters):
    """Which part of a list is meant."""

    product: Annotated[EverInForce | None, Place("query", "Only this product's.")] = None
    before: Annotated[Id | None, Place("query", "Only those older than this one.")] = None
    size: Annotated[PageSize, Place("query", "How many at most.", example=10)] = 50


class _Schema(GenerateJsonSchema):
    """The schemas of parameters: one that is left out has no value, so that none of them can be null."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


@dataclass(frozen=True)
class Parameter:
    """One parameter as the document describes it; `schema` is JSON Schema.

    `key` is what its text goes by in a call: headers go by lower-case names.
    """

    name: str
    key: str
    place: str
    help: str
    schema: Mapping[str, Any]
    example: Any

    @property
    def words(self) -> str:
        """What it must be, in words."""
        return str(self.schema["description"])

    def of(self, portfolio: Portfolio) -> "Parameter":
        """Return it as it is in a portfolio: one that names a product may have the keys of these products alone."""
        if WHICH not in self.schema:
            return self
        before = portfolio.withdrawn if self.schema[WHICH] == EVER_IN_FORCE else ()
        keys = [*portfolio, *(product.key for product in before)]
        *others, last = keys or ["a product's key, and there is none"]
        words = f"{', '.join(others)} or {last}" if others else last
        example = keys[0] if keys and self.place == "path" else None
        return replace(self, schema={"description": words, "enum": keys, "type": "string"}, example=example)


@cache
def declared(model: type[Parameters]) -> tuple[Parameter, ...]:
    """Return the parameters that a model declares: those of the path first, then of the query, headers, of a form.

    They are the same in every portfolio: which products there are is not among what is known of them.
    """
    schemas = model.model_json_schema(schema_generator=_Schema)["properties"] if model.model_fields else {}
    made = []
    for name, field in model.model_fields.items():
        (place,) = (each for each in field.metadata if isinstance(each, Place))
        alias = str(field.validation_alias or name)
        schema = {key: value for key, value in schemas[alias].items() if (key, value) != ("default", None)}
        key = alias.lower() if place.place == "header" else alias
        made.append(Parameter(alias, key, place.place, place.help, schema, place.example))
    return tuple(sorted(made, key=lambda parameter: PLACES.index(parameter.place)))


def described(model: type[Parameters], portfolio: Portfolio) -> tuple[Parameter, ...]:
    """Return the parameters that a model declares, as they are in a portfolio; in the order of `declared`."""
    return tuple(parameter.of(portfolio) for parameter in declared(model))
