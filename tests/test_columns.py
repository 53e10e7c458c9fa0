import math
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankportal.data.blocks import Block, Layout, Ragged, blocks, layout
from bankportal.data.columns import CellProblem, ragged_problem, validate_block, validate_column
from bankportal.data.reading import recognise
from bankportal.domain.batch import Span
from bankportal.domain.constraints import Choice, ConstraintViolation, Source, Text
from bankportal.domain.errors import InvalidInput
from bankportal.domain.products import Product, ProductFactor
from bankportal.domain.schema import validate
from tests.shipped import CHURN, PRODUCTS

REAL = Path(__file__).parents[2] / "shared" / "data"
ENTRIES = [
    pytest.param(p, entry, id=f"{key}-{entry.factor.name}") for key, p in PRODUCTS.items() for entry in p.factors
]
# What files hold, each to be taken for nothing else than the form takes it for.
ODD = [
    *("", " ", "\t", "\u00a0", "\u3000", "\u2028", "\x1c", "\n", "\r\n", "\ufeff", "\u200b"),
    *("0", "-0", "+0", "-0.0", "0.0", "1", "+1", "1.0", "1.", ".5", "0.50", "1e2", "1E+2", "5e-324", "1e400", "-1e400"),
    *("007", "00", "-007", "1_000", "1,000", "1,5", "1 000", "0x1f", "1e5", "1e0005", "1e", "e5", "--1", "+-1", "1-"),
    *("NA", "nan", "NaN", "inf", "-Infinity", "None", "null", "true", "True", "yes", "#N/A", "=1+1", "@x", "-x"),
    *("\u0663", "\u0661\u0662", "\uff11", "\u00b2", "\u2153", "1\u00a0", "\u00a01", "1\u200b", "\u22121"),
    *(" 42 ", "\t42", "42\n", "\n42", "42\n43", "42\r43", "42\n\n43", "\n\n", "42\x00", "42\x0b", "42\x85", "42\x1f"),
    *("5" * 40, "5" * 41, "0." + "1" * 38, "0." + "1" * 39, " " * 50 + "42", "42" + " " * 50, "9007199254740993"),
    *("O'Hara", '"x"', "a;b", "a,b", "a\tb", "a\nb", "a\u202eb", "\ufffd", "\ufdd0", "e\u0301", "x" * 64, "x" * 65),
    *("x" * 100, "x" * 101, " " + "x" * 64 + " ", "France", " France\t", "france", "Female", "Male\u00a0"),
]


def legal(entry: ProductFactor) -> list[str]:
    """Texts that the constraint takes, its bounds among them."""
    constraint = entry.factor.constraint
    if isinstance(constraint, Choice):
        return [*constraint.options, ""]
    if hasattr(constraint, "minimum"):
        low, high = constraint.minimum, constraint.maximum
        middle = (low + high) / 2
        return [repr(low), repr(high), str(int(middle)), f"{middle:.3f}", f" {int(high)}.0", f"{int(low)}.50", "1e3"]
    return ["0", "1", entry.factor.example]


def cells(entry: ProductFactor):
    """Texts for a column: plain ones most of the time, bad and odd ones among them."""
    bad = [text for text, _ in entry.factor.constraint.bad_values()]
    numbers = st.floats(allow_nan=False).map(repr) | st.integers(-(10**9), 10**9).map(str)
    return st.one_of(
        st.sampled_from(legal(entry)), numbers, st.integers(0, 9999).map(str), st.sampled_from([*ODD, *bad]), st.text()
    )


def expected(product: Product, entry: ProductFactor, text: str):
    """What the single-row model says of one cell: its value, or (code, message)."""
    raw = {other.factor.name: other.factor.example for other in product.factors} | {entry.factor.name: text}
    try:
        return validate(product, raw, Source.TEXT).all_values()[entry.factor.name]
    except InvalidInput as error:
        [problem] = error.problems
        return problem.code, problem.message


def same(value: object, wanted: object) -> bool:
    """Say whether a column's value is the model's, to the last bit."""
    if isinstance(wanted, int | float):
        return isinstance(value, float) and value.hex() == float(wanted).hex()
    if wanted is None and isinstance(value, float):
        return math.isnan(value)
    return type(value) is type(wanted) and value == wanted


def check_column(product: Product, entry: ProductFactor, texts: list[str]) -> None:
    validated = validate_column(entry, texts)
    text_like = isinstance(entry.factor.constraint, Choice | Text)
    assert validated.values.dtype == (object if text_like else np.float64)
    assert validated.values.shape == (len(texts),)
    wanted = {text: expected(product, entry, text) for text in set(texts)}
    for row, text in enumerate(texts):
        broken = validated.violations.get(row)
        if broken:
            assert (broken.code, broken.message) == wanted[text], text
        else:
            assert same(validated.values[row], wanted[text]), text
        if row in validated.violations:
            assert validated.values[row] is None if text_like else math.isnan(validated.values[row])


@pytest.mark.parametrize(("product", "entry"), ENTRIES)
def test_each_odd_text_by_itself_gets_the_models_verdict(product, entry):
    bad = [text for text, _ in entry.factor.constraint.bad_values()]
    for text in [*ODD, *bad, *legal(entry)]:
        check_column(product, entry, [text])


@pytest.mark.parametrize(("product", "entry"), ENTRIES)
def test_all_odd_texts_in_one_column_get_the_models_verdict(product, entry):
    bad = [text for text, _ in entry.factor.constraint.bad_values()]
    check_column(product, entry, [*ODD, *bad, *legal(entry)])
    check_column(product, entry, [*ODD, *legal(entry)] * 20)


@pytest.mark.parametrize(("product", "entry"), ENTRIES)
def test_a_bad_cell_among_many_good_ones_is_found_wherever_it_stands(product, entry):
    good = (
        [f"{number}" for number in range(300, 340)] if not isinstance(entry.factor.constraint, Choice) else ["France"]
    )
    for place in (0, 1, len(good) // 2, len(good) - 1):
        for text in ("007", "42\n43", "\u0663", "\x00"):
            column = [*good]
            column[min(place, len(column) - 1)] = text
            check_column(product, entry, column)


@pytest.mark.parametrize("entry", CHURN.factors, ids=lambda entry: entry.factor.name)
def test_an_empty_column_stays_empty(entry):
    validated = validate_column(entry, [])
    assert validated.values.shape == (0,)
    assert validated.violations == {}


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_any_column_gets_the_models_verdict(data):
    product, entry = data.draw(st.sampled_from([param.values for param in ENTRIES]))
    check_column(product, entry, data.draw(st.lists(cells(entry), max_size=40)))


def block_of(rows: list[list[str]], ragged: tuple[Ragged, ...] = ()) -> Block:
    total = len(rows) + len(ragged)
    numbers = [place for place in range(total) if place not in {record.position for record in ragged}]
    lines = [number + 2 for number in numbers]
    return Block(Span(0, 1, 2, 0, total), rows, numbers, lines, [0] * len(rows), list(ragged))


def single_rows(product: Product, header: list[str], mapping: dict[str, str], block: Block):
    """What the single-row model says of each row: its values, or its problems."""
    for row in block.rows:
        raw = {mapping[column]: text for column, text in zip(header, row, strict=True) if column in mapping}
        try:
            yield validate(product, raw, Source.TEXT).all_values(), ()
        except InvalidInput as error:
            yield {}, error.problems


def tables(seed: int):
    """A product, a file's header, its mapping, and rows: most of them good, the others with any kind of cell."""
    rng = Random(seed)
    product = rng.choice(list(PRODUCTS.values()))
    entries = [entry for entry in product.factors if rng.random() < (0.97 if entry.required else 0.6)]
    rng.shuffle(entries)
    header = [f"{entry.factor.name} in file" for entry in entries]
    good = [legal(entry)[:3] for entry in entries]
    wild = [[*ODD, *legal(entry), *(text for text, _ in entry.factor.constraint.bad_values())] for entry in entries]

    def cell(column: int) -> str:
        if rng.random() < 0.1:
            whole, real = rng.randrange(-50, 900), rng.gauss(0, 1e4)
            return rng.choice([str(whole), repr(real), f" {real:.2f}", f"{real:.39f}", f"{real:e}"])
        return rng.choice(good[column] if rng.random() < 0.9 else wild[column])

    rows = [[cell(column) for column in range(len(header))] for _ in range(rng.choice((0, 1, 12, 40)))]
    return product, header, {column: entry.factor.name for column, entry in zip(header, entries, strict=True)}, rows


@pytest.mark.parametrize("seed", range(150))
def test_a_block_is_validated_as_row_by_row(seed):
    product, header, mapping, rows = tables(seed)
    block = block_of(rows)
    validated = validate_block(product, Layout(",", tuple(header), 0, 2), mapping, block)
    assert list(validated.columns) == [entry.factor.name for entry in product.factors]
    column_of = {factor: column for column, factor in mapping.items()}
    problems = list(validated.problems)
    for number, (values, wanted) in enumerate(single_rows(product, header, mapping, block)):
        assert validated.good[number] == (not wanted)
        mine, problems = problems[: len(wanted)], problems[len(wanted) :]
        assert [(p.line, p.factor, p.code, p.message) for p in mine] == [
            (block.lines[number], w.field, w.code, w.message) for w in wanted
        ]
        for problem, want in zip(mine, wanted, strict=True):
            assert problem.column == column_of.get(want.field, "")
            assert not problem.column or problem.text == want.value
        for name, value in values.items():
            assert same(validated.columns[name][number], value), name
    assert problems == []


def test_it_works():
    header = ["id", "CreditScore", "Age", "Tenure", "Balance", "shoes"]
    mapping = {"id": "CustomerId", "CreditScore": "CreditScore", "Age": "Age", "Tenure": "Tenure", "Balance": "Balance"}
    rows = [["1", "619", "42", "2", "-0", "x"], ["2", "007", "17", "2", " ", "x"], ["3", "700", "50", "1", "1e3", "x"]]
    block = block_of(rows, (Ragged(1, 3, ["a", "b"]),))
    validated = validate_block(CHURN, Layout(";", tuple(header), 0, 2), mapping, block)
    assert validated.good.tolist() == [True, False, True]
    assert validated.columns["CustomerId"].tolist() == ["1", "2", "3"]
    assert validated.columns["Balance"][0].hex() == "0x0.0p+0"
    assert validated.columns["Balance"][2] == 1000.0
    assert np.isnan(validated.columns["HasLoan"]).all()
    assert validated.columns["Geography"].tolist() == [None] * 3
    assert [(p.line, p.column, p.factor, p.code, p.text) for p in validated.problems] == [
        (3, "", "", "ragged", "a;b"),
        (4, "CreditScore", "CreditScore", "not-a-number", "007"),
        (4, "Age", "Age", "below", "17"),
        (4, "Balance", "Balance", "required", " "),
    ]
    assert str(validated.problems[0]) == "line 3: the row has 2 fields where the header has 6 (found: a;b)"


@pytest.mark.parametrize(
    ("fields", "said"), [(["1", "2", "", " "], True), (["1", "2", "", "3"], False), (["1"], False)]
)
def test_a_delimiter_too_many_is_said(fields, said):
    problem = ragged_problem(Layout(",", ("a", "b"), 0, 1), Ragged(0, 2, fields))
    assert problem.message.startswith(f"has {len(fields)} fields where the header has 2")
    assert ("delimiter too many" in problem.message) is said


def test_a_required_factor_without_a_column_rejects_every_row():
    header = ["CreditScore", "Age", "Tenure"]
    block = block_of([["619", "42", "2"], ["700", "42", "2"]])
    validated = validate_block(CHURN, Layout(",", tuple(header), 0, 2), {name: name for name in header}, block)
    assert not validated.good.any()
    assert validated.problems == tuple(CellProblem(line, "", "Balance", "required", "is required") for line in (2, 3))
    assert str(validated.problems[0]) == "line 2: Balance is required"


def test_a_block_of_ragged_rows_alone():
    validated = validate_block(CHURN, Layout(",", ("Age",), 0, 2), {"Age": "Age"}, block_of([], (Ragged(0, 2, []),)))
    assert validated.good.shape == (0,)
    assert [problem.code for problem in validated.problems] == ["ragged"]


@pytest.mark.parametrize(("plain", "odd"), [("12.5", "12.5\n13.5"), ("12.5", "12,5"), ("12.5", "\u0663")])
def test_only_what_is_not_plain_is_asked_of_the_constraint(monkeypatch, plain, odd):
    asked = []
    balance = next(entry for entry in CHURN.factors if entry.factor.name == "Balance")

    def refuse(self, value, source):
        asked.append(value)
        raise ConstraintViolation("odd", "is odd")

    monkeypatch.setattr(type(balance.factor.constraint), "validate", refuse)
    texts = [f"{number}{plain}" for number in range(1, 100)]
    validated = validate_column(balance, [*texts, odd, odd, *reversed(texts)])
    assert asked == [odd]
    assert list(validated.violations) == [99, 100]


@pytest.mark.parametrize("name", ["Churn.csv", "Final_bank.csv"])
def test_the_public_files_as_they_are(name):
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the public data set {name} is not beside this checkout")
    shape = layout(path, CHURN, 200)
    mapping = {column: factor for column, factor in recognise(list(shape.header), CHURN).items() if factor != "Churn"}
    read = list(blocks(path, shape, 3000))
    validated = [validate_block(CHURN, shape, mapping, block) for block in read]
    assert sum(int(part.good.sum()) for part in validated) == 10_000
    assert not any(part.problems for part in validated)
    for block, part in zip(read, validated, strict=True):
        for number in range(0, len(block.rows), 500):
            raw = {mapping[c]: t for c, t in zip(shape.header, block.rows[number], strict=True) if c in mapping}
            values = validate(CHURN, raw, Source.TEXT).all_values()
            assert all(same(part.columns[factor][number], value) for factor, value in values.items())
