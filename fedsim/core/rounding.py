"""Whole numbers of shares."""


def whole_share(share: float, count: int) -> int:
    """Return a share of a number, rounded down as in decimal: 0.29 of 100 is 29, and in binary slightly below."""
    return int(round(share * count, 9))
