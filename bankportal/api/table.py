"""The table of operations of one portfolio: which operation answers a method and path, and the document."""

import re
from collections.abc import Mapping
from functools import cache, cached_property
from itertools import chain, permutations, product
from typing import Any

from bankportal.answers import BASE
from bankportal.api import legacy, openapi
from bankportal.api.calls import Call, Operation
from bankportal.api.operations import operations_of
from bankportal.api.parameters import FLAGS, ScoreMany, declared
from bankportal.api.problems import Refused
from bankportal.domain.errors import NotFound
from bankportal.domain.portfolio import Portfolio

OF_PRODUCT = re.compile(f"{BASE}/([^/]+)/scores?")
Methods = dict[str, Operation]


class OperationTable:
    """The operations on a portfolio. It never changes: another portfolio makes another table.

    `with_legacy` adds the older system's paths.
    """

    def __init__(self, portfolio: Portfolio, *, with_legacy: bool):
        self.portfolio = portfolio
        self.operations = (*operations_of(portfolio), *(legacy.operations_of(portfolio) if with_legacy else ()))
        self._single_scores = frozenset(f"{BASE}/{key}/score" for key in portfolio)
        self._fixed_paths: dict[str, Methods] = {}
        self._path_patterns: dict[str, tuple[re.Pattern[str], Methods]] = {}
        for operation in self.operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        if "{" not in operation.path:
            self._fixed_paths.setdefault(operation.path, {})[operation.method] = operation
            return
        pattern = re.compile(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", operation.path))
        self._path_patterns.setdefault(operation.path, (pattern, {}))[1][operation.method] = operation

    @cached_property
    def document(self) -> dict[str, Any]:
        """The OpenAPI document as plain data."""
        return openapi.document(self.portfolio)

    @cached_property
    def document_text(self) -> bytes:
        """The OpenAPI document as it is served."""
        return openapi.text(self.document).encode()

    def is_single_score(self, call: Call) -> bool:
        """Say whether a call only scores one customer, recorded or not: what else takes long is answered alone."""
        return call.path in self._single_scores and call.query in _queries_without_recourse()

    def knows(self, path: str) -> bool:
        """Say whether there is an operation at a path."""
        try:
            self.operations_at(path)
        except (NotFound, Refused):
            return False
        return True

    def find(self, method: str, path: str) -> tuple[Operation, Mapping[str, str]]:
        """Return the operation of a method and path, and the path's parameters; a 404 or 405 where there is none."""
        methods, captured = self.operations_at(path)
        operation = methods.get("GET" if method == "HEAD" else method)
        if operation is None:
            raise not_allowed(method, list(methods))
        return operation, captured

    def operations_at(self, path: str) -> tuple[Methods, Mapping[str, str]]:
        """Return the operations at a path by their methods, and the path's parameters.

        Raises `NotFound` at the paths of a product that is not in force, `Refused` at others where there is nothing.
        """
        if methods := self._fixed_paths.get(path):
            return methods, {}
        for pattern, methods in self._path_patterns.values():
            if match := pattern.fullmatch(path):
                return methods, match.groupdict()
        if match := OF_PRODUCT.fullmatch(path):
            self.portfolio.product(match[1])
        if path in legacy.PRODUCT_KEYS:
            self.portfolio.product(legacy.PRODUCT_KEYS[path])
        raise Refused("not-found", "There is no such path in this API.")


@cache
def _queries_without_recourse() -> frozenset[str]:
    """Return the queries of a single score that ask for no more than `ScoreMany` has, as they are usually written."""
    switches = [each.name for each in declared(ScoreMany) if each.place == "query"]
    named = chain.from_iterable(permutations(switches, count) for count in range(len(switches) + 1))
    return frozenset(
        "&".join(f"{name}={flag}" for name, flag in zip(names, flags, strict=True))
        for names in named
        for flags in product(FLAGS, repeat=len(names))
    )


def not_allowed(method: str, allowed: list[str]) -> Refused:
    """Return the refusal of a method that a path does not take."""
    names = ", ".join(sorted([*allowed, "HEAD"] if "GET" in allowed else allowed))
    return Refused("method-not-allowed", f"This path takes {names}, not {method[:20]}.", (), {"Allow": names})
