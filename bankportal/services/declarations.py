"""The declarations: which products and policies are in force."""

from bankportal.domain.portfolio import Portfolio


class Declarations:
    """The declarations of products and policies, and the portfolio that is in force."""

    def __init__(self, portfolio: Portfolio) -> None:
        self._portfolio = portfolio

    def portfolio(self) -> Portfolio:
        """Return the portfolio that is in force; the same object until a declaration changes."""
        return self._portfolio
