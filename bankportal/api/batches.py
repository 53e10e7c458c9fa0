"""Batches through the API: a file comes in as a form, workers do the rest, results go out as CSV."""

import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

from bankportal import answers
from bankportal.api import conversion
from bankportal.api.calls import CSV, MULTIPART, Call, ParsedRequest, Reply, reply
from bankportal.api.handlers import require_known
from bankportal.api.parameters import FLAGS, LATEST, Keyed, OfId, Page
from bankportal.api.problems import Refused
from bankportal.api.reading import from_json, require_media
from bankportal.domain.batch import REJECTS, SCORED, Job, State
from bankportal.domain.errors import Conflict, FieldProblem, InvalidInput, KeyReused, NotFound
from bankportal.domain.products import PRODUCTS, Product
from bankportal.domain.receipt import canonical
from bankportal.services.batches.uploads import Batches
from bankportal.wiring import Services

FIELDS = ("product", "file", "mapping", "start")
PIECE = 1 << 16  # bytes
IN_MEMORY = 1_000_000  # bytes of a file; larger ones wait on disk
MAX_FIELDS_BYTES = 100_000  # bytes, of all fields that are no file


@dataclass(frozen=True)
class Form:
    """What was sent as a form: `mapping` is `None` where the portal is to suggest one."""

    product: Product
    name: str
    file: IO[bytes]
    mapping: Mapping[str, str] | None
    start: bool


def create(services: Services, request: ParsedRequest[Keyed]) -> Reply:
    """Take a file in, and have it checked and, unless told not to, scored."""
    batches, key = services.batches, request.parameters.key and f"api:{request.parameters.key}"
    try:
        with ExitStack() as opened:
            form = _form(request.call, opened)
            job = batches.receive(form.product, form.name, form.file, key, form.mapping or ())
        if key:
            services.keys.claim(f"batch {job.id}", _fingerprint(job, form))
        if job.state is State.UPLOADED:
            _begin(batches, job, form)
    except Conflict as conflict:
        if key is None:
            raise
        raise KeyReused from conflict
    return reply(conversion.received(job), 202, {"Location": conversion.batch_url(job)})


def _fingerprint(job: Job, form: Form) -> bytes:
    """Return what must be the same again where a batch's key is used again.

    It is bound to the batch and not to the key, which is free again where the batch is withdrawn.
    """
    mapping = dict(form.mapping) if form.mapping is not None else None
    return canonical([form.product.key, form.name, job.input_digest, mapping, form.start]).encode()


def _begin(batches: Batches, job: Job, form: Form) -> None:
    """Have a job checked; one whose columns are not clear is refused by what is missing, and not kept."""
    try:
        mapping = _suggested(batches, job) if form.mapping is None else form.mapping
        batches.check(job, mapping, start=form.start)
    except InvalidInput:
        batches.withdraw(job)
        raise


def _suggested(batches: Batches, job: Job) -> Mapping[str, str]:
    """Return the suggested mapping; `InvalidInput` where it leaves a choice open or a factor out."""
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


def _form(call: Call, opened: ExitStack) -> Form:
    """Read the form; every field at fault is named. Its file is closed with `opened`."""
    texts, files = _parts(call, opened)
    if None in {*texts, *files}:
        raise Refused("not-multipart", "A part of the form has no name.")
    given = {**texts.to_dict(), **dict.fromkeys(files, "")}
    problems = [
        FieldProblem(name, "unknown-field", "is not a field of this form") for name in given if name not in FIELDS
    ]
    twice = [name for name in given if len(texts.getlist(name)) + len(files.getlist(name)) > 1]
    problems += [FieldProblem(name, "duplicate", "is given more than once") for name in twice]
    product = PRODUCTS.get(given.get("product", ""))
    file = files.get("file")
    if product is None:
        problems.append(
            FieldProblem("product", "not-a-choice", f"must be {' or '.join(PRODUCTS)}", given.get("product", ""))
        )
    if file is None:
        problems.append(FieldProblem("file", "required", "must be a file"))
    start = _read("start", given, _flag, "must be true or false", problems)
    mapping = _read("mapping", given, _mapping, "must be a JSON object of columns and factors", problems)
    if problems or product is None or file is None:
        raise InvalidInput(problems)
    return Form(product, file.filename or "", file.stream, mapping, start is not False)


def _parts(call: Call, opened: ExitStack) -> tuple[MultiDict[str, str], MultiDict[str, FileStorage]]:
    """Take the form apart; files of some size wait on disk."""
    require_media(call, MULTIPART)
    kind, options = parse_options_header(call.headers.get("content-type") or "")

    def room(*_: Any, **__: Any) -> IO[bytes]:
        return opened.enter_context(SpooledTemporaryFile(IN_MEMORY))

    parser = FormDataParser(
        stream_factory=room,
        max_form_memory_size=MAX_FIELDS_BYTES,
        max_form_parts=len(FIELDS) + 1,
        silent=False,
    )
    try:
        _, texts, files = parser.parse(call.stream, kind, None, options)
    except ValueError as error:
        raise Refused("not-multipart", f"The form cannot be read: {error}.") from None
    return texts, files


def _read(
    name: str, given: Mapping[str, str], read: Callable[[str], Any], message: str, problems: list[FieldProblem]
) -> Any:
    """Read an optional field of the form; note what is wrong with it."""
    if name not in given:
        return None
    try:
        return read(given[name])
    except (KeyError, ValueError, Refused):
        problems.append(FieldProblem(name, "not-acceptable", message, given[name]))
        return None


def _flag(text: str) -> bool:
    return FLAGS[text.lower()]  # clients generated for Python write True and False into forms


def _mapping(text: str) -> Mapping[str, str]:
    found = from_json(text.encode())
    if not isinstance(found, dict) or not all(isinstance(factor, str) for factor in found.values()):
        raise ValueError
    return found


def get(services: Services, request: ParsedRequest[OfId]) -> Reply:
    """Say how a batch is."""
    return _batch(services, _job(services, request))


def list_(services: Services, request: ParsedRequest[Page]) -> Reply:
    """List the batches, newest first."""
    wanted = request.parameters
    require_known(wanted.before, services.batches.get, "batch")
    page = services.batches.page(wanted.product.key if wanted.product else None, wanted.before, wanted.size)
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
    wanted = request.parameters.id
    if wanted != LATEST:
        return services.batches.get(wanted)
    if newest := services.batches.page(None, None, 1).items:
        return newest[0]
    raise NotFound("There is no batch yet.")


def _file(job: Job, name: str, path: Path) -> Reply:
    headers = {
        "Content-Disposition": f'attachment; filename="{job.id}-{name}"',
        "Content-Length": str(path.stat().st_size),
    }
    if job.files:  # as the chain of receipts has it
        headers["Repr-Digest"] = _digest_field(job.files[name])
    return Reply(200, _pieces(path), CSV, headers)


def _digest_field(digest: str) -> str:
    """Return a SHA-256 in hex as RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(partial(file.read, PIECE), b"")
