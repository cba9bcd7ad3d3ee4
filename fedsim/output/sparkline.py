"""A row of numbers as a row of bars, each a character."""

from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = ".:-=+*#@"


def sparkline(accuracies: Sequence[float], width: int, *, ascii_only: bool = False) -> str:
    """Return at most ``width`` bars, from the lowest of the accuracies shown to the highest of them.

    Where there are more accuracies than bars, a bar is the mean of successive ones. What is no accuracy, that is not
    from 0 to 1, is left blank.
    """
    count = min(width, len(accuracies))
    if count < 1:
        return ""
    edges = [len(accuracies) * bar // count for bar in range(count + 1)]
    parts = [accuracies[start:end] for start, end in pairwise(edges)]
    means = [sum(part) / len(part) for part in parts]
    known = [mean for mean in means if 0 <= mean <= 1]
    bars = ASCII_BARS if ascii_only else BARS
    if not known:
        return " " * count
    lowest, highest = min(known), max(known)
    step = (highest - lowest) / (len(bars) - 1) or 1.0
    return "".join(bars[round((mean - lowest) / step)] if 0 <= mean <= 1 else " " for mean in means)
