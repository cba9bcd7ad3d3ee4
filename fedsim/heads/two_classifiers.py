"""What heads of two classifiers have in common: the network's own one, and a copy of it beside it."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torch.nn.utils import skip_init

from fedsim.heads.linear import replace_classifier
from fedsim.models.classifier import classifier_of

Linear = TypeVar("Linear", bound=nn.Linear)
Heads = TypeVar("Heads", bound=nn.Module)


def copied(classifier: nn.Linear, kind: type[Linear]) -> Linear:
    """Return a layer of this type with the classifier's weights."""
    # Without drawing initial weights, which would change those that are drawn after it.
    copy: Linear = skip_init(kind, classifier.in_features, classifier.out_features, classifier.bias is not None)
    copy.load_state_dict(classifier.state_dict())
    return copy


def put_around(model: nn.Module, head: str, make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """Put ``make(classifier)`` in the classifier's place.

    Raises:
        UserError: If the model has no classifier; names ``head``.
    """
    _, classifier = classifier_of(model, f"head={head}")
    return replace_classifier(model, head, lambda *_: make(classifier))


def heads_in(model: nn.Module, kind: type[Heads]) -> Heads | None:
    """Return the heads of this type in a model; ``None`` if it does not have them."""
    return next((layer for layer in model.modules() if isinstance(layer, kind)), None)
