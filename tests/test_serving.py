"""How gunicorn serves: what no portal of the other tests runs under."""

import socket
from types import SimpleNamespace

import pytest

from bankportal import serving


@pytest.fixture
def connection(monkeypatch):
    """The server's end of a connection and the client's, which stays silent."""
    monkeypatch.setattr(serving, "SILENCE", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving.when_ready(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)]))
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as server:
            yield server, client


def test_who_stops_sending_is_given_up(connection) -> None:
    server, client = connection
    client.sendall(b"GET / HT")
    assert server.recv(100) == b"GET / HT"
    with pytest.raises(BlockingIOError):
        server.recv(100)


def test_who_stops_reading_is_given_up(connection) -> None:
    server, _ = connection
    with pytest.raises(BlockingIOError):
        server.sendall(bytes(100_000_000))
