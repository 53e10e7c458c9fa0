from dataclasses import replace

import pytest

from bankportal import create_app
from bankportal.domain.errors import SettingsRefused
from tests.conftest import config_for
from tests.shipped import CHURN


def test_it_works(client) -> None:
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json["models"] == {"churn": "v1", "allowance": "v1"}
    assert response.json["status"] == "ok"


def test_a_portal_that_cannot_record_is_not_healthy(app, client) -> None:
    (app.extensions["bankportal"].config.instance / "bankportal.sqlite3").unlink()
    assert client.get("/healthz").status_code == 503


def test_an_older_model_in_service_is_said(app, client, trained) -> None:
    services = app.extensions["bankportal"]
    services.models.add(trained["churn"], activate=True)
    (services.config.models / "churn" / "v2" / "forest.npz").write_bytes(b"")
    services.models.registry._models.clear()
    services.models.registry._manifests.clear()
    response = client.get("/healthz")
    assert response.status_code == 200
    assert response.json["status"] == "an older model serves"
    assert "v2" in response.json["refused"]["churn"]
    for page in ("/", "/models/"):
        text = client.get(page).text
        assert "Churn model v2 is refused" in text
        assert "An earlier version answers" in text


def test_a_portal_without_models_says_so(empty_app) -> None:
    response = empty_app.test_client().get("/healthz")
    assert response.status_code == 503
    assert response.json["models"] == {"churn": None, "allowance": None}


@pytest.mark.parametrize("secret", [None, "short"])
def test_no_start_without_a_secret(tmp_path, secret) -> None:
    with pytest.raises(SettingsRefused, match="BANKPORTAL_SECRET_KEY"):
        create_app(replace(config_for(tmp_path), secret_key=secret))


@pytest.mark.parametrize("path", ["/", "/churn/", "/nothing-here", "/healthz", "/static/portal.css"])
def test_headers(client, path) -> None:
    with client.get(path) as response:
        headers = response.headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"


def test_pages_are_not_cached_and_static_files_are(client) -> None:
    assert client.get("/").headers["Cache-Control"] == "no-store"
    with client.get("/static/portal.css") as response:
        assert "max-age=31536000" in response.headers["Cache-Control"]


def test_static_addresses_change_with_the_file(client) -> None:
    assert "portal.css?v=" in client.get("/").text


def test_other_hosts_are_refused(client) -> None:
    response = client.get("/", headers={"Host": "evil.example"})
    assert response.status_code == 400


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/decisions/nothing", 404), ("/churn/preview", 405)])
def test_errors_are_pages(client, path, status) -> None:
    response = client.get(path)
    assert response.status_code == status
    assert "<h1" in response.text
    assert "Traceback" not in response.text


def test_a_405_says_what_is_allowed(client) -> None:
    assert "POST" in client.get("/churn/preview").headers["Allow"]


def test_too_large_a_form(client) -> None:
    assert client.post("/churn/", data={"Surname": "x" * 2_000_000}).status_code == 413


def test_a_database_that_is_not_there_is_a_503(app, client) -> None:
    with app.extensions["bankportal"].database.write() as connection:
        connection.exec_driver_sql("DROP TABLE protected_values")
        connection.exec_driver_sql("DROP TABLE decisions")
    response = client.get("/decisions/")
    assert response.status_code == 503
    assert "flask up" in response.text


def test_a_fault_of_ours_is_a_page_with_a_reference(app, client, monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr("bankportal.services.scoring.Scoring.decide", fail)
    response = client.post("/churn/", data={"CreditScore": "600", "Age": "40", "Tenure": "1", "Balance": "0"})
    assert response.status_code == 500
    assert "secret detail" not in response.text
    assert response.headers["X-Request-Id"] in response.text


def test_refused_files_serve_the_version_before_or_say_so(app, client) -> None:
    services = app.extensions["bankportal"]
    for path in (services.config.models / "churn").glob("*/forest.npz"):
        path.write_bytes(b"damaged")
    assert client.get("/healthz").status_code == 503
    assert client.get("/").status_code == 200
    response = client.post("/churn/", data={"CreditScore": "600", "Age": "40", "Tenure": "1", "Balance": "0"})
    assert response.status_code == 503
    assert services.decisions.latest(1, CHURN.key) == []
