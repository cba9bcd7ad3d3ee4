"""A network and one way of predicting with it, as a module."""

import copy

import torch
from torch import nn

from fedsim.client.hosted_model import HostedModel
from fedsim.methods.interfaces import PLAIN, ClientContext


class Predictor(nn.Module):
    """Returns the logits (N, classes) of one predictor for normalized images (N, channels, height, width).

    For most methods the plain predictor is ``network(images)``. A method that predicts in another way, such as with two
    classifiers, does so here, too.
    """

    def __init__(self, host: HostedModel, context: ClientContext, name: str = PLAIN) -> None:
        super().__init__()
        self.network = copy.deepcopy(host.model)
        """The network of the run, with the names of its entries"""
        self.name = name
        self._policy, self._trainer, self._context = host.policy, host.trainer, context
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.predictions(images)[self.name]

    def predictions(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the logits of every predictor by its name."""
        if not self._policy.by_batch:  # statistics that are re-estimated have taken the place of the running ones
            return self._trainer.predict(self.network, images, self._context)
        with self._policy.evaluating(self.network, lambda: ()):
            return self._trainer.predict(self.network, images, self._context)

    def names(self, image_shape: tuple[int, ...]) -> list[str]:
        """Return the names of all predictors, which are tried on two black images; that of the plain one is empty."""
        with torch.no_grad():
            return list(self.predictions(torch.zeros(2, *image_shape)))
