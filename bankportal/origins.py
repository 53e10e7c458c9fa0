"""Which requests a browser sent for a page of another origin: those must not make the portal act.

A browser says where a request comes from in `Sec-Fetch-Site` and `Origin`, which no page can forge. Programs send
neither. Method and headers are all that is needed, so a request is turned away before its body is read.
"""

from collections.abc import Mapping

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # they change nothing here
OWN_SITES = frozenset({None, "same-origin", "none"})  # `none` is the person: typed, or opened from a bookmark
DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def is_foreign(method: str, headers: Mapping[str, str], own: str) -> bool:
    """Say whether a page of another origin than `own` asks for something to be done; `headers` in lower case."""
    if method in SAFE_METHODS:
        return False
    origin = headers.get("origin")
    return headers.get("sec-fetch-site") not in OWN_SITES or origin not in {None, own}


def origin_of(scheme: str, host: str) -> str:
    """Return the origin of a request's scheme and `Host` header as browsers write it: without the scheme's own port.

    >>> origin_of("http", "Localhost:8000"), origin_of("https", "portal.bank.example:443")
    ('http://localhost:8000', 'https://portal.bank.example')
    """
    return f"{scheme}://{host.lower().removesuffix(DEFAULT_PORTS.get(scheme, ''))}"
