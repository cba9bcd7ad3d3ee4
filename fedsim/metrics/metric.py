"""The interface of further metrics: sums that a client counts and the server adds up, and their value."""

from collections.abc import Sequence
from typing import Protocol

import torch


class Metric(Protocol):
    """A metric of a predictor on a test set that is a function of sums over the images.

    Sums of test sets that have no image in common are added, so that the value on several domains is that on their
    union.
    """

    percent: bool
    """Whether the value is a share from 0 to 1, which printed tables and comparisons show in percent."""
    higher_is_better: bool
    """Whether the best row of a table is the one with the highest value"""

    def length(self, num_classes: int) -> int:
        """Return the number of sums."""

    def count(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sums, float64 (length,), over a batch of logits (N, classes) and labels (N,).

        The logit of a masked class is minus infinity.
        """

    def value(self, sums: Sequence[float], num_examples: int) -> float | None:
        """Return the value from sums over ``num_examples`` images: a finite number, or ``None`` if undefined."""

    def check(self, sums: Sequence[float], num_examples: int) -> None:
        """Refuse impossible sums over ``num_examples`` images; that they are finite and complete is checked before.

        Raises:
            ValueError: If they are impossible; the message continues a sentence: ``are not over 20 images``.
        """


def check_counts(parts: Sequence[float], wholes: Sequence[float], num_examples: int) -> None:
    """Refuse impossible numbers of images in groups.

    Args:
        parts: Numbers of correct images in each group.
        wholes: Numbers of images in each group.
        num_examples: Number of all images.

    Raises:
        ValueError: If a number is not an integer, a part is larger than its whole, or the wholes do not add up to
            ``num_examples``.
    """
    if any(count != int(count) for count in (*parts, *wholes)):
        raise ValueError("are not counts of images")
    if not all(0 <= part <= whole for part, whole in zip(parts, wholes, strict=True)):
        raise ValueError("say that more images of a group are right than there are")
    if sum(wholes) != num_examples:
        raise ValueError(f"are not over {num_examples} images")
