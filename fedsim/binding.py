"""Making the objects that the configuration groups describe."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from hydra.utils import get_object

from fedsim.errors import UserError


def instantiate(group: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Calls ``group["_target_"]`` with the group's other entries; ``name`` is for people and not passed on.

    Errors: ``UserError`` for an entry that the target does not take.
    """
    options = {key: value for key, value in group.items() if key not in ("_target_", "name")}
    factory = get_object(group["_target_"])
    for key in options.keys() - inspect.signature(factory).parameters.keys():
        raise UserError(
            f"{key}={options[key]} is not an option of {group.get('name', group['_target_'])}: leave it out."
        )
    return factory(*args, **options, **kwargs)


def bind_half(strategy: Mapping[str, Any], half: str, *args: Any, **kwargs: Any) -> Any:
    """The ``server`` or ``client`` half of a method, with those of the method's options that its constructor names.

    ``configs/strategy/NAME.yaml`` names the two classes under ``server`` and ``client``; what else stands there are the
    method's options, so that a user writes ``strategy.clip=0.1`` without knowing which half clips.
    """
    factory = get_object(strategy[half])
    options = {key: strategy[key] for key in _parameters(factory) if key in strategy}
    return factory(*args, **options, **kwargs)


def unused_options(strategy: Mapping[str, Any]) -> list[str]:
    """Options of a method that neither of its halves takes."""
    taken = {"name", "server", "client"}.union(
        *(_parameters(get_object(strategy[half])) for half in ("server", "client"))
    )
    return sorted(strategy.keys() - taken)


def _parameters(factory: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(factory).parameters)
