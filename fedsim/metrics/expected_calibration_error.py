"""Expected calibration error: the difference of confidence and accuracy (Guo et al., ICML 2017, arXiv 1706.04599)."""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from fedsim.metrics.metric import check_counts

BINS = 15
"""Number of bins of equal width, as in the paper."""
EDGES = [bin / BINS for bin in range(BINS + 1)]
ROUNDING = 1e-6
"""The distance by which a mean confidence may lie outside its bin."""


class ExpectedCalibrationError:
    """The mean over images of the absolute difference between confidence and accuracy of their bin.

    Confidence is the largest softmax probability; bin m has the images with a confidence above m / 15 and up to
    (m + 1) / 15. The sums are the number of images of each bin, then the sum of confidences of each bin, then the
    number of correct images of each bin.
    """

    percent = True
    higher_is_better = False

    def length(self, num_classes: int) -> int:
        return 3 * BINS

    def count(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the sums over a batch; an image whose logits are all minus infinity has a confidence of 0."""
        confidence = logits.double().softmax(1).amax(1).nan_to_num()
        hits = (logits.argmax(1) == labels).double()
        inner = torch.tensor(EDGES[1:-1], dtype=torch.float64, device=logits.device)
        in_bin = F.one_hot(torch.bucketize(confidence, inner), BINS).double()
        return torch.cat([(in_bin * each[:, None]).sum(0) for each in (torch.ones_like(hits), confidence, hits)])

    def value(self, sums: Sequence[float], num_examples: int) -> float | None:
        _, confidence, hits = _by_bin(sums)
        distances = (abs(sure - right) for sure, right in zip(confidence, hits, strict=True))
        return sum(distances) / num_examples if num_examples else None

    def check(self, sums: Sequence[float], num_examples: int) -> None:
        images, confidence, hits = _by_bin(sums)
        check_counts(hits, images, num_examples)
        for low, high, count, sure in zip(EDGES[:-1], EDGES[1:], images, confidence, strict=True):
            if not (low - ROUNDING) * count <= sure <= (high + ROUNDING) * count:
                raise ValueError(f"have a confidence of {sure:g} for {count:g} images between {low:.3f} and {high:.3f}")


def _by_bin(sums: Sequence[float]) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    return sums[:BINS], sums[BINS : 2 * BINS], sums[2 * BINS :]
