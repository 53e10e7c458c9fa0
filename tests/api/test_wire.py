"""Bytes that no well-behaved client sends, to both engines behind servers of their own."""

import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from bankportal import answers
from bankportal.api.calls import MULTIPART
from bankportal.api.schemas import example
from tests.api.conftest import address_of
from tests.conftest import PATIENCE
from tests.shipped import CHURN

SCORE, BATCHES = "/api/v1/churn/score?record=false", "/api/v1/batches"
NO_HOST = "X-Host: none\r\n"
CHUNKED = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def address(engine) -> Iterator[tuple[str, int]]:
    with address_of(engine) as found:
        parts = urlsplit(found)
        assert parts.hostname
        assert parts.port
        yield parts.hostname, parts.port


def answered(address, method: str, path: str, headers: str = "", body: bytes = b"") -> tuple[int, str, bytes]:
    """Send one request as it is; return status, content type and body of what comes back."""
    host = "" if "Host:" in headers or NO_HOST in headers else "Host: localhost\r\n"
    with socket.create_connection(address, PATIENCE) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n".encode() + body)
        file = connection.makefile("rb")
        status = int(file.readline().split()[1])
        told = dict(line.decode("latin-1").lower().split(": ", 1) for line in iter(file.readline, b"\r\n"))
        return status, told["content-type"].strip(), file.read(int(told["content-length"]))


def refused(found: tuple[int, str, bytes], status: int) -> answers.Problem:
    assert found[:2] == (status, "application/problem+json"), found
    return answers.Problem.model_validate_json(found[2], extra="forbid")


def chunks(*blocks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(block), block) for block in (*blocks, b""))


def test_a_body_in_chunks(address) -> None:
    content = json.dumps(example(CHURN)).encode()
    status, media, body = answered(address, "POST", SCORE, CHUNKED, chunks(content[:9], content[9:]))
    assert (status, media) == (200, "application/json"), body
    assert json.loads(body)["product"] == "churn"


def test_a_body_in_chunks_that_is_too_large(address) -> None:
    found = answered(address, "POST", SCORE, CHUNKED, chunks(*[b" " * 100_000] * 10, b" "))
    assert "1,000,000" in refused(found, 413).detail


def test_chunks_that_are_none(address) -> None:
    status, _, body = answered(address, "POST", SCORE, CHUNKED, b"zz\r\nabc\r\n0\r\n\r\n")
    assert (status, b"Traceback" in body) == (400, False)


class Unreadable:
    """What gunicorn gives for such chunks: it fails with an error of its own."""

    def read(self, size: int = -1) -> bytes:
        raise RuntimeError("Invalid chunk size")


@pytest.mark.parametrize(("path", "media"), [(SCORE, "application/json"), (BATCHES, "multipart/form-data; boundary=b")])
def test_what_the_server_cannot_read(app, path, media) -> None:
    environ = EnvironBuilder(path, method="POST", content_type=media).get_environ()
    environ |= {"wsgi.input": Unreadable(), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    blocks, status, _ = run_wsgi_app(app, environ)
    assert status.startswith("400")
    assert json.loads(b"".join(blocks))["type"].endswith(":unreadable")


def test_what_is_too_large_is_refused_before_it_is_sent(address) -> None:
    for path, media, limit in (
        (SCORE, "application/json", "1,000,000 bytes"),
        (BATCHES, MULTIPART, "UPLOAD_MEGABYTES"),
    ):
        headers = f"Content-Type: {media}\r\nContent-Length: 99999999999\r\n"
        assert limit in refused(answered(address, "POST", path, headers), 413).detail


@pytest.mark.parametrize("path", [SCORE, BATCHES, "/churn/", "/batches/", "/nothing"])
def test_pages_of_other_origins_are_refused_before_the_body_is_sent(address, path) -> None:
    headers = f"Content-Type: {MULTIPART}; boundary=b\r\nContent-Length: 900000\r\nOrigin: https://evil.example\r\n"
    assert answered(address, "POST", path, headers)[0] == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Origin: http://localhost\r\n", 200),
        ("ORIGIN: http://localhost\r\nSEC-FETCH-SITE: same-origin\r\n", 200),
        ("Host: localhost:80\r\nOrigin: http://localhost\r\n", 200),
        ("Host: localhost:81\r\nOrigin: http://localhost:81\r\n", 200),
        ("x-forwarded-host: evil.example\r\nOrigin: http://evil.example\r\n", 403),
        ("X-Forwarded-Port: 3000\r\nOrigin: http://localhost:3000\r\n", 403),
        ("Forwarded: host=evil.example\r\nOrigin: http://evil.example\r\n", 403),
        ("Host: localhost:81\r\nOrigin: http://localhost\r\n", 403),
        ("Origin: http://localhost\r\nOrigin: http://localhost\r\n", 403),
        ("Origin: https://evil.example\r\nOrigin: http://localhost\r\n", 403),
        ("Origin: http://localhost\r\nOrigin: https://evil.example\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\nSec-Fetch-Site: same-origin\r\n", 403),
        ("Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\nSec_Fetch_Site: same-origin\r\n", 403),
        ("Origin:\r\n", 403),
        ("Origin: http://localhost.\r\n", 403),
        ("Host: localhost.\r\nOrigin: http://localhost.\r\n", 400),
        ("Host: evil.example\r\nOrigin: http://evil.example\r\n", 400),
    ],
)
@pytest.mark.parametrize("path", [SCORE, "/churn/preview"])
def test_odd_headers_about_the_origin(address, path, headers, status) -> None:
    content = json.dumps(example(CHURN)).encode() if path == SCORE else b"CreditScore=650&Age=42&Tenure=5&Balance=1"
    media = "application/json" if path == SCORE else "application/x-www-form-urlencoded"
    headers += f"Content-Type: {media}\r\nContent-Length: {len(content)}\r\n"
    found = answered(address, "POST", path, headers, content)
    assert found[0] == status, found[2]


@pytest.mark.parametrize("path", [SCORE, "/churn/preview"])
def test_behind_a_proxy_that_speaks_tls(engine, address, path) -> None:
    """The server is told the scheme by the proxy; the one that serves Flask in tests is not, so its app is asked."""
    headers = "Origin: https://localhost\r\nContent-Length: 0\r\n"
    assert answered(address, "POST", path, headers)[0] == 403
    if engine.name == "flask":
        secure = engine.app.test_client().post(
            path, base_url="https://localhost", headers={"Origin": "https://localhost"}
        )
        assert secure.status_code != 403
    else:
        assert answered(address, "POST", path, f"X-Forwarded-Proto: https\r\n{headers}")[0] != 403


@pytest.mark.parametrize(
    "path", ["/api/v1/decisions/%FF", "/api/v1/products%00", "/api/../api/v1/products", "///api/v1"]
)
def test_paths(address, path) -> None:
    assert refused(answered(address, "GET", path), 404).type.endswith(":not-found")


def test_paths_are_decoded(address) -> None:
    assert answered(address, "GET", "/%61pi/v1/pro%64ucts")[0] == 200


@pytest.mark.parametrize("host", ["", "evil.example", "localhost.evil.example", "local host"])
def test_hosts(address, host) -> None:
    assert refused(answered(address, "GET", "/api/v1/products", f"Host: {host}\r\n"), 400).type.endswith(
        ":host-refused"
    )


@pytest.mark.parametrize("path", ["/api/v1/products", "/openapi.json"])
def test_no_host_at_all(address, path) -> None:
    refused(answered(address, "GET", path, NO_HOST), 400)


@pytest.mark.parametrize("keys", [("one", "two"), ("one", "one"), ("one,two",), ("one", ""), ("",)])
def test_one_key_and_no_more(address, keys) -> None:
    content = json.dumps(example(CHURN)).encode()
    headers = "".join(f"Idempotency-Key: {key}\r\n" for key in keys)
    headers += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    (error,) = refused(answered(address, "POST", "/api/v1/churn/score", headers, content), 422).errors
    assert (error.place, error.field) == ("header", "Idempotency-Key")
    assert "no comma" in error.message


def test_a_part_without_a_name(address) -> None:
    body = b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"
    headers = f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n"
    assert "no name" in refused(answered(address, "POST", BATCHES, headers, body), 400).detail


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "*/*", "application/json;q=0"])
def test_refusals_are_problems_whatever_is_accepted(address, accept) -> None:
    refused(answered(address, "GET", "/api/v1/nothing", f"Accept: {accept}\r\n"), 404)
