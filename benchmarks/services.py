"""What the API is measured beside: empty routes, routes that commit one row, and the usual service around a forest.

`/row` takes a customer and commits one row of a kilobyte, as durably as the portal does: the same driver, journal and
`synchronous`, a connection for each thread, each request its own commit.

The usual service reads its pickle when it starts and calls `predict_proba` and `predict` for each request;
`/score-unpickling` reads it anew for each request, as such services do too.
"""

import json
import os
import pickle
import threading
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from flask import Flask, request

from bankportal.sqlite import WAL_IS_SAFE, driver

PICKLE, ROWS = "FOREST_PICKLE", "ROWS_DATABASE"
ROW_CHARACTERS, BUSY_SECONDS = 1000, 15

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


class _Connections(threading.local):
    def __init__(self) -> None:
        self.own = driver.connect(os.environ[ROWS], timeout=BUSY_SECONDS, isolation_level=None)
        self.own.execute(f"PRAGMA journal_mode={'WAL' if WAL_IS_SAFE else 'TRUNCATE'}")
        self.own.execute("PRAGMA synchronous=FULL")
        self.own.execute("CREATE TABLE IF NOT EXISTS requests (number INTEGER PRIMARY KEY, content TEXT NOT NULL)")


@cache
def connections() -> _Connections:
    """Return each thread's connection, which is opened when the thread first needs it."""
    return _Connections()


def commit_row(customer: dict[str, Any]) -> dict[str, int]:
    """Commit one row and return its number."""
    content = json.dumps(customer).ljust(ROW_CHARACTERS)
    row = connections().own.execute("INSERT INTO requests (content) VALUES (?)", (content,))
    return {"number": row.lastrowid}


@flask_app.post("/row")
def row() -> dict[str, int]:
    """Commit the customer."""
    return commit_row(request.get_json())


@fastapi_app.post("/row")
def row_in_thread(customer: dict[str, Any]) -> dict[str, int]:
    """Commit the customer, in FastAPI's pool of threads."""
    return commit_row(customer)


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
