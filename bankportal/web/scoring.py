"""The form of one product: fill it, see the gauge follow, record a decision. One factory serves every product."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flask import Blueprint, Response, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError

from bankportal.domain.constraints import Source
from bankportal.domain.errors import FieldProblem, InvalidInput, NoActiveModel
from bankportal.domain.outcome import Outcome
from bankportal.domain.portfolio import withdrawn_words
from bankportal.domain.products import Product
from bankportal.domain.provenance import Door, Provenance
from bankportal.domain.schema import Customer, validate
from bankportal.web import forms
from bankportal.web.current import services, wants_json
from bankportal.web.declared import is_in_force, labels, no_longer_asked
from bankportal.web.drawings.gauge import Gauge, gauge, neutral_gauge
from bankportal.web.words import problem_sentence

NO_MODEL = "There is no model yet, so nothing can be scored."
EXPIRED = "The form had expired. Nothing was scored or recorded; what you typed is kept. Send it again."
CHANGED = "What is asked or answered here has changed since you opened the form."
CHANGED_SENT = "Nothing was recorded; what you typed is kept. Look at it again and send it."
CHANGED_PREVIEW = "What you typed is kept when you send it, and is shown in the new form first."
EARLIER = (
    "The decision that these values come from stands on an earlier declaration. Look at them before you send them."
)


@dataclass(frozen=True)
class Preview:
    """What the values on the form would give now: the gauge, and either the outcome or the problems."""

    gauge: Gauge
    outcome: Outcome | None = None
    problems: tuple[FieldProblem, ...] = ()
    notice: str = ""

    @property
    def wrong(self) -> tuple[FieldProblem, ...]:
        """The problems of values that were typed."""
        return tuple(problem for problem in self.problems if problem.code != "required")

    @property
    def needed(self) -> tuple[FieldProblem, ...]:
        """The required values that are still blank."""
        return tuple(problem for problem in self.problems if problem.code == "required")

    @property
    def announcement(self) -> str:
        """What a screen reader says once typing rests."""
        verdict = self.gauge.verdict
        score = f"{self.gauge.label} {self.gauge.text}, {verdict.name}." if verdict else self.gauge.note
        return f"{self.notice} {score}".strip()


def blueprint(product: Product) -> Blueprint:
    """Return the blueprint of a product's form."""
    pages = Pages(product)
    scoring = Blueprint(product.key, __name__, url_prefix=f"/{product.key}")
    scoring.add_url_rule("/", "form", pages.form)
    scoring.add_url_rule("/", "record", pages.record, methods=["POST"])
    scoring.add_url_rule("/preview", "preview", pages.preview, methods=["POST"])
    scoring.register_error_handler(CSRFError, pages.expired)
    scoring.register_error_handler(NoActiveModel, pages.no_model)
    return scoring


def withdrawn(product: Product) -> Blueprint:
    """Return the blueprint that stands where the form of a withdrawn product was."""

    def gone() -> ResponseReturnValue:
        message = withdrawn_words(product)
        if wants_json():
            return {"error": message}, 404
        typed = forms.typed_rows(product, request.form)
        return render_template("withdrawn.html", product=product, message=message, typed=typed), 404

    scoring = Blueprint(product.key, __name__, url_prefix=f"/{product.key}")
    scoring.add_url_rule("/", "form", gone, methods=["GET", "POST"])
    scoring.add_url_rule("/preview", "preview", gone, methods=["POST"])
    return scoring


class Pages:
    """The views of one product."""

    def __init__(self, product: Product):
        self.product = product

    def form(self) -> ResponseReturnValue:
        """Show the form: blank, with the example, or with an earlier decision's values."""
        raw, notice = self._prefilled()
        return self._page(raw, self._preview(raw), notice=notice)

    def record(self) -> ResponseReturnValue:
        """Score and record the form's values, and go to the decision; an outdated form is shown anew instead."""
        if forms.is_outdated(self.product, request.form):
            return self._anew()
        try:
            customer = self._customer(self._sent())
        except InvalidInput as invalid:
            return self._refused(invalid)
        submission = forms.valid_submission(request.form.get("submission", ""))
        decision = services().scoring.decide(customer, submission, Provenance(Door.PAGE))
        return redirect(url_for("decisions.show", decision_id=decision.id), 303)

    def preview(self) -> ResponseReturnValue:
        """Score the form's values and record nothing: for the script the preview alone, without it the whole page."""
        preview = self._preview(self._sent())
        if wants_json():
            return self._fragment(replace(preview, notice=self._outdated_notice(f"{CHANGED} {CHANGED_PREVIEW}")))
        if forms.is_outdated(self.product, request.form):
            return self._anew()
        if preview.problems:
            return self._refused(InvalidInput(preview.problems))
        return self._page(self._sent(), preview)

    def expired(self, error: CSRFError) -> ResponseReturnValue:
        """Show the form again, with a fresh token, where the old one is missing or has expired."""
        if wants_json():
            return {"error": EXPIRED}, 400
        changed = self._outdated_notice(CHANGED)
        return self._page(self._sent(), self._neutral(()), notice=f"{EXPIRED} {changed}".strip()), 400

    def no_model(self, error: NoActiveModel) -> ResponseReturnValue:
        """Show the form with a notice that there is no model yet; what was typed is kept."""
        if wants_json():
            return {"error": NO_MODEL}, 503
        raw = self._sent() if request.method == "POST" else self._prefilled()[0]
        notice = self._outdated_notice(f"{CHANGED} {CHANGED_SENT}") if request.method == "POST" else ""
        return self._page(raw, self._neutral(()), notice=notice), 503

    def _sent(self) -> dict[str, str | None]:
        return forms.raw_values(self.product, request.form)

    def _prefilled(self) -> tuple[Mapping[str, str | None], str]:
        """Return what the form begins with, and what is to be said about it."""
        initial, notice = self._initial_values()
        return {**initial, **forms.decisive_values(self.product, request.args)}, notice

    def _initial_values(self) -> tuple[Mapping[str, str | None], str]:
        if earlier := request.args.get("from"):
            customer = services().decisions.get(earlier).customer
            values = forms.typed_values(customer.all_values())
            is_other = customer.product.key == self.product.key and not is_in_force(customer.product)
            notice = with_left_out(EARLIER, no_longer_asked(self.product, values, labels(customer.product, values)))
            return forms.raw_values(self.product, values), notice if is_other else ""
        return forms.example_values(self.product) if request.args.get("example") else {}, ""

    def _customer(self, raw: Mapping[str, str | None]) -> Customer:
        return validate(self.product, raw, Source.TEXT)

    def _preview(self, raw: Mapping[str, str | None]) -> Preview:
        try:
            outcome = services().scoring.score(self._customer({**forms.raw_values(self.product, {}), **raw}))
        except InvalidInput as invalid:
            return self._neutral(invalid.problems)
        return Preview(gauge(outcome), outcome)

    def _anew(self) -> ResponseReturnValue:
        """Show the form as it is declared now, with what was typed into another one and what is wrong with that."""
        preview = self._preview(self._sent())
        notice = self._outdated_notice(f"{CHANGED} {CHANGED_SENT}")
        return self._page(self._sent(), preview, self._sentences(preview.problems), notice), 409

    def _outdated_notice(self, words: str) -> str:
        """Return the words with what has no field any more; blank where the form is not outdated."""
        if not forms.is_outdated(self.product, request.form):
            return ""
        others = forms.other_values(self.product, request.form)
        return with_left_out(words, no_longer_asked(self.product, others, {}))

    def _neutral(self, problems: tuple[FieldProblem, ...]) -> Preview:
        return Preview(neutral_gauge(self.product, waiting_for(self.product, problems)), problems=problems)

    def _fragment(self, preview: Preview) -> Response:
        return jsonify(
            html=render_template("preview.html", product=self.product, preview=preview),
            problems=self._sentences(preview.wrong),
            needed=self._sentences(preview.needed),
            announcement=preview.announcement,
        )

    def _sentences(self, problems: tuple[FieldProblem, ...]) -> dict[str, str]:
        return {problem.field: problem_sentence(self.product, problem) for problem in problems}

    def _refused(self, invalid: InvalidInput) -> ResponseReturnValue:
        page = self._page(self._sent(), self._neutral(invalid.problems), problems=self._sentences(invalid.problems))
        return page, 422

    def _page(
        self,
        raw: Mapping[str, str | None],
        preview: Preview,
        problems: Mapping[str, str] | None = None,
        notice: str = "",
    ) -> str:
        form = forms.make_form(self.product, raw, request.form.get("submission", ""))
        if problems:
            form.show(self.product, preview.problems)
        return render_template(
            "form.html",
            product=self.product,
            sections=forms.sections(self.product),
            form=form,
            preview=preview,
            problems=problems or {},
            notice=notice,
            missing_model=not has_model(self.product),
        )


def with_left_out(words: str, left_out: Sequence[str]) -> str:
    """Put behind a notice which values have no place in the form."""
    return f"{words} No longer asked for: {', '.join(left_out)}." if left_out else words


def has_model(product: Product) -> bool:
    """Say whether a model is there to score with."""
    try:
        services().models.active(product)
    except NoActiveModel:
        return False
    return True


def waiting_for(product: Product, problems: tuple[FieldProblem, ...]) -> str:
    """Say what keeps the gauge neutral: "2 required values to go: Age, Balance."."""
    labels = {entry.factor.name: entry.factor.label for entry in product.factors}
    needed = [labels[problem.field] for problem in problems if problem.code == "required"]
    wrong = [labels[problem.field] for problem in problems if problem.code != "required"]
    sentences = [f"To correct: {', '.join(wrong)}."] if wrong else []
    if needed:
        values = "value" if len(needed) == 1 else "values"
        sentences.append(f"{len(needed)} required {values} to go: {', '.join(needed)}.")
    return " ".join(sentences)
