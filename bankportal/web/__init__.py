"""The pages: one blueprint a subject, the scoring blueprint once for each product."""

from flask import Flask

from bankportal.domain.outcome import percent
from bankportal.domain.products import PRODUCTS
from bankportal.version import BRAND
from bankportal.web import batches, decisions, documentation, models, overview, scoring, streams, words
from bankportal.web.drawings.bars import reason_mark
from bankportal.web.drawings.charts import ICONS
from bankportal.web.forms import range_of


def register(app: Flask) -> None:
    """Register the pages and what their templates use."""
    app.register_blueprint(overview.blueprint)
    for product in PRODUCTS.values():
        app.register_blueprint(scoring.blueprint(product))
    app.register_blueprint(batches.blueprint)
    app.register_blueprint(decisions.blueprint)
    app.register_blueprint(models.blueprint)
    app.register_blueprint(documentation.blueprint)
    streams.register(app)
    app.jinja_env.globals.update(
        brand=BRAND,
        icons=ICONS,
        range_of=range_of,
        customer_name=words.customer_name,
        percent=percent,
        reason_mark=reason_mark,
    )
    app.jinja_env.filters.update(
        number=words.number,
        capitalised=words.capitalised,
        money=words.money,
        limit_words=words.limit_words,
        share=words.share,
        moment=words.moment,
        day=words.day,
        value_words=words.value_words,
    )
