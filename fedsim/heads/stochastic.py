"""``head=stochastic``: a classifier of a random representation (FedSR, Nguyen, Torr & Lim, NeurIPS 2022)."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from fedsim.core.errors import UserError
from fedsim.heads.linear import replace_classifier
from fedsim.heads.two_classifiers import heads_in

NOISE_SEED = 0
"""Of the draws at evaluation, which are the same for all images, batches and clients."""


class Drawn(NamedTuple):
    """The representations of a batch, (N, dimensions) each."""

    mean: torch.Tensor
    deviation: torch.Tensor
    sample: torch.Tensor


class Draw(nn.Module):
    """Draws one representation of each image: z = mean + deviation · noise."""

    def forward(self, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        return mean + deviation * torch.randn_like(mean)


class ClassReference(nn.Module):
    """The distribution r(z | y) of each class, and the scale of z beside it, with a type of their own by which a
    method can declare them personal."""

    def __init__(self, classes: int, dimensions: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(classes, dimensions))
        self.deviation = nn.Parameter(torch.ones(classes, dimensions))  # before the softplus
        self.scale = nn.Parameter(torch.ones([]))


class StochasticHead(nn.Module):
    r"""Features (N, features) to logits (N, classes) through a representation
    :math:`z \sim \mathcal N(\mu(f), \mathrm{softplus}(\sigma(f))^2)`.

    In training mode the logits are those of one draw. In evaluation mode they are the logarithm of the mean probability
    over ``samples`` draws, as in the official code, which draws anew for every image; here the noise is drawn once, so
    that a prediction depends neither on the batch nor on a seed. Hooks of the classifier see the draw in training, and
    the mean of the representation at evaluation.
    """

    noise: torch.Tensor

    def __init__(self, features: int, classes: int, dimensions: int | None, samples: int) -> None:
        super().__init__()
        dimensions = features if dimensions is None else dimensions
        for key, value in (("dimensions", dimensions), ("samples", samples)):
            if value < 1:
                raise UserError(f"head.{key}={value} is not possible: choose a whole number of at least 1.")
        self.distribution = nn.Linear(features, 2 * dimensions)
        self.draw = Draw()
        self.classifier = nn.Linear(dimensions, classes)
        self.reference = ClassReference(classes, dimensions)
        noise = torch.randn(samples, 1, dimensions, generator=torch.Generator().manual_seed(NOISE_SEED))
        self.register_buffer("noise", noise, persistent=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        mean, deviation = self.distribution(input).chunk(2, dim=1)
        deviation = F.softplus(deviation)
        if self.training:
            logits: torch.Tensor = self.classifier(self.draw(mean, deviation))
            return logits
        # The classifier is linear: the logits of a draw are those of the mean, and the noise's without the bias.
        around = F.linear(deviation * self.noise, self.classifier.weight)
        each = (self.classifier(mean) + around).log_softmax(2)  # (samples, N, classes)
        mean_probability: torch.Tensor = each.logsumexp(0) - math.log(len(self.noise))
        return mean_probability


@contextmanager
def draws_seen(head: StochasticHead) -> Iterator[list[Drawn]]:
    """Yield a list to which every forward pass in training mode inside the block appends what was drawn."""
    seen: list[Drawn] = []

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, torch.Tensor], sample: torch.Tensor) -> None:
        seen.append(Drawn(*inputs, sample))

    hook = head.draw.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def use_stochastic(model: nn.Module, dimensions: int | None = None, samples: int = 20) -> nn.Module:
    """Replace the classifier by a ``StochasticHead``.

    Args:
        model: The network.
        dimensions: Of the representation; ``None`` for as many as the classifier has features.
        samples: Number of draws at evaluation.

    Raises:
        UserError: If the model has no classifier, or an option is below 1.
    """
    return replace_classifier(
        model, "stochastic", lambda features, classes: StochasticHead(features, classes, dimensions, samples)
    )


def stochastic_head(model: nn.Module) -> StochasticHead | None:
    """Return the head of a model; ``None`` if it is another."""
    return heads_in(model, StochasticHead)
