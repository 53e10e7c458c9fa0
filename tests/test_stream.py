import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zipfile
from itertools import count
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bankportal.data import blocks as stream
from bankportal.data.blocks import Layout, blocks, blocks_from, claims, layout, layout_from
from bankportal.domain.batch import Span
from bankportal.domain.errors import DataRefused, TooLarge
from tests.shipped import ALLOWANCE, CHURN

HEADER = b"CustomerId,CreditScore,Age"
ROW = b"15634602,619,42"
GOOD = HEADER + b"\n" + ROW + b"\n"
# More rows than are read along with the header.
MANY = HEADER + b"\n" + (ROW + b"\n") * (stream.FIRST_ROWS + 500)
AFTER = stream.FIRST_ROWS + 502


def look(content: bytes, max_columns: int | None = 200, product=CHURN) -> Layout:
    return layout_from(io.BytesIO(content), product, max_columns)


def all_blocks(content: bytes, size: int = 1000) -> list[stream.Block]:
    file = io.BytesIO(content)
    return list(blocks_from(file, layout_from(file, CHURN, 200), size))


class Endless(io.RawIOBase):
    """A file that begins with some bytes and goes on with others, as long as anyone reads."""

    def __init__(self, beginning: bytes, goes_on: bytes):
        self.beginning, self.goes_on = beginning, goes_on
        self.at = self.furthest = 0

    def seek(self, offset, whence=0):
        self.at = offset
        return offset

    def tell(self):
        return self.at

    def read(self, size=-1):
        assert 0 <= size <= 1 << 20, "never the whole file"
        end = self.at + size
        long = self.beginning + self.goes_on * (max(end - len(self.beginning), 0) // len(self.goes_on) + 1)
        found, self.at = long[self.at : end], end
        self.furthest = max(self.furthest, end)
        return found


def test_it_works(tmp_path):
    path = tmp_path / "bank.csv"
    path.write_bytes(b"CustomerId,CreditScore,Age\n1,619,42\n\n2,600\n3,700,50\n")
    found = layout(path, CHURN, 200)
    assert found == Layout(",", ("CustomerId", "CreditScore", "Age"), 27, 2)
    [block] = blocks(path, found, 10)
    assert block.rows == [["1", "619", "42"], ["3", "700", "50"]]
    assert block.positions == [0, 2]
    assert block.lines == [2, 5]
    assert block.offsets == [27, 43]
    assert block.ragged == [stream.Ragged(1, 4, ["2", "600"])]
    assert block.span == Span(27, 52, 2, 0, 3)


def test_a_layout_travels_as_plain_data():
    found = look(GOOD)
    assert Layout.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(DataRefused, match=r"^bank\.csv cannot be read"):
        layout(tmp_path / "none.csv", CHURN, 200, "bank.csv")
    with pytest.raises(DataRefused, match=r"^The file cannot be read"):
        list(blocks(tmp_path / "none.csv", look(GOOD), 5))


@pytest.mark.parametrize("delimiter", [b",", b";", b"\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("hint", [b"", b"sep=%s", b"SEP=%s", b'"sep=%s"'])
def test_delimiters_marks_line_ends_and_hints(delimiter, mark, end, hint):
    first = hint % delimiter + end if hint else b""
    content = mark + first + end.join([HEADER, ROW, b'"5,6",1,2', b""]).replace(b",", delimiter)
    found = look(content)
    assert found.delimiter.encode() == delimiter
    assert found.header == ("CustomerId", "CreditScore", "Age")
    assert found.line == (3 if hint else 2)
    [block] = all_blocks(content)
    assert block.rows == [["15634602", "619", "42"], [f"5{delimiter.decode()}6", "1", "2"]]
    assert block.span.end == len(content)
    assert content[block.offsets[0] :].startswith(b"15634602")


def test_other_delimiters_are_refused_by_name():
    with pytest.raises(DataRefused, match="Columns are separated by commas, semicolons or tabs"):
        look(HEADER.replace(b",", b"|") + b"\n1|2|3\n")


def test_the_delimiter_is_that_of_the_names_that_are_known():
    assert look(b"Credit;Score,Age,a;b\n1,2,3\n").delimiter == ","
    assert look(b"CreditScore;Age;a,b,c,d,e,f\n1;2;3\n").delimiter == ";"


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return buffer.getvalue()


FOREIGN = [
    (zipped(), "Excel workbook or a ZIP"),
    (b"PK\x05\x06" + bytes(18), "ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Excel"),
    (gzip.compress(GOOD), "gzip"),
    (bz2.compress(GOOD), "bzip2"),
    (lzma.compress(GOOD), "xz"),
    (b"\x28\xb5\x2f\xfd\x04\x00", "zstd"),
    (b"\x04\x22\x4d\x18\x64", "lz4"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"Rar!\x1a\x07\x01", "RAR"),
    (b"PAR1abc", "Parquet"),
    (b"ARROW1\x00\x00", "Arrow"),
    (b"Obj\x01\x04", "Avro"),
    (b"%PDF-1.7\n", "PDF"),
    (b"{\\rtf1\\ansi", "RTF"),
    (b"SQLite format 3\x00\x10\x00", "SQLite"),
    (GOOD.decode().encode("utf-16"), "UTF-16"),
    (b"\xfe\xff" + GOOD.decode().encode("utf-16-be"), "UTF-16"),
    (GOOD.decode().encode("utf-32"), "UTF-32"),
    (b"\x00\x00\xfe\xff" + GOOD.decode().encode("utf-32-be"), "UTF-32"),
    (GOOD.decode().encode("utf-16-le"), "NUL byte in line 1"),
    (GOOD.decode().encode("utf-32-be"), "NUL byte in line 1"),
]


@pytest.mark.parametrize(("content", "message"), FOREIGN, ids=[message for _, message in FOREIGN])
def test_other_formats_are_refused_by_content(content, message):
    with pytest.raises(DataRefused, match=message):
        look(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"^The file is empty\.$"),
        (b"\xef\xbb\xbf \n\r\n", r"^The file is empty\.$"),
        (b"\xef\xbb\xbfsep=;\r\n\r\n", r"^The file is empty\.$"),
        (b"\n" * (1 << 20), "nothing but white space in its first 1,048,576 bytes"),
        (HEADER, "a header and no rows"),
        (HEADER + b"\r\n\r\n\r\n", "a header and no rows"),
        (b"sep=,\n" + HEADER, "a header and no rows"),
        (b"1,2,3\n4,5,6\n", "is the header missing"),
        (b"<!doctype html><title>x</title>\n<p>", "is the header missing"),
        (b'{"Age": 5}\n', "is the header missing"),
        (b"Age,CreditScore, Age \n1,2,3\n", "names a column twice: Age"),
        (b'Age,"CreditScore\n1,2\n', "row that starts on line 1"),
        (b'Age;"CreditScore\n1;2\n', "row that starts on line 1"),
        (GOOD + b'1,"2,3\n' + ROW, "quotation mark out of place in the row that starts on line 3"),
        (GOOD + b'"1" x,2,3\n', "quotation mark out of place in the row that starts on line 3"),
        (b"CreditScore,Gr\xfc\xdfe\n1,2\n", "not UTF-8 from line 1 on; it may be Windows-1252 or Latin-1"),
        (GOOD + b"1,2,M\xfcller\n", "not UTF-8 from line 3 on"),
        (GOOD + b"\xc3", "not UTF-8 from line 3 on"),
        (GOOD + b"\x001,2,3\n", "NUL byte in line 3"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(content, message):
    with pytest.raises(DataRefused, match=message):
        look(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'1,"2,3\n', f"quotation mark out of place in the row that starts on line {AFTER}"),
        (b"1,2,M\xfcller\n", f"not UTF-8 from line {AFTER} on"),
        (b"1,2,\x003\n", f"NUL byte in line {AFTER}"),
        (b'1,"' + b"x" * 140_000 + b'",3\n', f"more than 131,072 characters in the row that starts on line {AFTER}"),
        (b"1,2," + b"3," * 600_000, f"more than 1,048,576 bytes in the row that starts on line {AFTER}"),
        (b'1,"2\n' + (ROW + b"\n") * 20_000, f"more than 131,072 characters in the row that starts on line {AFTER}"),
    ],
    ids=["quote", "encoding", "NUL", "field", "row", "swallowed"],
)
def test_faults_after_the_beginning_are_found_by_reading_on(content, message):
    look(MANY + content)
    with pytest.raises(DataRefused, match=message):
        all_blocks(MANY + content)


def test_a_header_alone_is_refused_however_long_the_file():
    file = io.BytesIO(GOOD)
    found = look(GOOD)
    with pytest.raises(DataRefused, match="a header and no rows"):
        list(blocks_from(io.BytesIO(HEADER + b"\n" * 50), found, 10))
    assert list(blocks_from(file, found, 10))


ENDLESS = [b"x", b'"x', b",", b'"a\n",', b" ", b"\xc3\xa9"]


@pytest.mark.parametrize(
    ("beginning", "goes_on"),
    [(b"", b"\n"), *((beginning, end) for beginning in (b"", GOOD, GOOD + b'1,2,"') for end in ENDLESS)],
)
def test_a_row_without_an_end_costs_no_memory(beginning, goes_on):
    file = Endless(beginning, goes_on)
    with pytest.raises(DataRefused):
        layout_from(file, CHURN, 200)
    assert file.furthest <= 3 << 20


def test_rows_are_bounded_even_where_the_csv_module_is_not():
    limit = csv.field_size_limit(1 << 30)
    try:
        file = Endless(GOOD + b'"', b"x\n")
        with pytest.raises(DataRefused, match="more than 1,048,576 bytes in the row that starts on line 3"):
            layout_from(file, CHURN, 200)
        assert file.furthest <= 3 << 20
    finally:
        csv.field_size_limit(limit)


def test_blocks_of_wide_rows_end_early_and_stay_the_same_read_again():
    content = HEADER + b"\n" + (b"," * 1_000_000 + b"\n") * 10
    file, found = io.BytesIO(content), look(content)
    read = blocks_from(file, found, 1000)
    spans = [block.span for block in read]
    assert [span.rows for span in spans] == [9, 1]
    assert [[block.span for block in blocks_from(file, found, 1000, span)] for span in spans] == [[s] for s in spans]


def test_too_many_columns_name_the_limit_and_its_setting():
    wide = ",".join(["Age", *(f"c{number}" for number in range(200))]).encode() + b"\n" + ROW
    with pytest.raises(TooLarge, match=r"^The file has 201 columns; at most 200 .*BANKPORTAL_UPLOAD_COLUMNS"):
        look(wide)
    assert len(look(wide, 201).header) == len(look(wide, None).header) == 201


def test_a_span_of_a_file_that_was_changed_is_refused():
    found = look(MANY)
    first, *_ = blocks_from(io.BytesIO(MANY), found, 10)
    with pytest.raises(DataRefused, match="not what it was"):
        list(blocks_from(io.BytesIO(MANY[:100]), found, 10, first.span))


def test_the_csv_modules_limit_is_left_alone():
    before = csv.field_size_limit()
    all_blocks(MANY)
    assert csv.field_size_limit() == before


def test_claims_tell_names_from_aliases():
    assert claims(["Exited", "churn", "fico", "shoes"], CHURN) == {
        "Churn": [(1, "Exited"), (0, "churn")],
        "CreditScore": [(1, "fico")],
    }
    assert claims(["requested limit"], ALLOWANCE) == {"RequestedLimit": [(0, "requested limit")]}


CELLS = st.sampled_from(["", "1", "007", "ä€😀", " x ", "\ufeff", "\x85", "\u2028", "\x1c", "'", "a" * 30])
QUOTED = st.text(st.sampled_from('a,;"\n\r\té'), max_size=6).map(lambda text: f'"{text.replace(chr(34), chr(34) * 2)}"')


@st.composite
def files(draw):
    """A file's bytes: ragged rows, quoted line breaks, mixed line ends and empty lines included."""
    delimiter = draw(st.sampled_from([",", ";", "\t"]))
    fields = st.lists(st.one_of(CELLS, QUOTED), min_size=1, max_size=4)
    rows = draw(st.lists(st.one_of(fields, st.just([])), min_size=1, max_size=25))
    ends = st.sampled_from(["\n", "\r\n", "\r"])
    lines = [["CreditScore", "Age", '"a\nb"'], ["1", "2", "3"], *rows]
    text = "".join(delimiter.join(cells) + draw(ends) for cells in lines)
    mark = draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"sep=;\r\n", b"\xef\xbb\xbfsep=,\r"]))
    return mark + (text.rstrip("\r\n") if draw(st.booleans()) else text).encode()


def expected(content: bytes, delimiter: str) -> list[list[str]]:
    """What the csv module reads in the whole text at once, after the header."""
    text = re.sub(r"\Asep=[,;\t](\r\n|\r|\n)", "", content.decode("utf-8-sig"))
    return [fields for fields in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if fields][
        1:
    ]


@settings(max_examples=300, deadline=None)
@given(files(), st.integers(1, 40), st.integers(1, 9), st.integers(3, 400))
def test_any_block_is_the_same_read_again_by_its_span(content, piece, size, largest):
    with patch.object(stream, "PIECE", piece), patch.object(stream, "MAX_BLOCK_BYTES", largest):
        file = io.BytesIO(content)
        found = layout_from(file, CHURN, None)
        read = list(blocks_from(file, found, size))
        again = [list(blocks_from(file, found, size, block.span)) for block in read]
    assert again == [[block] for block in read]
    whole = list(blocks_from(file, found, 1000))
    records = sorted(
        [
            *((place, line, row) for b in read for place, line, row in zip(b.positions, b.lines, b.rows, strict=True)),
            *((ragged.position, ragged.line, ragged.fields) for b in read for ragged in b.ragged),
        ]
    )
    assert [fields for _, _, fields in records] == expected(content, found.delimiter)
    assert [place for place, _, _ in records] == list(range(sum(block.span.rows for block in read)))
    assert [offset for b in read for offset in b.offsets] == whole[0].offsets
    check_places(content, found, read)


def check_places(content: bytes, found: Layout, read: list[stream.Block]) -> None:
    """A row's offset and line are where it stands, and spans follow one another."""
    for block in read:
        for line, offset, row in zip(block.lines, block.offsets, block.rows, strict=True):
            assert len(re.findall(rb"\r\n|\r|\n", content[:offset])) + 1 == line
            text = io.StringIO(content[offset:].decode(), newline="")
            assert next(csv.reader(text, delimiter=found.delimiter)) == row
    starts = [found.start, *(block.span.end for block in read)]
    assert [block.span.start for block in read] == starts[:-1]
    assert starts == sorted(set(starts))


def test_a_span_may_be_read_in_smaller_blocks():
    found = look(MANY)
    file = io.BytesIO(MANY)
    first, second, *_ = blocks_from(file, found, 100)
    small = list(blocks_from(file, found, 30, second.span))
    assert [block.span.rows for block in small] == [30, 30, 30, 10]
    assert [place for block in small for place in block.positions] == list(range(100, 200))
    assert [row for block in small for row in block.rows] == second.rows
    assert first.span.end == small[0].span.start
    assert all(line == place + 2 for block in small for line, place in zip(block.lines, count(block.span.position)))
