"""``head=local_generic``: FedLoGe's three classifiers on one network (Xiao et al., ICLR 2024, arXiv 2401.08977)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedsim.heads.linear import replace_classifier
from fedsim.heads.sparse_frame import SparseFrame


class PersonalLinear(nn.Linear):
    """A linear layer that is one client's own, so that a method can keep it there by its type."""


class LocalGenericHeads(nn.Module):
    """Three classifiers of the same features, (N, features) to (N, classes) each.

    ``generic`` is a fixed ``SparseFrame``, which shapes the features; ``auxiliary`` is trained on them and shared;
    ``personal`` is trained on them and one client's own. Called, they answer with the generic logits, unless they are
    told otherwise by ``answering``; ``generic`` is the network's classifier either way, the layer that is called.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        sparsity: float,
        norm: float,
        steps: int,
        bias: str,
        orientation: str = "uniform",
    ) -> None:
        super().__init__()
        self.personal = PersonalLinear(features, classes)
        self.auxiliary = nn.Linear(features, classes)
        self.generic = SparseFrame(features, classes, sparsity, norm, steps, bias, orientation)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.generic(input)
        return logits

    @contextmanager
    def answering(self, answer: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """In which ``answer`` turns features into what the network answers: (N, predictors, classes)."""
        # In the place of its forward and not of the call, so that whoever watches the classifier sees the features.
        self.generic.forward = answer  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            del self.generic.forward  # the class's own is found again


def use_local_generic(
    model: nn.Module,
    sparsity: float = 0.6,
    norm: float = 0.1,
    steps: int = 10_000,
    bias: str = "zero",
    orientation: str = "uniform",
) -> nn.Module:
    """Put ``LocalGenericHeads`` in the place of the classifier.

    Raises: ``UserError`` if there is no such linear layer, or an option is out of range.
    """
    return replace_classifier(
        model,
        "local_generic",
        lambda features, classes: LocalGenericHeads(features, classes, sparsity, norm, steps, bias, orientation),
    )


def local_generic_heads(model: nn.Module) -> LocalGenericHeads | None:
    """Those of a model, if it has them."""
    return next((layer for layer in model.modules() if isinstance(layer, LocalGenericHeads)), None)
