"""Batches through the API: a file is uploaded as a form, workers check and score it, results are CSV files."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any

from pydantic import BeforeValidator, Field, InstanceOf, ValidationError, WithJsonSchema
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from bankportal import answers
from bankportal.api import conversion
from bankportal.api.calls import BY_API, CSV, MULTIPART, Call, ParsedRequest, Reply, reply
from bankportal.api.handlers import require_known
from bankportal.api.parameters import LATEST, InForce, Keyed, OfId, Page, Parameters, Place, Switch, described
from bankportal.api.problems import Refused
from bankportal.api.reading import from_json, require_media
from bankportal.domain.batch import REJECTS, SCORED, Job, State
from bankportal.domain.canonical import canonical
from bankportal.domain.errors import Conflict, FieldProblem, InvalidInput, KeyReused, NotFound
from bankportal.domain.portfolio import Portfolio
from bankportal.services.batches.uploads import Batches
from bankportal.wiring import Services

CODES = {"product": "not-a-choice", "file": "required"}  # of fields at fault; of others not-acceptable
BLOCK_BYTES = 1 << 16  # bytes
IN_MEMORY = 1_000_000  # bytes of a file; larger ones wait on disk
MAX_FIELDS_BYTES = 100_000  # bytes, of all fields that are no file


def _mapping(text: str) -> Any:
    try:
        return from_json(text.encode())
    except Refused as refused:
        raise ValueError from refused


class NewBatch(Parameters):
    """A file to be scored, as a form."""

    product: Annotated[InForce, Place("form", "The product's key.")]
    file: Annotated[
        InstanceOf[FileStorage],
        WithJsonSchema({"type": "string", "format": "binary", "description": "a file"}),
        Place("form", "A CSV file with a header, in UTF-8."),
    ]
    mapping: Annotated[
        Annotated[dict[str, str], Field(description="a JSON object of columns and factors")] | None,
        BeforeValidator(_mapping),
        Place("form", 'The file\'s columns and the factors they hold, as JSON: {"credit_score": "CreditScore"}.'),
    ] = None
    # Clients generated for Python write True and False into forms.
    start: Annotated[
        Switch,
        BeforeValidator(str.lower),
        Place("form", "Whether it is scored once it is checked."),
    ] = True


def create(services: Services, request: ParsedRequest[Keyed]) -> Reply:
    """Take a file in and have it checked; and scored as well, unless `start` is false."""
    batches, key = services.batches, request.parameters.key and f"api:{request.parameters.key}"
    try:
        with ExitStack() as opened:
            form = _form(request.call, request.portfolio, opened)
            file, mapped = form.file, form.mapping or ()
            job = batches.receive(form.product, file.filename or "", file.stream, key, mapped, provenance=BY_API)
        if key:
            services.keys.claim(f"batch {job.id}", _fingerprint(job, form))
        if job.state is State.UPLOADED:
            _check(batches, job, form)
    except Conflict as conflict:
        if key is None:
            raise
        raise KeyReused from conflict
    return reply(conversion.received(job), 202, {"Location": conversion.batch_url(job)})


def _fingerprint(job: Job, form: NewBatch) -> bytes:
    """Return what must be the same again where a batch's key is used again.

    It is bound to the batch and not to the key, which is free again where the batch is withdrawn.
    """
    name = form.file.filename or ""
    return canonical([form.product.key, name, job.input_digest, form.mapping, form.start]).encode()


def _check(batches: Batches, job: Job, form: NewBatch) -> None:
    """Have a job checked; `InvalidInput` where its columns are not clear, and then it is not kept."""
    try:
        mapping = _suggested(batches, job) if form.mapping is None else form.mapping
        batches.check(job, mapping, start=form.start)
    except InvalidInput:
        batches.withdraw(job)
        raise


def _suggested(batches: Batches, job: Job) -> Mapping[str, str]:
    """Return the mapping by the columns' names; `InvalidInput` where it leaves a choice open or a factor out."""
    suggestion = batches.suggestion(job)
    problems = [
        FieldProblem(factor, "ambiguous", "could be in more than one column: name one in `mapping`", ", ".join(columns))
        for factor, columns in suggestion.ambiguous.items()
    ]
    problems += [
        FieldProblem(factor, "required", "has no column: name it in `mapping`") for factor in suggestion.missing
    ]
    if problems:
        raise InvalidInput(problems)
    return suggestion.mapping


def _form(call: Call, portfolio: Portfolio, opened: ExitStack) -> NewBatch:
    """Read the form; `InvalidInput` names every field at fault. Its file is closed with `opened`."""
    texts, files = _parts(call, opened)
    if None in {*texts, *files}:
        raise Refused("not-multipart", "A part of the form has no name.")
    sent: dict[str, Any] = {**texts.to_dict(), **files.to_dict()}
    problems = [*_not_declared(sent), *_duplicates(sent, texts, files)]
    try:
        form = NewBatch.model_validate(sent, context=portfolio)
    except ValidationError as invalid:
        raise InvalidInput([*problems, *_not_acceptable(invalid, portfolio, texts)]) from None
    if problems:
        raise InvalidInput(problems)
    return form


def _not_declared(sent: Mapping[str, Any]) -> Iterator[FieldProblem]:
    for name in sent:
        if name not in NewBatch.model_fields:
            yield FieldProblem(name, "unknown-field", "is not a field of this form")


def _duplicates(sent: Mapping[str, Any], *parts: MultiDict[str, Any]) -> Iterator[FieldProblem]:
    for name in sent:
        if sum(len(part.getlist(name)) for part in parts) > 1:
            yield FieldProblem(name, "duplicate", "is given more than once")


def _not_acceptable(invalid: ValidationError, portfolio: Portfolio, texts: Mapping[str, str]) -> Iterator[FieldProblem]:
    at_fault = {error["loc"][0] for error in invalid.errors()}
    for each in described(NewBatch, portfolio):
        if each.name in at_fault:
            code = CODES.get(each.name, "not-acceptable")
            yield FieldProblem(each.name, code, f"must be {each.words}", texts.get(each.name, ""))


def _parts(call: Call, opened: ExitStack) -> tuple[MultiDict[str, str], MultiDict[str, FileStorage]]:
    """Return the form's texts and files; files of more than `IN_MEMORY` bytes wait on disk."""
    require_media(call, MULTIPART)
    kind, options = parse_options_header(call.headers.get("content-type") or "")

    def room(*_: Any, **__: Any) -> IO[bytes]:
        return opened.enter_context(SpooledTemporaryFile(IN_MEMORY))

    parser = FormDataParser(
        stream_factory=room,
        max_form_memory_size=MAX_FIELDS_BYTES,
        max_form_parts=len(NewBatch.model_fields) + 1,
        silent=False,
    )
    try:
        _, texts, files = parser.parse(call.stream, kind, None, options)
    except ValueError as error:
        raise Refused("not-multipart", f"The form cannot be read: {error}.") from None
    return texts, files


def get(services: Services, request: ParsedRequest[OfId]) -> Reply:
    """Return one batch as it is now."""
    return _batch(services, _job(services, request))


def list_(services: Services, request: ParsedRequest[Page]) -> Reply:
    """List the batches, newest first."""
    product, before, size = request.parameters.product, request.parameters.before, request.parameters.size
    require_known(before, services.batches.get, "batch")
    page = services.batches.page(product.key if product else None, before, size)
    items = tuple(conversion.batch(job, services.batches.progress(job)) for job in page.items)
    return reply(answers.Batches(items=items, next=page.next))


def start(services: Services, request: ParsedRequest[OfId]) -> Reply:
    """Have a checked batch scored."""
    job = services.batches.start(_job(services, request))
    return _batch(services, job)


def cancel(services: Services, request: ParsedRequest[OfId]) -> Reply:
    """Stop a batch for good."""
    job = services.batches.cancel(_job(services, request))
    return _batch(services, job)


def results(services: Services, request: ParsedRequest[OfId]) -> Reply:
    """Send the scored rows."""
    job = _job(services, request)
    return _file(job, SCORED, services.batches.file(job, SCORED))


def rejects(services: Services, request: ParsedRequest[OfId]) -> Reply:
    """Send the rejected rows."""
    job = _job(services, request)
    return _file(job, REJECTS, services.batches.rejects(job))


def _batch(services: Services, job: Job) -> Reply:
    return reply(conversion.batch(job, services.batches.progress(job)))


def _job(services: Services, request: ParsedRequest[OfId]) -> Job:
    if request.parameters.id != LATEST:
        return services.batches.get(request.parameters.id)
    if newest := services.batches.page(None, None, 1).items:
        return newest[0]
    raise NotFound("There is no batch yet.")


def _file(job: Job, name: str, path: Path) -> Reply:
    headers = {
        "Content-Disposition": f'attachment; filename="{job.id}-{name}"',
        "Content-Length": str(path.stat().st_size),
    }
    if job.files:  # the digest that is in the chain of receipts
        headers["Repr-Digest"] = _digest_field(job.files[name])
    return Reply(200, _blocks(path), CSV, headers)


def _digest_field(digest: str) -> str:
    """Return a SHA-256 in hex as RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(partial(file.read, BLOCK_BYTES), b"")
