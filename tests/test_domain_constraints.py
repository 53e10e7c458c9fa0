import math

import pytest

from bankportal.domain.constraints import Choice, ConstraintViolation, Number, Source, Text, YesNo, plain
from tests.shipped import BALANCE, CREDIT_SCORE, PRODUCTS

FACTORS = list(dict.fromkeys(entry.factor for product in PRODUCTS.values() for entry in product.factors))
BAD = [(factor, text, code) for factor in FACTORS for text, code in factor.constraint.bad_values()]


def test_it_works() -> None:
    assert CREDIT_SCORE.constraint.validate(" 619 ", Source.TEXT) == 619
    assert BALANCE.constraint.validate("-12.5", Source.TEXT) == -12.5


@pytest.mark.parametrize(
    ("factor", "text", "code"), BAD, ids=[f"{factor.name}-{text[:12]!r}-{code}" for factor, text, code in BAD]
)
def test_bad_values_are_refused_with_their_code(factor, text, code) -> None:
    with pytest.raises(ConstraintViolation) as caught:
        factor.constraint.validate(text, Source.TEXT)
    assert caught.value.code == code
    assert caught.value.message.startswith("must ")


@pytest.mark.parametrize("factor", FACTORS, ids=lambda factor: factor.name)
def test_both_ends_of_the_bounds_are_legal(factor) -> None:
    if isinstance(factor.constraint, Number):
        for bound in (factor.constraint.minimum, factor.constraint.maximum):
            assert math.isfinite(bound)
            assert factor.constraint.validate(plain(bound), Source.TEXT) == bound
            assert factor.constraint.validate(bound, Source.TYPED) == bound


@pytest.mark.parametrize("value", [True, "619", None, [], {}, math.nan, math.inf, 10**400, -(10**400), 619.5, b"619"])
def test_typed_numbers_are_strict(value) -> None:
    with pytest.raises(ConstraintViolation):
        CREDIT_SCORE.constraint.validate(value, Source.TYPED)


def number_or_problem(constraint, value, source):
    try:
        number = constraint.validate(value, source)
    except ConstraintViolation as violation:
        return violation.code, violation.message
    return type(number), repr(number)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "number", [-1, -1e-9, -0.0, 0, 0.5, 5, 5.0, 10, 10.0, 10.000001, 11, 2**53 + 1, math.inf, math.nan]
)
def test_typed_and_written_numbers_are_the_same_or_have_the_same_problem(number, whole) -> None:
    constraint = Number(minimum=0, maximum=10, whole=whole)
    typed, written = ((number, Source.TYPED), (repr(number), Source.TEXT))
    assert number_or_problem(constraint, *typed) == number_or_problem(constraint, *written)


def test_yes_is_no_number() -> None:
    with pytest.raises(ConstraintViolation, match="must be a number"):
        Number(minimum=0, maximum=10).validate(True, Source.TYPED)


def test_a_whole_number_written_with_a_point_is_whole() -> None:
    assert CREDIT_SCORE.constraint.validate("619.0", Source.TEXT) == 619
    assert isinstance(CREDIT_SCORE.constraint.validate(619.0, Source.TYPED), int)


def test_minus_zero_is_zero() -> None:
    assert math.copysign(1, BALANCE.constraint.validate("-0", Source.TEXT)) == 1


@pytest.mark.parametrize("text", ["1,234", "1 234", "12.345,6", "1'000"])
def test_separators_get_a_hint(text) -> None:
    with pytest.raises(ConstraintViolation, match="no thousands separators"):
        BALANCE.constraint.validate(text, Source.TEXT)


def test_leading_zeros_get_a_hint() -> None:
    with pytest.raises(ConstraintViolation, match="without leading zeros"):
        BALANCE.constraint.validate("007", Source.TEXT)


@pytest.mark.parametrize("value", [True, False, "1", 2, 0.5, None])
def test_typed_flags_are_strict(value) -> None:
    with pytest.raises(ConstraintViolation):
        YesNo().validate(value, Source.TYPED)


@pytest.mark.parametrize(("text", "flag"), [("1", 1), ("0", 0), ("1.0", 1), (" 0 ", 0)])
def test_flags_from_text(text, flag) -> None:
    assert YesNo().validate(text, Source.TEXT) == flag


def test_choices_are_taken_as_written() -> None:
    choice = Choice(options=("France", "Spain"))
    assert choice.validate("France", Source.TYPED) == "France"
    with pytest.raises(ConstraintViolation, match="must be France or Spain"):
        choice.validate("france", Source.TEXT)


@pytest.mark.parametrize("value", ["a\x00", "a\u2029b", "\ud800", 7, None, "x" * 6])
def test_text_is_one_short_line(value) -> None:
    with pytest.raises(ConstraintViolation):
        Text(longest=5).validate(value, Source.TYPED)
