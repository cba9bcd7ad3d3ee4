"""``tta=tent``: entropy minimization (Wang et al., ICLR 2021, arXiv 2006.10726)."""

from collections.abc import Callable

import torch
from torch import nn

from fedsim.tta.adaptation import Batches, main_logits
from fedsim.tta.affine import Loss, TrainedAffine


class Tent(TrainedAffine):
    r"""Minimizes the entropy of the predictions, :math:`-\sum_c p_c \log p_c` averaged over the batch.

    Any norm layer with a scale or a shift is trained, not only BatchNorm. The authors' batches have 200 images; the
    default here is smaller, as are the test sets of clients.
    """

    name = "tent"

    def loss(self, model: nn.Module, plain: Callable[[torch.Tensor], torch.Tensor], source: Batches) -> Loss:
        def entropy(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            answer = plain(images)
            logits = main_logits(answer)
            return answer, -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()

        return entropy
