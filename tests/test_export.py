"""An exported model version: a scikit-learn classifier with the portal's scores; the portal reads no such file."""

import ast
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.inspection import permutation_importance
from sklearn.metrics import roc_auc_score

from bankportal.data.reading import read
from bankportal.domain.constraints import Source
from bankportal.domain.errors import DataRefused
from bankportal.domain.schema import validate
from bankportal.training.export import export_model
from bankportal.training.frames import to_frame
from tests.shipped import CHURN, PRODUCTS

PACKAGE = Path(__file__).parents[1] / "bankportal"


@pytest.fixture
def exported(services, tmp_path):
    """Each product's active version, exported and loaded."""

    def load(key: str):
        export_model(PRODUCTS[key], services.models.serving(PRODUCTS[key]), tmp_path / f"{key}.joblib")
        return joblib.load(tmp_path / f"{key}.joblib")

    return load


@pytest.mark.parametrize("key", PRODUCTS)
def test_it_works(services, exported, bank_files, key) -> None:
    """Every row of a file gets the score that the portal gives the customer alone."""
    product = PRODUCTS[key]
    frame = pd.read_csv(bank_files[key], nrows=300)
    texts = pd.read_csv(bank_files[key], nrows=300, dtype=str, keep_default_na=False)
    names = {entry.factor.name for entry in product.factors}
    customers = [
        validate(product, {name: text for name, text in row.items() if name in names}, Source.TEXT)
        for row in texts.to_dict("records")
    ]
    scores = [services.scoring.score(customer).score for customer in customers]
    assert exported(key).predict_proba(frame)[:, 1].tolist() == scores
    assert exported(key).predict(frame).tolist() == [int(score >= 0.5) for score in scores]


def test_another_process_gives_the_same(services, bank_files, tmp_path) -> None:
    model = services.models.serving(CHURN)
    export_model(CHURN, model, tmp_path / "churn.joblib")
    table = read(bank_files["churn"], CHURN)
    code = (
        "import joblib, pandas, sys; model = joblib.load(sys.argv[1]); "
        "print(model.predict_proba(pandas.read_csv(sys.argv[2]))[:, 1].tobytes().hex())"
    )
    command = [sys.executable, "-c", code, tmp_path / "churn.joblib", bank_files["churn"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == model.forest.score(model.encoding.matrix(table.columns)).tobytes().hex()


def test_scikit_learn_takes_it_for_a_classifier(exported, bank_files) -> None:
    model, frame = exported("churn"), to_frame(read(bank_files["churn"], CHURN))
    label = frame.pop("Churn").astype(int)
    assert roc_auc_score(label, model.predict_proba(frame)[:, 1]) > 0.7
    assert model.fit(frame, label).score(frame, label) == (model.predict(frame) == label).mean()
    again = clone(model)
    assert again.predict_proba(frame).tobytes() == model.predict_proba(frame).tobytes()
    found = permutation_importance(model, frame[:200], label[:200], n_repeats=1, random_state=0)
    assert found.importances_mean.shape == (frame.shape[1],)
    scored = frame[list(model.feature_names_in_)]
    assert model.predict_proba(scored.to_numpy(dtype=object)).tobytes() == model.predict_proba(frame).tobytes()
    assert model.classes_.tolist() == [0, 1]
    with pytest.raises(ValueError, match="Shape of passed values"):
        model.predict_proba(np.zeros((2, 3)))


def test_columns_and_cells_are_those_of_the_portal(exported) -> None:
    model = exported("churn")
    frame = pd.DataFrame(
        {"fico": [650], "age": [42], "Tenure": [5], "Balance": [0.0], "Exited": [None], "shoes": ["x"]}
    )
    assert model.predict_proba(frame).shape == (1, 2)
    with pytest.raises(DataRefused, match="lacks columns that churn requires: Age"):
        model.predict_proba(frame.drop(columns="age"))
    with pytest.raises(DataRefused, match=r"1 rows that cannot be scored: line 2: age must be 18 or more"):
        model.predict_proba(frame.assign(age=7))


def calls(tree: ast.AST) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_the_portal_loads_nothing_that_can_run_code() -> None:
    """No module of it calls what unpickles."""
    loading = ("pickle.", "joblib.load", "pd.read_pickle", "pandas.read_pickle", "shelve.", "marshal.", "dill.")
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    assert [(path, call) for path, tree in trees.items() for call in calls(tree) if call.startswith(loading)] == []
    for path, tree in trees.items():
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not imported & {"pickle", "shelve", "marshal", "dill", "cloudpickle"}, path
        assert "joblib" not in imported or path.name == "export.py", path
        assert "allow_pickle=True" not in ast.unparse(tree), path


def test_a_joblib_file_in_the_registry_is_not_loaded(services, tmp_path) -> None:
    folder = services.config.models / "churn" / "v1"
    marker = tmp_path / "ran"
    joblib.dump(Runs(str(marker)), folder / "forest.joblib")
    joblib.dump(Runs(str(marker)), folder / "forest.npz")
    known = services.models.get(CHURN, "v1")
    with pytest.raises(Exception, match="refused"):
        services.models.registry.model(CHURN, "v1", known.manifest_digest)
    assert not marker.exists()
    joblib.load(folder / "forest.joblib")
    assert marker.exists()  # else the above would show nothing


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, marker: str):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)
