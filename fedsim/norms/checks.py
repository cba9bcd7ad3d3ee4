"""What the options of norms may be; everything else is refused in one sentence."""

import math

from fedsim.core.errors import UserError


def check_positive(key: str, value: float | None) -> None:
    """Errors: ``UserError`` unless ``norm.KEY`` is a number above 0, or left open."""
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"norm.{key}={value} is not possible: choose a number above 0.")


def check_share(key: str, value: float) -> None:
    """Errors: ``UserError`` unless ``norm.KEY``, what a running mean keeps at each batch, is in [0, 1)."""
    if not 0 <= value < 1:
        raise UserError(f"norm.{key}={value} is not possible: choose a number from 0 to below 1.")


def check_count(key: str, value: int, least: int) -> None:
    """Errors: ``UserError`` if ``norm.KEY`` is below ``least``."""
    if value < least:
        raise UserError(f"norm.{key}={value} is not possible: choose a whole number of {least} or more.")
