"""``tta=cafa``: class-aware feature alignment (Jung et al., ICCV 2023, arXiv 2206.00205)."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from fedsim.core.errors import UserError
from fedsim.models.classifier import classifier_of, features_seen
from fedsim.tta.adaptation import Batches, main_logits
from fedsim.tta.affine import Loss, TrainedAffine


class CAFA(TrainedAffine):
    r"""Moves each test image's features towards the predicted class and away from the others.

    .. math:: L = \frac{1}{N} \sum_i \log \frac{d_{\hat y_i}(f_i)}{\sum_c d_c(f_i)}, \qquad
              d_c(f) = (f - \mu_c)^\top \Sigma^{-1} (f - \mu_c)

    with the predicted class :math:`\hat y`, the class means :math:`\mu_c` and the covariance :math:`\Sigma` within
    classes, of the features of the training images. A client uses its own training images; classes without any are left
    out. The covariance is the same for all classes and shrunk towards a multiple of the identity,
    :math:`(1 - s) \Sigma + s \, \mathrm{tr}(\Sigma) / d \, I`, because a client has fewer images than features.
    The loss follows descriptions of the paper; of its text only the beginning was to be had, and of the authors' code
    nothing. Readers' notes give each class a covariance of its own, which the images of a client do not determine.

    Raises:
        UserError: If an option is out of its range.
    """

    name = "cafa"

    def __init__(self, lr: float, steps: int, batch_size: int, shrinkage: float) -> None:
        super().__init__(lr, steps, batch_size)
        if not 0 < shrinkage <= 1:
            raise UserError(f"tta.shrinkage={shrinkage} is not possible: choose a number above 0 and at most 1.")
        self.shrinkage = shrinkage

    def check(self, model: nn.Module) -> None:
        super().check(model)
        classifier_of(model, "tta=cafa")

    def loss(self, model: nn.Module, plain: Callable[[torch.Tensor], torch.Tensor], source: Batches) -> Loss:
        _, classifier = classifier_of(model, "tta=cafa")
        means, present, precision = self._gaussians(model, plain, classifier, source)

        def alignment(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with features_seen(classifier) as seen:
                answer = plain(images)
            distances = mahalanobis(seen[0], means, precision)
            predicted = main_logits(answer).detach()[:, present].argmax(1)
            return answer, (distances.log().gather(1, predicted[:, None])[:, 0] - distances.sum(1).log()).mean()

        return alignment

    @torch.no_grad()
    def _gaussians(
        self,
        model: nn.Module,
        plain: Callable[[torch.Tensor], torch.Tensor],
        classifier: nn.Linear,
        source: Batches,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the means (present classes, features), the present classes, and the inverse covariance."""
        model.eval()
        labels = []
        with features_seen(classifier) as seen:
            for images, truth in source():
                plain(images)
                labels.append(truth)
        features, one_hot = torch.cat(seen), F.one_hot(torch.cat(labels)).to(seen[0].dtype)
        counts = one_hot.sum(0)
        present = counts.nonzero()[:, 0]
        means = (one_hot.T @ features)[present] / counts[present, None]
        within = features - means[one_hot[:, present].argmax(1)]
        covariance = within.T @ within / len(features)
        dimension = len(covariance)
        spread = covariance.trace() / dimension + torch.finfo(covariance.dtype).eps
        identity = torch.eye(dimension, dtype=covariance.dtype, device=covariance.device)
        shrunk = (1 - self.shrinkage) * covariance + self.shrinkage * spread * identity
        return means, present, torch.linalg.inv(shrunk)


def mahalanobis(features: torch.Tensor, means: torch.Tensor, precision: torch.Tensor) -> torch.Tensor:
    """Return squared Mahalanobis distances (N, classes), at least tiny, of features (N, d) to means (classes, d)."""
    difference = features[:, None] - means
    squared: torch.Tensor = ((difference @ precision) * difference).sum(-1)
    return squared.clamp(min=torch.finfo(squared.dtype).tiny)
