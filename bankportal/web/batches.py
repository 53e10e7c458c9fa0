"""The batch pages: upload a file, confirm its columns, have it checked and scored, read and download the result."""

from collections.abc import Callable, Mapping

from flask import Blueprint, Response, jsonify, redirect, render_template, request, send_file, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError

from bankportal.domain.batch import REJECTS, Job, State
from bankportal.domain.errors import Conflict, DataRefused, FieldProblem, InvalidInput, NotFound, TooLarge
from bankportal.domain.outcome import Decision, Outcome
from bankportal.domain.portfolio import withdrawn_words
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.schema import Customer
from bankportal.web import forms, jobs, remembering
from bankportal.web.comparing import recorded_values
from bankportal.web.current import portfolio, product_ever_named, product_named, services
from bankportal.web.decisions import explanation_context
from bankportal.web.scoring import has_model
from bankportal.web.streams import progress_stream

PAGE_SIZE = 25
ROWS_SHOWN = 25
TOP_ROWS = 10
PREVIEW_ROWS = 20
NO_FILE = "Choose a CSV file to upload."
ONE_FILE = "Choose one file at a time: each is a batch of its own."
NO_PRODUCT = "Choose what the customers are to be scored for."
USED_UP = "The form had been used for another file. Choose your file again."
EXPIRED = "The form had expired and nothing was changed."

blueprint = Blueprint("batches", __name__, url_prefix="/batches")


@blueprint.get("/")
def index() -> str:
    """List batches, of all products or one, a page at a time, with the form for another file."""
    return _list_page()


@blueprint.post("/")
def receive() -> ResponseReturnValue:
    """Store an uploaded file and go to its columns."""
    key, file = request.form.get("product", ""), request.files.get("file")
    try:
        product = product_named(key)
    except NotFound as unknown:
        return _list_page({"product": f"{unknown} {NO_PRODUCT}" if key else NO_PRODUCT}), 422
    if file is None or not file.filename:
        return _list_page({"file": NO_FILE}), 422
    if len(request.files.getlist("file")) > 1:
        return _list_page({"file": ONE_FILE}), 422
    try:
        submission, page = forms.valid_submission(request.form.get("submission", "")), Provenance(Door.PAGE)
        job = services().batches.receive(product, file.filename, file.stream, submission, provenance=page)
    except (DataRefused, TooLarge) as refused:
        return _list_page({"file": str(refused)}), 413 if isinstance(refused, TooLarge) else 422
    except Conflict:
        return _list_page({"file": USED_UP}), 409
    return _redirect_to(job)


@blueprint.get("/template/<key>.csv")
def template(key: str) -> Response:
    """Send a file to fill in: every factor as a column, one example row."""
    product = product_named(key)
    name = f"attachment; filename={product.key}-template.csv"
    return Response(jobs.template_csv(product), mimetype="text/csv", headers={"Content-Disposition": name})


@blueprint.get("/<job_id>")
def show(job_id: str) -> str:
    """Show the page of a job's state; with the argument `columns`, the mapping of a checked one."""
    job = services().batches.get(job_id)
    again = job.state is State.CHECKED and "columns" in request.args
    return PAGES[State.UPLOADED if again else job.state](job)


@blueprint.post("/<job_id>/check")
def check(job_id: str) -> ResponseReturnValue:
    """Confirm a job's columns and have the whole file checked."""
    job = services().batches.get(job_id)
    choices = jobs.sent_choices(job, request.form)
    mapping = jobs.mapping_of(choices)
    try:
        if problems := jobs.unchosen(choices):
            raise InvalidInput(problems)
        services().batches.check(job, mapping)
    except InvalidInput as invalid:
        return _columns(job, choices, invalid.problems), 422
    remembering.remember(job, mapping, services().batches.suggestion(job).mapping)
    return _redirect_to(job)


@blueprint.post("/<job_id>/start")
def start(job_id: str) -> ResponseReturnValue:
    """Have a checked job scored."""
    return _redirect_to(services().batches.start(services().batches.get(job_id)))


@blueprint.post("/<job_id>/cancel")
def cancel(job_id: str) -> ResponseReturnValue:
    """Stop a job."""
    return _redirect_to(services().batches.cancel(services().batches.get(job_id)))


@blueprint.get("/<job_id>/progress")
def progress(job_id: str) -> Response:
    """Say how far a job is."""
    batches = services().batches
    return jsonify(jobs.progress_facts(batches.progress(batches.get(job_id))))


@blueprint.get("/<job_id>/events")
def events(job_id: str) -> Response:
    """Stream how far a job is, until it leaves the state named by `state`."""
    job = services().batches.get(job_id)
    shown_state = {state.value: state for state in State}.get(request.args.get("state", ""), job.state)
    return progress_stream(services().batches, job, shown_state)


@blueprint.get("/<job_id>/rows/<int:position>")
def row(job_id: str, position: int) -> str:
    """Explain one scored row in full; its answer is worked out again."""
    job = services().batches.get(job_id)
    customer, outcome = services().batches.row(job, position)
    decision = _unrecorded(job, customer, outcome)
    parts = explanation_context(decision, request.args.get("what-if") or None)
    return render_template("batch_row.html", **parts, job=job, position=position, begin=recorded_values(decision))


@blueprint.get("/<job_id>/<any('scored.csv', 'rejects.csv'):name>")
def download(job_id: str, name: str) -> Response:
    """Send a finished job's file, or the rejects of a checked one."""
    job = services().batches.get(job_id)
    shown = jobs.download_name(job, name)
    batches = services().batches
    path = batches.rejects(job) if name == REJECTS else batches.file(job, name)
    response = send_file(path, mimetype="text/csv", as_attachment=True, download_name=shown)
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.errorhandler(CSRFError)
def expired(error: CSRFError) -> ResponseReturnValue:
    """Show the upload form again with a fresh token; elsewhere lead back to the batch, whose forms are fresh."""
    if request.endpoint == "batches.receive":
        return _list_page({"file": f"{EXPIRED} Choose your file again."}), 400
    message = f"{EXPIRED} Open the batch and send it again."
    return render_template("error.html", status=400, title="The form had expired", message=message), 400


def _redirect_to(job: Job) -> ResponseReturnValue:
    return redirect(url_for("batches.show", job_id=job.id), 303)


def _list_page(problems: Mapping[str, str] | None = None) -> str:
    product_key = request.args.get("product")
    product = product_ever_named(product_key) if product_key else None
    before = request.args.get("before") or None
    return render_template(
        "batches.html",
        page=services().batches.page(product.key if product else None, before, PAGE_SIZE),
        product=product,
        chosen=request.form.get("product") or product_key,
        before=before,
        problems=problems or {},
        submission=forms.valid_submission(""),
        limits=services().config,
        jobs=jobs,
    )


def _columns(job: Job, choices: Mapping[str, str] | None = None, problems: tuple[FieldProblem, ...] = ()) -> str:
    suggestion = services().batches.suggestion(job, remembering.remembered(job))
    chosen = job.mapping if choices is None else choices
    columns = jobs.mapped_columns(job, suggestion, services().batches.sample(job), chosen)
    columns, summary = jobs.with_problems(job.product, columns, problems)
    return _page("batch_columns.html", job, suggestion=suggestion, columns=columns, problems=summary)


def _work(job: Job) -> str:
    facts = jobs.progress_facts(services().batches.progress(job))
    return _page("batch_work.html", job, facts=facts, problems={})


def _checked(job: Job) -> str:
    withdrawn = "" if job.product.key in portfolio() else withdrawn_words(job.product)
    can_score = not withdrawn and has_model(job.product)
    return _page(
        "batch_checked.html",
        job,
        withdrawn_words=withdrawn,
        sample=services().batches.sample(job, PREVIEW_ROWS),
        duplicate=services().batches.duplicate(job) if can_score else None,
        can_score=can_score,
    )


def _result(job: Job) -> str:
    batches, product = services().batches, job.product
    query, top = jobs.query_of(product, request.args), jobs.top_query(product)
    return _page(
        "batch_result.html",
        job,
        query=query,
        rows=batches.rows(job, **vars(query), size=ROWS_SHOWN),
        top=batches.rows(job, sort=top.sort, descending=top.descending, size=TOP_ROWS).items,
    )


def _stopped(job: Job) -> str:
    return _page("batch_stopped.html", job)


def _page(name: str, job: Job, **parts: object) -> str:
    return render_template(name, job=job, product=job.product, jobs=jobs, **parts)


PAGES: Mapping[State, Callable[[Job], str]] = {
    State.UPLOADED: _columns,
    State.CHECKING: _work,
    State.CHECKED: _checked,
    State.SCORING: _work,
    State.DONE: _result,
    State.REFUSED: _stopped,
    State.CANCELLED: _stopped,
    State.FAILED: _stopped,
}


def _unrecorded(job: Job, customer: Customer, outcome: Outcome) -> Decision:
    """Return a row as a decision without a number, for what explains decisions; the row was recorded with its batch."""
    return Decision(id="", at=job.finished_at or job.at, customer=customer, outcome=outcome)
