"""``head=linear``, and the replacement of the classifier by another head."""

from collections.abc import Callable

from torch import nn

from fedsim.core.errors import UserError
from fedsim.models.classifier import classifier_of, note_head


def keep_linear(model: nn.Module) -> nn.Module:
    """Leave the model unchanged (``head=linear``)."""
    return model


def replace_classifier(model: nn.Module, name: str, make: Callable[[int, int], nn.Module]) -> nn.Module:
    """Replace the classifier by ``make(features, classes)``, in place, and return the model.

    Raises:
        UserError: If the logits of the model do not come from one linear layer.
    """
    path, layer = classifier_of(model, f"head={name}")
    head = make(layer.in_features, layer.out_features)
    if path:
        parent, _, place = path.rpartition(".")
        setattr(model.get_submodule(parent), place, head)
    else:
        model = head
    note_head(model, path, head, layer.in_features, layer.out_features)
    return model


def check_scale(scale: float) -> None:
    """Check the option ``head.scale``.

    Raises:
        UserError: If it is not above 0.
    """
    if not scale > 0:
        raise UserError(f"head.scale={scale} is not possible: choose a number above 0.")
