"""Who a browser asks for: the one rule, without an engine. The engines are in tests/api/test_other_origins.py."""

import pytest

from bankportal.origins import is_foreign, origin_of

OWN = "http://127.0.0.1:8000"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PURGE", "post"])
def test_it_works(method) -> None:
    assert is_foreign(method, {"origin": "https://evil.example"}, OWN)
    assert not is_foreign(method, {"origin": OWN}, OWN)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_who_changes_nothing_is_let_in(method) -> None:
    assert not is_foreign(method, {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, OWN)


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}])
@pytest.mark.parametrize("more", [{}, {"origin": OWN}])
def test_programs_and_own_pages_are_let_in(headers, more) -> None:
    assert not is_foreign("POST", headers | more, OWN)


@pytest.mark.parametrize(
    "site", ["cross-site", "same-site", "", "Same-Origin", "same-origin,same-origin", "same-origin, cross-site", "new"]
)
def test_every_other_site_is_foreign_whatever_the_origin(site) -> None:
    assert is_foreign("POST", {"sec-fetch-site": site, "origin": OWN}, OWN)
    assert is_foreign("POST", {"sec-fetch-site": site}, OWN)


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "null",
            "",
            "*",
            "https://127.0.0.1:8000",
            "http://127.0.0.1",
            "http://127.0.0.1:80",
            "http://127.0.0.1:80000",
        ),
        *("http://127.0.0.1:3000", "http://localhost:8000", "http://127.0.0.1.:8000", "http://127.1:8000"),
        *(f"{OWN}/", f"{OWN}.evil.example", f"{OWN}@evil.example", f"http://evil.example#{OWN}", f"{OWN},{OWN}"),
        *(f"{OWN} https://evil.example", f"https://evil.example {OWN}", "127.0.0.1:8000", "chrome-extension://abc"),
    ],
)
def test_every_other_origin_is_foreign_whatever_the_site(origin) -> None:
    assert is_foreign("POST", {"origin": origin, "sec-fetch-site": "same-origin"}, OWN)
    assert is_foreign("POST", {"origin": origin}, OWN)


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("http", "127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http", "Portal.Bank.Example", "http://portal.bank.example"),
        ("http", "portal.bank.example:80", "http://portal.bank.example"),
        ("http", "portal.bank.example:443", "http://portal.bank.example:443"),
        ("http", "portal.bank.example:8080", "http://portal.bank.example:8080"),
        ("https", "portal.bank.example:443", "https://portal.bank.example"),
        ("https", "portal.bank.example:80", "https://portal.bank.example:80"),
        ("https", "portal.bank.example:8443", "https://portal.bank.example:8443"),
        ("https", "portal.bank.example.", "https://portal.bank.example."),
        ("http", "[::1]:8000", "http://[::1]:8000"),
        ("http", "[::80]", "http://[::80]"),
        ("http", "[2001:DB8::1]:80", "http://[2001:db8::1]"),
    ],
)
def test_the_own_origin_is_what_browsers_write(scheme, host, origin) -> None:
    assert origin_of(scheme, host) == origin
    assert not is_foreign("POST", {"origin": origin}, origin_of(scheme, host))
