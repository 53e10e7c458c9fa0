import gzip
import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bankportal.data.reading import read, read_bytes
from bankportal.domain.constraints import ConstraintViolation, Source
from bankportal.domain.errors import DataRefused, InvalidInput
from bankportal.domain.schema import validate
from tests.home_equity import HOME_EQUITY
from tests.shipped import ALLOWANCE, CHURN

REAL = Path(__file__).parents[2] / "shared" / "data"
HEADER = "CustomerId,CreditScore,Age,Tenure,Balance,Geography,EstimatedSalary,Churn"
ROW = "15634602,619,42,2,0.5,France,101348.88,1"


def table(*lines: str, header: str = HEADER, product=CHURN):
    return read_bytes("\n".join([header, *lines]).encode(), "bank.csv", product)


def with_cell(column: str, text: str) -> str:
    cells = dict(zip(HEADER.split(","), ROW.split(","), strict=True))
    return ",".join({**cells, column: text}.values())


def real(name: str) -> Path:
    if not (REAL / name).exists():
        pytest.skip(f"the public data set {name} is not beside this checkout")
    return REAL / name


def test_it_works():
    found = table(ROW, with_cell("Geography", ""), with_cell("Churn", "0"))
    assert len(found) == 3
    assert found.columns["Age"].tolist() == [42, 42, 42]
    assert found.columns["Age"].dtype == np.float64
    assert found.columns["Geography"].tolist() == ["France", None, "France"]
    assert found.label.tolist() == [1, 1, 0]
    assert found.lines.tolist() == [2, 3, 4]
    assert found.positions.tolist() == [0, 1, 2]
    assert (
        found.sha256
        == hashlib.sha256(
            "\n".join([HEADER, ROW, with_cell("Geography", ""), with_cell("Churn", "0")]).encode()
        ).hexdigest()
    )
    assert "HasLoan" in found.missing
    assert found.problems == ()


def test_blank_numbers_are_nan():
    assert np.isnan(table(with_cell("EstimatedSalary", "  ")).columns["EstimatedSalary"][0])


def test_from_a_path(tmp_path):
    path = tmp_path / "bank.csv"
    path.write_text(f"{HEADER}\n{ROW}\n")
    assert len(read(path, CHURN)) == 1
    with pytest.raises(DataRefused, match=r"nothing\.csv cannot be read"):
        read(tmp_path / "nothing.csv", CHURN)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_marks_and_line_ends(delimiter, mark, end):
    text = end.join([HEADER, ROW, ROW, ""]).replace(",", delimiter)
    found = read_bytes(mark + text.encode(), "bank.csv", CHURN)
    assert len(found) == 2
    assert found.unknown == ()
    assert found.lines.tolist() == [2, 3]


def test_columns_are_known_by_name_and_alias():
    found = table("1,619,42,2,0.5,1,x", header="id,credit_score, AGE ,tenure,account balance,Exited,shoes")
    assert found.recognised == {
        "id": "CustomerId",
        "credit_score": "CreditScore",
        "AGE": "Age",
        "tenure": "Tenure",
        "account balance": "Balance",
        "Exited": "Churn",
    }
    assert found.unknown == ("shoes",)


def test_the_exact_name_wins_over_an_alias():
    found = table("1,0,700,650", header="Exited,Churn,fico,CreditScore")
    assert found.label.tolist() == [0]
    assert found.columns["CreditScore"].tolist() == [650]
    assert found.recognised == {"Churn": "Churn", "CreditScore": "CreditScore"}
    assert found.unknown == ("Exited", "fico")


def test_required_columns_may_be_missing_here_and_are_named():
    assert {"Age", "Tenure", "Balance"} <= set(table("650,1", header="CreditScore,Churn").missing)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("CreditScore,Age,Age,Churn", "names a column twice: Age"),
        ("CreditScore,Credit_Score,Age,Churn", "two columns that mean CreditScore: CreditScore and Credit_Score"),
        ("fico,bureau_score,Age,Churn", "two columns that mean CreditScore"),
        ("1,2,3,4", "is the header missing"),
        ("a,b,c,d", "is the header missing"),
    ],
)
def test_unusable_headers_are_refused(header, message):
    with pytest.raises(DataRefused, match=message):
        table("650,650,42,1", header=header)


def test_columns_without_a_name_are_unknown():
    assert table("650,1,,", header="CreditScore,Churn,,").unknown == (
        "(column 3 has no name)",
        "(column 4 has no name)",
    )


@pytest.mark.parametrize(
    ("row", "fields"), [(ROW + ",7", 9), (ROW.rpartition(",")[0], 7), ("lonely", 1)], ids=["long", "short", "one"]
)
def test_ragged_rows_are_rejected_by_line_and_shift_nothing(row, fields):
    found = table(ROW, row, with_cell("Age", "50"))
    assert found.columns["Age"].tolist() == [42, 50]
    assert found.positions.tolist() == [0, 2]
    assert found.rejected == 1
    [problem] = found.problems
    assert (problem.line, problem.code) == (3, "ragged")
    assert problem.message == f"has {fields} fields where the header has 8"


def test_quoted_delimiters_quotes_and_line_breaks():
    header = "Surname,CreditScore,Age,Tenure,Balance,Notes,Churn"
    found = table('"O""Hara, Ann",650,42,2,0,"two\nlines",0', "Hill,650,43,2,0,,1", header=header)
    assert found.columns["Surname"].tolist() == ['O"Hara, Ann', "Hill"]
    assert found.lines.tolist() == [2, 4]


def test_empty_lines_are_passed_over_and_counted_as_lines():
    assert table("", ROW, "", ROW, "").lines.tolist() == [3, 5]


@pytest.mark.parametrize("row", ['15634602,"619,42', '"a" b,619,42'])
def test_quotation_marks_out_of_place_are_refused(row):
    with pytest.raises(DataRefused, match="starts on line 3"):
        table(ROW, row, ROW)


def test_a_quote_that_swallows_a_large_file_is_refused():
    with pytest.raises(DataRefused, match="starts on line 2"):
        table('"15634602,619', *[ROW] * 5000)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


GOOD = f"{HEADER}\n{ROW}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bank.csv is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        (HEADER.encode(), "no rows"),
        (f"{HEADER}\n\n\n".encode(), "no rows"),
        (GOOD.encode("utf-16"), "UTF-16"),
        (GOOD.encode("utf-16-be"), "NUL byte in line 1"),
        (GOOD.replace("France", "Fran\u00e7e").encode("latin-1"), "not UTF-8 from line 2 on"),
        (gzip.compress(GOOD.encode()), "gzip"),
        (zipped(), "Excel workbook or a ZIP"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel"),
        (GOOD.replace("France", "Fr\x00nce").encode(), "NUL byte in line 2"),
        (b"PAR1abc", "Parquet"),
        (b"<!doctype html><title>x</title>", "is the header missing|no rows"),
    ],
)
def test_what_is_not_csv_in_utf8_is_refused_by_content(content, message):
    with pytest.raises(DataRefused, match=message):
        read_bytes(content, "bank.csv", CHURN)


@pytest.mark.parametrize("text", ["0", "1", "0.0", "1.0", " 1 "])
def test_labels(text):
    assert table(with_cell("Churn", text)).label.tolist() == [float(text)]


@pytest.mark.parametrize(
    ("text", "code"),
    [("", "no-label"), ("  ", "no-label"), ("2", "not-a-flag"), ("yes", "not-a-flag"), ("NA", "not-a-flag")],
)
def test_rows_with_a_bad_label_are_rejected(text, code):
    found = table(ROW, with_cell("Churn", text))
    assert len(found) == 1
    [problem] = found.problems
    assert (problem.line, problem.column, problem.factor, problem.code) == (3, "Churn", "Churn", code)


def test_without_a_label_column_there_is_no_label():
    found = table("650,42", header="CreditScore,Age")
    assert found.label is None
    assert len(found) == 1


def factor_texts():
    for entry in CHURN.factors:
        texts = {text for text, _ in entry.factor.constraint.bad_values() if not set(text) & set('\x00\n\r",')}
        texts |= {entry.factor.example, "007", "NA", "1_000", "\u0661\u0662", "None", "-0", "1e2", " 5 ", "5\u00a0"}
        yield from (
            pytest.param(entry.factor.name, text, id=f"{entry.factor.name}-{text[:12]!a}") for text in sorted(texts)
        )


@pytest.mark.parametrize(("name", "text"), list(factor_texts()))
def test_a_cell_gets_the_verdict_the_form_gives(name, text):
    cells = {"CreditScore": "650", "Age": "42", "Tenure": "5", "Balance": "0"} | {name: text}
    found = table(",".join([*cells.values(), "1"]), header=",".join([*cells, "Churn"]))
    try:
        wanted = validate(CHURN, cells, Source.TEXT).all_values()[name]
    except InvalidInput as error:
        [problem] = error.problems
        assert [(p.factor, p.code, p.message) for p in found.problems] == [(name, problem.code, problem.message)]
        never_scored = name in {"CustomerId", "Surname", "Gender"}
        assert found.rejected == (0 if never_scored else 1), "what is never scored does not cost the row"
        assert not never_scored or found.columns[name].tolist() == [None]
    else:
        [value] = found.columns[name].tolist()
        assert value == wanted or (wanted is None and value != value)


def test_the_line_that_names_the_delimiter_is_passed_over():
    found = read_bytes(b"sep=;\r\nCreditScore;Age;Tenure;Balance;Churn\r\n650;42;5;0;1\r\n", "excel.csv", CHURN)
    assert found.columns["CreditScore"].tolist() == [650.0]
    assert found.lines.tolist() == [3]


def test_problems_name_line_column_and_text():
    found = table(ROW, with_cell("Age", "007"), with_cell("Balance", "x" * 500))
    assert str(found.problems[0]).startswith("line 3: Age must be a whole number")
    assert str(found.problems[0]).endswith("(found: 007)")
    assert len(found.problems[1].text) < 100
    assert found.rows_in_file == 3


def test_each_distinct_text_is_validated_once(monkeypatch):
    asked = []

    def validate_once(self, value, source):
        asked.append(value)
        if value == "bad":
            raise ConstraintViolation("not-a-number", "is bad")
        return 1.0

    balance = next(factor for factor in CHURN.scored if factor.name == "Balance")
    monkeypatch.setattr(type(balance.constraint), "validate", validate_once)
    found = table(*["1,0"] * 50, *["bad,0"] * 50, header="Balance,Churn")
    assert sorted(asked) == ["1", "bad"]
    assert (len(found), found.rejected) == (50, 50)


def test_all_rows_may_be_rejected():
    found = table(*["650,x"] * 3, header="CreditScore,Churn")
    assert len(found) == 0
    assert found.rejected == 3


def test_take():
    found = table(ROW, with_cell("Age", "50"), with_cell("Age", "60"))
    part = found.take(np.array([False, True, True]))
    assert part.columns["Age"].tolist() == [50, 60]
    assert part.positions.tolist() == [1, 2]
    assert part.rows_in_file == 3


@pytest.mark.parametrize(("name", "label"), [("Churn.csv", "Exited"), ("Final_bank.csv", "Churn")])
def test_the_public_files_as_they_are(name, label):
    found = read(real(name), CHURN)
    assert len(found) == found.rows_in_file == 10_000
    assert found.problems == ()
    assert found.unknown == ("RowNumber",)
    assert found.recognised[label] == "Churn"
    assert found.label.mean() == pytest.approx(0.2037)


def test_a_public_file_has_no_allowance_label():
    assert read(real("Churn.csv"), ALLOWANCE).label is None


def test_the_label_is_read_as_the_product_declares_it(tmp_path) -> None:
    """In files of the bank's own product, BAD is 1 where the loan was not paid back."""
    product = HOME_EQUITY
    header = "CreditScore,EstimatedSalary,VALUE,Bad\n"
    cells = ["0", "1", "paid", "defaulted", "", "yes"]
    (tmp_path / "loans.csv").write_text(header + "".join(f"650,62000,240000,{cell}\n" for cell in cells))
    table = read(tmp_path / "loans.csv", product)
    assert table.label.tolist() == [1, 0, 1, 0]
    assert [(problem.line, problem.code) for problem in table.problems] == [(6, "no-label"), (7, "not-a-flag")]
