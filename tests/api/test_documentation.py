"""The documentation is a page of the portal on both engines, and needs nothing from elsewhere."""

import re

from bankportal.web.documentation import ASSETS


def test_it_works(engine) -> None:
    page = engine.client.get("/docs")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert 'aria-current="page">API</a>' in page.text
    assert engine.client.get("/docs/").status_code == 200


def test_it_has_the_portals_header_and_every_page_leads_to_it(engine) -> None:
    header = re.compile(r'<header class="top">.*?</header>', re.S)
    links = re.compile(r'<a [^>]*?href="([^"]+)"')
    first, documentation = (header.search(engine.client.get(path).text)[0] for path in ("/", "/docs"))
    assert "/docs/" in links.findall(first)
    assert links.findall(documentation) == links.findall(first)


def test_it_needs_nothing_from_elsewhere(engine) -> None:
    page = engine.client.get("/docs").text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {f"/docs/assets/{name}" for name in ASSETS} <= set(addresses)
    for address in addresses:
        assert address.startswith(("/", "#"))
        assert engine.client.get(address).status_code == 200
    assert "<style" not in page
    assert "style=" not in page
    assert not re.search(r"<script(?![^>]*src=)", page)


def test_assets_are_what_they_are(engine) -> None:
    for name, media in zip(ASSETS, ("text/javascript", "text/css"), strict=True):
        response = engine.client.get(f"/docs/assets/{name}")
        assert response.headers["Content-Type"] == f"{media}; charset=utf-8"
        assert "max-age=3600" in response.headers["Cache-Control"]
        assert len(response.content) > 500
    assert engine.client.get("/docs/assets/index.html").status_code == 404
    assert engine.client.post("/docs/").status_code == 405
