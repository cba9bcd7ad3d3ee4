"""``head=retrained``: the network's own classifier, and beside it one that only the server trains."""

import torch
from torch import nn

from fedsim.heads.two_classifiers import copied, heads_in, put_around


class RetrainedLinear(nn.Linear):
    """A linear layer that clients do not train, with a type of its own by which a method can find it."""


class RetrainedHeads(nn.Module):
    """Two classifiers of the same features, (N, features) to (N, classes) each.

    ``trained`` is the network's own classifier, whose logits the forward pass returns; ``retrained`` begins as a copy
    of it. It has no gradients, and so is neither trained by clients nor sent with what they train.
    """

    def __init__(self, trained: nn.Linear) -> None:
        super().__init__()
        self.retrained = copied(trained, RetrainedLinear).requires_grad_(False)
        self.trained = trained

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.trained(input)
        return logits


def use_retrained(model: nn.Module) -> nn.Module:
    """Put ``RetrainedHeads`` around the classifier.

    Raises:
        UserError: If the model has no classifier.
    """
    return put_around(model, "retrained", RetrainedHeads)


def retrained_heads(model: nn.Module) -> RetrainedHeads | None:
    """Return the two classifiers of a model; ``None`` if it does not have them."""
    return heads_in(model, RetrainedHeads)
