"""Scoring a file here, on a Dask cluster, and by the worker: the same bytes, whatever reads and wherever it lies."""

import csv
import datetime
import io
import os
import signal
import socket
import sys
from contextlib import closing, contextmanager
from decimal import Decimal

import pytest

from bankportal.cli.score import mapping_of, score_file
from bankportal.data import locations
from bankportal.data.locations import input_at, source_at
from bankportal.domain.errors import DataRefused, VersionRefused
from bankportal.services.batches import cluster
from bankportal.services.batches.chunks import Work
from bankportal.services.batches.cluster import ClusterFailed, SerializedWork
from tests.conftest import PATIENCE, REAL_DATA
from tests.shipped import ALLOWANCE, BY_PAGE, CHURN, PRODUCTS

distributed = pytest.importorskip("distributed", reason="Dask is missing: pip install bankportal[dask]")
fsspec = pytest.importorskip("fsspec")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

HOSTILE = {
    3: lambda line: line.replace(",", ";", 1),  # ragged
    10: lambda line: "\n" + line,
    250: lambda line: line.replace("France", "Atlantis").replace("Spain", "Atlantis").replace("Germany", "Atlantis"),
    600: lambda line: f'"=1+1\n{line.split(",")[0]}",' + line.split(",", 1)[1],
    601: lambda line: line + ",one more",
    1201: lambda line: "",
}


@pytest.fixture(scope="module", autouse=True)
def patient():
    """On a slow machine it takes longer until a cluster has a worker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "WAIT", PATIENCE)
        yield


@pytest.fixture(scope="module")
def at_hand():
    """A cluster within this process."""
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as made,
    ):
        yield made.scheduler_address


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Enough blocks that their order shows."""
    monkeypatch.setattr(locations, "ROWS", 200)


@pytest.fixture
def hostile(bank_files, tmp_path):
    """The churn file, some of its rows broken."""
    lines = bank_files["churn"].read_text(encoding="utf-8").splitlines()
    made = [HOSTILE.get(number, str)(line) for number, line in enumerate(lines)]
    path = tmp_path / "hostile.csv"
    path.write_text("\n".join(made) + "\n", encoding="utf-8")
    return path


def scored(services, product, source, folder, scheduler=None) -> tuple[bytes, bytes]:
    """Score a file; return what OUT and the rejects hold."""
    folder.mkdir(exist_ok=True)
    target, rejects = folder / "scored.csv", folder / "rejects.csv"
    score_file(services, product, str(source), str(target), str(rejects), scheduler)
    return target.read_bytes(), rejects.read_bytes()


def work_for(services, product, path) -> Work:
    found = source_at(str(path), product)
    mapping, model = mapping_of(found, product), services.models.serving(product)
    return Work(product, found.layout, mapping, model)


def as_parquet(path, target, **types):
    """Write a CSV file's table as Parquet, typed, in row groups that are not multiples of a block."""
    from pyarrow import csv

    made = csv.read_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=True, column_types=types))
    parquet.write_table(made, target, row_group_size=470)
    return target


def test_it_works(services, hostile, at_hand, tmp_path) -> None:
    here = scored(services, CHURN, hostile, tmp_path / "here")
    there = scored(services, CHURN, hostile, tmp_path / "there", at_hand)
    assert here == there
    assert here[0].count(b"\n") > 1400
    for found in (b"ragged", b"not-a-choice", b"Atlantis"):
        assert found in here[1]


def test_processes_give_the_same_bytes(services, hostile, tmp_path) -> None:
    here = scored(services, CHURN, hostile, tmp_path / "here")
    assert scored(services, CHURN, hostile, tmp_path / "there", cluster.LOCAL) == here


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the public data sets are not at hand")
def test_the_public_file_as_it_is(services, at_hand, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(locations, "ROWS", 3000)
    here = scored(services, CHURN, REAL_DATA / "Churn.csv", tmp_path / "here")
    there = scored(services, CHURN, REAL_DATA / "Churn.csv", tmp_path / "there", at_hand)
    assert here == there
    assert here[0].count(b"\n") == 10_001
    assert here[1].count(b"\n") == 1


@pytest.mark.parametrize("product", PRODUCTS)
def test_parquet_scores_as_csv_does(services, bank_files, at_hand, tmp_path, product) -> None:
    table = as_parquet(bank_files[product], tmp_path / "table.parquet", CustomerId=pyarrow.string())
    of_csv = scored(services, PRODUCTS[product], bank_files[product], tmp_path / "csv")
    here = scored(services, PRODUCTS[product], table, tmp_path / "here")
    assert here == scored(services, PRODUCTS[product], table, tmp_path / "there", at_hand)
    columns = len(bank_files[product].read_text(encoding="utf-8").splitlines()[0].split(","))
    answers = [[line.split(b",", columns)[-1] for line in text.splitlines()] for text in (here[0], of_csv[0])]
    assert answers[0] == answers[1]
    assert len(answers[0]) > 1400


@pytest.fixture
def memory():
    """The file system that fsspec holds in memory."""
    system = fsspec.filesystem("memory")
    yield system
    if system.exists("/bank"):
        system.rm("/bank", recursive=True)


def test_the_worker_writes_the_same_files(services, hostile, at_hand, tmp_path) -> None:
    with hostile.open("rb") as file:
        job = services.batches.receive(CHURN, hostile.name, file, provenance=BY_PAGE)
    services.batches.check(job, mapping_of(source_at(str(hostile), CHURN), CHURN), start=True)
    while services.worker.step():
        pass
    job = services.batches.get(job.id)
    files = tuple(services.batches.file(job, name).read_bytes() for name in ("scored.csv", "rejects.csv"))
    assert scored(services, CHURN, hostile, tmp_path / "here") == files
    assert scored(services, CHURN, hostile, tmp_path / "there", at_hand) == files


def test_locations_elsewhere(services, hostile, at_hand, memory, tmp_path) -> None:
    here = scored(services, CHURN, hostile, tmp_path / "here")
    memory.pipe("/bank/in.csv", hostile.read_bytes())
    # All readers of a file in memory share one place in it, so a cluster's read it from the disk.
    for source, scheduler in (("memory://bank/in.csv", None), (f"file://{hostile}", at_hand)):
        score_file(services, CHURN, source, "memory://bank/out.csv", "memory://bank/bad.csv", scheduler)
        assert (memory.cat("/bank/out.csv"), memory.cat("/bank/bad.csv")) == here
        assert sorted(memory.ls("/bank", detail=False)) == ["/bank/bad.csv", "/bank/in.csv", "/bank/out.csv"]
        memory.rm(["/bank/out.csv", "/bank/bad.csv"])


def test_a_chunk_that_fails_leaves_nothing(services, hostile, at_hand, memory, tmp_path, monkeypatch) -> None:
    real = cluster.score_block

    def fails(work, block):
        if block.span.position:
            raise ZeroDivisionError("by design")
        return real(work, block)

    monkeypatch.setattr(cluster, "score_block", fails)
    with pytest.raises(ClusterFailed, match=r"from line 20[0-9].*ZeroDivisionError: by design"):
        scored(services, CHURN, hostile, tmp_path / "there", at_hand)
    assert list((tmp_path / "there").iterdir()) == []
    with pytest.raises(ClusterFailed):
        score_file(services, CHURN, str(hostile), "memory://bank/out.csv", None, at_hand)
    assert memory.find("/bank") == []


def test_a_fault_late_in_the_file_is_named(services, bank_files, at_hand, tmp_path) -> None:
    source = tmp_path / "late.csv"
    source.write_bytes(bank_files["churn"].read_bytes() + b'"never closed\n')
    for scheduler in (None, at_hand):
        with pytest.raises(DataRefused, match=r"late\.csv .*line 1502"):
            scored(services, CHURN, source, tmp_path / "out", scheduler)
    assert list((tmp_path / "out").iterdir()) == []


@contextmanager
def processes(count: int):
    with distributed.LocalCluster(
        n_workers=count, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
    ) as made:
        yield made


def test_a_worker_that_dies_loses_nothing(services, hostile, tmp_path) -> None:
    """The only one dies, and with it every copy of the model: another is started and gets it anew."""
    here = scored(services, CHURN, hostile, tmp_path / "here")
    work = work_for(services, CHURN, hostile)
    found = input_at(str(hostile), CHURN)
    with (
        processes(1) as made,
        closing(cluster.parts(made.scheduler_address, work, services.config.models, found)) as parts,
    ):
        lines = [next(parts)[1].scored]
        (worker,) = made.workers.values()
        os.kill(worker.pid, signal.SIGKILL)
        lines += [part.scored for _, part in parts]
    assert here[0].endswith(b"".join(lines))


def test_a_cluster_that_lost_all_workers_is_given_up(services, hostile, tmp_path, monkeypatch) -> None:
    found = input_at(str(hostile), CHURN)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as made:
        work = work_for(services, CHURN, hostile)
        with closing(cluster.parts(made.scheduler_address, work, services.config.models, found)) as parts:
            next(parts)
            made.scale(0)
            monkeypatch.setattr(cluster, "WAIT", 1)
            with pytest.raises(ClusterFailed, match="lost all its workers"):
                list(parts)


def test_nobody_at_the_address(services, hostile, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cluster, "WAIT", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        there = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        for address in ("tcp://127.0.0.1:1", "nonsense://x", "nowhere", there):
            with pytest.raises(ClusterFailed, match="No Dask scheduler answers"):
                scored(services, CHURN, hostile, tmp_path / "there", address)


def test_without_the_extra(services, hostile, tmp_path, monkeypatch) -> None:
    table = tmp_path / "table.parquet"
    table.write_bytes(b"PAR1")
    for missing in ("distributed", "fsspec", "pyarrow"):
        monkeypatch.setitem(sys.modules, missing, None)
    for source, scheduler in ((hostile, cluster.LOCAL), ("memory://in.csv", None), (table, None)):
        with pytest.raises((ClusterFailed, DataRefused), match=r"pip install bankportal\[dask\]"):
            scored(services, CHURN, source, tmp_path / "out", scheduler)


def test_serialized_work_is_verified(services, bank_files) -> None:
    serialized = SerializedWork.of(work_for(services, CHURN, bank_files["churn"]), services.config.models)
    assert serialized.deserialize().model.manifest_digest == serialized.manifest_digest
    serialized.files["forest.npz"] += b"x"
    with pytest.raises(VersionRefused, match="SHA-256 differs"):
        serialized.deserialize()


def written(tmp_path, **columns):
    """Write columns as Parquet; return its source's cells, row by row."""
    known = {"CreditScore": pyarrow.array([600] * len(next(iter(columns.values()))))}
    path = tmp_path / "table.parquet"
    parquet.write_table(pyarrow.table(known | columns), path)
    (block,) = source_at(str(path), CHURN).blocks()
    return [row[1] for row in block.rows]


def test_cells_are_what_a_csv_file_would_hold(tmp_path) -> None:
    day = datetime.date(2026, 11, 2)
    for values, kind, texts in (
        ([7, -3, None, 2**62], pyarrow.int64(), ["7", "-3", "", str(2**62)]),
        ([3.0, 0.1, 1e-7, 1e22, float("nan"), None], pyarrow.float64(), ["3.0", "0.1", "1e-07", "1e+22", "", ""]),
        ([0.1, float("inf"), None], pyarrow.float32(), ["0.1", "inf", ""]),
        ([True, False, None], pyarrow.bool_(), ["1", "0", ""]),
        (["007", "NA", "", None, " é\n"], pyarrow.string(), ["007", "NA", "", "", " é\n"]),
        ([Decimal("1.50"), None], pyarrow.decimal128(5, 2), ["1.50", ""]),
        ([day, None], pyarrow.date32(), ["2026-11-02", ""]),
        (["a", None, "a"], pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), ["a", "", "a"]),
    ):
        array = pyarrow.array(values, pyarrow.string() if pyarrow.types.is_dictionary(kind) else kind)
        array = array.dictionary_encode() if pyarrow.types.is_dictionary(kind) else array
        assert written(tmp_path, cell=array) == texts


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (lambda: pyarrow.array([[1], [2]]), "lists or structures in column cell"),
        (lambda: pyarrow.array([{"a": 1}, None]), "lists or structures in column cell"),
        (lambda: pyarrow.array([b"a", None]), "bytes in column cell"),
    ],
)
def test_cells_that_are_no_value_are_refused(tmp_path, column, said) -> None:
    with pytest.raises(DataRefused, match=rf"table\.parquet holds {said}"):
        written(tmp_path, cell=column())


def test_what_is_no_table_is_refused(tmp_path) -> None:
    path = tmp_path / "broken.parquet"
    path.write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataRefused, match=r"broken\.parquet cannot be read as Parquet: .*[^.]\.$"):
        source_at(str(path), CHURN)
    parquet.write_table(pyarrow.table({"CreditScore": pyarrow.array([], pyarrow.int64())}), path)
    with pytest.raises(DataRefused, match="has no rows"):
        source_at(str(path), CHURN)
    parquet.write_table(pyarrow.table({"colour": ["red"]}), path)
    with pytest.raises(DataRefused, match="names no column that churn knows"):
        source_at(str(path), CHURN)
    with pytest.raises(DataRefused, match=r"absent\.csv cannot be read"):
        source_at(str(tmp_path / "absent.csv"), CHURN)
    with pytest.raises(DataRefused, match="cannot be read"):
        source_at("memory://absent.csv", CHURN)


def test_any_span_of_a_row_group_can_be_read_by_itself(bank_files, tmp_path) -> None:
    found = source_at(str(as_parquet(bank_files["allowance"], tmp_path / "t.parquet")), ALLOWANCE)
    whole = [row for block in found.blocks() for row in block.rows]
    spans = list(found.spans())
    assert [row for span in spans for row in found.block(span).rows] == whole
    assert max(span.rows for span in spans) == 200
    assert [line for span in spans for line in found.block(span).lines] == list(range(2, len(whole) + 2))


# Many files as one.


@pytest.fixture
def months(hostile, tmp_path):
    """The file in three parts below a folder, with what a cluster's writers leave beside theirs."""
    folder = tmp_path / "months"
    (folder / "old").mkdir(parents=True)
    header, *lines = hostile.read_text(encoding="utf-8").splitlines(keepends=True)
    for place, rows in (("a.csv", lines[:500]), ("b.csv", lines[500:900]), ("old/c.csv", lines[900:]), ("d.csv", [])):
        (folder / place).write_text(header + "".join(rows), encoding="utf-8")
    for place in ("_SUCCESS", ".a.csv.crc", "e.csv"):
        (folder / place).write_bytes(b"")
    return folder


def read_back(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode(), newline="")))


def test_a_folder_scores_as_its_files_do(services, hostile, months, at_hand, memory, tmp_path) -> None:
    whole = scored(services, CHURN, hostile, tmp_path / "whole")
    here = scored(services, CHURN, months, tmp_path / "here")
    assert here == scored(services, CHURN, months, tmp_path / "there", at_hand)
    assert here == scored(services, CHURN, f"{months}/**/*.csv", tmp_path / "pattern")
    memory.put(str(months), "/bank/months", recursive=True)
    assert here == scored(services, CHURN, "memory://bank/months", tmp_path / "elsewhere")
    assert here == scored(services, CHURN, "memory://bank/months/**/*.csv", tmp_path / "elsewhere")
    ours, theirs = read_back(here[0]), read_back(whole[0])
    assert {row.pop("file") for row in ours} == {"a.csv", "b.csv", "old/c.csv"}
    assert ours == theirs
    ours, theirs = read_back(here[1]), read_back(whole[1])
    assert {row.pop("file") for row in ours} == {"a.csv", "b.csv"}  # a ragged record's too
    for row in (*ours, *theirs):
        del row["line"]  # within its own file
    assert ours == theirs


def test_folders_name_columns(services, bank_files, at_hand, tmp_path) -> None:
    from pyarrow import csv as tables
    from pyarrow import dataset

    made = tables.read_csv(bank_files["churn"], convert_options=tables.ConvertOptions(strings_can_be_null=True))
    by = dataset.partitioning(pyarrow.schema([("Geography", pyarrow.string())]), flavor="hive")
    dataset.write_dataset(made, tmp_path / "table", format="parquet", partitioning=by)
    here = scored(services, CHURN, tmp_path / "table", tmp_path / "here")
    assert here == scored(services, CHURN, tmp_path / "table", tmp_path / "there", at_hand)
    whole = scored(services, CHURN, bank_files["churn"], tmp_path / "whole")
    answers = [
        {row["CustomerId"]: (row["Geography"], row["score"], row["reason_1"]) for row in read_back(text)}
        for text in (here[0], whole[0])
    ]
    assert answers[0] == answers[1]
    assert len({country for country, *_ in answers[0].values()}) == 3


def test_files_that_do_not_fit_together_are_refused(services, months, bank_files, tmp_path) -> None:
    def refused(match: str, target: str = str(tmp_path / "out.csv")) -> None:
        with pytest.raises(DataRefused, match=match):
            score_file(services, CHURN, str(months), target, None)

    refused("would lie among the files", str(months / "out.csv"))
    (months / "f.csv").write_text("CreditScore,Age\n600,40\n")
    refused("f.csv has other columns")
    as_parquet(bank_files["churn"], months / "f.csv")
    refused("CSV and Parquet files")
    (months / "f.csv").write_text("what is this?\n")
    refused("f.csv names no column")
    for part in months.rglob("*.csv"):
        part.write_text("CreditScore,Age\n")
    refused("has no rows")


# Places that fail.


def test_what_is_no_ordinary_file_is_not_replaced(services, bank_files, tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "linked.csv")
    for taken in (tmp_path / "pipe", tmp_path):
        with pytest.raises(DataRefused, match="no ordinary file"):
            score_file(services, CHURN, str(bank_files["churn"]), str(taken), None)
    assert (tmp_path / "pipe").is_fifo()
    score_file(services, CHURN, str(bank_files["churn"]), str(tmp_path / "link"), None)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "linked.csv").is_file()


class Forbidden(Exception):
    """What a store's package raises."""


def test_a_store_that_refuses_is_found_before_scoring(services, hostile, memory, tmp_path, monkeypatch) -> None:
    def refuses(*given: object, **named: object) -> None:
        raise Forbidden("no key\ngiven.")

    monkeypatch.setattr(type(memory), "pipe_file", refuses)
    monkeypatch.setattr("bankportal.cli.score.score_block", lambda *given: pytest.fail("scored"))
    with pytest.raises(DataRefused, match=r"memory://bank/out\.csv cannot be written: no key given\."):
        score_file(services, CHURN, str(hostile), "memory://bank/out.csv", None)
    monkeypatch.setattr(type(memory), "find", refuses)
    with pytest.raises(DataRefused, match=r"memory://bank/in cannot be read: no key given\."):
        score_file(services, CHURN, "memory://bank/in", str(tmp_path / "out.csv"), None)


def test_an_input_that_fails_midway_is_the_one_named(services, hostile, tmp_path, monkeypatch) -> None:
    real = locations.blocks.blocks_from

    def fails(*given, **named):
        yield next(real(*given, **named))
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(locations.blocks, "blocks_from", fails)
    with pytest.raises(DataRefused, match=r"hostile\.csv cannot be read: Input/output error"):
        score_file(services, CHURN, str(hostile), str(tmp_path / "out.csv"), None)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
