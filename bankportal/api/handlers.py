"""What each operation does: take the parsed request, call one service, reply."""

from collections.abc import Callable, Mapping
from typing import Any

from bankportal import answers
from bankportal.api import conversion
from bankportal.api.calls import BY_API, DecisionRequest, ParsedRequest, Reply, ReplyAfterDecision, reply
from bankportal.api.parameters import LATEST, Keyed, OfId, OfProduct, OfVersion, Page, Parameters, ScoreMany, ScoreOne
from bankportal.api.problems import ParameterProblem, Refused, fault
from bankportal.api.schemas import customer_schema
from bankportal.domain.constraints import Source
from bankportal.domain.errors import FieldProblem, InvalidInput, NoActiveModel, NotFound
from bankportal.domain.outcome import Decision
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product
from bankportal.domain.schema import Customer, validate
from bankportal.services.audit import ChainBroken
from bankportal.services.proving import verified_receipt
from bankportal.version import __version__
from bankportal.wiring import Services, require_writable

MAX_ITEMS = 1000


def score(services: Services, request: ParsedRequest[ScoreOne], product: Product) -> ReplyAfterDecision:
    """Score one customer; record the decision unless `record` is false."""
    customer = validate(product, request.body, Source.TYPED)
    recorded = request.parameters.record
    decision = (
        yield decision_request(request, product, customer) if recorded else DecisionRequest(customer, recorded=False)
    )
    return reply(_outcome(services, request, decision))


def decision_request(request: ParsedRequest[Keyed], product: Product, customer: Customer) -> DecisionRequest:
    """Return the request for a decision about a customer; with the same idempotency key it is the same decision."""
    return DecisionRequest(customer, True, _submission(request, product), _claim(request))


def score_many(services: Services, request: ParsedRequest[ScoreMany], product: Product) -> Reply:
    """Score up to `MAX_ITEMS` customers; each is answered by itself, and a refused one stops no other."""
    items = _items(request.body)
    if request.parameters.record and (claim := _claim(request)):
        services.keys.claim(*claim)
    validated = [_validated(product, raw) for raw in items]
    customers = {index: each for index, each in enumerate(validated) if isinstance(each, Customer)}
    outcomes = dict(zip(customers, _outcomes(services, request, product, customers), strict=True))
    answered = tuple(
        answers.Item(index=index, outcome=outcomes.get(index), errors=() if isinstance(each, Customer) else each)
        for index, each in enumerate(validated)
    )
    return reply(answers.Scores(scored=len(customers), refused=len(items) - len(customers), items=answered))


def _submission(request: ParsedRequest[Keyed], product: Product, index: int | None = None) -> str | None:
    """Return what a repeated call is known by, with the customer's place in it; `None` without a key."""
    key = request.parameters.key
    place = "" if index is None else f":{index}"
    return None if key is None else f"key:{product.key}:{key}{place}"


def _claim(request: ParsedRequest[Keyed]) -> tuple[str, bytes] | None:
    """Return the key and the request that it is to be bound to; `None` without a key."""
    key = request.parameters.key
    return (key, request.fingerprint(f"{request.call.method} {request.call.path}")) if key else None


def _outcome(services: Services, request: ParsedRequest[ScoreOne], decision: Decision) -> answers.Outcome:
    recourse = conversion.recourse(services.explaining, decision) if request.parameters.recourse else None
    return conversion.outcome(
        decision.outcome,
        contributions=request.parameters.contributions,
        recourse=recourse,
        decision=decision if request.parameters.record else None,
    )


def _items(body: Any) -> list[Any]:
    """Return the customers of a body; `InvalidInput` where it is not an object of `items` alone."""
    if not isinstance(body, dict):
        raise InvalidInput([FieldProblem("", "not-an-object", "The body must be an object with a list of `items`.")])
    problems = [
        FieldProblem(name, "unknown-field", "is not a field here; the customers stand in `items`") for name in body
    ]
    problems = [problem for problem in problems if problem.field != "items"]
    items = body.get("items")
    if "items" not in body:
        problems.append(FieldProblem("items", "required", "is required"))
    elif not isinstance(items, list) or not items:
        problems.append(FieldProblem("items", "not-a-list", "must be a list of one customer or more"))
    elif len(items) > MAX_ITEMS:
        count = f"{len(items)} customers"
        problems.append(FieldProblem("items", "too-many", f"must hold {MAX_ITEMS:,} customers or fewer", count))
    if problems:
        raise InvalidInput(problems)
    assert isinstance(items, list)
    return items


def _validated(product: Product, raw: Any) -> Customer | tuple[answers.Fault, ...]:
    """Return the customer, or what is wrong with the values."""
    try:
        return validate(product, raw, Source.TYPED)
    except InvalidInput as invalid:
        return tuple(map(fault, invalid.problems))


def _outcomes(
    services: Services, request: ParsedRequest[ScoreMany], product: Product, customers: Mapping[int, Customer]
) -> list[answers.Outcome]:
    """Score customers by their place in the list; record all of them or none."""
    contributions = request.parameters.contributions
    if not request.parameters.record:
        outcomes = services.scoring.score_all(list(customers.values()))
        return [conversion.outcome(each, contributions=contributions) for each in outcomes]
    submitted = [(each, _submission(request, product, index), BY_API) for index, each in customers.items()]
    decisions = services.scoring.decide_all(submitted)
    return [conversion.outcome(each.outcome, contributions=contributions, decision=each) for each in decisions]


def products(services: Services, request: ParsedRequest[Parameters]) -> Reply:
    """Describe all products that are in force."""
    items = tuple(conversion.product(each, _serving(services, each)) for each in request.portfolio.values())
    return reply(answers.Products(items=items))


def _serving(services: Services, product: Product) -> str | None:
    try:
        return services.models.active(product).version
    except NoActiveModel:
        return None


def product_schema(services: Services, request: ParsedRequest[OfProduct]) -> Reply:
    """Return a product's factors as JSON Schema."""
    content = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | customer_schema(request.parameters.product)
    return reply(content)


def list_decisions(services: Services, request: ParsedRequest[Page]) -> Reply:
    """List recorded decisions, newest first."""
    product, before, size = request.parameters.product, request.parameters.before, request.parameters.size
    require_known(before, services.decisions.get, "decision")
    page = services.decisions.page(product.key if product else None, before, size)
    items = tuple(conversion.decision(each, contributions=False) for each in page.items)
    return reply(answers.Decisions(items=items, next=page.next))


def require_known(before: str | None, get: Callable[[str], Any], what: str) -> None:
    """Refuse a list that is to go on after a decision or batch that does not exist."""
    if before is None:
        return
    try:
        get(before)
    except NotFound:
        problem = ParameterProblem("before", "not-found", f"is not a {what} of this portal", before)
        raise Refused("invalid-parameter", "Not acceptable: before.", (problem,)) from None


def get_decision(services: Services, request: ParsedRequest[OfId]) -> Reply:
    """Return one decision in full."""
    return reply(conversion.decision(_decision(services, request), contributions=True))


def _decision(services: Services, request: ParsedRequest[OfId]) -> Decision:
    if request.parameters.id != LATEST:
        return services.decisions.get(request.parameters.id)
    if newest := services.decisions.latest(1):
        return newest[0]
    raise NotFound("Nothing was decided yet.")


def verify_decision(services: Services, request: ParsedRequest[OfId]) -> Reply:
    """Check one decision against its receipt, and the receipt against the one before."""
    id_ = request.parameters.id
    decision = _decision(services, request).id if id_ == LATEST else id_
    try:
        receipt, fault = verified_receipt(services.audit.chain, decision), None
    except ChainBroken as broken:
        receipt, fault = None, str(broken)
    place = answers.Receipt.model_validate(receipt) if receipt else None
    return reply(answers.Verdict(decision=decision, intact=fault is None, receipt=place, fault=fault))


def list_models(services: Services, request: ParsedRequest[Parameters]) -> Reply:
    """List the registered model versions of all products, of those that were withdrawn at the end."""
    every = (*request.portfolio.values(), *request.portfolio.withdrawn)
    versions = (each for product in every for each in services.models.versions(product))
    return reply(answers.ModelVersions(items=tuple(map(conversion.model_version, versions))))


def get_model(services: Services, request: ParsedRequest[OfVersion]) -> Reply:
    """Return one model version."""
    version = services.models.get(request.parameters.product, request.parameters.version)
    return reply(conversion.model_version(version))


def active_model(services: Services, request: ParsedRequest[OfProduct]) -> Reply:
    """Return the model version that serves."""
    return reply(conversion.model_version(services.models.active(request.parameters.product)))


def health(services: Services, request: ParsedRequest[Parameters]) -> Reply:
    """Say whether the portal can score and record."""
    health = state(services, request.portfolio)
    return reply(health, 200 if all(health.models.values()) else 503)


def state(services: Services, portfolio: Portfolio) -> answers.Health:
    """Return each product's model and refused versions; one of `OUTAGE_ERRORS` where nothing can be recorded."""
    require_writable(services)
    models = {product.key: _loaded(services, product) for product in portfolio.values()}
    refused = {product.key: why for product in portfolio.values() if (why := services.models.refusal(product))}
    status = "no model" if not all(models.values()) else "an older model serves" if refused else "ok"
    return answers.Health(status=status, models=models, refused=refused, version=__version__)


def _loaded(services: Services, product: Product) -> str | None:
    try:
        return services.models.serving(product).version
    except NoActiveModel:
        return None
