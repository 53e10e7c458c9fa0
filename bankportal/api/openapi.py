"""The OpenAPI 3.1 document of a portfolio, derived from its operations: the same from every engine."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bankportal import answers
from bankportal.answers import JSON, PROBLEM_JSON, PRODUCT_CURRENCY
from bankportal.api.batches import NewBatch
from bankportal.api.calls import MULTIPART, Answer, Body, Operation
from bankportal.api.examples import required
from bankportal.api.handlers import MAX_ITEMS
from bankportal.api.operations import TAGS, operations_of
from bankportal.api.parameters import Parameter, Parameters, described
from bankportal.api.problems import KINDS
from bankportal.api.schemas import customer_name, customer_schema, customers_name
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product
from bankportal.version import BRAND, __version__

SCHEMAS = "#/components/schemas/"
ABOUT = """\
Scores with exact reasons, and the record of what was decided.

- **Values** go by the factors' names; what is not known is left out or `null`. Each tells its unit and bounds.
- **Refusals** are problems (RFC 9457): `errors` names each value at fault as you named it, and what it must be.
- **Sending again** is safe with an `Idempotency-Key`: what a call records or creates is there once.
- **Lists** come newest first, a page at a time: pass `next` as `before`. What is added meanwhile moves nothing.
- **Amounts** are in {currency}, moments in UTC; scores have every digit.
"""
EXAMPLE = """
In Python, with the portal's client (`pip install ./client` in its repository; it needs httpx and pydantic alone):

```python
from bankportal_client import Portal

with Portal("http://127.0.0.1:8000") as portal:
    answer = portal.score("{key}", {values})
    print(answer.band, answer.score, answer.decision.id)
    for reason in answer.reasons:
        print(reason.sentence)
```
"""


def document(portfolio: Portfolio) -> dict[str, Any]:
    """Return the document of a portfolio as plain data."""
    operations = operations_of(portfolio)
    return {
        "openapi": "3.1.0",
        "info": {"title": BRAND, "version": __version__, "description": about(portfolio)},
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": meaning} for name, meaning in TAGS.items()],
        "paths": _paths(operations, portfolio),
        "components": {
            "schemas": _schemas(operations, portfolio),
            "responses": {"Problem": _problem("Any other refusal.")},
        },
    }


def text(document: dict[str, Any]) -> str:
    """Return a document as it is served and kept: `docs/openapi.json`."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def about(portfolio: Portfolio) -> str:
    """Return the document's introduction; its example scores a customer of the first product."""
    introduction = ABOUT.format(currency=_currency(portfolio))
    for product in list(portfolio.values())[:1]:
        introduction += EXAMPLE.format(key=product.key, values=json.dumps(required(product)))
    return introduction


def _currency(portfolio: Portfolio) -> str:
    """Name the currency of all amounts, or that of each product where there are several."""
    currencies = {product.key: product.currency for product in (*portfolio.withdrawn, *portfolio.values())}
    if len(set(currencies.values())) == 1:
        return next(iter(currencies.values()))
    each = ", ".join(f"{currency} for {key}" for key, currency in currencies.items())
    return f"{PRODUCT_CURRENCY} ({each})" if each else PRODUCT_CURRENCY


def _paths(operations: Sequence[Operation], portfolio: Portfolio) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, portfolio)
    return paths


def _operation(operation: Operation, portfolio: Portfolio) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.help,
    }
    if parameters := described(operation.parameters, portfolio):
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


def _schemas(operations: Iterable[Operation], portfolio: Portfolio) -> dict[str, Any]:
    answered = {answer.model for operation in operations for answer in operation.answers if answer.model}
    ordered = sorted(answered | {answers.Problem}, key=_name)
    _, made = models_json_schema([(model, "serialization") for model in ordered], ref_template=SCHEMAS + "{model}")
    schemas: dict[str, Any] = made["$defs"]
    limit = schemas[answers.Limit.__name__]
    limit["description"] = limit["description"].replace(PRODUCT_CURRENCY, _currency(portfolio))
    for product in portfolio.values():
        schemas[customer_name(product)] = customer_schema(product)
        schemas[customers_name(product)] = _customers(product)
    schemas[NewBatch.__name__] = _form(NewBatch, portfolio)
    return dict(sorted(schemas.items()))


def _name(model: type[BaseModel]) -> str:
    return model.__name__


def _customers(product: Product) -> dict[str, Any]:
    any_other = {"description": "Anything else is answered with what is wrong with it."}
    items = {"anyOf": [{"$ref": SCHEMAS + customer_name(product)}, any_other]}
    return {
        "type": "object",
        "title": customers_name(product),
        "description": f"Up to {MAX_ITEMS:,} customers.",
        "properties": {"items": {"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "items": items}},
        "required": ["items"],
        "additionalProperties": False,
    }


def _form(model: type[Parameters], portfolio: Portfolio) -> dict[str, Any]:
    fields = described(model, portfolio)
    return {
        "type": "object",
        "title": model.__name__,
        "description": model.__doc__,
        "properties": {each.name: {**each.schema, "description": each.help} for each in fields},
        "required": [name for name, field in model.model_fields.items() if field.is_required()],
        "additionalProperties": False,
    }
