"""A load generator that costs little beside what it measures: connections kept alive, requests made before.

    python benchmarks/load.py PORT SECONDS CONNECTIONS REQUESTS

REQUESTS is a JSON file of whole HTTP requests, sent in turn. Every connection sends its next request once it has the
answer to the last. Prints as JSON how many were answered, how long that took, and the milliseconds within which 50 and
99 of 100 were; ends with an error where an answer is not a 200 or a connection breaks.
"""

import json
import re
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

HOST = "127.0.0.1"
PATIENCE = 30.0  # seconds without any answer
LENGTH = re.compile(rb"\r\ncontent-length: ?([0-9]+)\r\n", re.IGNORECASE)


class Caller:
    """One connection and the request it waits for."""

    def __init__(self, port: int, requests: Iterator[bytes]):
        self.requests = requests
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ask()

    def ask(self) -> None:
        """Send the next request."""
        self.received = b""
        self.since = time.perf_counter()
        self.socket.sendall(next(self.requests))

    def answered(self) -> bool:
        """Take in what has come, and say whether that is the whole answer."""
        block = self.socket.recv(65_536)
        self.received += block
        head, found, body = self.received.partition(b"\r\n\r\n")
        if not block or not self.received.startswith(b"HTTP/1.1 200 "[: len(self.received)]):
            raise SystemExit(f"not answered with 200: {self.received[:1000]!r}")
        length = LENGTH.search(head + b"\r\n") if found else None
        return length is not None and len(body) >= int(length[1])


def run(port: int, seconds: float, connections: int, requests: list[bytes]) -> dict[str, float]:
    """Keep the connections busy, and return what came of it."""
    turn = cycle(requests)
    waits: list[float] = []
    start = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        callers = [Caller(port, turn) for _ in range(connections)]
        for caller in callers:
            selector.register(caller.socket, selectors.EVENT_READ, caller)
        while callers:
            ready = selector.select(PATIENCE)
            if not ready:
                raise SystemExit(f"no answer within {PATIENCE:g} seconds")
            for key, _ in ready:
                caller = key.data
                if not caller.answered():
                    continue
                now = time.perf_counter()
                waits.append(now - caller.since)
                if now < start + seconds:
                    caller.ask()
                else:
                    selector.unregister(caller.socket)
                    caller.socket.close()
                    callers.remove(caller)
    waits.sort()
    return {
        "answered": len(waits),
        "seconds": time.perf_counter() - start,
        "p50": waits[len(waits) // 2] * 1e3,
        "p99": waits[len(waits) * 99 // 100] * 1e3,
    }


def main() -> None:
    """Run as the command line says."""
    port, seconds, connections, file = sys.argv[1:]
    requests = [text.encode() for text in json.loads(Path(file).read_text(encoding="utf-8"))]
    print(json.dumps(run(int(port), float(seconds), int(connections), requests)))


if __name__ == "__main__":
    main()
