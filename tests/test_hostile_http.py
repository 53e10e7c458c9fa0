"""A thousand files that somebody might upload, by every door there is: none gets a fault of the portal for an answer,
each record of a file is in one of the two files that come back, and its cells are under the names they had."""

import csv
import html
import io
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest

from bankportal.domain.constraints import Source
from bankportal.domain.errors import InvalidInput
from bankportal.domain.factors import normalised_name
from bankportal.domain.products import Product
from bankportal.domain.schema import Customer, validate
from bankportal.services.batches.chunks import answer_columns
from bankportal.services.batches.uploads import _display_name as shown
from tests.api.conftest import Engine, running
from tests.conftest import config_for
from tests.test_hostile_files import FILES, HINT, MAX_COLUMNS, check_refusal, hostile

BATCH = 50
API = "/api/v1/batches"
REJECTED = ["line", "column", "code", "message", "row"]
PLAIN_NUMBER = re.compile(r" *[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)? *")
FORMULA = re.compile(r"[\t\n\r\x00]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
NAMES = (
    *("May.csv", "Mär z.csv", "../../etc/passwd", "C:\\tmp\\a.csv", '"><script>alert(1)</script>.csv', "x" * 3000),
    *("=cmd.csv", "\u202evsc.exe", "a:b|c?.csv", ".csv", "%s%n{0}.csv", "\U0001f600.csv", "nul", " "),
)


@dataclass
class Told:
    """What the portal said of one file: its answers, in the end the batch as the API tells it, and its two files."""

    statuses: list[int] = field(default_factory=list)
    refusal: str = ""
    unclear: bool = False
    batch: Mapping[str, Any] = field(default_factory=dict)
    scored: list[list[str]] = field(default_factory=list)
    rejects: list[list[str]] = field(default_factory=list)


class Sender:
    """One who sends files to a portal and notes every answer."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.told = Told()

    def ask(self, method: str, path: str, **more: Any) -> Any:
        response = self.engine.client.request(method, path, **more)
        self.told.statuses.append(response.status_code)
        return response

    def work(self) -> None:
        while self.engine.services.worker.step():
            pass

    def table(self, path: str) -> list[list[str]]:
        response = self.ask("GET", path)
        assert response.status_code == 200, response.text
        return list(csv.reader(io.StringIO(response.content.decode(), newline=""), strict=True))


class Forms(Sender):
    """The pages, as a browser without scripts sends them."""

    def send(self, product: Product, name: str, content: bytes) -> Told:
        answer = self.ask("POST", "/batches/", data={"product": product.key}, files={"file": (name, content)})
        if answer.status_code != 303:
            self.told.refusal = html.unescape(re.search(r'id="file-error">([^<]*)<', answer.text)[1])
            return self.told
        at = answer.headers["Location"]
        page = self.ask("GET", at).text
        if self.ask("POST", f"{at}/check", data=choices(page)).status_code == 422:
            self.told.unclear = True
            return self.told
        self.work()
        if 'aria-labelledby="checked-heading"' in self.ask("GET", at).text:
            self.ask("POST", f"{at}/start")
            self.work()
        self.told.batch = self.ask("GET", f"{API}/{at.rsplit('/', 1)[1]}").json()
        self._read(at)
        return self.told

    def _read(self, at: str) -> None:
        batch = self.told.batch
        page = self.ask("GET", at).text
        assert self.ask("GET", f"{at}/progress").json()["state"] == batch["state"]
        if batch["state"] == "done":
            self.told.scored = self.table(f"{at}/scored.csv")
            assert f"<dd>{batch['summary']['scored']}</dd>" in page
            if batch["summary"]["scored"] % 8 == 0:  # some of them: it takes as long as all the rest
                self.ask("GET", f"{at}?sort=score&descending=1&page=2")
                self.ask("GET", re.search(rf"{at}/rows/\d+", page)[0])
        if batch["checked"]:
            self.told.rejects = self.table(f"{at}/rejects.csv")


class Api(Sender):
    """The API's form."""

    def send(self, product: Product, name: str, content: bytes) -> Told:
        answer = self.ask("POST", API, data={"product": product.key}, files={"file": (name, content)})
        if answer.status_code != 202:
            problem = answer.json()
            self.told.unclear = bool(problem.get("errors"))
            self.told.refusal = "" if self.told.unclear else problem["detail"]
            return self.told
        self.work()
        batch = self.told.batch = self.ask("GET", answer.headers["Location"]).json()
        if batch["results_url"]:
            self.told.scored = self.table(batch["results_url"])
        if batch["rejects_url"]:
            self.told.rejects = self.table(batch["rejects_url"])
        return self.told


def choices(page: str) -> dict[str, str]:
    """What the form of the columns sends as it stands."""
    selects = re.findall(r'<select id="(column-\d+)"(.*?)</select>', page, re.S)
    return {name: re.search(r'<option value="([^"]*)" selected', body)[1] for name, body in selects}


@pytest.fixture(scope="module")
def ways_in(ready_instance, tmp_path_factory) -> Iterator[list[tuple[type[Sender], Engine]]]:
    """The ways in, in turn: pages twice, the API on each engine."""
    with ExitStack() as stack:
        engines = {}
        for name in ("flask", "fastapi"):
            folder = shutil.copytree(ready_instance, tmp_path_factory.mktemp(name) / "instance")
            config = replace(config_for(folder), upload_columns=MAX_COLUMNS)
            engines[name] = stack.enter_context(running(name, config))
        yield [(Forms, engines["flask"]), (Api, engines["flask"]), (Forms, engines["flask"]), (Api, engines["fastapi"])]


# --- what must have come of it, by the csv module and the single-row model -------------------------------------------


@dataclass
class Read:
    """A file as the csv module reads the whole text of it: the header, and each record with the line it starts on."""

    header: list[str]
    records: list[tuple[int, list[str]]]


def read(content: bytes, delimiter: str) -> Read:
    text = content.decode("utf-8-sig")
    hint = HINT.match(text)
    first = 2 if hint else 1
    records, line = [], first
    reader = csv.reader(io.StringIO(text[hint.end() if hint else 0 :], newline=""), delimiter=delimiter, strict=True)
    for fields in reader:
        if fields:
            records.append((line, fields))
        line = first + reader.line_num
    return Read([name.strip() for name in records[0][1]], records[1:])


def verdict(product: Product, mapping: Mapping[str, str], header: Sequence[str], fields: Sequence[str]) -> Any:
    """The customer that a record is, or the codes of what is wrong with it."""
    if len(fields) != len(header):
        return "ragged"
    raw = {mapping[column]: text for column, text in zip(header, fields, strict=True) if column in mapping}
    try:
        return validate(product, raw, Source.TEXT)
    except InvalidInput as invalid:
        return "; ".join(problem.code for problem in invalid.problems)


def is_safe(cell: str) -> bool:
    """Say whether no spreadsheet runs a cell."""
    return bool(PLAIN_NUMBER.fullmatch(cell)) or not FORMULA.match(cell)


def one_record(text: str, delimiter: str) -> list[str]:
    return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def check_cells(written: Sequence[str], original: Sequence[str]) -> None:
    """A row came back as it was, but for apostrophes before what a spreadsheet would run."""
    assert len(written) == len(original)
    for cell, before in zip(written, original, strict=True):
        assert cell.replace("'", "") == before.replace("'", "")
        assert is_safe(cell)
        assert cell == before or not PLAIN_NUMBER.fullmatch(before)


def check_mapping(product: Product, mapping: Mapping[str, str], header: Sequence[str]) -> None:
    known = {entry.factor.name: {entry.factor.name, *entry.factor.aliases} for entry in product.factors}
    assert set(mapping) <= set(header)
    assert {factor.name for factor in product.required} <= set(mapping.values())
    for column, factor in mapping.items():
        assert normalised_name(column) in map(normalised_name, known[factor])


def check_scored(
    engine: Engine, product: Product, told: Told, file: Read, good: list[tuple[list[str], Customer]]
) -> None:
    names, *rows = told.scored
    width = len(file.header)
    check_cells(names[:width], file.header)
    assert names[width:] == list(answer_columns(limits=product.policy is not None))
    assert len(rows) == len(good)
    for row, (fields, _) in zip(rows, good, strict=True):
        check_cells(row[:width], fields)
        assert len(row) == len(names)
    for row, (_, customer) in list(zip(rows, good, strict=True))[:1]:
        outcome = engine.services.scoring.score(customer)
        assert (row[width], row[width + 1]) == (repr(outcome.score), outcome.band.name)


def check_rejects(told: Told, delimiter: str, file: Read, bad: list[tuple[int, list[str], str]]) -> None:
    names, *rows = told.rejects
    width = len(file.header)
    check_cells(names[:width], file.header)
    assert names[width:] == REJECTED
    for row, (line, fields, codes) in zip(rows, bad, strict=True):
        found_line, _, found_codes, message, raw = row[width:]
        assert (found_line, found_codes) == (str(line), codes)
        assert message
        if codes == "ragged":
            assert one_record(raw.replace("'", ""), delimiter) == [field.replace("'", "") for field in fields]
            assert is_safe(raw)
            assert not any(row[:width])
        else:
            check_cells(row[:width], fields)


def check_batch(engine: Engine, product: Product, content: bytes, told: Told) -> None:
    batch = told.batch
    delimiter = engine.services.batches.get(batch["id"]).layout["delimiter"]
    file = read(content, delimiter)
    check_mapping(product, batch["mapping"], file.header)
    verdicts = [verdict(product, batch["mapping"], file.header, fields) for _, fields in file.records]
    told_of = list(zip(file.records, verdicts, strict=True))
    good = [(fields, found) for (_, fields), found in told_of if isinstance(found, Customer)]
    bad = [(line, fields, found) for (line, fields), found in told_of if not isinstance(found, Customer)]
    counted = [batch["checked"][name] for name in ("rows", "good", "rejected")]
    assert counted == [len(verdicts), len(good), len(bad)]
    check_rejects(told, delimiter, file, bad)
    assert batch["state"] == ("done" if good else "checked")
    if good:
        summary = batch["summary"]
        assert [summary["scored"], summary["rejected"], summary["quarantined"]] == [len(good), len(bad), 0]
        assert sum(summary["bands"].values()) == len(good)
        check_scored(engine, product, told, file, good)


def outcome(ways_in: list[tuple[type[Sender], Engine]], seed: int) -> str:
    """Send one file in; return how it ended."""
    product, content = hostile(seed)
    name = Random(seed).choice(NAMES)
    sender, engine = ways_in[seed % len(ways_in)]
    told = sender(engine).send(product, name, content)
    assert max(told.statuses) < 500, told.statuses
    if told.unclear:
        return "unclear"
    message = told.refusal or told.batch["message"] if told.batch.get("state") == "refused" else told.refusal
    if message:
        assert message.startswith(f"{shown(name)} ")
        check_refusal(content, "The file" + message.removeprefix(shown(name)))
        return "refused"
    check_batch(engine, product, content, told)
    return told.batch["state"]


@pytest.mark.parametrize("first", range(0, FILES, BATCH))
def test_a_hostile_file_is_refused_or_accounted_for(ways_in, first) -> None:
    ends = Counter[str]()
    for seed in range(first, first + BATCH):
        try:
            ends[outcome(ways_in, seed)] += 1
        except Exception as error:
            error.add_note(f"the file of seed {seed}")
            raise
    assert set(ends) <= {"done", "checked", "refused", "unclear"}
    assert min(ends["done"], ends["refused"]) > BATCH // 16
