"""``train_only=norm``: training of only the scales and shifts of norm layers (Frankle et al., ICLR 2021,
arXiv 2003.00152). No other parameters need to be sent then."""

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.methods.state_split import entries_of
from fedsim.models.classifier import classifier_of
from fedsim.norms import norm_layers

TRAINABLE = ("norm", "norm_and_head")


def train_only(model: nn.Module, part: str, *, redraw: bool = True) -> nn.Module:
    """Freeze every parameter but those of the norm layers, and with ``norm_and_head`` those of the classifier.

    With ``redraw`` scales are drawn from U(0, 1) and shifts set to zero, as in the paper, whose frozen weights keep
    their random values; pretrained ones are not redrawn. A parameter that was frozen before, such as the frame of
    ``head=etf``, stays frozen.

    Raises:
        UserError: If the norm layers of the model have no parameters, or with ``norm_and_head`` it has no classifier.
    """
    chosen = set(entries_of(model, norm_layers()))
    parameters = dict(model.named_parameters())
    if not chosen & parameters.keys():
        raise UserError(
            f"train_only={part} needs norm layers with a scale and a shift, and this network has none: "
            "choose another norm, or leave it out."
        )
    with torch.no_grad():
        for name in sorted(chosen & parameters.keys()) if redraw else ():
            if name.endswith("weight"):
                parameters[name].uniform_()
            elif name.endswith("bias"):
                parameters[name].zero_()
    if part == "norm_and_head":
        head, _ = classifier_of(model, f"train_only={part}")
        chosen |= {name for name in parameters if name.startswith(f"{head}.")}
    for name, parameter in parameters.items():
        parameter.requires_grad_(parameter.requires_grad and name in chosen)
    return model
