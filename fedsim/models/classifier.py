"""The last linear layer of a network, its classifier, and the features that go into it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedsim.errors import UserError


def find_classifier(model: nn.Module) -> tuple[str, nn.Linear] | None:
    """Name and layer of the last linear layer, in the order of the model's modules; ``None`` if there is none."""
    linear = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    return linear[-1] if linear else None


def classifier_of(model: nn.Module, wanted_by: str) -> tuple[str, nn.Linear]:
    """The same where something, as the user wrote it, cannot do without.

    Errors: ``UserError`` if the model has no linear layer.
    """
    found = find_classifier(model)
    if found is None:
        raise UserError(
            f"{wanted_by} needs a network that ends in a linear layer, and {type(model).__name__} has none: "
            "choose another model."
        )
    return found


def class_layers(model: nn.Module, num_classes: int) -> list[str]:
    """The names of the linear layers that turn the same features into a logit for each class; most models have one."""
    found = find_classifier(model)
    if found is None or found[1].out_features != num_classes:
        return []
    features = found[1].in_features
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and (layer.in_features, layer.out_features) == (features, num_classes)
    ]


@contextmanager
def features_seen(classifier: nn.Linear) -> Iterator[list[torch.Tensor]]:
    """The inputs (N, features) of a classifier, appended to the list with every forward pass inside the block."""
    seen: list[torch.Tensor] = []

    def keep(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(inputs[0])

    hook = classifier.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()
