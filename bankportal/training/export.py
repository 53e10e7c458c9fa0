"""A registered model version for use outside the portal: a scikit-learn classifier that scores data frames.

The portal writes such files and never reads one: what joblib loads may run code.
"""

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin

from bankportal.domain.declaration import product_of
from bankportal.domain.errors import DataRefused
from bankportal.domain.products import Product
from bankportal.files import replacing
from bankportal.model.encoding import Encoding
from bankportal.model.forest import DTYPES, Forest
from bankportal.registry.registry import LoadedModel
from bankportal.training.frames import read_frame


class ExportedModel(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A registered version: plain arrays and its manifest. It scores rows as the portal does, to the last bit.

    `X` is a data frame with the product's factors under their names or aliases, as `frames.read_frame` takes it;
    columns that the forest does not score are passed over. An array needs one column for each of `feature_names_in_`.
    """

    def __init__(self, declaration: str, manifest: dict[str, Any], arrays: dict[str, NDArray[Any]]):
        self.declaration = declaration
        self.manifest = manifest
        self.arrays = arrays

    classes_ = np.array([0, 1])

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """The names of the factors that the forest scores, (factors,)."""
        return np.array([factor.name for factor in self._product().scored], dtype=object)

    def fit(self, X: Any, y: Any = None) -> "ExportedModel":  # noqa: N803  # scikit-learn's names
        """Return the model as it is: a registered version learns nothing more."""
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:  # noqa: N803
        """Return the probabilities of label 0 and 1, (rows, 2).

        Raises `DataRefused` where a required column is missing or a row has a cell that the portal would not score.
        """
        product = self._product()
        frame = X if isinstance(X, pd.DataFrame) else pd.DataFrame(X, columns=self.feature_names_in_)
        table = read_frame(frame[[name for name in frame.columns if not product.label.matches(str(name))]], product)
        if missing := [factor.name for factor in product.required if factor.name in table.missing]:
            raise DataRefused(f"{table.name} lacks columns that {product.key} requires: {', '.join(missing)}.")
        if table.rejected:
            raise DataRefused(f"{table.name} has {table.rejected:,} rows that cannot be scored: {table.problems[0]}.")
        encoding = Encoding.from_json(self.manifest["encoding"], product)
        score = Forest(**self.arrays).score(encoding.matrix(table.columns))
        return np.column_stack([1 - score, score])

    def _product(self) -> Product:
        return product_of(self.declaration, None)  # scores need no policy

    def predict(self, X: Any) -> NDArray[np.int64]:  # noqa: N803
        """Return 1 where its probability is 0.5 or more, else 0, (rows,)."""
        return (self.predict_proba(X)[:, 1] >= 0.5).astype(np.int64)


def export_model(product: Product, model: LoadedModel, path: Path) -> None:
    """Write a version, with the product's declaration, to a file that `joblib.load` reads; `OSError` if that fails."""
    arrays = {name: getattr(model.forest, name) for name in DTYPES}
    with replacing(path) as file:
        joblib.dump(ExportedModel(product.text, dict(model.manifest), arrays), file.buffer, compress=3)
