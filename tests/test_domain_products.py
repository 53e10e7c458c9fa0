from dataclasses import replace

import pytest

from bankportal.domain.constraints import Number
from bankportal.domain.outcome import percent
from bankportal.domain.products import NO_LIMIT, Band, Product, ProductRefused, Role, Tone
from tests import shipped as f
from tests.shipped import ALLOWANCE, CHURN, PRODUCTS


def remake(product: Product, **changes) -> Product:
    names = Product.__dataclass_fields__
    return Product(**({name: getattr(product, name) for name in names} | changes))


def test_it_works() -> None:
    assert set(PRODUCTS) == {"churn", "allowance"}
    assert len(CHURN.scored) == 21


@pytest.mark.parametrize("factor", [f.GENDER, f.AGE, f.GEOGRAPHY], ids=lambda factor: factor.name)
@pytest.mark.parametrize("role", ["required", "optional", "policy_factors"])
def test_a_credit_product_cannot_score_a_protected_factor(factor, role) -> None:
    protected = tuple(each for each in ALLOWANCE.protected if each is not factor)
    with pytest.raises(ProductRefused, match=f"must not score {factor.name}"):
        remake(ALLOWANCE, protected=protected, **{role: (*getattr(ALLOWANCE, role), factor)})


def test_gender_is_never_scored() -> None:
    with pytest.raises(ProductRefused, match="must not score Gender"):
        remake(CHURN, protected=(), optional=(*CHURN.optional, f.GENDER))


@pytest.mark.parametrize(
    "changes",
    [
        {"optional": (*CHURN.optional, f.AGE)},
        {"bands": ()},
        {"bands": (Band(name="Low", start=0.1, tone=Tone.GOOD, meaning=""),)},
        {"bands": (CHURN.bands[0], CHURN.bands[2], CHURN.bands[1])},
    ],
    ids=["a factor twice", "no bands", "bands not from 0", "bands not rising"],
)
def test_contradictions_are_refused(changes) -> None:
    with pytest.raises(ProductRefused):
        remake(CHURN, **changes)


def test_a_policy_must_know_the_bands() -> None:
    policy = replace(ALLOWANCE.policy, band_months={"Standard": 1.0})
    with pytest.raises(ProductRefused, match="must name its bands"):
        remake(ALLOWANCE, policy=policy)


@pytest.mark.parametrize(
    ("product", "score", "band"),
    [
        (CHURN, 0.0, "Low"),
        (CHURN, 0.3999999, "Low"),
        (CHURN, 0.40, "Moderate"),
        (CHURN, 0.70, "Critical"),
        (CHURN, 1.0, "Critical"),
        (ALLOWANCE, 0.7999999, "Ineligible"),
        (ALLOWANCE, 0.80, "Standard"),
        (ALLOWANCE, 0.92, "Elite"),
    ],
)
def test_bands(product, score, band) -> None:
    assert product.band(score).name == band


def test_bands_meet() -> None:
    assert [CHURN.end(band) for band in CHURN.bands] == [0.40, 0.70, 1.0]


@pytest.mark.parametrize("score", [0.39995, 0.3999999999, 0.4, 0.69999, 0.05, 1.0, 0.0])
def test_a_percentage_never_looks_like_another_band(score) -> None:
    assert CHURN.band(float(percent(CHURN, score)[:-1]) / 100) is CHURN.band(score)


def test_every_number_has_both_bounds() -> None:
    numbers = [factor.constraint for factor in CHURN.scored if isinstance(factor.constraint, Number)]
    assert len(numbers) > 15
    assert all(number.minimum < number.maximum for number in numbers)


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.get)
def test_every_factor_has_words(product) -> None:
    for product_factor in product.factors:
        assert product_factor.factor.label
        assert product_factor.factor.help.endswith(".")
        assert product_factor.factor.example or not product_factor.required
        assert product_factor.role in Role


def test_without_a_limit_a_decision_has_one_word_and_one_tone() -> None:
    for band in ALLOWANCE.bands:
        verdict = ALLOWANCE.verdict(band, 0.0)
        assert (verdict.name, verdict.tone) == (NO_LIMIT, Tone.BAD)
        assert verdict.meaning.startswith(f"{band.name} by the score")
    ineligible, standard, elite = ALLOWANCE.bands
    assert ALLOWANCE.verdict(ineligible, None).name == NO_LIMIT
    assert [ALLOWANCE.verdict(band, 500.0).name for band in (standard, elite)] == ["Standard", "Elite"]
    assert [ALLOWANCE.verdict(band, 500.0).tone for band in (standard, elite)] == [standard.tone, elite.tone]


def test_the_verdicts_that_a_product_has() -> None:
    assert [verdict.name for verdict in ALLOWANCE.verdicts] == [NO_LIMIT, "Standard", "Elite"]
    assert [verdict.name for verdict in CHURN.verdicts] == [band.name for band in CHURN.bands]
    assert [verdict.tone for verdict in CHURN.verdicts] == [band.tone for band in CHURN.bands]
