import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from bankportal.domain.errors import KeyReused
from bankportal.store.idempotency import IdempotencyKeys

THREADS = 8


def claimed(keys: IdempotencyKeys, key: str, request: bytes) -> bool:
    """Say whether the key is bound to the request."""
    try:
        keys.claim(key, request)
    except KeyReused:
        return False
    return True


def test_a_key_belongs_to_its_first_request(database) -> None:
    keys = IdempotencyKeys(database)
    assert claimed(keys, "one", b"first")
    assert not claimed(keys, "one", b"second")
    assert claimed(keys, "one", b"first")
    assert claimed(keys, "two", b"second")


def test_claims_at_the_same_time(database) -> None:
    processes = [IdempotencyKeys(database), IdempotencyKeys(database)]
    ready = threading.Barrier(THREADS)

    def claim_all(number: int) -> list[bool]:
        ready.wait()
        names = range(10) if number % 2 else reversed(range(10))
        return [
            answer
            for _, answer in sorted((name, claimed(processes[number % 2], f"{name}", b"%d" % number)) for name in names)
        ]

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(claim_all, range(THREADS)))
    assert [sum(of_key) for of_key in zip(*answers, strict=True)] == [1] * 10


def test_claims_together(database) -> None:
    keys = IdempotencyKeys(database)
    keys.claim("old", b"a")
    begun: list[object] = []
    event.listen(database.engine, "begin", begun.append)
    asked = [("one", b"a"), ("two", b"b"), ("one", b"c"), ("two", b"b"), ("old", b"a"), ("old", b"b")]
    refused = keys.claim_all(asked)
    assert [error is None for error in refused] == [True, True, False, True, True, False]
    assert len(begun) == 2, "one transaction reads, one binds"
    with pytest.raises(KeyReused):
        keys.claim("one", b"c")
    assert keys.claim_all([]) == []
