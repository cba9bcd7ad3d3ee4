"""Construction of the objects that configuration groups describe, with options checked against the signatures."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

from fedsim.core.errors import UserError

Factory = Callable[..., Any]
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
    """Call ``options["_target_"]`` with the other options of the group, and return the result.

    Args:
        group: The group, for error messages.
        options: The group's options; ``name`` is a label for people and not passed on.
        args: First positional arguments.
        offered: Arguments that are passed only if the target has parameters of these names.
        kwargs: Keyword arguments that are always passed.

    Raises:
        UserError: If the target does not take an option, or the option is of another type.
    """
    factory = locate(group, "_target_", options.get("_target_"))
    given = {key: value for key, value in options.items() if key not in ("_target_", "name")}
    parameters = _parameters(factory)
    handed = {**{key: value for key, value in (offered or {}).items() if key in parameters}, **kwargs}
    refuse_options(group, options, given.keys() - set(parameters[len(args) :]) | given.keys() & handed.keys())
    check_types(group, given, factory)
    return factory(*args, **given, **handed)


def bind(group: str, options: Mapping[str, Any], factory: Factory, *args: Any) -> Any:
    """Call the factory with ``args`` and those options of the group that it has parameters for.

    For groups whose options are shared by several factories.

    Raises:
        UserError: If an option is of another type.
    """
    mine = {key: options[key] for key in options_of(factory, len(args)) if key in options}
    check_types(group, mine, factory)
    return factory(*args, **mine)


def options_of(factory: Factory, handed: int = 0) -> list[str]:
    """Return the names of a factory's parameters after the first ``handed``, which the simulator passes itself."""
    return _parameters(factory)[handed:]


def refuse_unused_options(
    group: str, options: Mapping[str, Any], factories: Iterable[Factory], structure: Iterable[str]
) -> None:
    """Refuse an option that none of the factories takes; ``structure`` names the entries that are not options.

    Raises:
        UserError: If there is such an option; names the first.
    """
    refuse_options(group, options, options.keys() - set(structure).union(*map(options_of, factories)))


def target_of(group: str, options: Mapping[str, Any]) -> Any:
    """Return the class or function that ``_target_`` names, after a check of the types of the group's options.

    Raises:
        UserError: If there is no such class or function, or an option is of another type.
    """
    factory = locate(group, "_target_", options.get("_target_"))
    check_types(group, options, factory)
    return factory


def check_types(group: str, options: Mapping[str, Any], factory: Factory) -> None:
    """Compare numbers, texts and nulls with the annotations of the factory; other types are left to the factory.

    Raises:
        UserError: If an option does not fit; names the first.
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


def refuse_options(group: str, options: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuse these keys of a group, whose values nothing uses.

    Raises:
        UserError: If there are any; names the first in alphabetical order.
    """
    for key in sorted(keys):
        owner = options.get("name") or options.get("_target_") or f"{group}=[{','.join(options.get('steps') or ())}]"
        raise UserError(f"{group}.{key}={options[key]} is not an option of {owner}: leave it out.")


def locate(group: str, key: str, name: Any) -> Factory:
    """Return the class or function with that dotted name.

    Raises:
        UserError: If there is none.
    """
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
