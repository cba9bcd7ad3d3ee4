"""Balanced accuracy, in which every class has the same weight."""

from collections.abc import Sequence

import torch

from fedsim.metrics.metric import check_counts


class BalancedAccuracy:
    """The mean recall over the classes of which the test set has images.

    The sums are the number of images of each class, then the number of correct ones of each class.
    """

    percent = True
    higher_is_better = True

    def length(self, num_classes: int) -> int:
        return 2 * num_classes

    def count(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hits = labels[logits.argmax(1) == labels]
        return torch.cat([each.bincount(minlength=logits.shape[1]) for each in (labels, hits)]).double()

    def value(self, sums: Sequence[float], num_examples: int) -> float | None:
        images, hits = _by_class(sums)
        recalls = [right / count for right, count in zip(hits, images, strict=True) if count]
        return sum(recalls) / len(recalls) if recalls else None

    def check(self, sums: Sequence[float], num_examples: int) -> None:
        images, hits = _by_class(sums)
        check_counts(hits, images, num_examples)


def _by_class(sums: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    return sums[: len(sums) // 2], sums[len(sums) // 2 :]
