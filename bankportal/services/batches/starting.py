"""Starting a job: which model version scores it, and under which limit policy.

A job keeps the product that it was uploaded under; the model version and the policy are those of its start.
"""

from bankportal.domain.batch import Job
from bankportal.domain.declaration import product_from
from bankportal.domain.errors import Conflict, NotFound
from bankportal.domain.policy import LimitPolicy
from bankportal.domain.portfolio import Portfolio
from bankportal.domain.products import Product
from bankportal.services.models import Models
from bankportal.store.jobs import ScoringVersions

UPLOAD_AGAIN = "Upload the file again."


def scoring_versions(models: Models, portfolio: Portfolio, job: Job) -> ScoringVersions:
    """Return who scores a job that starts now.

    Raises `NoActiveModel` where no model can score; `Conflict` where the product was withdrawn since the upload, or was
    declared anew and today's model or policy does not go with what the file was checked for.
    """
    try:
        now = portfolio.product(job.product.key)
    except NotFound as error:
        raise Conflict(str(error)) from error
    product = _with_policy(job.product, now.policy)
    if product is not now and (problem := models.misfit(product)):
        raise Conflict(f"{product.title} was declared anew since this file was uploaded. {problem} {UPLOAD_AGAIN}")
    model = models.serving(product)
    return ScoringVersions(model.version, model.manifest_digest, product)


def _with_policy(product: Product, policy: LimitPolicy | None) -> Product:
    """Return a product with the version of its policy that is in force; `Conflict` where that does not go with it."""
    if policy is None or product.policy is None or policy.key != product.policy.key:
        return product
    scored = {factor.name for factor in product.scored}
    known = {policy.salary, policy.obligations} <= scored
    asked = policy.requested in {factor.name for factor in product.policy_factors}
    if not (known and asked and set(policy.band_months) == {band.name for band in product.bands}):
        raise Conflict(
            f"Limit policy {policy.version} does not go with the bands and factors of {product.title} when this file "
            f"was uploaded. {UPLOAD_AGAIN}"
        )
    return product_from(product.text, policy)
