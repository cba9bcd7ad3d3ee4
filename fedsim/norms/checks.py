"""Checks of the options of norms."""

import math

from fedsim.core.errors import UserError


def check_positive(key: str, value: float | None) -> None:
    """Check that the option ``norm.KEY`` is a number above 0, or ``None``.

    Raises:
        UserError: If it is not.
    """
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"norm.{key}={value} is not possible: choose a number above 0.")


def check_share(key: str, value: float) -> None:
    """Check that the option ``norm.KEY``, the decay rate of a running mean, is in [0, 1).

    Raises:
        UserError: If it is not.
    """
    if not 0 <= value < 1:
        raise UserError(f"norm.{key}={value} is not possible: choose a number from 0 to below 1.")


def check_count(key: str, value: int, least: int) -> None:
    """Check that the option ``norm.KEY`` is at least ``least``.

    Raises:
        UserError: If it is less.
    """
    if value < least:
        raise UserError(f"norm.{key}={value} is not possible: choose a whole number of {least} or more.")
