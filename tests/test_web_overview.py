from bankportal.web.drawings.charts import slices
from tests.shipped import PRODUCTS


def test_it_works(client) -> None:
    page = client.get("/").text
    assert "Elite Financial Intelligence Portal" in page
    for product in PRODUCTS.values():
        assert product.question in page
        assert f'href="/{product.key}/"' in page
        assert f'href="/models/{product.key}/v1"' in page
    assert "No decisions yet" in page


def test_honest_figures_of_the_active_models(app, client) -> None:
    page = client.get("/").text
    for product in PRODUCTS.values():
        evaluation = app.extensions["bankportal"].models.active(product).evaluation
        assert f"{evaluation['auc']['value']:.3f}" in page
        assert f"95%: {evaluation['auc']['low']:.3f} to {evaluation['auc']['high']:.3f}" in page
        assert f"{evaluation['brier']:.3f}" in page
        assert f"Measured on {evaluation['rows_test']:,} customers the model never saw" in page


def test_decisions_are_counted_by_band_and_listed(client, examples) -> None:
    location = client.post("/churn/", data=examples["churn"]).location
    page = client.get("/").text
    assert location in page
    assert "No decisions yet" not in page
    assert page.count('<span class="count">1</span>') == 1


def test_without_models(empty_app) -> None:
    response = empty_app.test_client().get("/")
    assert response.status_code == 200
    assert response.text.count("No model yet") == len(PRODUCTS)
    assert "flask train churn" in response.text


def test_the_current_page_is_marked(client) -> None:
    for path, text in (("/", "Overview"), ("/churn/", "Churn"), ("/decisions/", "Decisions"), ("/models/", "Models")):
        assert f'aria-current="page">{text}</a>' in client.get(path).text


def test_a_bar_adds_up() -> None:
    product = PRODUCTS["churn"]
    pieces = slices(product, {"Low": 3, "Critical": 1})
    assert [piece.width for piece in pieces] == [75, 0, 25]
    assert [piece.start for piece in pieces] == [0, 75, 75]
    assert [piece.width for piece in slices(product, {})] == [0, 0, 0]
