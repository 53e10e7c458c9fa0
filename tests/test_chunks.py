"""Blocks of rows: the answers of the single-row path to the last bit, and lines that nobody has to repair."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankportal.data.blocks import blocks, claims, layout
from bankportal.data.formulas import SIGNS, neutralise
from bankportal.domain.constraints import NUMBER, Choice, Number, Source
from bankportal.domain.errors import ExplanationRefused, InvalidInput
from bankportal.domain.policy import ABILITY_TO_PAY, Limit
from bankportal.domain.reasons import (
    MAX_REASONS,
    NOTHING_ALONE,
    Attribution,
    reasons,
    rule_reason,
)
from bankportal.domain.schema import validate
from bankportal.model import compiling
from bankportal.registry.registry import Registry
from bankportal.services import scoring
from bankportal.services.batches.chunks import (
    LIMIT,
    NO_REASON,
    REASONS,
    REJECT_COLUMNS,
    RULE,
    Work,
    begins_with,
    cells_of,
    customer_key,
    reject_all,
    rejects_header,
    score_block,
    scored_header,
)
from bankportal.services.scoring import outcome_columns, outcome_of
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS

ROWS = 600
PRODUCT = pytest.mark.parametrize("key", PRODUCTS)


def texts(product, path):
    """Return the header and rows: simulated customers, some cells blank or at an end of what is allowed, a few bad."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))[: ROWS + 1]
    random = np.random.default_rng(8)
    entries = {entry.factor.name: entry for entry in product.factors}
    for row in rows:
        for number, entry in enumerate(map(entries.get, header)):
            draw = random.random()
            if entry and draw < 0.1 and not entry.required:
                row[number] = ""
            elif entry and draw > 0.93:
                row[number] = str(random.choice(ends(entry.factor.constraint)))
        if random.random() < 0.05:
            row[int(random.integers(len(row)))] = random.choice(["=1+1", "007", "-", "many", "x" * 200])
    return header, rows


def ends(constraint):
    """Return the texts at the ends of what a constraint allows."""
    if isinstance(constraint, Number):
        return [str(constraint.minimum), f" {constraint.maximum}", str(max(constraint.minimum, 1))]
    return list(constraint.options) if isinstance(constraint, Choice) else ["0", "1", ""]


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read(content):
    return list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))


@pytest.fixture(scope="module")
def files(bank_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uploads")
    return {key: write(folder / f"{key}.csv", *texts(PRODUCTS[key], path)) for key, path in bank_files.items()}


def work_on(services, product, path):
    found = layout(path, product, 500)
    known = {entry.factor.name for entry in product.factors}
    return Work(
        product=product,
        layout=found,
        mapping={column: column for column in found.header if column in known},
        model=services.models.serving(product),
    )


def parts(work, path, size=5000):
    return [score_block(work, block) for block in blocks(path, work.layout, size)]


def one_by_one(work, path):
    """Return for each row of a file its cells, and its outcome or its problems by the single-row model."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in list(csv.reader(file))[1:]:
            cells = dict(zip(work.layout.header, row, strict=True))
            raw = {factor: cells[column] for column, factor in work.mapping.items()}
            try:
                customer = validate(work.product, raw, Source.TEXT)
            except InvalidInput as error:
                yield row, error.problems
            else:
                yield row, outcome_of(customer, work.model)


@PRODUCT
def test_it_works(services, files, key):
    """Every row is scored or rejected, and each as the single-row path has it."""
    work = work_on(services, PRODUCTS[key], files[key])
    (part,) = parts(work, files[key])
    header, *scored = read(scored_header(work) + part.scored)
    rejects = read(part.rejects)
    assert len(scored) == len(part.results) > ROWS / 2
    assert len(rejects) == part.rejected == ROWS - len(scored) > 5
    assert part.rows == ROWS
    lines = iter(zip(scored, part.results, strict=True))
    for row, found in one_by_one(work, files[key]):
        if isinstance(found, tuple):
            assert rejects.pop(0)[len(row) + 2] == "; ".join(problem.code for problem in found)
        else:
            line, result = next(lines)
            assert line[: len(row)] == [neutral(cell) for cell in row]
            check_cells(dict(zip(header[len(row) :], line[len(row) :], strict=True)), found)
            check_result(work, result, found, row)


def neutral(cell):
    return f"'{cell}" if cell in {"=1+1", "-"} else cell


def check_cells(cells, outcome):
    assert float(cells["score"]) == outcome.score
    assert cells["band"] == outcome.band.name
    assert [cells[name] for name in REASONS if cells[name]] == [reason.sentence for reason in outcome.reasons]
    assert cells["flags"] == " ".join(flag.message for flag in outcome.flags)
    assert cells["model_version"] == outcome.model_version
    if limit := outcome.limit:
        assert float(cells["limit"]) == limit.amount
        assert cells["limit_rule"] == limit.rule
        assert cells["counteroffer"] == str(int(limit.counteroffer))
        assert cells["policy_version"] == outcome.policy_version
    else:
        assert not set(LIMIT) & set(cells)


def check_result(work, result, outcome, row):
    factors = work.model.encoding.factors
    numbers = [RULE if r.rule else factors.index(r.factor) for r in outcome.reasons if r.rule or r.factor]
    assert result["reasons"].tolist() == numbers + [NO_REASON] * (MAX_REASONS - len(numbers))
    assert result["score"] == outcome.score
    assert work.product.bands[result["band"]] is outcome.band
    assert result["flags"] == len(outcome.flags)
    assert result["customer"] == customer_key(row[work.layout.header.index("CustomerId")].strip())
    assert np.isnan(result["limit"]) if outcome.limit is None else result["limit"] == outcome.limit.amount


@PRODUCT
def test_contributions_have_the_bits_of_one_row(services, files, key):
    work = work_on(services, PRODUCTS[key], files[key])
    outcomes = [outcome for _, outcome in one_by_one(work, files[key]) if not isinstance(outcome, tuple)]
    found = answered(work, files[key])
    assert found.scores.tolist() == [outcome.score for outcome in outcomes]
    assert found.contributions.tolist() == [list(outcome.contributions.values()) for outcome in outcomes]
    for row, numbers in enumerate(found.reasons.tolist()):
        shares = [found.contributions[row, number] if number >= 0 else 0.0 for number in numbers]
        assert shares[: len(outcomes[row].reasons)] == [reason.contribution for reason in outcomes[row].reasons]


def answered(work, path):
    from bankportal.data.columns import validate_block

    (block,) = blocks(path, work.layout, 5000)
    validated = validate_block(work.product, work.layout, work.mapping, block)
    columns = {name: values[validated.good] for name, values in validated.columns.items()}
    return outcome_columns(columns, work.product, work.model)


@PRODUCT
def test_reasons_are_chosen_as_for_one(key):
    """Ties, contributions at the very thresholds, effects of no or the other sign, and every rule."""
    product, random = PRODUCTS[key], np.random.default_rng(3)
    factors = tuple(factor.name for factor in product.scored)
    points, share = product.thresholds.min_points, product.thresholds.min_share
    weights = [0.0, 0.001, points, 0.0075, 0.01, 0.1, 0.2, points / share, 5e-324]
    contributions = random.choice(weights, (400, len(factors))) * random.choice([-1, 1], (400, len(factors)))
    contributions[:50] *= random.random((50, len(factors))) < 0.1
    effects = contributions * random.choice([-1.0, 0.0, 1.0, 1.0, 1.0], contributions.shape)
    bands = random.integers(len(product.bands), size=400)
    limits = [a_limit(random) if product.policy else None for _ in bands]
    rules = {row: rule for row in range(400) if (rule := rule_reason(product, product.bands[bands[row]], limits[row]))}
    chosen = scoring._choose_reasons(product, factors, rules, bands, contributions, effects)
    for row, numbers in enumerate(chosen.tolist()):
        attribution = Attribution(
            *(dict(zip(factors, each[row].tolist(), strict=True)) for each in (contributions, effects))
        )
        found = reasons(product, product.bands[bands[row]], {}, attribution, limits[row])
        expected = [RULE if r.rule else factors.index(r.factor) for r in found if r.rule or r.factor]
        assert numbers == expected + [NO_REASON] * (MAX_REASONS - len(expected))


def a_limit(random):
    rule = str(random.choice(["band", ABILITY_TO_PAY, "requested"]))
    amount = 5000.0 if rule == "requested" else float(random.choice([0.0, 500.0, 4000.0]))
    return Limit(amount, 4000.0, rule, 5000.0, 0 < amount < 5000, False)


def test_every_kind_of_answer_was_among_them(services, files):
    """Else the comparisons above would prove less than they seem to."""
    churn, allowance = (work_on(services, product, files[product.key]) for product in (CHURN, ALLOWANCE))
    found = answered(allowance, files["allowance"])
    rules = {limit.rule for limit in found.limits}
    assert rules == {"band", ABILITY_TO_PAY, "requested", "ineligible"}
    assert {True, False} == {limit.counteroffer for limit in found.limits}
    assert (found.reasons[:, 0] == RULE).any()
    assert set(found.bands.tolist()) == {0, 1, 2}
    assert answered(churn, files["churn"]).flags
    assert found.flags


@PRODUCT
def test_without_compiled_kernels_the_bytes_are_the_same(services, files, key, monkeypatch):
    if not compiling.available():
        pytest.skip("Numba is not installed")
    work = work_on(services, PRODUCTS[key], files[key])
    monkeypatch.setenv(compiling.NO_NUMBA, "1")
    model, registry = work.model, Registry(services.models.registry.folder)
    plain = replace(work, model=registry.model(work.product, model.version, model.manifest_digest))
    assert plain.model.forest.compiled_scorer is None
    assert joined(parts(plain, files[key])) == joined(parts(work, files[key]))


def joined(found):
    """Return the bytes of all parts, and their results without where the lines stand in their part."""
    results = np.concatenate([part.results for part in found])
    kept = [name for name in results.dtype.names if name != "at"]
    return (
        b"".join(part.scored for part in found),
        b"".join(part.rejects for part in found),
        [results[name].tobytes() for name in kept],
    )


@PRODUCT
@pytest.mark.parametrize("size", [1, 7, 250])
def test_blocks_of_any_size_give_the_same_bytes(services, files, key, size):
    work = work_on(services, PRODUCTS[key], files[key])
    assert joined(parts(work, files[key], size)) == joined(parts(work, files[key]))


def test_results_say_where_a_row_stands(services, files):
    work = work_on(services, CHURN, files["churn"])
    content = files["churn"].read_bytes()
    (part,) = parts(work, files["churn"])
    uploaded, rows = content.splitlines(keepends=True), read(content)
    for result in part.results[::17]:
        line = part.scored[result["at"] : result["at"] + result["length"]]
        assert line.endswith(b"\n")
        assert read(line)[0][0] == rows[result["position"] + 1][0]
        assert content[result["offset"] :].startswith(uploaded[result["line"] - 1])
        assert result["line"] == result["position"] + 2


def test_a_file_without_optional_columns(services, files, tmp_path):
    """What the file does not have is unknown for all."""
    required = {factor.name for factor in CHURN.required}
    header, *rows = read(files["churn"].read_bytes())
    kept = [number for number, name in enumerate(header) if name in required]
    path = write(tmp_path / "few.csv", [header[n] for n in kept], [[row[n] for n in kept] for row in rows])
    work = work_on(services, CHURN, path)
    (part,) = parts(work, path)
    assert len(part.results) > ROWS / 2
    assert set(part.results["customer"].tolist()) == {0}
    lines = read(part.scored)
    for row, found in one_by_one(work, path):
        if not isinstance(found, tuple):
            assert float(lines.pop(0)[len(row)]) == found.score


@pytest.mark.parametrize("base", [0.9, np.nan])
def test_contributions_that_do_not_add_up_are_not_answered(services, files, monkeypatch, base):
    work = work_on(services, CHURN, files["churn"])
    monkeypatch.setattr("bankportal.explanation.explainer.Explainer.base", property(lambda self: base))
    with pytest.raises(ExplanationRefused, match="do not add up"):
        parts(work, files["churn"])


def test_where_nothing_stands_out(services, files, monkeypatch):
    work = work_on(services, CHURN, files["churn"])
    monkeypatch.setattr(
        "bankportal.explanation.effects.Effects.of_rows", lambda self, matrix: np.zeros((len(matrix), 21))
    )
    (part,) = parts(work, files["churn"])
    assert (part.results["reasons"] == NO_REASON).all()
    place = read(scored_header(work))[0].index("reason_1")
    assert {tuple(line[place : place + MAX_REASONS]) for line in read(part.scored)} == {(NOTHING_ALONE, "", "", "")}


EXAMPLE = {entry.factor.name: entry.factor.example for entry in CHURN.factors}


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t'=1"),
        ("\r=1", "'\r'=1"),
        ("\n=1", "'\n'=1"),
        ("\x1c=1", "'\x1c=1"),
        ("-", "'-"),
        (" =1+1", "' =1+1"),
        ("\u00a0 \u200b=1+1", "'\u00a0 \u200b=1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        (" \uff20SUM(A1)", "' \uff20SUM(A1)"),
        ("'=1+1", "'=1+1"),
        ('"=1+1"', '"=1+1"'),
        (" -5 ", " -5 "),
        (" Smith-Jones", " Smith-Jones"),
        ("-5", "-5"),
        ("-5.25e3", "-5.25e3"),
        ("+7", "+7"),
        ("Smith-Jones", "Smith-Jones"),
        ("5 rue de l'Est-Parisien", "5 rue de l'Est-Parisien"),
        ("1,5:2-3", "1,5:2-3"),
        ("a=b", "a=b"),
        ('say "x", y', 'say "x", y'),
        ("x;=1+1", "x;'=1+1"),
        ("x\t+1", "x\t'+1"),
        ("two\n=1+1", "two\n'=1+1"),
        ("two\r\n@SUM(A1)", "two\r\n'@SUM(A1)"),
        ('x;"=1+1"', 'x;\'"=1+1"'),
        ("x;=1;=2", "x;'=1;'=2"),
        (";=1+1", ";'=1+1"),
        ("x; \u200b\uff1d1+1", "x;' \u200b\uff1d1+1"),
        ("x;\x1c=1", "x;'\x1c=1"),
        ("-5;=1+1", "'-5;'=1+1"),
        ("x;-5", "x;'-5"),  # the next cell would go on with the formula
        ("650;-5;7", "650;-5;7"),
        ("x;'=1+1", "x;'=1+1"),
        ("x;y=1;z", "x;y=1;z"),
        ("two\nlines", "two\nlines"),
        ("old\rMac", "old\rMac"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("bad", [False, True])
def test_no_cell_is_run_as_a_formula(services, tmp_path, cell, written, bad):
    """In the scored file and in the rejects; numbers stay numbers."""
    values = EXAMPLE | {"Note": cell} | ({"Age": "7"} if bad else {})
    path = write(tmp_path / "note.csv", list(values), [list(values.values())])
    (part,) = parts(work_on(services, CHURN, path), path)
    (line,) = read(part.rejects if bad else part.scored)
    assert line[list(values).index("Note")] == written
    assert (part.rejected, len(part.results)) == ((1, 0) if bad else (0, 1))


@pytest.mark.parametrize("first", ["\x00", "\t", "\n", "\r"])
def test_a_break_before_text_is_neutral(first):
    """Some spreadsheets drop it, and NUL with it. A file with NUL in it is refused, so it is tried here alone."""
    assert neutralise([[f"{first}x", f"x{first}"]]) == [[f"'{first}x", f"x{first}"]]


TEXTS = st.text(st.sampled_from("a5 '\"=+-@,;\t\r\n\u200b\uff1d"), max_size=12)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_what_was_neutralised_stays_as_it_is(rows):
    """So that a rejects file which is corrected and uploaded, again and again, does not grow."""
    once = neutralise([list(row) for row in rows])
    assert neutralise([list(row) for row in once]) == once


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_lines_are_read_as_they_were_written(rows):
    content = io.StringIO(newline="")
    csv.writer(content, lineterminator="\n").writerows(rows)
    once = neutralise([list(row) for row in rows])
    assert cells_of(content.getvalue().encode()) == once


def split_as(text, separators):
    """Split a file's text as a spreadsheet does: quotes count only where a field begins with one."""
    quoted, rest = r'"(?:[^"]|"")*+"', rf"[^{separators}\r\n]*+"
    return [begin[1:-1].replace('""', '"') + more for begin, more in re.findall(f"({quoted})?({rest})", text)]


@pytest.mark.parametrize("separators", [",", ";", "\t", ",;\t"])
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_no_field_is_a_formula_whatever_splits_the_line(separators, rows):
    content = io.StringIO(newline="")
    csv.writer(content, lineterminator="\n").writerows(neutralise([["7", *row] for row in rows]))
    for field in split_as(content.getvalue(), separators):
        assert field.lstrip(" \u200b")[:1] not in {*SIGNS} or NUMBER.fullmatch(field.strip(" ")), content.getvalue()


def test_a_text_that_an_apostrophe_makes_too_long_for_the_csv_module(services, tmp_path):
    values = EXAMPLE | {"Note": "=" + "x" * (csv.field_size_limit() - 1)}
    path = write(tmp_path / "long.csv", list(values), [list(values.values())])
    (part,) = parts(work_on(services, CHURN, path), path)
    (line,) = cells_of(part.scored)
    assert line[: len(values)] == [*EXAMPLE.values(), f"'{values['Note']}"]
    assert begins_with(part.scored, list(values.values()))


def test_no_header_is_run_as_a_formula_and_none_stands_twice(services, tmp_path):
    values = EXAMPLE | {"=now()": "1", "score": "7", "score_2": "8", "line": "9"}
    path = write(tmp_path / "names.csv", list(values), [list(values.values())])
    work = work_on(services, CHURN, path)
    for header in (read(scored_header(work))[0], read(rejects_header(work.layout))[0]):
        assert header[: len(values)] == [neutral_name(name) for name in values]
        assert len(set(header)) == len(header)
    assert read(scored_header(work))[0][len(values)] == "score_3"
    assert read(rejects_header(work.layout))[0][-len(REJECT_COLUMNS)] == "line_2"


def neutral_name(name):
    return name.replace("=now()", "'=now()")


@PRODUCT
def test_added_columns_mean_nothing_when_a_file_is_uploaded_again(key):
    added = ("score", "band", *LIMIT, *REASONS, "flags", "model_version", *REJECT_COLUMNS)
    assert claims(("CreditScore", *added), PRODUCTS[key]) == {"CreditScore": [(0, "CreditScore")]}


def test_several_problems_are_one_line(services, tmp_path):
    values = EXAMPLE | {"Age": "7", "Balance": "", "Geography": "Atlantis"}
    path = write(tmp_path / "bad.csv", list(values), [list(values.values())])
    (part,) = parts(work_on(services, CHURN, path), path)
    (line,) = read(part.rejects)
    assert line[: len(values)] == list(values.values())
    assert line[len(values) : len(values) + 3] == ["2", "Age; Balance; Geography", "below; required; not-a-choice"]
    assert line[-2].count("; ") == 2
    assert line[-1] == ""


def test_ragged_rows_shift_nothing(services, tmp_path):
    names, values = list(EXAMPLE), list(EXAMPLE.values())
    path = write(tmp_path / "ragged.csv", names, [values[:3], values, [*values, "=more", "a,b"]])
    (part,) = parts(work_on(services, CHURN, path), path)
    short, long = read(part.rejects)
    assert (part.rows, len(part.results)) == (3, 1)
    assert short[: len(names)] == long[: len(names)] == [""] * len(names)
    assert (short[len(names)], short[len(names) + 2], short[-1]) == ("2", "ragged", ",".join(values[:3]))
    assert long[-1].endswith('=more,"a,b"')


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_rejects_uploaded_again(services, tmp_path, delimiter):
    """As they are they are rejected again; corrected, they are accepted from the same file."""
    names, values = list(EXAMPLE), list(EXAMPLE.values())
    bad = list((EXAMPLE | {"Age": "7"}).values())
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(delimiter.join(row) for row in (names, bad, values[:4], values)) + "\n")
    work = work_on(services, CHURN, path)
    (part,) = parts(work, path)
    again = tmp_path / "rejects.csv"
    again.write_bytes(rejects_header(work.layout) + part.rejects)
    (second,) = parts(work_on(services, CHURN, again), again)
    assert (second.rows, second.rejected) == (2, 2)
    header, first, ragged = read(again.read_bytes())
    first[header.index("Age")] = "70"
    ragged[: len(names)] = values
    write(again, header, [first, ragged])
    (third,) = parts(work_on(services, CHURN, again), again)
    assert (third.rows, third.rejected) == (2, 0)


def test_a_block_given_up(services, files):
    work = work_on(services, CHURN, files["churn"])
    names, values = list(work.layout.header), read(files["churn"].read_bytes())
    (block,) = blocks(files["churn"], work.layout, 5000)
    lines = read(reject_all(work.layout, block, "quarantined", "was given up"))
    assert len(lines) == ROWS
    assert [line[len(names) :] for line in lines[:2]] == [
        ["2", "", "quarantined", "was given up", ""],
        ["3", "", "quarantined", "was given up", ""],
    ]
    assert lines[0][0] == values[1][0]


def test_customers_are_found_by_their_number():
    assert customer_key(None) == customer_key("") == 0
    assert len({customer_key(str(number)) for number in range(1000)}) == 1000
    assert 0 < customer_key("15634602") < 2**64
    assert np.array([customer_key("15634602")], dtype=np.uint64)[0] == customer_key("15634602")
