"""The operations on a portfolio, each declared once; both engines' routes and the OpenAPI document derive from them."""

from functools import partial
from typing import Any

from bankportal import answers
from bankportal.answers import BASE
from bankportal.api import batches, examples, handlers
from bankportal.api.calls import MULTIPART, Answer, Body, Operation
from bankportal.api.handlers import MAX_ITEMS
from bankportal.api.parameters import Keyed, OfId, OfProduct, OfVersion, Page, ScoreMany, ScoreOne
from bankportal.api.schemas import customer_name, customers_name, example
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product

SCORING, BATCHES, DECISIONS, MODELS = "Scoring", "Batches", "Decisions", "Models"
PRODUCT_TAG, HEALTH = "Products", "Health"
TAGS = {
    SCORING: "Scores with their reasons.",
    BATCHES: "Whole files, scored by workers.",
    DECISIONS: "What was recorded, and whether it is still what was recorded.",
    MODELS: "The trained forests.",
    PRODUCT_TAG: "What is decided, and on which factors.",
    HEALTH: "Whether the portal can answer.",
}
MAX_SCORES_BYTES = 4_000_000  # bytes
READS = (422, 503)
WRITES = (400, 403, 413, 415, 422, 503, 507)


def _score(product: Product) -> Operation:
    shape = (examples.ABOUT_OUTCOME, examples.outcome(product))
    return Operation(
        id=f"score-{product.key}",
        method="POST",
        path=f"{BASE}/{product.key}/score",
        tag=SCORING,
        summary=f"{product.title}: score one customer",
        help=f"{product.question} Score, band{', limit' if product.policy else ''} and reasons. Fields are the "
        "product's factors; one that is not known is left out or null.",
        handler=partial(handlers.score, product=product),
        parameters=ScoreOne,
        body=Body(schema=customer_name(product), examples={"One customer": example(product)}),
        answers=(Answer(status=200, help="The outcome.", model=answers.Outcome, example=shape),),
        errors=WRITES,
    )


def _score_many(product: Product) -> Operation:
    two = [example(product), examples.refused(product)]
    return Operation(
        id=f"score-many-{product.key}",
        method="POST",
        path=f"{BASE}/{product.key}/scores",
        tag=SCORING,
        summary=f"{product.title}: score up to {MAX_ITEMS:,} customers",
        help="Each customer is answered by itself, in the order given: with an outcome, or with what is wrong with "
        "the values. Larger files are batches.",
        handler=partial(handlers.score_many, product=product),
        parameters=ScoreMany,
        body=Body(
            schema=customers_name(product),
            examples={"Two customers, the second refused": {"items": two}},
            max_bytes=MAX_SCORES_BYTES,
        ),
        answers=(Answer(status=200, help="The outcomes and refusals.", model=answers.Scores),),
        errors=WRITES,
    )


def _create_batch(portfolio: Portfolio) -> Operation:
    first = next(iter(portfolio.values()), None)
    return Operation(
        id="create-batch",
        method="POST",
        path=f"{BASE}/batches",
        tag=BATCHES,
        summary="Have a whole file scored",
        help="A CSV file as a form. Its columns are matched by their names unless `mapping` says how; where that "
        "leaves a choice open, the file is refused. Workers check every row and then score; `start` false leaves it at "
        f"the check.{_to_try_it(first) if first else ''}",
        handler=batches.create,
        parameters=Keyed,
        body=Body(
            schema=batches.NewBatch.__name__,
            examples={"One file": _new_batch(first)} if first else {},
            media=MULTIPART,
        ),
        answers=(Answer(status=202, help="Taken in.", model=answers.Received),),
        errors=(*WRITES, 409),
    )


def _new_batch(product: Product) -> dict[str, Any]:
    return {"product": product.key, "file": examples.file(product), "start": True}


def _to_try_it(product: Product) -> str:
    return (
        "\n\nTo try it, save this as `customers.csv` and choose it as `file`:\n\n"
        f"```csv\n{examples.file(product)}```\n\n"
        f"Or send it from a shell: `curl http://127.0.0.1:8000{BASE}/batches -F product={product.key} "
        "-F file=@customers.csv`."
    )


READING = (
    Operation(
        id="list-products",
        method="GET",
        path=f"{BASE}/products",
        tag=PRODUCT_TAG,
        summary="List the products",
        help="Each product with its bands and the versions that serve it.",
        handler=handlers.products,
        answers=(Answer(status=200, help="All products.", model=answers.Products),),
        errors=READS,
    ),
    Operation(
        id="get-product-schema",
        method="GET",
        path=f"{BASE}/products/{{product}}/schema",
        tag=PRODUCT_TAG,
        summary="Get a product's factors as JSON Schema",
        help="Every factor with its meaning, unit, bounds and an example; `x-role` says what the product does with it.",
        handler=handlers.product_schema,
        parameters=OfProduct,
        answers=(Answer(status=200, help="A JSON Schema (2020-12)."),),
        errors=(404, *READS),
    ),
    Operation(
        id="list-decisions",
        method="GET",
        path=f"{BASE}/decisions",
        tag=DECISIONS,
        summary="List decisions, newest first",
        help="A page at a time: pass `next` of one page as `before` of the following one. Without contributions.",
        handler=handlers.list_decisions,
        parameters=Page,
        answers=(Answer(status=200, help="A page of decisions.", model=answers.Decisions),),
        errors=READS,
    ),
    Operation(
        id="get-decision",
        method="GET",
        path=f"{BASE}/decisions/{{id}}",
        tag=DECISIONS,
        summary="Get a decision",
        help="The decision as it was recorded, with the values it stands on. Protected values are left out.",
        handler=handlers.get_decision,
        parameters=OfId,
        answers=(Answer(status=200, help="The decision.", model=answers.Decision),),
        errors=(404, *READS),
    ),
    Operation(
        id="verify-decision",
        method="GET",
        path=f"{BASE}/decisions/{{id}}/verify",
        tag=DECISIONS,
        summary="Verify a decision",
        help="Recomputes the digest of what is stored and compares it with the receipt, and the receipt with the one "
        "before it. The whole chain is checked by `flask audit verify`.",
        handler=handlers.verify_decision,
        parameters=OfId,
        answers=(Answer(status=200, help="Whether it is what was recorded.", model=answers.Verdict),),
        errors=(404, *READS),
    ),
    Operation(
        id="list-models",
        method="GET",
        path=f"{BASE}/models",
        tag=MODELS,
        summary="List the model versions",
        help="All registered versions of all products, newest first.",
        handler=handlers.list_models,
        answers=(Answer(status=200, help="The versions.", model=answers.ModelVersions),),
        errors=READS,
    ),
    Operation(
        id="get-active-model",
        method="GET",
        path=f"{BASE}/models/{{product}}/active",
        tag=MODELS,
        summary="Get the model version that serves",
        help="The active version; the one active before it where its files are refused.",
        handler=handlers.active_model,
        parameters=OfProduct,
        answers=(Answer(status=200, help="The version.", model=answers.ModelVersion),),
        errors=(404, *READS),
    ),
    Operation(
        id="get-model",
        method="GET",
        path=f"{BASE}/models/{{product}}/{{version}}",
        tag=MODELS,
        summary="Get a model version",
        help="Its digests, data, evaluation and the libraries that trained it.",
        handler=handlers.get_model,
        parameters=OfVersion,
        answers=(Answer(status=200, help="The version.", model=answers.ModelVersion),),
        errors=(404, *READS),
    ),
)
ON_BATCHES = (
    Operation(
        id="list-batches",
        method="GET",
        path=f"{BASE}/batches",
        tag=BATCHES,
        summary="List batches, newest first",
        help="A page at a time: pass `next` of one page as `before` of the following one.",
        handler=batches.list_,
        parameters=Page,
        answers=(Answer(status=200, help="A page of batches.", model=answers.Batches),),
        errors=READS,
    ),
    Operation(
        id="get-batch",
        method="GET",
        path=f"{BASE}/batches/{{id}}",
        tag=BATCHES,
        summary="Get a batch",
        help="Its state, how far it is, what the check found and what came of it.",
        handler=batches.get,
        parameters=OfId,
        answers=(Answer(status=200, help="The batch.", model=answers.Batch),),
        errors=(404, *READS),
    ),
    Operation(
        id="start-batch",
        method="POST",
        path=f"{BASE}/batches/{{id}}/start",
        tag=BATCHES,
        summary="Have a checked batch scored",
        help="With the model that serves now. One that was started before stays as it is.",
        handler=batches.start,
        parameters=OfId,
        answers=(Answer(status=200, help="The batch.", model=answers.Batch),),
        errors=(403, 404, 409, *READS),
    ),
    Operation(
        id="cancel-batch",
        method="POST",
        path=f"{BASE}/batches/{{id}}/cancel",
        tag=BATCHES,
        summary="Stop a batch",
        help="For good; what was scored is not kept. One that is at rest stays as it is.",
        handler=batches.cancel,
        parameters=OfId,
        answers=(Answer(status=200, help="The batch.", model=answers.Batch),),
        errors=(403, 404, *READS),
    ),
    Operation(
        id="get-batch-results",
        method="GET",
        path=f"{BASE}/batches/{{id}}/results",
        tag=BATCHES,
        summary="Get a batch's scored rows",
        help="The file's columns, then score, band, limit, reasons and versions, in the file's order.",
        handler=batches.results,
        parameters=OfId,
        answers=(Answer(status=200, help="A CSV file.", media="text/csv"),),
        errors=(404, *READS),
    ),
    Operation(
        id="get-batch-rejects",
        method="GET",
        path=f"{BASE}/batches/{{id}}/rejects",
        tag=BATCHES,
        summary="Get a batch's rejected rows",
        help="Each with line, column, code and message, once the file was checked.",
        handler=batches.rejects,
        parameters=OfId,
        answers=(Answer(status=200, help="A CSV file.", media="text/csv"),),
        errors=(404, *READS),
    ),
)
HEALTH_OPERATION = Operation(
    id="get-health",
    method="GET",
    path=f"{BASE}/health",
    tag=HEALTH,
    summary="Say whether the portal can score and record",
    help="Whether database and storage take what is written, which is tried, and whether each product has a model.",
    handler=handlers.health,
    answers=(
        Answer(status=200, help="It can.", model=answers.Health),
        Answer(status=503, help="A product has no model.", model=answers.Health),
    ),
    errors=(*READS, 507),
)


def operations_of(portfolio: Portfolio) -> tuple[Operation, ...]:
    """Return the operations on a portfolio, in the order of the document."""
    return (
        *map(_score, portfolio.values()),
        *map(_score_many, portfolio.values()),
        *READING,
        _create_batch(portfolio),
        *ON_BATCHES,
        HEALTH_OPERATION,
    )
