r"""``reparam=weight_compander``: weights of bounded magnitude that are moved away from zero (weight compander, Cakaj,
Mehnert & Yang 2023, arXiv 2306.16993).

Only the paper's abstract could be verified: each weight is a nonlinear function of the trained parameter, which
restricts its magnitude and moves it away from zero, and whose hyperparameters can be learned. The text of the paper was
not available and no code of it was found. The arctangent with its two hyperparameters is the form of the paper from
memory; the initial values, one pair of them for each layer, and the choice of layers are decisions made here.
"""

from collections.abc import Callable, Mapping
from math import pi
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from fedsim.core.errors import UserError
from fedsim.models.classifier import logit_parameters

_MADE: dict[type[nn.Module], type[nn.Module]] = {}
"""The companded class by class of layers."""


def compand(trained: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`w = a \arctan(v / b)`, elementwise: within :math:`\pm a \pi / 2`, with slope a / b at zero."""
    return a * torch.atan(trained / b)


class Companded(nn.Module):
    """Base class of companded layers, combined with the layer's own class: ``weight`` is computed at every access.

    The trained parameter is still named ``weight`` among the parameters, so that optimizers, clipping and messages see
    the same entries as before, with ``a`` and ``b`` added.
    """

    a: torch.Tensor
    b: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:
        trained = self._parameters["weight"]
        assert trained is not None
        return compand(trained, self.a, self.b)

    def __reduce__(self) -> tuple[Callable[..., nn.Module], tuple[type[nn.Module]], dict[str, Any]]:
        # Copies and pickles cannot import a class that is made on demand.
        return _empty, (type(self).__mro__[2],), self.__dict__


def _companded(kind: type[nn.Module]) -> type[nn.Module]:
    if kind not in _MADE:
        _MADE[kind] = type(f"Companded{kind.__name__}", (Companded, kind), {})
    return _MADE[kind]


def _empty(kind: type[nn.Module]) -> nn.Module:
    made = _companded(kind)
    return made.__new__(made)


def keep_weights(model: nn.Module) -> nn.Module:
    """Leave the model unchanged (``reparam=none``)."""
    return model


def use_weight_compander(
    model: nn.Module,
    a: float = 1.0,
    b: float = 1.0,
    learnable: bool = True,
    head: bool = True,
    train_only: str | None = None,
) -> nn.Module:
    r"""Compand the weights of all convolutions and linear layers, in place, except frozen ones, and return the model.

    Biases and norm layers do not change. The trained parameter starts at :math:`v = b \tan(w / a)`, so that the initial
    weights are the same. A standardized convolution (``norm=sws``, ``ws``) standardizes the companded weight, which
    removes the effect of ``a``, up to the eps of the standardization; only the shape of the curve remains. Layers that
    share a weight share ``a`` and ``b``, too.

    Args:
        model: The network.
        a: The initial scale of the weights, which are below :math:`a \pi / 2`.
        b: The initial scale of the trained parameters.
        learnable: Whether ``a`` and ``b`` of each layer are trained; else they are constant.
        head: Whether the layer that produces the logits is companded, too.
        train_only: The setting ``train_only``, which is refused.

    Raises:
        UserError: If ``a`` or ``b`` is not above 0, an initial weight is not below the bound, a layer of another kind
            shares a weight, or there is nothing to compand, as with ``train_only``.
    """
    for key, value in (("a", a), ("b", b)):
        if not value > 0:
            raise UserError(f"reparam.{key}={value} is not possible: choose a number above 0.")
    if train_only is not None:
        raise UserError(
            f"train_only={train_only} freezes the weights that reparam=weight_compander is to restrict: "
            "leave one of the two out."
        )
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, _ConvNd | nn.Linear)}
    if not head:
        spared = {id(parameter) for parameter in logit_parameters(model)}
        layers = {path: layer for path, layer in layers.items() if id(layer.weight) not in spared}
    chosen = {path: layer for path, layer in layers.items() if layer.weight.requires_grad}
    if not chosen:
        raise UserError(
            f"reparam=weight_compander needs convolutions or linear layers that are trained, and "
            f"{type(model).__name__} has none: choose another model, or reparam=none."
        )
    _refuse_other_users(model, chosen)
    done: dict[int, nn.Module] = {}
    for path, layer in chosen.items():
        first = done.setdefault(id(layer.weight), layer)
        if first is not layer:
            _share(first, layer)
            continue
        largest = layer.weight.detach().abs().max().item()
        if not largest < a * pi / 2:
            raise UserError(
                f"reparam.a={a} allows weights below {a * pi / 2:.3g}, and {path} starts with {largest:.3g}: "
                "choose a larger number."
            )
        _compand_layer(layer, a, b, learnable)
    return model


def _refuse_other_users(model: nn.Module, chosen: Mapping[str, nn.Module]) -> None:
    """Refuse weights that a layer reads which is not companded, such as an embedding: it would read what is trained.

    Raises:
        UserError: If there is one.
    """
    weights = {id(layer._parameters["weight"]): path for path, layer in chosen.items()}
    companded = set(chosen.values())
    for path, module in model.named_modules():
        for parameter in module._parameters.values() if module not in companded else ():
            if id(parameter) in weights:
                raise UserError(
                    f"reparam=weight_compander would compand the weight of {weights[id(parameter)]}, which "
                    f"{path} ({type(module).__name__}) shares: choose another model, or reparam=none."
                )


def _share(first: nn.Module, layer: nn.Module) -> None:
    """Compand a layer with the weight of ``first``, which is companded."""
    for name in ("a", "b"):
        if name in first._parameters:
            layer.register_parameter(name, first._parameters[name])
        else:
            layer.register_buffer(name, first._buffers[name], persistent=False)
    layer.__class__ = _companded(type(layer))


def _compand_layer(layer: nn.Module, a: float, b: float, learnable: bool) -> None:
    weight = layer._parameters["weight"]
    assert weight is not None
    with torch.no_grad():
        weight.copy_(b * torch.tan(weight / a))
    for name, value in (("a", torch.tensor(float(a))), ("b", torch.tensor(float(b)))):
        if learnable:
            layer.register_parameter(name, nn.Parameter(value))
        else:
            layer.register_buffer(name, value, persistent=False)
    layer.__class__ = _companded(type(layer))
