"""What the API is measured beside: an empty route on each engine, and the usual service around a pickled forest.

The usual service reads its pickle when it starts and calls `predict_proba` and `predict` for each request;
`/score-unpickling` reads it anew for each request, as such services do too.
"""

import os
import pickle
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from flask import Flask

PICKLE = "FOREST_PICKLE"

flask_app = Flask(__name__)
fastapi_app = FastAPI()
pickled_app = FastAPI()


@flask_app.get("/")
def empty() -> str:
    """Answer nothing."""
    return ""


@fastapi_app.get("/")
async def empty_async() -> Response:
    """Answer nothing."""
    return Response()


def load() -> Any:
    """Unpickle the forest and the names of its columns."""
    return pickle.loads(Path(os.environ[PICKLE]).read_bytes())  # what is measured


once = cache(load)
if PICKLE in os.environ:
    once()


@pickled_app.post("/score")
def score(customer: dict[str, Any]) -> dict[str, float]:
    """Score with the forest that was unpickled at the start."""
    return answer(once(), customer)


@pickled_app.post("/score-unpickling")
def score_unpickling(customer: dict[str, Any]) -> dict[str, float]:
    """Unpickle, and score."""
    return answer(load(), customer)


def answer(unpickled: Any, customer: dict[str, Any]) -> dict[str, float]:
    """Call the forest twice, as such services do."""
    forest, columns = unpickled
    row = [[customer.get(name) for name in columns]]
    return {"probability": float(forest.predict_proba(row)[0, 1]), "prediction": float(forest.predict(row)[0])}
