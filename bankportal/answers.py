"""What the API answers, declared once, as pydantic models; and its path, header and media types.

The API writes its answers from these models, the OpenAPI document describes them, and the client reads into them. The
client's own distribution (`client/`) contains this file as well, so it imports nothing of the portal.
"""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

BASE = "/api/v1"
KEY = "Idempotency-Key"
JSON, PROBLEM_JSON = "application/json", "application/problem+json"
PRODUCT_CURRENCY = "the product's currency"  # as the descriptions below have it; the document names it

_MOMENT = WithJsonSchema({"type": "string", "format": "date-time"})

Value = int | float | str | None
Number = Annotated[int | float, WithJsonSchema({"type": "number"})]  # a whole number stays one
Moment = Annotated[datetime, PlainSerializer(datetime.isoformat), _MOMENT]
MomentInMicroseconds = Annotated[datetime, PlainSerializer(lambda at: at.isoformat(timespec="microseconds")), _MOMENT]


class _Answer(BaseModel):
    """Base of all answers. Reads the attributes of a domain object where the fields have the same names."""

    # A number that is not finite would become null as JSON; a constant shows that something is wrong.
    model_config = ConfigDict(frozen=True, from_attributes=True, ser_json_inf_nan="constants")


class Fault(_Answer):
    """One thing that is wrong with one value."""

    model_config = ConfigDict(validate_by_name=True)

    place: str = Field(
        validation_alias="in",
        serialization_alias="in",
        description="Where the value stood: body, query, path or header.",
    )
    field: str = Field(description="The caller's own name of it; empty where the whole is at fault.")
    code: str = Field(description="Short and stable: required, unknown-field, below, above, not-a-number, …")
    message: str = Field(description="What it must be; the field's name goes before it.")
    found: str = Field(description="The offending value as text, cut short.")


class Problem(_Answer):
    """Problem details (RFC 9457): every refusal has this shape."""

    type: str = Field(description="urn:bankportal:problem: and the kind of problem.")
    title: str
    status: int
    detail: str
    instance: str | None = Field(default=None, description="The request's reference, where the fault is the portal's.")
    errors: tuple[Fault, ...] = Field(description="Field by field; empty where no field is at fault.")


class Limit(_Answer):
    """The credit limit that the policy suggests; amounts in the product's currency."""

    amount: float = Field(description="0 where no limit is granted.")
    ceiling: float = Field(description="What the residual income can carry.")
    rule: str = Field(description="The rule that decided: band, ability-to-pay, requested or ineligible.")
    requested: float | None
    counteroffer: bool = Field(description="Whether the amount is above 0 and below the request.")
    obligations_assumed: bool = Field(description="Whether the monthly obligations were unknown and assumed.")


class Reason(_Answer):
    """Why the answer is what it is."""

    factor: str | None = Field(description="The factor whose contribution this is.")
    rule: str | None = Field(description="The policy's rule, where it decided by itself.")
    contribution: float
    sentence: str


class Flag(_Answer):
    """A value outside what the forest was trained on: scored all the same."""

    factor: str
    message: str


class Model(_Answer):
    """The model version that scored."""

    version: str
    digest: str = Field(description="SHA-256 of the version's manifest, which fixes all its files.")


class Change(_Answer):
    """One factor's own value and the suggested one."""

    factor: str
    old: Number
    new: Number


class Suggestion(_Answer):
    """One or two changes and what they lead to, worked out by scoring again."""

    changes: tuple[Change, ...]
    score: float
    band: str
    limit: Limit | None
    effort: float = Field(description="What the changes cost the customer: 1 is about a month of trying.")


class Recourse(_Answer):
    """The smallest changes that reach a better band, or the proof that there are none."""

    best: bool = Field(description="No band is better.")
    nothing: bool = Field(description="No change of one or two factors reaches a better band: proven, not sampled.")
    suggestions: tuple[Suggestion, ...]
    lifts: tuple[Suggestion, ...] = Field(description="What lifts a limit that the ability to pay cut.")


class Recorded(_Answer):
    """The decision that was recorded."""

    id: str
    at: MomentInMicroseconds
    url: str


class Outcome(_Answer):
    """The answer for one customer. Numbers have every digit: the same as on the pages, to the last bit."""

    product: str
    score: float = Field(description="The forest's probability, 0 to 1.")
    band: str
    limit: Limit | None = Field(description="Null where the product has no limit policy.")
    reasons: tuple[Reason, ...]
    flags: tuple[Flag, ...]
    base: float = Field(description="Mean score of the reference population; base + contributions = score.")
    contributions: dict[str, float] | None = Field(description="Each factor's exact share; null unless requested.")
    recourse: Recourse | None = Field(description="Null unless requested.")
    model: Model
    policy_version: str | None
    decision: Recorded | None = Field(description="Null where nothing was recorded.")


class Item(_Answer):
    """The answer for one customer of many: an outcome, or what is wrong with the values."""

    index: int = Field(description="The customer's place in the list, from 0.")
    outcome: Outcome | None
    errors: tuple[Fault, ...]


class Scores(_Answer):
    """The answers for many customers, in their order. scored + refused = all."""

    scored: int
    refused: int
    items: tuple[Item, ...]


class Customer(_Answer):
    """The values a decision stands on, by role. Protected values are left out."""

    carried: dict[str, Value]
    scored: dict[str, Value]
    policy: dict[str, Value]


class Decision(_Answer):
    """A recorded decision."""

    id: str
    at: MomentInMicroseconds
    customer: Customer
    outcome: Outcome


class Decisions(_Answer):
    """Some decisions, newest first."""

    items: tuple[Decision, ...]
    next: str | None = Field(description="Pass it as `before` to go on; null at the end.")


class Receipt(_Answer):
    """A decision's place in the chain."""

    number: int
    digest: str
    previous: str


class Verdict(_Answer):
    """Whether a decision is what was recorded: its digest recomputed, its link to the receipt before checked."""

    decision: str
    intact: bool
    receipt: Receipt | None
    fault: str | None = Field(description="What is wrong, where it is not intact.")


class Band(_Answer):
    """A named range of the score, from `start` up to, and without, `end`; the last one holds 1."""

    name: str
    start: float
    end: float
    meaning: str


class Product(_Answer):
    """One thing the portal decides."""

    key: str
    title: str
    question: str
    quantity: str = Field(description="What the score is.")
    bands: tuple[Band, ...]
    policy_version: str | None
    model_version: str | None = Field(description="The version that serves; null where none can.")
    schema_url: str = Field(description="Where its factors stand as JSON Schema.")


class Products(_Answer):
    """All products."""

    items: tuple[Product, ...]


class ModelVersion(_Answer):
    """A trained forest as it is registered."""

    product: str
    version: str
    active: bool
    digest: str
    forest_digest: str
    trained_at: Moment
    seed: int
    data: dict[str, Any]
    evaluation: dict[str, Any]
    parameters: dict[str, Any]
    libraries: dict[str, str]


class ModelVersions(_Answer):
    """All registered versions, newest first, product by product."""

    items: tuple[ModelVersion, ...]


class Received(_Answer):
    """A file that was taken in as a batch; its state stands at `url`."""

    id: str
    url: str
    product: str
    at: MomentInMicroseconds
    file_name: str
    input_digest: str = Field(description="SHA-256 of the file.")
    input_bytes: int


class Example(_Answer):
    """One rejected cell: where it stands, and what stood there."""

    line: int
    text: str


class Repair(_Answer):
    """Rejected cells that one repair mends."""

    column: str = Field(description="The file's own name of the column; empty where the whole row is at fault.")
    factor: str
    code: str
    message: str
    rows: int
    examples: tuple[Example, ...]


class Check(_Answer):
    """What the check of the whole file found; good + rejected = rows."""

    rows: int
    good: int
    rejected: int
    groups: tuple[Repair, ...]
    more: int = Field(description="Bad cells of further groups.")


class Progress(_Answer):
    """How far a batch is."""

    rows_done: int
    rows: int | None
    rate: float | None = Field(description="Rows a second, where known.")
    seconds_left: float | None


class Summary(_Answer):
    """What a batch that is done came to; scored + rejected = rows."""

    scored: int
    rejected: int
    quarantined: int
    bands: dict[str, int]
    mean_score: float | None


class Batch(Received):
    """A batch: an uploaded file, checked and scored by workers."""

    state: str = Field(description="uploaded, checking, checked, scoring, done, refused, cancelled or failed.")
    message: str = Field(description="Why it was refused or failed.")
    mapping: dict[str, str] | None = Field(description="The file's columns and the factors they hold.")
    progress: Progress
    checked: Check | None
    model: Model | None
    policy_version: str | None
    started_at: Moment | None
    finished_at: Moment | None
    summary: Summary | None
    results_url: str | None = Field(description="The scored rows, where it is done.")
    rejects_url: str | None = Field(description="The rejected rows, where it was checked.")


class Batches(_Answer):
    """Some batches, newest first."""

    items: tuple[Batch, ...]
    next: str | None = Field(description="Pass it as `before` to go on; null at the end.")


class Health(_Answer):
    """Whether the portal can score and record."""

    status: str = Field(description="ok, an older model serves, or no model.")
    models: dict[str, str | None]
    refused: dict[str, str]
    version: str
