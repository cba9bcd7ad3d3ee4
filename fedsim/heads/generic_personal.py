"""``head=generic_personal``: two classifiers of the same features, one shared and one that stays on its client."""

import torch
from torch import nn
from torch.nn.utils import skip_init

from fedsim.heads.linear import replace_classifier
from fedsim.heads.local_generic import PersonalLinear
from fedsim.models.classifier import classifier_of


class GenericPersonalHeads(nn.Module):
    """Two classifiers of the same features, (N, features) to (N, classes) each.

    ``generic`` is the network's own classifier, whose logits the forward pass returns; ``personal`` begins as a copy
    of it, and what it is trained for is the method's.
    """

    def __init__(self, generic: nn.Linear) -> None:
        super().__init__()
        # Without drawing initial weights, which would change those that are drawn after it.
        self.personal = skip_init(PersonalLinear, generic.in_features, generic.out_features, generic.bias is not None)
        self.personal.load_state_dict(generic.state_dict())
        self.generic = generic

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.generic(input)
        return logits


def use_generic_personal(model: nn.Module) -> nn.Module:
    """Put ``GenericPersonalHeads`` around the classifier.

    Raises:
        UserError: If the model has no classifier.
    """
    _, classifier = classifier_of(model, "head=generic_personal")
    return replace_classifier(model, "generic_personal", lambda *_: GenericPersonalHeads(classifier))


def generic_personal_heads(model: nn.Module) -> GenericPersonalHeads | None:
    """Return the two classifiers of a model; ``None`` if it does not have them."""
    return next((layer for layer in model.modules() if isinstance(layer, GenericPersonalHeads)), None)
