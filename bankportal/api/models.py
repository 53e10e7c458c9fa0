"""What the API answers, as pydantic models: the document is made from them, and the tests check answers by them."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

Value = int | float | str | None


class Fault(BaseModel):
    """One thing wrong with one given value."""

    place: str = Field(alias="in", description="Where the value stood: body, query, path or header.")
    field: str = Field(description="The caller's own name of it; empty where the whole is at fault.")
    code: str = Field(description="Short and stable: required, unknown-field, below, above, not-a-number, …")
    message: str = Field(description="What it must be; the field's name goes before it.")
    found: str = Field(description="The offending value as text, cut short.")


class Problem(BaseModel):
    """Problem details (RFC 9457): every refusal has this shape."""

    type: str = Field(description="urn:bankportal:problem: and the kind of problem.")
    title: str
    status: int
    detail: str
    instance: str | None = Field(default=None, description="The request's reference, where the fault is the portal's.")
    errors: list[Fault] = Field(description="Field by field; empty where no field is at fault.")


class Limit(BaseModel):
    """The credit limit that the policy suggests; amounts in EUR."""

    amount: float = Field(description="0 where no limit is granted.")
    ceiling: float = Field(description="What the residual income can carry.")
    rule: str = Field(description="The rule that decided: band, ability-to-pay, requested or ineligible.")
    requested: float | None
    counteroffer: bool = Field(description="Whether the amount is above 0 and below the request.")
    obligations_assumed: bool = Field(description="Whether the monthly obligations were unknown and assumed.")


class Reason(BaseModel):
    """Why the answer is what it is."""

    factor: str | None = Field(description="The factor whose contribution this is.")
    rule: str | None = Field(description="The policy's rule, where it decided by itself.")
    contribution: float
    sentence: str


class Flag(BaseModel):
    """A value outside what the forest was trained on: scored all the same."""

    factor: str
    message: str


class Model(BaseModel):
    """The model version that scored."""

    version: str
    digest: str = Field(description="SHA-256 of the version's manifest, which fixes all its files.")


class Change(BaseModel):
    """One factor's own value and the suggested one."""

    factor: str
    old: float
    new: float


class Suggestion(BaseModel):
    """One or two changes and what they lead to, worked out by scoring again."""

    changes: list[Change]
    score: float
    band: str
    limit: Limit | None
    effort: float = Field(description="What the changes cost the customer: 1 is about a month of trying.")


class Recourse(BaseModel):
    """The smallest changes that reach a better band, or the proof that there are none."""

    best: bool = Field(description="No band is better.")
    nothing: bool = Field(description="No change of one or two factors reaches a better band: proven, not sampled.")
    suggestions: list[Suggestion]
    lifts: list[Suggestion] = Field(description="What lifts a limit that the ability to pay cut.")


class Recorded(BaseModel):
    """The decision that was recorded."""

    id: str
    at: datetime
    url: str


class Outcome(BaseModel):
    """The answer for one customer. Numbers have every digit: the same as on the pages, to the last bit."""

    product: str
    score: float = Field(description="The forest's probability, 0 to 1.")
    band: str
    limit: Limit | None = Field(description="Null where the product has no limit policy.")
    reasons: list[Reason]
    flags: list[Flag]
    base: float = Field(description="Mean score of the reference population; base + contributions = score.")
    contributions: dict[str, float] | None = Field(description="Each factor's exact share; null unless asked for.")
    recourse: Recourse | None = Field(description="Null unless asked for.")
    model: Model
    policy_version: str | None
    decision: Recorded | None = Field(description="Null where nothing was recorded.")


class Item(BaseModel):
    """The answer for one customer of many: an outcome, or what is wrong with the values given."""

    index: int = Field(description="The customer's place in the list, from 0.")
    outcome: Outcome | None
    errors: list[Fault]


class Scores(BaseModel):
    """The answers for many customers, in their order. scored + refused = all."""

    scored: int
    refused: int
    items: list[Item]


class Customer(BaseModel):
    """The values a decision stands on, by role. Protected values are kept apart and not told."""

    carried: dict[str, Value]
    scored: dict[str, Value]
    policy: dict[str, Value]


class Decision(BaseModel):
    """A recorded decision."""

    id: str
    at: datetime
    customer: Customer
    outcome: Outcome


class Decisions(BaseModel):
    """Some decisions, newest first."""

    items: list[Decision]
    next: str | None = Field(description="Pass it as `before` to go on; null at the end.")


class Receipt(BaseModel):
    """A decision's place in the chain."""

    number: int
    digest: str
    previous: str


class Verdict(BaseModel):
    """Whether a decision is what was recorded: its digest recomputed, its link to the receipt before checked."""

    decision: str
    intact: bool
    receipt: Receipt | None
    fault: str | None = Field(description="What is wrong, where it is not intact.")


class Band(BaseModel):
    """A named range of the score, from `start` up to, and without, `end`; the last one holds 1."""

    name: str
    start: float
    end: float
    meaning: str


class Product(BaseModel):
    """One thing the portal decides."""

    key: str
    title: str
    question: str
    quantity: str = Field(description="What the score is.")
    bands: list[Band]
    policy_version: str | None
    model_version: str | None = Field(description="The version that serves; null where none can.")
    schema_url: str = Field(description="Where its factors stand as JSON Schema.")


class Products(BaseModel):
    """All products."""

    items: list[Product]


class ModelVersion(BaseModel):
    """A trained forest as it is registered."""

    product: str
    version: str
    active: bool
    digest: str
    forest_digest: str
    trained_at: datetime
    seed: int
    data: dict[str, Any]
    evaluation: dict[str, Any]
    parameters: dict[str, Any]
    libraries: dict[str, str]


class ModelVersions(BaseModel):
    """All registered versions, newest first, product by product."""

    items: list[ModelVersion]


class Received(BaseModel):
    """A file that was taken in as a batch; its state stands at `url`."""

    id: str
    url: str
    product: str
    at: datetime
    file_name: str
    input_digest: str = Field(description="SHA-256 of the file.")
    input_bytes: int


class Example(BaseModel):
    """One rejected cell: where it stands, and what stood there."""

    line: int
    text: str


class Repair(BaseModel):
    """Rejected cells that one repair mends."""

    column: str = Field(description="The file's own name of the column; empty where the whole row is at fault.")
    factor: str
    code: str
    message: str
    rows: int
    examples: list[Example]


class Check(BaseModel):
    """What the check of the whole file found; good + rejected = rows."""

    rows: int
    good: int
    rejected: int
    groups: list[Repair]
    more: int = Field(description="Bad cells of further groups.")


class Progress(BaseModel):
    """How far a batch is."""

    rows_done: int
    rows: int | None
    rate: float | None = Field(description="Rows a second, where known.")
    seconds_left: float | None


class Summary(BaseModel):
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
    started_at: datetime | None
    finished_at: datetime | None
    summary: Summary | None
    results_url: str | None = Field(description="The scored rows, where it is done.")
    rejects_url: str | None = Field(description="The rejected rows, where it was checked.")


class Batches(BaseModel):
    """Some batches, newest first."""

    items: list[Batch]
    next: str | None = Field(description="Pass it as `before` to go on; null at the end.")


class Health(BaseModel):
    """Whether the portal can score and record."""

    status: str = Field(description="ok, an older model serves, or no model.")
    models: dict[str, str | None]
    refused: dict[str, str]
    version: str
