"""The pages of a portfolio: one blueprint a subject, the scoring blueprint once for each product."""

from flask import Flask

from bankportal.domain.outcome import percent
from bankportal.domain.portfolio import Portfolio
from bankportal.version import BRAND, __version__
from bankportal.web import batches, decisions, documentation, models, overview, scoring, words
from bankportal.web.current import PORTFOLIO
from bankportal.web.declared import standing
from bankportal.web.drawings.bars import reason_mark
from bankportal.web.drawings.charts import ICONS
from bankportal.web.forms import range_of


def register(app: Flask, portfolio: Portfolio) -> None:
    """Register the pages of a portfolio and what their templates use."""
    app.extensions[PORTFOLIO] = portfolio
    app.register_blueprint(overview.blueprint)
    for product in portfolio.values():
        app.register_blueprint(scoring.blueprint(product))
    for product in portfolio.withdrawn:
        app.register_blueprint(scoring.withdrawn(product))
    app.register_blueprint(batches.blueprint)
    app.register_blueprint(decisions.blueprint)
    app.register_blueprint(models.blueprint)
    app.register_blueprint(documentation.blueprint)
    app.jinja_env.globals.update(
        brand=BRAND,
        portal_version=__version__,
        products=tuple(portfolio.values()),
        withdrawn=portfolio.withdrawn,
        is_scored=portfolio.__contains__,
        icons=ICONS,
        range_of=range_of,
        customer_name=words.customer_name,
        limit_name=words.limit_name,
        standing=standing,
        percent=percent,
        reason_mark=reason_mark,
    )
    app.jinja_env.filters.update(
        number=words.number,
        capitalised=words.capitalised,
        lowered=words.lowered,
        money=words.money,
        limit_words=words.limit_words,
        share=words.share,
        moment=words.moment,
        day=words.day,
    )
