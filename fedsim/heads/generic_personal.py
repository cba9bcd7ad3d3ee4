"""``head=generic_personal``: two classifiers of the same features, one shared and one that stays on its client."""

import torch
from torch import nn

from fedsim.heads.local_generic import PersonalLinear
from fedsim.heads.two_classifiers import copied, heads_in, put_around


class GenericPersonalHeads(nn.Module):
    """Two classifiers of the same features, (N, features) to (N, classes) each.

    ``generic`` is the network's own classifier, whose logits the forward pass returns; ``personal`` begins as a copy
    of it, and what it is trained for is the method's.
    """

    def __init__(self, generic: nn.Linear) -> None:
        super().__init__()
        self.personal = copied(generic, PersonalLinear)
        self.generic = generic

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.generic(input)
        return logits


def use_generic_personal(model: nn.Module) -> nn.Module:
    """Put ``GenericPersonalHeads`` around the classifier.

    Raises:
        UserError: If the model has no classifier.
    """
    return put_around(model, "generic_personal", GenericPersonalHeads)


def generic_personal_heads(model: nn.Module) -> GenericPersonalHeads | None:
    """Return the two classifiers of a model; ``None`` if it does not have them."""
    return heads_in(model, GenericPersonalHeads)
