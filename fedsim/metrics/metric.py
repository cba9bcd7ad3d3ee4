"""What a further metric is to the simulator: sums that a client counts and the server adds up, and their value."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Metric(Protocol):
    """A number of a predictor on a test set that follows from sums over its images.

    Sums of test sets without a common image are added, so that a value on several domains is the one on their union.
    """

    percent: bool
    """Whether the value is a share from 0 to 1, which printed tables and comparisons show in percent"""

    def length(self, num_classes: int) -> int:
        """Return how many sums there are."""

    def count(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sums, float64 (length,), over a batch of logits (N, classes) and labels (N,).

        The logit of a class that may not be chosen is minus infinity.
        """

    def value(self, sums: Sequence[float], num_examples: int) -> float | None:
        """Return the value that sums over so many images have, a finite number, or None where it is undefined."""

    def check(self, sums: Sequence[float], num_examples: int) -> None:
        """Refuse what cannot be the sums over so many images; they are finite and as many as they should be.

        Raises:
            ValueError: in words that follow the name of the sums, as ``are not over 20 images``.
        """


def check_counts(parts: Sequence[float], wholes: Sequence[float], num_examples: int) -> None:
    """Refuse what cannot be numbers of images in groups, ``wholes``, and of those of them that are right, ``parts``.

    Raises:
        ValueError: where one is no whole number, a part is larger than its whole, or the groups do not add up.
    """
    if any(count != int(count) for count in (*parts, *wholes)):
        raise ValueError("are not counts of images")
    if not all(0 <= part <= whole for part, whole in zip(parts, wholes, strict=True)):
        raise ValueError("say that more images of a group are right than there are")
    if sum(wholes) != num_examples:
        raise ValueError(f"are not over {num_examples} images")
