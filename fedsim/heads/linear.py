"""``head=linear``, and how another head takes its place."""

from collections.abc import Callable

from torch import nn

from fedsim.errors import UserError
from fedsim.models.classifier import classifier_of


def keep_linear(model: nn.Module) -> nn.Module:
    """``head=linear``: the model as it is."""
    return model


def replace_classifier(model: nn.Module, name: str, make: Callable[[int, int], nn.Module]) -> nn.Module:
    """Puts ``make(features, classes)`` in the place of the last linear layer, in place, and returns the model.

    Errors: ``UserError`` if the model has no linear layer.
    """
    path, layer = classifier_of(model, f"head={name}")
    head = make(layer.in_features, layer.out_features)
    if not path:
        return head
    parent, _, place = path.rpartition(".")
    setattr(model.get_submodule(parent), place, head)
    return model


def check_scale(scale: float) -> None:
    """Errors: ``UserError`` for one that is not above 0."""
    if not scale > 0:
        raise UserError(f"head.scale={scale} is not possible: choose a number above 0.")
