"""Shares of whole numbers."""

from fractions import Fraction

from fedsim.core.rounding import whole_share


def test_shares_are_rounded_down_as_in_decimal() -> None:
    for hundredths in range(1, 101):
        for count in range(1, 1001):
            assert whole_share(hundredths / 100, count) == Fraction(hundredths, 100) * count // 1
    assert whole_share(1 / 3, 10) == 3
