"""Forms generated from a product's declaration: rendering and CSRF only.

`bankportal.domain.schema.validate` alone decides what is legal; its problems are put on the fields afterwards.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from flask_wtf import FlaskForm
from markupsafe import Markup
from wtforms import Field, HiddenField, StringField
from wtforms.widgets import html_params

from bankportal.domain.constraints import Choice, Constraint, Number, YesNo, plain
from bankportal.domain.errors import FieldProblem
from bankportal.domain.factors import Group
from bankportal.domain.policy import Value
from bankportal.domain.products import Product, ProductFactor, Role
from bankportal.web.declared import mark_of
from bankportal.web.words import as_typed, number, problem_sentence

SUBMISSION = re.compile(r"[A-Za-z0-9_-]{16,64}")
HIDDEN = frozenset({"csrf_token", "submission", "declaration"})  # the fields of a form that nobody types into
MAX_PRODUCTS = 64  # of which forms are kept; each declaration makes another product
BLANK_REQUIRED, BLANK_OPTIONAL = "Choose…", "Unknown"
# The roles of factors that decide: the others identify the customer, or are kept for the fairness audit.
DECISIVE = frozenset({Role.SCORED, Role.POLICY})
PROTECTED_HEADING = "Kept apart"
PROTECTED_INTRO = "Never scored. Stored apart from the decision, for the fairness audit alone. May stay blank."


class Select:
    """Draws a select. An illegal value becomes one more option, so that what was sent is shown again."""

    def __init__(self, options: list[tuple[str, str]]):
        self.options = options

    def __call__(self, field: Field, **attributes: object) -> Markup:
        """Return the element for a field's value."""
        value = field.data or ""
        kept = [] if value in dict(self.options) else [(value, value)]
        choices = Markup("").join(_option(each, text, value) for each, text in [*self.options, *kept])
        opening = html_params(id=field.id, name=field.name, **attributes)
        return Markup("<select {}>{}</select>").format(Markup(opening), choices)  # noqa: S704  # escaped by html_params


def _option(value: str, text: str, chosen: str) -> Markup:
    selected = Markup(" selected") if value == chosen else ""
    return Markup('<option value="{}"{}>{}</option>').format(value, selected, text)


class ProductForm(FlaskForm):  # type: ignore[misc]  # flask-wtf ships no types
    """Base of all generated forms.

    The token `submission` lets a form that is sent twice be recorded once; `declaration` says which one it was made of.
    """

    submission = HiddenField()
    declaration = HiddenField()

    def show(self, product: Product, problems: Iterable[FieldProblem]) -> None:
        """Put the problems on their fields."""
        for problem in problems:
            if problem.field in self:
                self[problem.field].errors = [problem_sentence(product, problem)]


@dataclass(frozen=True)
class Section:
    """A fieldset: its heading, an introduction, and its factors."""

    heading: str
    intro: str
    factors: tuple[ProductFactor, ...]


@lru_cache(MAX_PRODUCTS)
def form_class(product: Product) -> type[ProductForm]:
    """Return the form of a product, with a field for each factor."""
    fields = {entry.factor.name: field_of(entry) for entry in product.factors}
    return type(f"{product.title}Form", (ProductForm,), fields)


@lru_cache(MAX_PRODUCTS)
def sections(product: Product) -> tuple[Section, ...]:
    """Return the form's fieldsets: one for each group of factors, then the protected factors."""
    protected = tuple(each for each in product.factors if each.role is Role.PROTECTED)
    others = [each for each in product.factors if each.role is not Role.PROTECTED]
    groups = [Section(group.value, "", tuple(each for each in others if each.factor.group is group)) for group in Group]
    every = (*groups, Section(PROTECTED_HEADING, PROTECTED_INTRO, protected))
    return tuple(section for section in every if section.factors)


def field_of(entry: ProductFactor) -> Field:
    """Return the unbound field of a factor."""
    label, attributes = entry.factor.label, attributes_of(entry)
    options = options_of(entry.factor.constraint)
    if not options:
        return StringField(label, render_kw=attributes)
    blank = ("", BLANK_REQUIRED if entry.required else BLANK_OPTIONAL)
    return StringField(label, widget=Select([blank, *options]), render_kw=attributes)


def options_of(constraint: Constraint) -> list[tuple[str, str]]:
    """Return the options of a select, as value and text; none where the value is typed."""
    if isinstance(constraint, YesNo):
        return [("1", "Yes"), ("0", "No")]
    return [(option, option) for option in constraint.options] if isinstance(constraint, Choice) else []


def attributes_of(entry: ProductFactor) -> dict[str, str | bool]:
    """Return the HTML attributes that follow from a factor's constraint."""
    attributes: dict[str, str | bool] = {"autocomplete": "off"}
    if entry.required:
        attributes["required"] = True
    if isinstance(entry.factor.constraint, Number):
        attributes |= _number_attributes(entry.factor.constraint)
    return attributes


def _number_attributes(constraint: Number) -> dict[str, str | bool]:
    keyboard = "numeric" if constraint.whole else "decimal"
    return {
        # The number pads of telephones have no minus sign.
        "inputmode": "text" if constraint.minimum < 0 else keyboard,
        "data-min": plain(constraint.minimum),
        "data-max": plain(constraint.maximum),
        "data-step": "1",
        "spellcheck": "false",
    }


def range_of(constraint: Constraint) -> str:
    """Say between which numbers a value must lie, for the hint under its field; blank for other kinds."""
    if not isinstance(constraint, Number):
        return ""
    return f"{number(constraint.minimum)} to {number(constraint.maximum)}"


def raw_values(product: Product, sent: Mapping[str, str]) -> dict[str, str | None]:
    """Return the values of the declared fields from a form; the first one of a field that was sent twice."""
    return {entry.factor.name: sent.get(entry.factor.name) for entry in product.factors}


def example_values(product: Product) -> dict[str, str]:
    """Return the declared examples, as typed."""
    return {entry.factor.name: entry.factor.example for entry in product.factors}


def typed_values(values: Mapping[str, Value]) -> dict[str, str]:
    """Return a customer's values as they would be typed."""
    return {name: as_typed(value) for name, value in values.items()}


def decisive_values(product: Product, query: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the factors that decide from the arguments of an address, as typed; others are ignored."""
    names = [entry.factor.name for entry in product.factors if entry.role in DECISIVE]
    return {name: query[name] for name in names if name in query}


@lru_cache(MAX_PRODUCTS)
def decisive_sections(product: Product) -> tuple[Section, ...]:
    """Return the form's fieldsets with only the factors that decide."""
    decisive = [
        Section(section.heading, section.intro, tuple(each for each in section.factors if each.role in DECISIVE))
        for section in sections(product)
    ]
    return tuple(section for section in decisive if section.factors)


def make_form(product: Product, raw: Mapping[str, str | None], submission: str = "") -> ProductForm:
    """Return the product's form with raw values and a submission token; a new one where `submission` is not valid."""
    hidden = {"submission": valid_submission(submission), "declaration": mark_of(product)}
    return form_class(product)(formdata=None, data={**raw, **hidden})


def is_outdated(product: Product, sent: Mapping[str, str]) -> bool:
    """Say whether a form was made of another declaration than the product's; one that does not say so is not."""
    return sent.get("declaration", mark_of(product)) != mark_of(product)


def typed_rows(product: Product, sent: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what was typed into a form, each with its label."""
    names = {entry.factor.name: entry.factor.label for entry in product.factors}
    values = {name: text for name, text in sent.items() if name not in HIDDEN and text.strip()}
    return [(names.get(name, name), text) for name, text in values.items()]


def other_values(product: Product, sent: Mapping[str, str]) -> dict[str, str]:
    """Return what was typed into fields that a product's form does not have."""
    known = {*raw_values(product, {}), *HIDDEN}
    return {name: text for name, text in sent.items() if name not in known}


def valid_submission(token: str) -> str:
    """Return the token; a new one where it is missing or has not the form of a token."""
    return token if SUBMISSION.fullmatch(token) else secrets.token_urlsafe(16)
