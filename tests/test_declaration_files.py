"""Declaration files that are wrong: each is refused with file, table, key, what stands there and what may."""

import copy
import json
import random
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankportal.domain.declarations.checks import RESERVED_KEYS, RESERVED_NAMES
from bankportal.domain.declarations.files import read, shipped
from bankportal.domain.declarations.shape import MAX_FILE_BYTES
from bankportal.domain.errors import DeclarationProblem, DeclarationRefused
from bankportal.domain.portfolio import portfolio_from

FIXTURES = Path(__file__).parent / "fixtures" / "declarations"
SHIPPED = Path(__file__).parents[1] / "bankportal" / "declarations"
PRODUCT, POLICY, FACTORS = "home-equity.toml", "equity-limit.toml", "factors.toml"
FILES = {path.name: path.read_bytes() for path in FIXTURES.glob("*.toml")}
TEXTS = {name: content.decode() for name, content in FILES.items()}
TEXTS[FACTORS] = (SHIPPED / FACTORS).read_text(encoding="utf-8")


def problems_of(files: dict[str, bytes], in_force=()) -> tuple[DeclarationProblem, ...]:
    with pytest.raises(DeclarationRefused) as refused:
        read(files, in_force)
    assert str(refused.value) == "\n".join(map(str, refused.value.problems))
    return refused.value.problems


def edited(file: str, old: str, new: str) -> dict[str, bytes]:
    """Return the files with one place of one of them edited."""
    assert TEXTS[file].count(old) >= 1, old
    files = FILES | ({FACTORS: TEXTS[FACTORS].encode()} if file == FACTORS else {})
    return files | {file: TEXTS[file].replace(old, new, 1).encode()}


# The file, what is edited in it, then the table, the key, what stands there, and what the message says.
BROKEN = {
    # What a single key holds.
    "a missing key": (PRODUCT, 'title = "Home equity"\n', "", "", "title", "", "is missing; it must be text"),
    "a misspelt key": (PRODUCT, "title = ", "titel = ", "", "titel", '"Home equity"', "these may: format, kind, key"),
    "a blank text": (PRODUCT, '"Home equity"', '""', "", "title", '""', "must be text on one line"),
    "spaces at the end": (PRODUCT, '"Home equity"', '"Home "', "", "title", '"Home "', "without spaces at its ends"),
    "two lines": (PRODUCT, '"Home equity"', r'"a\nb"', "", "title", r'"a\nb"', "must be text on one line"),
    "a control character": (PRODUCT, '"Home equity"', r'"a\u0000b"', "", "title", r'"a\u0000b"', "on one line"),
    "a mark of direction": (PRODUCT, '"Home equity"', r'"a\u202eb"', "", "title", '"a\u202eb"', "on one line"),
    "a long title": (PRODUCT, '"Home equity"', f'"{"x" * 41}"', "", "title", f'"{"x" * 41}"', "up to 40 characters"),
    "a number for a text": (PRODUCT, '"Home equity"', "7", "", "title", "7", "must be text"),
    "a date for a text": (PRODUCT, '"Home equity"', "2026-11-24", "", "title", '"2026-11-24"', "must be text"),
    "a text for yes or no": (
        PRODUCT,
        "credit = true",
        'credit = "yes"',
        "",
        "decides_credit",
        '"yes"',
        "true or false",
    ),
    "a number for yes or no": (PRODUCT, "credit = true", "credit = 1", "", "decides_credit", "1", "true or false"),
    "yes or no for a number": (
        PRODUCT,
        "start = 0.75",
        "start = true",
        "[[bands]] 2",
        "start",
        "true",
        "a number from 0",
    ),
    "nan": (PRODUCT, "start = 0.75", "start = nan", "[[bands]] 2", "start", "nan", "a number from 0 to below 1"),
    "infinity": (
        PRODUCT,
        "maximum = 70",
        "maximum = inf",
        "[factors.YearsOnJob.constraint]",
        "maximum",
        "inf",
        "number",
    ),
    "a huge number": (POLICY, "step = 100", f"step = 0x{'f' * 5000}", "", "step", "(too long to show)", "1 or more"),
    "half a step": (POLICY, "step = 100", "step = 0.5", "", "step", "0.5", "a whole number of 1 or more"),
    "a share above 1": (POLICY, "payment_share = 0.5", "payment_share = 50", "", "payment_share", "50", "up to 1"),
    "no version": (POLICY, '"2026-1"', '"2026/1"', "", "version", '"2026/1"', "letters, digits, points"),
    "an unknown tone": (PRODUCT, 'tone = "fair"', 'tone = "soso"', "[[bands]] 2", "tone", '"soso"', 'or "bad"'),
    "an unknown group": (
        *(PRODUCT, 'group = "Relationship"', 'group = "Credit"'),
        *("[factors.Delinquencies]", "group", '"Credit"', '"Profile", "Accounts"'),
    ),
    "an unknown kind of constraint": (
        *(PRODUCT, '{ kind = "number", minimum = 0, maximum = 70 }', '{ kind = "date" }'),
        *("[factors.YearsOnJob]", "constraint", '{"kind": "date"}', 'whose kind is "number"'),
    ),
    "a constraint without its bound": (
        *(PRODUCT, "minimum = 0, maximum = 70", "minimum = 0"),
        *("[factors.YearsOnJob.constraint]", "maximum", "", "is missing; it must be a number"),
    ),
    "a currency in words": (PRODUCT, '"USD"', '"dollars"', "", "currency", '"dollars"', "three capital letters"),
    "a list for a table": (PRODUCT, "[reference]", "[[reference]]", "", "reference", '[{"meaning"', "a table with"),
    "a text for a list": (PRODUCT, '["Gender", "Age"]', '"Age"', "[roles]", "protected", '"Age"', "a list of factors'"),
    "a number in a list": (PRODUCT, '["Gender", "Age"]', '["Age", 3]', "[roles]", "protected", "3", "must be a name"),
    "a bad name": (
        *(PRODUCT, "[factors.HomeValue]", '[factors."Home Value"]'),
        *("[factors]", '"Home Value"', '"Home Value"', "letters, digits and _"),
    ),
    "a key with capitals": (PRODUCT, '"home-equity"', '"Home"', "", "key", '"Home"', "small letters"),
    "a key of a page": (PRODUCT, '"home-equity"', '"batches"', "", "key", '"batches"', "take another key"),
    "a name of a form": (
        *(PRODUCT, "[factors.HomeValue]", "[factors.csrf_token]"),
        *("[factors]", "csrf_token", '"csrf_token"', "take another"),
    ),
    # The file as a whole.
    "another kind": (PRODUCT, 'kind = "product"', 'kind = "model"', "", "kind", '"model"', '"product", "policy" or'),
    "a newer format": (PRODUCT, "format = 1", "format = 2", "", "format", "2", "of a newer release; this one reads"),
    "no format": (PRODUCT, "format = 1\n", "", "", "format", "", "is missing; it must be 1"),
    # What factors, each by itself, must keep.
    "bounds the wrong way round": (
        *(PRODUCT, "minimum = 0, maximum = 70", "minimum = 70, maximum = 0"),
        *("[factors.YearsOnJob.constraint]", "maximum", "0", "must be above minimum, which is 70"),
    ),
    "a bound between whole numbers": (
        *(PRODUCT, "maximum = 100, whole", "maximum = 99.5, whole"),
        *("[factors.Delinquencies.constraint]", "maximum", "99.5", "must be a whole number"),
    ),
    "a choice twice": (
        *(PRODUCT, '["Office", "Trade"', '["Office", "Office"'),
        *("[factors.Occupation.constraint]", "options", '["Office", "Office"', "different names"),
    ),
    "a single choice": (
        *(PRODUCT, '["Office", "Trade", "Self-employed", "Other"]', '["Office"]'),
        *("[factors.Occupation.constraint]", "options", '["Office"]', "2 or more"),
    ),
    "a blank choice": (
        *(PRODUCT, '["Office", "Trade"', '["Office", ""'),
        *("[factors.Occupation.constraint]", "options", '""', "must be text"),
    ),
    "an example out of bounds": (
        *(PRODUCT, 'example = "7.5"', 'example = "75"'),
        *("[factors.YearsOnJob]", "example", '"75"', "must be 70 or less"),
    ),
    "an example that is no choice": (
        *(PRODUCT, 'example = "Office"', 'example = "Sea"'),
        *("[factors.Occupation]", "example", '"Sea"', "must be Office, Trade"),
    ),
    "a phrase without its value": (
        *(PRODUCT, '"{value} years on the job"', '"Years on the job"'),
        *("[factors.YearsOnJob.phrase]", "many", '"Years on the job"', "must contain {value}"),
    ),
    "a phrase with another name": (
        *(PRODUCT, '"{value} years on the job"', '"{value} years, {name}"'),
        *("[factors.YearsOnJob.phrase]", "many", '"{value} years, {name}"', "has {name}"),
    ),
    "a yes-no factor without its no": (
        *(FACTORS, 'phrase.zero = "No loan of this bank"\n', ""),
        *("[factors.HasLoan.phrase]", "zero", "", "a yes-no factor needs it"),
    ),
    "a change of a choice": (
        *(
            PRODUCT,
            'phrase.unknown = "An unknown occupation"',
            'phrase.unknown = "x"\nchange = { direction = "up", months = 1 }',
        ),
        *("[factors.Occupation]", "change", '{"direction": "up"', "numbers and yes-no factors only"),
    ),
    "half a step of a whole number": (
        *(PRODUCT, 'direction = "down", months = 3', 'direction = "down", months = 3, step = 0.5'),
        *("[factors.Delinquencies.change]", "step", "0.5", "must be a whole number"),
    ),
    # What roles and factors must keep together.
    "a role of an unknown factor": (
        *(PRODUCT, '"YearsOnJob", "Del', '"YearOnJob", "Del'),
        *("[roles]", "optional", '"YearOnJob"', "there is YearsOnJob"),
    ),
    "a factor in two roles": (
        *(PRODUCT, '["Gender", "Age"]', '["Gender", "Age", "HomeValue"]'),
        *("[roles]", "protected", '"HomeValue"', "is in the role required already"),
    ),
    "a factor in no role": (PRODUCT, '"Occupation", ', "", "[factors]", "Occupation", "", "is in no role"),
    "a protected factor scored": (
        *(PRODUCT, '"HomeValue"]', '"HomeValue", "Geography"]'),
        *("[roles]", "required", '"Geography"', "never scored in a credit decision"),
    ),
    "a factor that is never scored": (
        *(PRODUCT, 'policy = ["RequestedLoan"]\nprotected = ["Gender", "Age"]', 'policy = ["RequestedLoan", "Gender"]'),
        *("[roles]", "policy", '"Gender"', "is never scored"),
    ),
    "a text scored": (
        *(PRODUCT, '["CustomerId", "Surname"]\nrequired = [', '["CustomerId"]\nrequired = ["Surname", '),
        *("[roles]", "required", '"Surname"', "a text, which cannot be scored"),
    ),
    "a scored factor without words": (
        *(PRODUCT, 'phrase.many = "A home worth {currency} {value}"\nphrase.unknown = "A home of unknown worth"\n', ""),
        *("[roles]", "required", '"HomeValue"', "needs a phrase"),
    ),
    "a required factor without an example": (
        *(PRODUCT, 'example = "240000"', 'example = ""'),
        *("[roles]", "required", '"HomeValue"', "needs an example"),
    ),
    "nothing scored": (
        *(PRODUCT, re.search(r"required = .*\noptional = .*\n", TEXTS[PRODUCT])[0], ""),
        *("[roles]", "required", "", "nothing is scored"),
    ),
    "shared factors that there are not": (
        *(PRODUCT, 'shared = "factors"', 'shared = "fators"'),
        *("", "shared", '"fators"', "there are: factors"),
    ),
    # Names of columns.
    "an alias of two factors": (
        *(PRODUCT, 'aliases = ["YOJ"]', 'aliases = ["mort-due"]'),
        *("[factors.YearsOnJob]", "aliases", '"mort-due"', "is a name of MortgageDue already"),
    ),
    "an alias of the label": (
        *(PRODUCT, 'aliases = ["BAD"]', 'aliases = ["home value"]'),
        *("[label]", "aliases", '"home value"', "is a name of HomeValue already"),
    ),
    "names that differ by case alone": (
        *(PRODUCT, 'name = "PaidBack"', 'name = "creditscore"'),
        *("[label]", "name", '"creditscore"', "is a name of CreditScore already"),
    ),
    "an alias without a letter": (
        PRODUCT,
        '["YOJ"]',
        '["--"]',
        "[factors.YearsOnJob]",
        "aliases",
        '"--"',
        "a letter or",
    ),
    # Bands, reference and label.
    "bands not from 0": (PRODUCT, "start = 0\n", "start = 0.1\n", "[[bands]] 1", "start", "0.1", "must be 0"),
    "bands not rising": (PRODUCT, "start = 0.9", "start = 0.7", "[[bands]] 3", "start", "0.7", "must be above 0.75"),
    "a band from 1": (PRODUCT, "start = 0.9", "start = 1.0", "[[bands]] 3", "start", "1.0", "0 to below 1"),
    "a band twice": (PRODUCT, 'name = "Full"', 'name = "Narrow"', "[[bands]] 3", "name", '"Narrow"', "of another band"),
    "a band called as a refusal": (
        *(PRODUCT, 'name = "Full"', 'name = "No limit"'),
        *("[[bands]] 3", "name", '"No limit"', "what a refusal is called"),
    ),
    "no bands": (
        *(PRODUCT, re.search(r"\[\[bands\]\].*(?=\[verbs\])", TEXTS[PRODUCT], re.DOTALL)[0], ""),
        *("", "bands", "", "is missing; it must be one or more tables [[bands]]"),
    ),
    "a reference that is no band": (
        *(PRODUCT, 'band = "Narrow"', 'band = "Wide"'),
        *("[reference]", "band", '"Wide"', "must be a band: Refused, Narrow, Full"),
    ),
    "a reference without its size": (PRODUCT, "size = 300", "", "[reference]", "size", "", "band and size go together"),
    "a text that means yes and no": (
        *(PRODUCT, '["1", "defaulted"]', '["1", "paid"]'),
        *("[label]", "negative", '"paid"', "stands under positive as well"),
    ),
    # Product and policy.
    "a policy that there is not": (
        *(PRODUCT, 'policy = "equity-limit"', 'policy = "equity"'),
        *("", "policy", '"equity"', "there are: card-limit, equity-limit"),
    ),
    "a limit without a credit decision": (
        *(PRODUCT, "decides_credit = true", "decides_credit = false"),
        *("", "decides_credit", "false", "must be true"),
    ),
    "bands of another policy": (
        *(PRODUCT, 'policy = "equity-limit"', 'policy = "card-limit"'),
        *("", "bands", '["Refused", "Narrow", "Full"]', "of the policy card-limit: Elite, Ineligible, Standard"),
    ),
    "a salary that may be blank": (
        *(PRODUCT, '"EstimatedSalary", "HomeValue"]\noptional = [', '"HomeValue"]\noptional = ["EstimatedSalary", '),
        *("", "roles", "", "must have EstimatedSalary as a required number"),
    ),
    "a policy that reads what there is not": (
        *(POLICY, 'obligations = "MonthlyObligations"', 'obligations = "Debt"'),
        *("", "roles", "", "must have Debt as a scored number: the policy equity-limit reads it as obligations"),
    ),
    "a policy that reads a choice": (
        *(POLICY, 'obligations = "MonthlyObligations"', 'obligations = "Occupation"'),
        *("", "roles", "", "must have Occupation as a scored number"),
    ),
    "a request below the smallest limit": (
        *(POLICY, "smallest = 1_000", "smallest = 5_000"),
        *("[roles]", "policy", '"RequestedLoan"', "must be 5000 or more"),
    ),
    "a limit in a bad band": (
        *(POLICY, "Refused = 0", "Refused = 1"),
        *("[[bands]] 1", "tone", '"bad"', 'must be "good" or "fair"'),
    ),
    "no limit in a good band": (POLICY, "Full = 24", "Full = 0", "[[bands]] 3", "tone", '"good"', 'must be "bad"'),
    "a policy's factor that nothing reads": (
        *(PRODUCT, '["RequestedLoan"]', '["RequestedLoan", "RequestedLimit"]'),
        *("[roles]", "policy", '"RequestedLimit"', "is read by no policy; equity-limit reads RequestedLoan"),
    ),
    "a sentence with another name": (
        *(POLICY, "no loan above {ceiling}", "no loan above {maximum}"),
        *("[sentences]", "ability-to-pay", '"After living', "has “maximum” in braces; {ceiling}"),
    ),
    "a sentence that formats": (
        *(POLICY, "the loan of {amount}", "the loan of {amount:,}"),
        *("[sentences]", "band", '"The salary', "has “amount” in braces"),
    ),
    "a sentence with a brace": (
        *(POLICY, "the loan of {amount}", "the loan of {amount"),
        *("[sentences]", "band", '"The salary', "in braces"),
    ),
}


@pytest.mark.parametrize(("file", "old", "new", "table", "key", "stands", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_in_words(file, old, new, table, key, stands, message) -> None:
    problems = problems_of(edited(file, old, new))
    found = [problem for problem in problems if (problem.table, problem.key) == (table, key)]
    assert found, "\n".join(map(str, problems))
    (problem,) = [each for each in found if message in each.message] or found[:1]
    assert problem.stands.startswith(stands[:60])
    assert bool(problem.stands) == bool(stands)
    assert message in problem.message
    assert problem.file in {file, PRODUCT}, "a policy's file may be right by itself, and wrong for the product"


def test_there_are_forty_of_them() -> None:
    assert len(BROKEN) > 40


UNREADABLE = {
    "no TOML": (b"format = 1\ntitle Churn\n", r"is not TOML: .*line 2"),
    "a key twice": (b"format = 1\nformat = 1\n", r"is not TOML: .*line 2"),
    "not in UTF-8": ("format = 1\n# Größe".encode("latin-1"), "is not in UTF-8 at line 2"),
    "in UTF-16": ("format = 1".encode("utf-16"), "is not in UTF-8 at line 1"),
    "too large": (b"#" * (MAX_FILE_BYTES + 1), "is larger than 1 MB"),
    "nested without end": (b"a = " + b"[" * 50_000, "is nested too deeply|is not TOML"),
    "a number without end": (b"a = " + b"9" * 50_000, "is not TOML"),
    "a null": (b"\x00", "is not TOML"),
    "nothing": (b"", "kind: must be"),
}


@pytest.mark.parametrize(("content", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_declaration_at_all_is_named(content, message) -> None:
    (problem,) = problems_of({"ours.toml": content})
    assert re.fullmatch(rf"ours\.toml(, |: )({message}).*", str(problem))


@pytest.mark.parametrize("change", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n")])
def test_what_editors_on_windows_write_is_read(change) -> None:
    assert read({name: change(content) for name, content in FILES.items()}) == read(FILES)


def test_every_problem_is_named_at_once() -> None:
    text = TEXTS[PRODUCT]
    for old, new in [
        ('title = "Home equity"', "title = 3"),
        ('"YearsOnJob", "Del', '"YearOnJob", "Del'),
        ("start = 0.9", "start = 0.7"),
        ('example = "240000"', 'example = "1"'),
        ('meaning = "the loan was paid back"\n', ""),
        ('band = "Narrow"', 'band = "Wide"'),
        ("minimum = 0, maximum = 70", 'minimum = "none", maximum = 70'),
    ]:
        assert old in text
        text = text.replace(old, new)
    policy = TEXTS[POLICY].replace("{amount}", "{sum}").replace("step = 100", "step = 0")
    problems = problems_of({PRODUCT: text.encode(), POLICY: policy.encode(), "third.toml": b"?"})
    assert {(problem.file, problem.table, problem.key) for problem in problems} >= {
        (PRODUCT, "", "title"),
        (PRODUCT, "[roles]", "optional"),
        (PRODUCT, "[factors]", "YearsOnJob"),
        (PRODUCT, "[[bands]] 3", "start"),
        (PRODUCT, "[factors.HomeValue]", "example"),
        (PRODUCT, "[label]", "meaning"),
        (PRODUCT, "[reference]", "band"),
        (PRODUCT, "[factors.YearsOnJob.constraint]", "minimum"),
        (POLICY, "[sentences]", "band"),
        (POLICY, "", "step"),
        ("third.toml", "", ""),
    }
    assert len(problems) == 11, "one each, and nothing that follows from another"


def test_factors_that_there_are_not_are_one_problem() -> None:
    (problem,) = problems_of(edited(PRODUCT, 'shared = "factors"', 'shared = "fators"'))
    assert str(problem) == 'home-equity.toml, shared: "fators" is the key of no shared factors; there are: factors.'


def test_a_key_is_declared_once() -> None:
    (problem,) = problems_of(FILES | {"again.toml": FILES[POLICY]})
    assert str(problem) in {
        f'{one}, key: "equity-limit" is declared by {other} as well.'
        for one, other in [("again.toml", POLICY), (POLICY, "again.toml")]
    }


def test_a_product_in_force_is_not_left_without_what_it_needs() -> None:
    """A policy or factors that are right by themselves are refused where a product in force does not fit them."""
    in_force = [*shipped(), *read(FILES)]
    policy = TEXTS[POLICY].replace("2026-1", "2026-2").replace("Narrow = 6", "Slim = 6")
    (problem,) = problems_of({POLICY: policy.encode()}, in_force)
    assert (problem.file, problem.table, problem.key) == (POLICY, "the product home-equity, which is in force", "bands")
    factors = TEXTS[FACTORS].replace("[factors.HasLoan]", "[factors.HasALoan]").replace('"loan"', '"a_loan"')
    problems = problems_of({FACTORS: factors.encode()}, in_force)
    assert {str(problem).split(", ")[1] for problem in problems} == {
        f"the product {key}" for key in ("churn", "allowance", "home-equity")
    }


def everything(content: object) -> list[tuple[list[str | int], object]]:
    """Return every place of a parsed file with what stands there."""
    places: list[tuple[list[str | int], object]] = []
    children = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in children:
        places.append(([key], value))
        places += [([key, *path], each) for path, each in everything(value)]
    return places


def made_or_refused(files: dict[str, bytes]) -> None:
    """Read files: they make products, or each problem names its file and says something."""
    problems: tuple[DeclarationProblem, ...] = ()
    try:
        portfolio_from([*shipped(), *read(files)])
    except DeclarationRefused as refused:
        problems = refused.problems or (DeclarationProblem("", "", "", "", ""),)
    assert all(problem.file in files and problem.message for problem in problems)


JUNK = [
    None,
    True,
    0,
    -1,
    10**400,
    1e308,
    float("nan"),
    "",
    " ",
    "x" * 999,
    "\x00",
    "{",
    "{value}",
    [],
    [[]],
    {},
    {"a": 1},
]


def to_toml(value: object) -> str:
    """Write parsed TOML as inline TOML."""
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(key)} = {to_toml(each)}" for key, each in value.items()) + "}"
        case list():
            return f"[{', '.join(map(to_toml, value))}]"
        case str() | bool():
            return json.dumps(value)
        case _:
            return repr(value)


@given(seed=st.integers(0, 2**32), edits=st.integers(1, 4))
def test_whatever_stands_in_a_file_it_makes_products_or_is_refused(seed, edits) -> None:
    """Parts of right files are removed, moved or replaced by junk: nothing but `DeclarationRefused` is raised."""
    random_ = random.Random(seed)
    contents = {name: tomllib.loads(text) for name, text in TEXTS.items()}
    for _ in range(edits):
        content = random_.choice(list(contents.values()))
        places = everything(content)
        path, _ = random_.choice(places)
        within = content
        for key in path[:-1]:
            within = within[key]
        new = random_.choice([*JUNK, *(value for _, value in random_.sample(places, min(5, len(places))))])
        new = copy.deepcopy(new)
        if new is None:
            del within[path[-1]]
        else:
            within[path[-1]] = new
    files = {
        name: "\n".join(f"{json.dumps(key)} = {to_toml(value)}" for key, value in content.items()).encode()
        for name, content in contents.items()
    }
    made_or_refused(files)


@given(seed=st.integers(0, 2**32))
def test_whatever_bytes_stand_in_a_file_it_makes_products_or_is_refused(seed) -> None:
    random_ = random.Random(seed)
    files = {name: bytearray(content) for name, content in FILES.items()}
    content = random_.choice(list(files.values()))
    for _ in range(random_.randint(1, 5)):
        content[random_.randrange(len(content))] = random_.choice([*b"\"'[]{}=,.#\n", random_.randrange(256)])
    made_or_refused({name: bytes(content) for name, content in files.items()})


def test_no_product_takes_an_address_of_the_portal(app) -> None:
    products = set(app.extensions["bankportal"].declarations.portfolio())
    first = {rule.rule.split("/")[1] for rule in app.url_map.iter_rules()} | set(app.blueprints)
    possible = {name for name in first - products if re.fullmatch(r"[a-z][a-z0-9-]*[a-z0-9]", name)}
    assert possible <= RESERVED_KEYS


def test_no_factor_takes_a_name_of_the_forms() -> None:
    from bankportal.web.forms import ProductForm

    names = {name for name in dir(ProductForm) if not name.startswith("_")}
    assert names <= RESERVED_NAMES
