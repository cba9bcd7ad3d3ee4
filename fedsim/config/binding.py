"""Making the objects that the configuration groups describe, with their options checked against what they take."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from fedsim.core.errors import UserError

Factory = Callable[..., Any]
SET_BY_THE_SIMULATOR = frozenset(
    {"model", "fraction", "seed", "training", "image_shape", "aggregation", "client_densities"}
)
"""What both halves of a method are handed anyway, so that it cannot be an option of the method too."""
KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    NoneType: "null",
}


def instantiate(
    group: str, options: Mapping[str, Any], *args: Any, offered: Mapping[str, Any] | None = None, **kwargs: Any
) -> Any:
    """Calls ``options["_target_"]`` with the other options of the group; ``name`` is for people and not passed on.

    Of what is ``offered`` the target gets what it names.

    Errors: ``UserError`` for an option that the target does not take or that is of another type.
    """
    factory = locate(group, "_target_", options.get("_target_"))
    given = {key: value for key, value in options.items() if key not in ("_target_", "name")}
    parameters = _parameters(factory)
    handed = {**{key: value for key, value in (offered or {}).items() if key in parameters}, **kwargs}
    _refuse(group, options, given.keys() - set(parameters[len(args) :]) | given.keys() & handed.keys())
    check_types(group, given, factory)
    return factory(*args, **given, **handed)


def bind(
    group: str,
    options: Mapping[str, Any],
    factory: Factory,
    *args: Any,
    offered: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Calls the factory with those options of the group that it names, where several share the group's options.

    Of what is ``offered``, too, it gets what it names.

    Errors: ``UserError`` for an option of another type.
    """
    named = _parameters(factory)
    mine = {key: options[key] for key in named if key in options and key not in SET_BY_THE_SIMULATOR}
    check_types(group, mine, factory)
    handed = {key: value for key, value in (offered or {}).items() if key in named}
    return factory(*args, **mine, **handed, **kwargs)


def bind_half(strategy: Mapping[str, Any], half: str, *args: Any, **kwargs: Any) -> Any:
    """The ``server`` or ``client`` half of a method, with those of the method's options that its constructor names.

    ``configs/strategy/NAME.yaml`` names the two classes under ``server`` and ``client``; what else stands there are the
    method's options, so that a user writes ``strategy.clip=0.1`` without knowing which half clips.

    Errors: ``UserError`` for an option of another type.
    """
    return bind("strategy", strategy, locate("strategy", half, strategy.get(half)), *args, **kwargs)


def refuse_unused_options(
    group: str, options: Mapping[str, Any], factories: Iterable[Factory], structure: Iterable[str]
) -> None:
    """Errors: ``UserError`` for an option that none of the factories takes; ``structure`` names what is no option."""
    taken = set(structure).union(*map(_parameters, factories)) - SET_BY_THE_SIMULATOR
    _refuse(group, options, options.keys() - taken)


def halves_of(strategy: Mapping[str, Any]) -> list[Factory]:
    """Both halves of a method. Errors: ``UserError`` if one cannot be imported."""
    return [locate("strategy", half, strategy.get(half)) for half in ("server", "client")]


def target_of(group: str, options: Mapping[str, Any]) -> Any:
    """The class or function that ``_target_`` names, once the group's options are of the types it takes."""
    factory = locate(group, "_target_", options.get("_target_"))
    check_types(group, options, factory)
    return factory


def takes(strategy: Mapping[str, Any], half: str, name: str) -> bool:
    """Whether the constructor of a method's half names this."""
    return name in _parameters(locate("strategy", half, strategy.get(half)))


def check_types(group: str, options: Mapping[str, Any], factory: Factory) -> None:
    """Compares numbers, texts and nulls with the annotations of the factory; other types are left to the factory.

    Errors: ``UserError`` naming the first option that does not fit.
    """
    hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    for key, value in options.items():
        hint = hints.get(key, Any)
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        if all(kind in KINDS for kind in kinds) and not any(_is_a(value, kind) for kind in kinds):
            allowed = " or ".join(KINDS[kind] for kind in kinds)
            raise UserError(f"{group}.{key}={value} is not possible: choose {allowed}.")


def _is_a(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float) if kind is float else isinstance(value, kind)


def _refuse(group: str, options: Mapping[str, Any], keys: Iterable[str]) -> None:
    for key in sorted(keys):
        owner = options.get("name", options.get("_target_"))
        raise UserError(f"{group}.{key}={options[key]} is not an option of {owner}: leave it out.")


def locate(group: str, key: str, name: Any) -> Factory:
    """The class or function with that dotted name. Errors: ``UserError`` if there is none."""
    if not isinstance(name, str):
        raise UserError(f"{group}.{key}={name} is not possible: choose the dotted name of a class or function.")
    try:
        factory: Factory = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())
        choose = "choose a class or function"
        if name.startswith("__main__."):
            choose = "put it into a file of its own, since workers do not run your script, or choose engine=inline"
        raise UserError(f"{group}.{key}={name} cannot be imported ({reason}): {choose}.") from error
    return factory


def _parameters(factory: Factory) -> list[str]:
    return list(inspect.signature(factory).parameters)
