"""The state split: which entries of a model are shared, personal or frozen, decided by module type.

A test for ``"bn"`` in a name misses the BatchNorm of a residual shortcut (15 of the 100 BatchNorm tensors of
torchvision's ResNet-18, named ``downsample.1``); ``isinstance`` does not.
"""

from collections.abc import Iterable

from torch import nn


def entries_of(model: nn.Module, types: tuple[type[nn.Module], ...]) -> tuple[str, ...]:
    """Return the names of the ``state_dict`` entries, parameters and buffers, of all modules of the given types.

    They include the entries of submodules of a matching module, so ``nn.Module`` selects everything.
    """
    modules = model.named_modules(remove_duplicate=False)
    return entries_under(model, [name for name, module in modules if types and isinstance(module, types)])


def entries_under(model: nn.Module, modules: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the ``state_dict`` entries of the modules with these names; ``""`` is the whole model."""
    prefixes = tuple(f"{name}." if name else "" for name in modules)
    return tuple(name for name in model.state_dict() if name.startswith(prefixes)) if prefixes else ()


def frozen_entries(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that are not trained: all have their initial values, so they are not sent."""
    return frozenset(name for name, parameter in model.named_parameters() if not parameter.requires_grad)
