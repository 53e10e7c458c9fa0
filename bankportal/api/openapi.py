"""The OpenAPI 3.1 document, derived from the table of operations: the same from every engine."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bankportal import answers
from bankportal.answers import JSON, PROBLEM_JSON
from bankportal.api.batches import NewBatch
from bankportal.api.calls import MULTIPART, Answer, Body, Operation, Reply
from bankportal.api.examples import required
from bankportal.api.handlers import MAX_ITEMS
from bankportal.api.operations import OPERATIONS, TAGS
from bankportal.api.parameters import Parameter, Parameters, described
from bankportal.api.problems import KINDS
from bankportal.api.schemas import customer_name, customer_schema
from bankportal.domain.products import CHURN, PRODUCTS, Product
from bankportal.version import BRAND, __version__

SCHEMAS = "#/components/schemas/"
ABOUT = f"""\
Scores with exact reasons, and the record of what was decided.

- **Values** go by the factors' names; what is not known is left out or `null`. Each tells its unit and bounds.
- **Refusals** are problems (RFC 9457): `errors` names each value at fault as you named it, and what it must be.
- **Sending again** is safe with an `Idempotency-Key`: what a call records or creates is there once.
- **Lists** come newest first, a page at a time: pass `next` as `before`. What is added meanwhile moves nothing.
- **Amounts** are in EUR, moments in UTC; scores have every digit.

In Python, with the portal's client (`pip install ./client` in its repository; it needs httpx and pydantic alone):

```python
from bankportal_client import Portal

with Portal("http://127.0.0.1:8000") as portal:
    answer = portal.score("{CHURN.key}", {json.dumps(required(CHURN))})
    print(answer.band, answer.score, answer.decision.id)
    for reason in answer.reasons:
        print(reason.sentence)
```
"""


@cache
def document() -> dict[str, Any]:
    """Return the document as plain data."""
    return {
        "openapi": "3.1.0",
        "info": {"title": BRAND, "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": about} for name, about in TAGS.items()],
        "paths": _paths(),
        "components": {"schemas": _schemas(), "responses": {"Problem": _problem("Any other refusal.")}},
    }


@cache
def text() -> str:
    """Return the document as it is served and kept: `docs/openapi.json`."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _serve() -> Reply:
    return Reply(200, text().encode())


DOCUMENTS: Mapping[str, Callable[[], Reply]] = {"/openapi.json": _serve, "/api/v1/openapi.json": _serve}


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return paths


def _operation(operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.help,
    }
    if parameters := described(operation.parameters):
        made["parameters"] = [_parameter(parameter) for parameter in parameters]
    if operation.body:
        made["requestBody"] = _body(operation.body)
    declared = {str(answer.status): _answer(answer) for answer in operation.answers}
    refusals = {str(status): _problem(_kinds(status)) for status in operation.errors}
    both = {status: _merged(refusals[status], declared[status]) for status in refusals.keys() & declared.keys()}
    made["responses"] = {**refusals, **declared, **both}
    made["responses"] = dict(sorted(made["responses"].items()))
    made["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
    return made


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {**other, "content": {**one["content"], **other["content"]}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    made = {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.help,
        "schema": dict(parameter.schema),
    }
    return made | ({} if parameter.example is None else {"example": parameter.example})


def _body(body: Body) -> dict[str, Any]:
    examples = {name: {"value": value} for name, value in body.examples.items()}
    content: dict[str, Any] = {"schema": {"$ref": SCHEMAS + body.schema}, "examples": examples}
    limit = f"{body.max_bytes:,} bytes or fewer."
    if body.media == MULTIPART:
        limit = "The file may be as large as the portal's settings allow."
        content["encoding"] = {"file": {"contentType": "text/csv"}, "mapping": {"contentType": JSON}}
    return {"required": True, "description": limit, "content": {body.media: content}}


def _answer(answer: Answer) -> dict[str, Any]:
    other = {"type": "object" if answer.media == JSON else "string"}
    schema = {"$ref": SCHEMAS + answer.model.__name__} if answer.model else other
    content: dict[str, Any] = {"schema": schema}
    if answer.example:
        about, value = answer.example
        content["examples"] = {"Shape": {"description": about, "value": value}}
    return {"description": answer.help, "content": {answer.media: content}}


def _kinds(status: int) -> str:
    """Say which problems a status may mean: the end of each one's `type`, and its title."""
    return "\n".join(f"- `{code}`: {title}." for code, (of, title) in KINDS.items() if of == status)


def _problem(help: str) -> dict[str, Any]:  # noqa: A002  # the field's name
    return {"description": help, "content": {PROBLEM_JSON: {"schema": {"$ref": f"{SCHEMAS}Problem"}}}}


def _schemas() -> dict[str, Any]:
    answered = {answer.model for operation in OPERATIONS for answer in operation.answers if answer.model}
    ordered = sorted(answered | {answers.Problem}, key=_name)
    _, made = models_json_schema([(model, "serialization") for model in ordered], ref_template=SCHEMAS + "{model}")
    schemas: dict[str, Any] = made["$defs"]
    for product in PRODUCTS.values():
        schemas[customer_name(product)] = customer_schema(product)
        schemas[f"{product.title}Customers"] = _customers(product)
    schemas[NewBatch.__name__] = _form(NewBatch)
    return dict(sorted(schemas.items()))


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _customers(product: Product) -> dict[str, Any]:
    any_other = {"description": "Anything else is answered with what is wrong with it."}
    items = {"anyOf": [{"$ref": SCHEMAS + customer_name(product)}, any_other]}
    return {
        "type": "object",
        "title": f"{product.title}Customers",
        "description": f"Up to {MAX_ITEMS:,} customers.",
        "properties": {"items": {"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "items": items}},
        "required": ["items"],
        "additionalProperties": False,
    }


def _form(model: type[Parameters]) -> dict[str, Any]:
    fields = described(model)
    return {
        "type": "object",
        "title": model.__name__,
        "description": model.__doc__,
        "properties": {each.name: {**each.schema, "description": each.help} for each in fields},
        "required": [name for name, field in model.model_fields.items() if field.is_required()],
        "additionalProperties": False,
    }
