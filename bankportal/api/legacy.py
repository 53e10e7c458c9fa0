"""The older system's paths, behind the setting LEGACY_API: the same validation and scoring, its fields and its answers.

Its clients send whole numbers as floats, flags as booleans and customer numbers as numbers; here alone these are put
right. Its pages compare the words of `prediction`, `risk_level` and `status`, so these are the older system's to the
letter: see `churn_answer` and `allowance_answer`. Every answer is a recorded decision, as elsewhere.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from bankportal.answers import KEY
from bankportal.api.calls import Answer, Body, Call, Operation, ParsedRequest, Reply, ReplyAfterDecision, reply
from bankportal.api.handlers import decision_request
from bankportal.api.parameters import Keyed, Parameters
from bankportal.api.schemas import customer_name
from bankportal.config import Config
from bankportal.domain.constraints import Source, YesNo
from bankportal.domain.outcome import Outcome
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product
from bankportal.domain.schema import Customer, validate
from bankportal.version import BRAND, __version__
from bankportal.wiring import Services

CHURN_PATH, ALLOWANCE_PATH, SERVICE_PATH = "/predict_churn", "/predict_allowance", "/"
# What the older system decided, by its paths: products of these keys, if the portfolio has them.
PRODUCT_KEYS: Mapping[str, str] = MappingProxyType({CHURN_PATH: "churn", ALLOWANCE_PATH: "allowance"})
PATHS = frozenset({*PRODUCT_KEYS, SERVICE_PATH})
CUSTOMER = "CustomerId"  # as the older answers name it
MAX_EXACT_INTEGER = 2**53  # whole numbers beyond are not exact as floats
DAY = "86400"  # seconds
MIN_HIGH_CHANCE = 0.5  # score
HIGH_CHANCE, LOW_CHANCE = "High chance of churn", "Low chance of churn"
APPROVED, NOT_APPROVED = "Allowance Approved", "Allowance Not Approved"
INELIGIBLE = "Ineligible"


def customer(product: Product, body: Any) -> Customer:
    """Read the older system's body; `InvalidInput` in its own field names."""
    return validate(product, _put_right(product, body) if isinstance(body, dict) else body, Source.TYPED)


def _put_right(product: Product, body: Mapping[str, Any]) -> dict[str, Any]:
    flags = {entry.factor.name for entry in product.factors if isinstance(entry.factor.constraint, YesNo)}
    values = {name: int(value) if name in flags and isinstance(value, bool) else value for name, value in body.items()}
    for factor in product.identifiers[:1]:
        number = values.get(factor.name)
        if isinstance(number, int | float) and not isinstance(number, bool) and _is_whole(number):
            values[factor.name] = str(int(number))
    return values


def _is_whole(number: float) -> bool:
    return math.isfinite(number) and abs(number) <= MAX_EXACT_INTEGER and number == int(number)


def _predict_churn(services: Services, request: ParsedRequest[Keyed], product: Product) -> ReplyAfterDecision:
    decision = yield decision_request(request, product, customer(product, request.body))
    return reply(churn_answer(request.body, decision.outcome))


def _predict_allowance(services: Services, request: ParsedRequest[Keyed], product: Product) -> ReplyAfterDecision:
    decision = yield decision_request(request, product, customer(product, request.body))
    return reply(allowance_answer(decision.outcome))


def churn_answer(sent: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Return the older answer about churn: high from a fixed score on, whatever the bands of today."""
    identifier = next((factor.name for factor in outcome.product.identifiers), CUSTOMER)
    return {
        CUSTOMER: sent.get(identifier),
        "probability": round(outcome.score * 100, 2),
        "risk_level": outcome.band.name,
        "prediction": HIGH_CHANCE if outcome.score >= MIN_HIGH_CHANCE else LOW_CHANCE,
    }


def allowance_answer(outcome: Outcome) -> dict[str, Any]:
    """Return the older answer about a limit: without a limit a customer is ineligible, whatever the score."""
    granted = outcome.limit is not None and not outcome.limit.declined
    return {
        "prediction": APPROVED if granted else NOT_APPROVED,
        "probability": round(outcome.score * 100, 2),
        "status": outcome.band.name if granted else INELIGIBLE,
    }


def service(services: Services, request: ParsedRequest[Parameters]) -> Reply:
    """Answer as a service: who it is and what it takes."""
    return reply(
        {
            "message": f"{BRAND} is running",
            "docs": "/docs",
            "service": BRAND,
            "version": __version__,
            "status": "running",
            "paths": [path for path, key in PRODUCT_KEYS.items() if key in request.portfolio],
        }
    )


PREDICTORS = MappingProxyType({CHURN_PATH: _predict_churn, ALLOWANCE_PATH: _predict_allowance})


def _operation(path: str, product: Product) -> Operation:
    return Operation(
        id=path.strip("/"),
        method="POST",
        path=path,
        tag="",
        summary="",
        help="",
        handler=partial(PREDICTORS[path], product=product),
        parameters=Keyed,
        body=Body(schema=customer_name(product), examples={}),
        answers=(Answer(status=200, help=""),),
        errors=(),
    )


SERVICE = Operation(
    id="service",
    method="GET",
    path=SERVICE_PATH,
    tag="",
    summary="",
    help="",
    handler=service,
    answers=(),
    errors=(),
)


def operations_of(portfolio: Portfolio) -> tuple[Operation, ...]:
    """Return the operations at the older system's paths: those of the products that the portfolio has."""
    predictors = (_operation(path, portfolio[key]) for path, key in PRODUCT_KEYS.items() if key in portfolio)
    return (*predictors, SERVICE)


def is_older(path: str) -> bool:
    """Say whether a path is one of the older system's."""
    return path in PATHS


def preflight(config: Config, call: Call) -> Reply:
    """Answer a browser that asks whether a page of another origin may call."""
    headers = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Max-Age": DAY}
    headers["Access-Control-Allow-Headers"] = f"Content-Type, {KEY}"
    return shared(config, call, Reply(204, b"", headers=headers if is_shared_with(config, call) else {}))


def shared(config: Config, call: Call, reply: Reply) -> Reply:
    """Let pages of the origins that are allowed read a reply; no others."""
    headers = {**reply.headers, "Vary": "Origin"}
    if is_shared_with(config, call):
        headers["Access-Control-Allow-Origin"] = call.headers["origin"]
    return replace(reply, headers=headers)


def is_shared_with(config: Config, call: Call) -> bool:
    """Say whether pages of the call's origin may use the older paths."""
    return call.headers.get("origin") in config.cors_origins
