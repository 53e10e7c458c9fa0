"""A thousand files that somebody might upload: each is refused with a reason, or every one of its records is accounted
for under the right column, as the csv module reads the whole text by itself."""

import bz2
import csv
import gzip
import io
import lzma
import re
import zipfile
from collections import Counter
from random import Random

import numpy as np
import pytest

from bankportal.data.blocks import FOREIGN, Layout, blocks_from, claims, layout_from
from bankportal.data.columns import ValidatedBlock, validate_block
from bankportal.domain.constraints import INVISIBLE
from bankportal.domain.errors import DataRefused, TooLarge
from bankportal.domain.products import Product
from tests.shipped import PRODUCTS

FILES = 1_000
BATCH = 50
MAX_COLUMNS = 60
HINT = re.compile(r'\A(?i:sep=[,;\t]|"sep=[,;\t]")(\r\n|\r|\n)')
BAD_CELLS = [
    *(
        "",
        " ",
        "NA",
        "nan",
        "inf",
        "-0",
        "1e5",
        "1e999",
        "007",
        "1_000",
        "1,5",
        "\u0663",
        "\uff11",
        "\u00a0",
        "\ufeff1",
    ),
    *("a,b", "a;b", "a\tb", "a\nb", "a\r\nb", "a\rb", '"', 'O"Hara', "\u202eabc", "\u2028", "\x1c", "x" * 300, "\xdf"),
    *("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "<script>alert(1)</script>", "'; DROP TABLE x;--"),
    *(" =1+1", "\u00a0=1+1", "\n=1+1", "\uff1d1+1", "\uff0b1", " -2+3", " -2 "),
]


def spoilt_cell(rng: Random, text: str, often: float) -> str:
    """Replace a good text now and then."""
    if rng.random() >= often:
        return text
    return rng.choice([*BAD_CELLS, f" {text} ", f"{text}.0", f"-{text}", text * 20])


def written(rng: Random, text: str, delimiter: str, slips: float) -> str:
    """Quote a cell as a program would, or now and then as nobody should."""
    if rng.random() < slips:
        return rng.choice([text, f'"{text}', f'"{text}" ', f'{text}"', f'""{text}""', f'"{text}"x'])
    if rng.random() < 0.05 or any(mark in text for mark in ('"', "\n", "\r", delimiter)):
        return f'"{text.replace(chr(34), chr(34) * 2)}"'
    return text


def header_of(rng: Random, product: Product) -> list[str]:
    names = [rng.choice([entry.factor.name, *entry.factor.aliases]) for entry in product.factors]
    names = [name for name in names if rng.random() < 0.97] + [product.label.name, "shoes"][: rng.randrange(3)]
    rng.shuffle(names)
    if rng.random() < 0.04:
        names.append(rng.choice([*names, "", "Age", "x" * 5000, "a\nb", "\ufeff", "credit score"]))
    if rng.random() < 0.02:
        names += [f"column {number}" for number in range(rng.choice((30, 100, 5000)))]
    return [] if rng.random() < 0.01 else names


def rows_of(rng: Random, product: Product, header: list[str]) -> list[list[str]]:
    factors = [entry.factor for entry in product.factors]
    examples = {name: factor.example for factor in factors for name in (factor.name, *factor.aliases)}
    often = rng.choice((0, 0.005, 0.02, 0.1))
    rows = []
    for _ in range(rng.choice((0, 1, 5, 5, 30, 30, 60, 60))):
        row = [spoilt_cell(rng, examples.get(name, "1"), often) for name in header]
        if rng.random() < 0.05:
            row = rng.choice([row[:-1], [*row, "1"], [*row, ""], ["lonely"], [], row * 2, ["", *row]])
        rows.append(row)
    return rows


def csv_file(rng: Random) -> tuple[Product, str]:
    product = rng.choice(list(PRODUCTS.values()))
    delimiter = rng.choice(",;\t")
    header = header_of(rng, product)
    ends = rng.choice((["\n"], ["\r\n"], ["\r"], ["\n", "\r\n", "\r", "\n\n"]))
    lines = [header, *rows_of(rng, product, header)]
    slips = 0.01 if rng.random() < 0.15 else 0.0
    text = "".join(
        delimiter.join(written(rng, cell, delimiter, slips) for cell in line) + rng.choice(ends) for line in lines
    )
    if rng.random() < 0.1:
        text = rng.choice(("sep=%s", "Sep=%s", '"sep=%s"')) % rng.choice((delimiter, ";")) + f"\r\n{text}"
    if rng.random() < 0.02:
        text += '"' + "runaway,\n" * 20_000
    if rng.random() < 0.01:
        text += "long" * 300_000
    return product, text


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("bank.csv", content)
    return buffer.getvalue()


def as_bytes(rng: Random, text: str) -> bytes:
    """Write a text as bytes: as it should be, most of the time."""
    content = text.encode()
    place = rng.randrange(len(content) + 1)
    ways = [
        lambda: text.replace("1", "Stra\u00dfe", 1).encode("cp1252", "replace"),
        lambda: text.encode(rng.choice(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"))),
        lambda: rng.choice((gzip.compress, bz2.compress, lzma.compress, zipped))(content),
        lambda: content[:place] + bytes([rng.randrange(256)]) + content[place:],
        lambda: content[:place] + b"\x00" * rng.randrange(1, 9) + content[place:],
        lambda: content[:place] + b"\xff\xfe\xed\xa0\x80" + content[place:],
        lambda: content[:place],
        lambda: content[place:],
        lambda: rng.randbytes(rng.randrange(3000)),
        lambda: rng.choice((b"", b"\n", b" ", b"\xef\xbb\xbf", b"sep=;\n", b"\x00", b'"', b'""', b",", b"\r")),
        lambda: content + content,
        lambda: b"\xef\xbb\xbf\xef\xbb\xbf" + content,
    ]
    if rng.random() < 0.25:
        content = rng.choice(ways)()
    return b"\xef\xbb\xbf" + content if rng.random() < 0.15 else content


def hostile(seed: int) -> tuple[Product, bytes]:
    rng = Random(seed)
    product, text = csv_file(rng)
    return product, as_bytes(rng, text)


def oracle(content: bytes, delimiter: str) -> tuple[list[str], list[list[str]]]:
    """The header and records, by the csv module from the whole text."""
    text = HINT.sub("", content.decode("utf-8-sig"))
    records = [
        fields for fields in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if fields
    ]
    return [name.strip() for name in records[0]], records[1:]


def mapping_of(layout: Layout, product: Product) -> dict[str, str]:
    found = claims(layout.header, product)
    return {min(claim)[1]: name for name, claim in found.items() if name != product.label.name}


def work(product: Product, content: bytes, size: int) -> tuple[Layout, dict[str, str], list[ValidatedBlock]]:
    file = io.BytesIO(content)
    layout = layout_from(file, product, MAX_COLUMNS)
    mapping = mapping_of(layout, product)
    return (
        layout,
        mapping,
        [validate_block(product, layout, mapping, block) for block in blocks_from(file, layout, size)],
    )


def check_accounts(validated: list[ValidatedBlock], records: list[list[str]]) -> None:
    """Every record is good, or rejected by name, and they are numbered without a gap."""
    good = sum(int(part.good.sum()) for part in validated)
    rejected = {problem.line for part in validated for problem in part.problems}
    assert good + len(rejected) == len(records) == sum(part.block.span.rows for part in validated)
    good_lines = {line for part in validated for line, fine in zip(part.block.lines, part.good, strict=True) if fine}
    assert not good_lines & rejected
    places = [
        p for part in validated for p in (*part.block.positions, *(ragged.position for ragged in part.block.ragged))
    ]
    assert sorted(places) == list(range(len(records)))


def check_cells(layout: Layout, part: ValidatedBlock, records: list[list[str]]) -> None:
    """Every row is the record at its place, under the header's names."""
    for row, place in zip(part.block.rows, part.block.positions, strict=True):
        assert len(row) == len(layout.header)
        assert row == records[place]
    for ragged in part.block.ragged:
        assert len(ragged.fields) != len(layout.header)
        assert ragged.fields == records[ragged.position]


def check_values(product: Product, layout: Layout, mapping: dict[str, str], part: ValidatedBlock, records) -> None:
    """A good row's values are what stands in the text under each factor's column, by Python's own reading of it."""
    factor_column = {factor: list(layout.header).index(column) for column, factor in mapping.items()}
    for number in np.flatnonzero(part.good):
        record = records[part.block.positions[number]]
        for entry in product.factors:
            value = part.columns[entry.factor.name][number]
            text = record[factor_column[entry.factor.name]].strip() if entry.factor.name in factor_column else ""
            if not text:
                assert value is None or np.isnan(value)
            elif isinstance(value, str):
                assert value == text
                assert not INVISIBLE.search(text)
            else:
                assert value == float(text)
                assert text.isascii()


def first_records(content: bytes, delimiter: str) -> tuple[list[list[str]], bool]:
    """Records as far as they can be read, the header first; and whether all of them can."""
    text = HINT.sub("", content.decode("utf-8-sig", "replace"))
    records: list[list[str]] = []
    try:
        for fields in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            records += [fields] if fields else []
    except csv.Error:
        return records, False
    return records, True


def is_header_at_fault(message: str, names: list[str]) -> bool:
    twice = [name for name, times in Counter(name.strip() for name in names).items() if name and times > 1]
    if "names a column twice" in message:
        return bool(twice) and f"{', '.join(twice)}. Keep" in message
    if "names no column" in message:
        return not {"Age", "CreditScore", "Tenure", "Balance"} & set(names)
    return "columns; at most" in message and len(names) > MAX_COLUMNS


def check_refusal(content: bytes, message: str) -> None:
    """A file is refused for what it is."""
    assert message.startswith("The file ")
    if "not UTF-8" in message:
        with pytest.raises(UnicodeDecodeError):
            content.decode()
    elif "NUL byte" in message:
        assert b"\x00" in content
    elif "not CSV" in message:
        assert content.startswith(tuple(magic for magic, _ in FOREIGN))
    elif "is empty" in message:
        assert not HINT.sub("", content.decode("utf-8-sig")).strip()
    elif "bytes in the row" in message:
        assert len(content) > 1 << 20
    else:
        check_reading(content, message)


def check_reading(content: bytes, message: str) -> None:
    read = [first_records(content, delimiter) for delimiter in ",;\t"]
    if "row that starts on line" in message:
        assert not all(whole for _, whole in read)
    elif "no rows" in message:
        assert 1 in {len(records) for records, _ in read}
    else:
        assert any(is_header_at_fault(message, records[0]) for records, _ in read if records), message


def outcome(seed: int) -> str:
    """Work through one file; return how it ended."""
    product, content = hostile(seed)
    try:
        layout, mapping, validated = work(product, content, Random(seed).choice((1, 7, 1000)))
    except (DataRefused, TooLarge) as refused:
        check_refusal(content, str(refused))
        return "TooLarge" if isinstance(refused, TooLarge) else "DataRefused"
    header, records = oracle(content, layout.delimiter)
    assert list(layout.header) == header
    check_accounts(validated, records)
    for part in validated:
        check_cells(layout, part, records)
        check_values(product, layout, mapping, part, records)
    return "rejects" if any(part.problems for part in validated) else "good"


@pytest.mark.parametrize("first", range(0, FILES, BATCH))
def test_a_hostile_file_is_refused_or_accounted_for(first):
    for seed in range(first, first + BATCH):
        try:
            outcome(seed)
        except Exception as error:
            error.add_note(f"the file of seed {seed}")
            raise


def test_the_files_are_of_all_kinds():
    ends = Counter(outcome(seed) for seed in range(0, FILES, 4))
    assert set(ends) == {"good", "rejects", "DataRefused", "TooLarge"}
    assert min(ends["rejects"], ends["DataRefused"]) > FILES // 16
