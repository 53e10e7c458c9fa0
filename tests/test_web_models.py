import html
import re
from dataclasses import replace

import pytest

from bankportal.web.drawings.charts import CHART_LEFT, CHART_SIDE, CHART_TOP, reliability
from bankportal.web.figures import facts, figures
from tests.shipped import PRODUCTS

EACH_PRODUCT = pytest.mark.parametrize("product", PRODUCTS.values(), ids=lambda product: product.key)


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def test_it_works(client) -> None:
    page = client.get("/models/").text
    for product in PRODUCTS.values():
        assert f'href="/models/{product.key}/v1"' in page
    assert page.count(">serving<") == len(PRODUCTS)


def test_without_models(empty_app) -> None:
    page = empty_app.test_client().get("/models/")
    assert page.status_code == 200
    assert "flask train churn" in page.text


@EACH_PRODUCT
def test_one_version_in_full(app, client, product) -> None:
    model = app.extensions["bankportal"].models.active(product)
    page = text_of(client.get(f"/models/{product.key}/{model.version}").text)
    evaluation = model.evaluation
    assert f"{evaluation['auc']['low']:.3f} to {evaluation['auc']['high']:.3f}" in page
    for baseline in evaluation["baselines"]:
        assert baseline["name"].lower() in page.lower()
        assert f"{baseline['auc']:.3f}" in page
    for row in evaluation["confusion"]:
        assert f"{row['cut_off'] * 100:.0f}% {row['tp']:,} {row['fp']:,} {row['fn']:,} {row['tn']:,}" in page
    assert all(warning in page for warning in evaluation["warnings"])
    assert model.manifest_digest in page
    assert model.forest_digest in page
    assert f"{evaluation['rows_train']:,}" in page


@pytest.mark.parametrize(
    "path", ["/models/churn/v99", "/models/nothing/v1", "/models/churn/..%2f..", "/models/churn/<script>"]
)
def test_versions_that_are_not_there(client, path) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert "<script>alert" not in response.text


def test_an_evaluation_with_nothing_in_it_is_shown_without_failing(app, client, monkeypatch) -> None:
    models = app.extensions["bankportal"].models
    bare = replace(
        models.active(PRODUCTS["churn"]), evaluation={"auc": {"value": 0.5}, "average_precision": 0, "brier": 0}
    )
    monkeypatch.setattr(type(models), "get", lambda *_: bare)
    assert client.get("/models/churn/v1").status_code == 200


def test_the_best_baseline_is_named(app) -> None:
    model = app.extensions["bankportal"].models.active(PRODUCTS["churn"])
    baselines = [{"name": "a", "auc": 0.6}, {"name": "b", "auc": 0.8}, {"name": "c", "auc": 0.7}]
    shown = figures(replace(model, evaluation={"baselines": baselines}))
    assert shown.best_baseline["name"] == "b"
    assert shown.ceiling_text == ""
    ceiling = {
        "share_of_ceiling": 0.98765,
        "achievable": {"auc": 0.9, "brier": 0.1},
        "truth": {"auc": 0.95, "brier": 0.08},
    }
    shown = figures(replace(model, evaluation={"ceiling": ceiling, "warnings": ["careful"]}))
    assert shown.ceiling_text == "98.8% of what is achievable"
    assert [row["name"] for row in shown.extra_rows] == ["Best achievable", "True probabilities"]
    assert shown.warnings == ["careful"]


def test_the_reliability_chart() -> None:
    chart = reliability([{"score": 0.0, "label_rate": 0.0, "rows": 5}, {"score": 1.0, "label_rate": 0.5, "rows": 5}])
    first, last = chart.dots
    assert (first.x, first.y) == (CHART_LEFT, CHART_TOP + CHART_SIDE)
    assert (last.x, last.y) == (CHART_LEFT + CHART_SIDE, CHART_TOP + CHART_SIDE / 2)
    assert chart.line == f"M {first.x} {first.y} L {last.x} {last.y}"


def test_facts_of_every_kind() -> None:
    given = {
        "a_b": None,
        "yes": True,
        "n": 12_345,
        "f": 0.5,
        "list": [1, "x"],
        "leaks": [{"factor": "Age", "auc": 0.9}],
    }
    assert facts(given) == [
        ("A b", "none"),
        ("Yes", "yes"),
        ("N", "12,345"),
        ("F", "0.5"),
        ("List", "1, x"),
        ("Leaks", "factor Age auc 0.9"),
    ]
    assert facts({"leaks": []}) == [("Leaks", "none")]
