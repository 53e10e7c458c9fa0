"""What the portal answers: a score, its band, and a limit where the product has one."""

from dataclasses import dataclass

from bankportal.domain.policy import Limit
from bankportal.domain.products import Band, Product


@dataclass(frozen=True)
class Flag:
    """A value outside what the forest was trained on: scored all the same, and said so."""

    factor: str
    message: str


@dataclass(frozen=True)
class Outcome:
    """The answer for one customer. `score` is the forest's probability, 0 to 1."""

    product: Product
    score: float
    limit: Limit | None
    flags: tuple[Flag, ...]
    model_version: str
    model_digest: str

    @property
    def band(self) -> Band:
        """The band that holds the score."""
        return self.product.band(self.score)

    @property
    def policy_version(self) -> str | None:
        """Version of the limit policy; `None` where the product has none."""
        return self.product.policy.version if self.product.policy else None


def percent(product: Product, score: float) -> str:
    """Write a score as a percentage that never looks as if it stood in another band.

    One decimal, and more where rounding would cross a cut-off: 0.3996 is not 40.0%.

    >>> from bankportal.domain.products import CHURN
    >>> percent(CHURN, 0.634), percent(CHURN, 0.39999)
    ('63.4%', '39.999%')
    """
    for decimals in range(1, 18):
        text = f"{score * 100:.{decimals}f}"
        if product.band(float(text) / 100) is product.band(score):
            return f"{text}%"
    return f"{score * 100!r}%"
