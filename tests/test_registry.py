import json
import random
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from bankportal.domain.errors import NoActiveModel, NotFound, VersionRefused
from bankportal.registry import registry as registry_module
from bankportal.registry.registry import ARRAYS, EFFECTS, MANIFEST, TABLES, Registry
from tests.shipped import CHURN, FACTORS


def folder(services, version="v1"):
    return services.config.models / "churn" / version


def registered(services, version="v1"):
    return services.models.store.get("churn", version)


def load(services, version="v1"):
    fresh = Registry(services.config.models)
    return fresh.model(CHURN, version, registered(services, version).manifest_digest)


def test_it_works(services, trained) -> None:
    model = load(services)
    assert model.forest.to_bytes() == trained["churn"].forest.to_bytes()
    assert model.encoding == trained["churn"].encoding


def test_a_version_is_read_once_a_process(services, monkeypatch) -> None:
    registry = Registry(services.config.models)
    reads = []
    original = Registry._load
    monkeypatch.setattr(Registry, "_load", lambda self, *key: reads.append(key) or original(self, *key))
    found = []
    digest = registered(services).manifest_digest
    threads = [threading.Thread(target=lambda: found.append(registry.model(CHURN, "v1", digest))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1
    assert len(found) == 16
    assert len({id(model) for model in found}) == 1


def test_a_new_active_version_is_noticed_without_a_restart(services, trained) -> None:
    assert services.models.serving(CHURN).version == "v1"
    added = services.models.add(trained["churn"])
    assert not added.active
    assert services.models.serving(CHURN).version == "v1"
    services.models.activate(CHURN, "v2")
    assert services.models.serving(CHURN).version == "v2"
    assert [version.active for version in services.models.versions(CHURN)] == [True, False]


def test_rolling_back_is_activating_again(services, trained) -> None:
    services.models.add(trained["churn"], activate=True)
    services.models.activate(CHURN, "v1")
    assert services.models.serving(CHURN).version == "v1"
    assert [found.version for found in services.models.store.activated("churn")] == ["v1", "v2", "v1"]


@pytest.mark.parametrize("name", [MANIFEST, ARRAYS])
def test_a_changed_byte_is_refused_by_name_and_the_version_before_serves(services, trained, name) -> None:
    services.models.add(trained["churn"], activate=True)
    path = folder(services, "v2") / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(VersionRefused, match=f"Churn model v2 is refused: {name}"):
        load(services, "v2")
    restarted = registry_module.Registry(services.config.models)
    services.models.registry = restarted
    assert services.models.serving(CHURN).version == "v1"
    assert "v2" in services.models.verify(CHURN)["v2"]


def test_a_manifest_and_arrays_forged_together_are_refused(services, trained) -> None:
    services.models.add(trained["churn"], activate=True)
    manifest = folder(services, "v2") / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seed": 99}))
    with pytest.raises(VersionRefused, match="not the file that was registered"):
        load(services, "v2")


def test_a_missing_file_is_refused(services) -> None:
    (folder(services) / ARRAYS).unlink()
    with pytest.raises(VersionRefused, match=r"forest\.npz cannot be read"):
        load(services)


def test_what_cannot_be_loaded_cannot_be_activated(services, trained) -> None:
    services.models.add(trained["churn"])
    services.models.registry = Registry(services.config.models)
    (folder(services, "v2") / ARRAYS).write_bytes(b"")
    with pytest.raises(VersionRefused):
        services.models.activate(CHURN, "v2")
    assert services.models.serving(CHURN).version == "v1"


@pytest.mark.parametrize("version", ["v9", "../v1", "v0", "", "v1/", "x" * 100])
def test_unknown_versions(services, version) -> None:
    with pytest.raises(NotFound):
        services.models.get(CHURN, version)
    with pytest.raises(VersionRefused):
        services.models.registry.model(CHURN, version, "0" * 64)


def test_no_model_says_what_to_do(empty_services) -> None:
    with pytest.raises(NoActiveModel, match="flask train churn"):
        empty_services.models.serving(CHURN)


def test_nothing_is_left_of_a_write_that_failed(services, trained, monkeypatch) -> None:
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(registry_module, "_write_durably", fail)
    with pytest.raises(OSError, match="disk full"):
        services.models.add(trained["churn"])
    assert [path.name for path in (services.config.models / "churn").iterdir()] == ["v1"]
    assert [found.version for found in services.models.store.all("churn")] == ["v1"]


def test_a_version_whose_files_are_gone_keeps_its_number(services, trained) -> None:
    shutil.rmtree(services.config.models)
    services.models.registry = Registry(services.config.models)
    added = services.models.add(trained["churn"])
    assert (added.version, added.active) == ("v2", True), "nothing could serve, so the new one does"


def test_a_refused_active_version_is_said(services, trained) -> None:
    assert services.models.refusal(CHURN) is None
    services.models.add(trained["churn"], activate=True)
    (folder(services, "v2") / ARRAYS).write_bytes(b"")
    services.models.registry = Registry(services.config.models)
    assert "Churn model v2 is refused" in services.models.refusal(CHURN)
    assert services.models.serving(CHURN).version == "v1"


def test_a_folder_without_a_registration_is_passed_over(services, trained) -> None:
    shutil.copytree(folder(services), folder(services, "v2"))  # killed between files and database
    assert [version.version for version in services.models.versions(CHURN)] == ["v1"]
    assert services.models.add(trained["churn"]).version == "v3"


def test_random_corruptions_never_score(services) -> None:
    """Whatever happens to a file, it is refused by name, or its hash would have to collide."""
    draw = random.Random(5)
    originals = {name: (folder(services) / name).read_bytes() for name in (MANIFEST, ARRAYS, EFFECTS, TABLES)}
    names = [MANIFEST, ARRAYS, EFFECTS] * 320 + [TABLES] * 40  # the tables are large: each of theirs takes its time
    for name in names:
        content = bytearray(originals[name])
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (folder(services) / name).write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
        with pytest.raises(VersionRefused, match=f"Churn model v1 is refused: {name}"):
            load(services)
        (folder(services) / name).write_bytes(originals[name])
    assert load(services).version == "v1"


def test_tables_of_another_forest_are_refused(services, trained) -> None:
    """Hashes that are right do not make tables belong to a forest."""
    v1 = folder(services)
    other = replace(trained["churn"].forest, value=trained["churn"].forest.value / 2)
    files = {ARRAYS: other.to_bytes(), TABLES: (v1 / TABLES).read_bytes(), EFFECTS: (v1 / EFFECTS).read_bytes()}
    manifest = json.loads((v1 / MANIFEST).read_text())
    version, digest = services.models.registry.add(CHURN, manifest, files)
    with pytest.raises(VersionRefused, match=f"Churn model {version} is refused"):
        services.models.registry.model(CHURN, version, digest)


def test_declarations_of_a_product_share_the_arrays(services) -> None:
    """A moved cut-off, a new word or another order of the factors needs no other model, and none is loaded."""
    later = replace(CHURN, title="Leaving", optional=CHURN.optional[::-1], bands=(CHURN.bands[0],))
    digest = registered(services).manifest_digest
    registry = Registry(services.config.models)
    assert registry.model(CHURN, "v1", digest) is registry.model(later, "v1", digest)
    registry.verify(later, "v1", digest)


def test_a_product_that_scores_other_factors_is_refused_and_says_why(services) -> None:
    registry, digest = Registry(services.config.models), registered(services).manifest_digest
    fewer = replace(CHURN, optional=CHURN.optional[1:])
    more = replace(CHURN, optional=(*CHURN.optional, FACTORS["CardUtilisation"]))
    for _ in range(2):  # also once it was loaded for another
        for read in (registry.verify, registry.model):
            with pytest.raises(VersionRefused, match="Churn model v1 is refused: churn does not score 'Geography'"):
                read(fewer, "v1", digest)
            with pytest.raises(VersionRefused, match="refused: it was trained without CardUtilisation, which churn"):
                read(more, "v1", digest)
        registry.model(CHURN, "v1", digest)


def test_where_the_active_version_does_not_fit_the_one_before_serves(services) -> None:
    manifest = json.loads((folder(services) / MANIFEST).read_text())
    manifest["encoding"] = [column for column in manifest["encoding"] if column["factor"] != "HasLoan"]
    files = {name: (folder(services) / name).read_bytes() for name in (ARRAYS, EFFECTS, TABLES)}
    version, digest = services.models.registry.add(CHURN, manifest, files)
    services.models.store.register("churn", version, digest, activate=True)
    assert services.models.serving(CHURN).version == "v1"
    assert services.models.refusal(CHURN) == (
        "Churn model v2 is refused: it was trained without HasLoan, which churn scores."
    )


def test_a_manifest_names_its_declaration_and_formats(services) -> None:
    model = load(services)
    assert model.manifest["declaration"] == CHURN.digest
    assert model.manifest["format"] == 2
    assert model.manifest["formats"] == {ARRAYS: 1, TABLES: 1, EFFECTS: 1}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"product": "allowance"}, "its manifest is of another product"),
        ({"format": 3}, "its manifest has format 3, .*written by a newer release"),
        ({"formats": {ARRAYS: 2}}, "forest.npz has format 2, .*written by a newer release"),
        ({"formats": {"links.npz": 1}}, "links.npz has format 1, .*written by a newer release"),
    ],
    ids=["product", "format", "format of a file", "unknown file"],
)
def test_a_manifest_of_another_product_or_format_is_refused(services, other, reason) -> None:
    path = folder(services) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    digest = registry_module.digest(path.read_bytes())
    with pytest.raises(VersionRefused, match=rf"Churn model v1 is refused: {reason}"):
        Registry(services.config.models).model(CHURN, "v1", digest)


@pytest.mark.parametrize("module", ["app", "asgi", "wiring", "services.batches.worker", "services.batches.cluster"])
def test_loading_brings_no_training_library(module) -> None:
    libraries = {"sklearn", "pandas", "scipy", "joblib", "bankportal.training", "bankportal.simulation.customers"}
    code = f"import sys, bankportal.{module}; print(sorted({libraries} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_scoring_brings_no_training_library(config) -> None:
    code = (
        "import sys; from bankportal import wiring; from bankportal.config import load; "
        "from bankportal.domain.portfolio import shipped_portfolio; s = wiring.build(load()); "
        "[s.models.serving(p).forest.score(__import__('numpy').zeros((2, 60))) for p in shipped_portfolio().values()]; "
        "print(sorted({'sklearn', 'pandas', 'joblib'} & set(sys.modules)))"
    )
    environment = {"BANKPORTAL_INSTANCE": str(config.instance), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_scores_do_not_depend_on_company(services) -> None:
    model = services.models.serving(CHURN)
    rows = np.random.default_rng(3).normal(40, 400, size=(5000, len(model.encoding.columns)))
    rows[::7, 3] = np.nan
    together = model.forest.score(rows)
    alone = [model.forest.score(row[None, :])[0] for row in rows[:300]]
    assert list(together[:300]) == alone


def test_the_first_page_builds_no_model(config) -> None:
    """Pages say which version serves from its verified files alone, so that a worker answers at once."""
    code = (
        "import sys; from bankportal import create_app; app = create_app(); "
        "assert app.test_client().get('/').status_code == 200; "
        "print(sorted({'numba', 'sklearn', 'pandas'} & set(sys.modules)), "
        "len(app.extensions['bankportal'].models.registry._models))"
    )
    environment = {"BANKPORTAL_INSTANCE": str(config.instance), "BANKPORTAL_SECRET_KEY": "x" * 32, "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[] 0"
