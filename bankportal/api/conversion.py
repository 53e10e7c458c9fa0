"""Makes the API's answers of what the services return: one function for each type whose fields are not the same."""

from bankportal import answers
from bankportal.answers import BASE
from bankportal.domain.batch import Job, Progress, State
from bankportal.domain.outcome import Decision, Outcome
from bankportal.domain.policy import Limit
from bankportal.domain.products import Product
from bankportal.explanation.recourse import Suggestion
from bankportal.services.explaining import Explaining
from bankportal.services.models import ModelVersion

CHECKED = frozenset({State.CHECKED, State.DONE})


def outcome(
    answered: Outcome,
    *,
    contributions: bool,
    recourse: answers.Recourse | None = None,
    decision: Decision | None = None,
) -> answers.Outcome:
    """Return an outcome; with contributions and recourse where requested, and the decision where it was recorded."""
    return answers.Outcome(
        product=answered.product.key,
        score=answered.score,
        band=answered.band.name,
        limit=_limit(answered.limit),
        reasons=tuple(map(answers.Reason.model_validate, answered.reasons)),
        flags=tuple(map(answers.Flag.model_validate, answered.flags)),
        base=answered.base,
        contributions=dict(answered.contributions) if contributions else None,
        recourse=recourse,
        model=answers.Model(version=answered.model_version, digest=answered.model_digest),
        policy_version=answered.policy_version,
        decision=_recorded(decision) if decision else None,
    )


def _limit(limit: Limit | None) -> answers.Limit | None:
    return answers.Limit.model_validate(limit) if limit else None


def _recorded(decision: Decision) -> answers.Recorded:
    return answers.Recorded(id=decision.id, at=decision.at, url=f"{BASE}/decisions/{decision.id}")


def decision(recorded: Decision, *, contributions: bool) -> answers.Decision:
    """Return a recorded decision with the values it stands on, the protected ones left out."""
    customer = recorded.customer
    return answers.Decision(
        id=recorded.id,
        at=recorded.at,
        customer=answers.Customer(carried=customer.identifiers, scored=customer.scored, policy=customer.policy),
        outcome=outcome(recorded.outcome, contributions=contributions, decision=recorded),
    )


def recourse(explaining: Explaining, about: Decision) -> answers.Recourse:
    """Return what would change a decision, each suggestion with the limit it leads to."""

    def suggestion(made: Suggestion) -> answers.Suggestion:
        changes = tuple(answers.Change(factor=each.factor.name, old=each.old, new=each.new) for each in made.changes)
        limit = _limit(explaining.limit_after(about, made))
        return answers.Suggestion(
            changes=changes, score=made.score, band=made.band.name, limit=limit, effort=made.effort
        )

    worked_out = explaining.recourse(about)
    return answers.Recourse(
        best=worked_out.best,
        nothing=worked_out.nothing,
        suggestions=tuple(map(suggestion, worked_out.suggestions)),
        lifts=tuple(map(suggestion, explaining.lifts(about))),
    )


def product(declared: Product, model_version: str | None) -> answers.Product:
    """Return a product as it is declared, and which model version serves it."""
    return answers.Product(
        key=declared.key,
        title=declared.title,
        question=declared.question,
        quantity=declared.quantity,
        bands=tuple(
            answers.Band(name=band.name, start=band.start, end=declared.end(band), meaning=band.meaning)
            for band in declared.bands
        ),
        policy_version=declared.policy_version,
        model_version=model_version,
        schema_url=f"{BASE}/products/{declared.key}/schema",
    )


def model_version(registered: ModelVersion) -> answers.ModelVersion:
    """Return a registered model version."""
    return answers.ModelVersion(
        product=registered.product.key,
        version=registered.version,
        active=registered.active,
        digest=registered.manifest_digest,
        forest_digest=registered.forest_digest,
        trained_at=registered.trained_at,
        seed=registered.seed,
        data=dict(registered.data),
        evaluation=dict(registered.evaluation),
        parameters=dict(registered.parameters),
        libraries=dict(registered.libraries),
    )


def batch_url(job: Job) -> str:
    """Return the path at which a batch stands."""
    return f"{BASE}/batches/{job.id}"


def received(job: Job) -> answers.Received:
    """Return a batch as it was taken in."""
    return answers.Received(
        id=job.id,
        url=batch_url(job),
        product=job.product.key,
        at=job.at,
        file_name=job.file_name,
        input_digest=job.input_digest,
        input_bytes=job.input_bytes,
    )


def batch(job: Job, progress: Progress) -> answers.Batch:
    """Return a batch as it is now."""
    return answers.Batch(
        **dict(received(job)),
        state=job.state.value,
        message=job.message,
        mapping=dict(job.mapping) if job.mapping is not None else None,
        progress=answers.Progress.model_validate(progress),
        checked=answers.Check.model_validate(job.checked) if job.checked else None,
        model=_model(job),
        policy_version=job.policy_version,
        started_at=job.started_at,
        finished_at=job.finished_at,
        summary=answers.Summary.model_validate(job.summary) if job.summary else None,
        results_url=f"{batch_url(job)}/results" if job.state is State.DONE else None,
        rejects_url=f"{batch_url(job)}/rejects" if job.state in CHECKED else None,
    )


def _model(job: Job) -> answers.Model | None:
    if job.model_version is None or job.model_digest is None:
        return None
    return answers.Model(version=job.model_version, digest=job.model_digest)
