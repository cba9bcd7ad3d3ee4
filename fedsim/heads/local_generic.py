"""``head=local_generic``: FedLoGe's three classifiers on one network (Xiao et al., ICLR 2024, arXiv 2401.08977)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fedsim.heads.linear import replace_classifier
from fedsim.heads.sparse_frame import SparseFrame


class PersonalLinear(nn.Linear):
    """A linear layer that is personal, with a type of its own by which a method can declare it so."""


class LocalGenericHeads(nn.Module):
    """Three classifiers of the same features, (N, features) to (N, classes) each.

    ``generic`` is a fixed ``SparseFrame``, through which the features are trained; ``auxiliary`` is trained on these
    features and shared; ``personal`` is trained on them and personal. The forward pass returns the generic logits,
    unless ``answering`` replaces them; in both cases ``generic`` is called and is the network's classifier.
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
        """Let the network return ``answer(features)``, (N, predictors, classes), inside the block."""
        # Replaces the forward and not the call, so that hooks of the classifier still see the features.
        self.generic.forward = answer  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            del self.generic.forward  # restores that of the class


def use_local_generic(
    model: nn.Module,
    sparsity: float = 0.6,
    norm: float = 0.1,
    steps: int = 10_000,
    bias: str = "zero",
    orientation: str = "uniform",
) -> nn.Module:
    """Replace the classifier by ``LocalGenericHeads``.

    Raises:
        UserError: If the model has no classifier, or an option is out of its range.
    """
    return replace_classifier(
        model,
        "local_generic",
        lambda features, classes: LocalGenericHeads(features, classes, sparsity, norm, steps, bias, orientation),
    )


def local_generic_heads(model: nn.Module) -> LocalGenericHeads | None:
    """Return the three classifiers of a model; ``None`` if it does not have them."""
    return next((layer for layer in model.modules() if isinstance(layer, LocalGenericHeads)), None)
