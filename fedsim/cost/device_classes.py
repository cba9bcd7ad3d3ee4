"""Classes of devices and their limits: ``budget.memory_mb``, ``budget.flops`` and ``budget.classes``."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.core.errors import UserError
from fedsim.core.seeding import numpy_generator

NEEDS = {"memory_mb": ("device_memory_mb", 1.0), "flops": ("device_gflops", 1e9)}
"""The columns of ``rounds.csv`` that a budget limits, and the factor from the unit of the column to the budget's."""
CLASSES, CLIENTS = "classes", "clients"
NAME = re.compile(r"\w+")
BUDGET = "numbers above 0 or null for budget.memory_mb and budget.flops, and classes of devices for budget.classes"
"""The valid values of ``budget`` in words."""
Needs = Mapping[str, float]
"""Costs of a device, by column."""


@dataclass(frozen=True)
class DeviceClass:
    """Clients whose devices have the same limits, on the memory of a training step and the FLOPs of a round."""

    name: str
    """Empty for the clients that are in no class."""
    clients: Sequence[int]
    limits: Mapping[str, float]

    def exceeded(self, needs: Needs) -> str | None:
        """Return the first limit that is exceeded; ``None`` if there is none."""
        return next((limit for limit in self.limits if _needed(limit, needs) > self.limits[limit]), None)

    def check(self, needs: Needs, remedy: str = "") -> None:
        """Refuse costs above a limit.

        Raises:
            UserError: If a limit is exceeded; the message names the first such limit and the cost.
        """
        limit = self.exceeded(needs)
        if limit is not None:
            key = f"classes.{self.name}.{limit}" if self.name else limit
            raise UserError(
                f"budget.{key}={self.limits[limit]:g} is not possible: a device needs {_needed(limit, needs):.4g}; "
                f"choose more, a smaller model or batch_size{remedy and f', or {remedy}'}."
            )


def is_budget(value: Any) -> bool:
    """Return whether a value has the form of ``budget``; its classes are checked later, when the clients are known."""
    return (
        isinstance(value, Mapping)
        and value.keys() <= {*NEEDS, CLASSES}
        and all(_is_limit(value.get(limit)) for limit in NEEDS)
        and isinstance(value.get(CLASSES) or {}, Mapping)
    )


def device_classes(budget: Mapping[str, Any], clients: Sequence[int], seed: int) -> list[DeviceClass]:
    """Return the class of clients that are in no named class, if there are any, and those of ``budget.classes``.

    ``clients`` of a class is a list, or a share of all clients, which are drawn by the seed from those that are in no
    list. A limit that a class does not set is that of ``budget``.

    Raises:
        UserError: If a class is not possible.
    """
    general = _limits(budget)
    described = {str(name): _described(str(name), options) for name, options in (budget.get(CLASSES) or {}).items()}
    members = _members({name: options[CLIENTS] for name, options in described.items()}, clients, seed)
    classes = [
        DeviceClass(name, tuple(sorted(members[name])), {**general, **_limits(options)})
        for name, options in described.items()
    ]
    in_one = {client for each in classes for client in each.clients}
    left = tuple(client for client in clients if client not in in_one)
    return [*([DeviceClass("", left, general)] if left else []), *classes]


def _needed(limit: str, needs: Needs) -> float:
    column, unit = NEEDS[limit]
    return needs[column] * unit


def _limits(options: Mapping[str, Any]) -> dict[str, float]:
    return {name: options[name] for name in NEEDS if options.get(name) is not None}


def _described(name: str, options: Any) -> Mapping[str, Any]:
    key = f"budget.classes.{name}"
    if not NAME.fullmatch(name):
        raise UserError(f"{key} is not possible: choose a name of letters, digits and underscores.")
    if not isinstance(options, Mapping) or CLIENTS not in options or options.keys() - {CLIENTS, *NEEDS}:
        raise UserError(f"{key}={options} is not possible: choose {{clients: ..., memory_mb: ..., flops: ...}}.")
    for limit in NEEDS:
        value = options.get(limit)
        if not _is_limit(value):
            raise UserError(f"{key}.{limit}={value} is not possible: choose a number above 0, or null.")
    return options


def _members(wanted: Mapping[str, Any], clients: Sequence[int], seed: int) -> dict[str, Collection[int]]:
    """Return the clients of each class: first of the lists, then of the shares, drawn from the remaining clients."""
    members: dict[str, Collection[int]] = {}
    named: set[int] = set()
    for name, listed in wanted.items():
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            continue
        for client in listed:
            if client not in clients or isinstance(client, bool):
                raise UserError(
                    f"budget.classes.{name}.clients={list(listed)} is not possible: there is no client {client}, "
                    f"choose from 0 to {len(clients) - 1}."
                )
            if client in named:
                raise UserError(
                    f"budget.classes.{name}.clients={list(listed)} is not possible: client {client} is named already, "
                    "choose each once."
                )
            named.add(client)
        members[name] = listed
    free = [client for client in clients if client not in named]
    numpy_generator(seed, "device classes").shuffle(free)
    for name, share in wanted.items():
        if name in members:
            continue
        if not (_is_number(share) and 0 < share <= 1):
            raise UserError(
                f"budget.classes.{name}.clients={share} is not possible: choose a list of clients, or a share of them "
                "above 0 and at most 1."
            )
        count = max(1, round(share * len(clients)))
        if count > len(free):
            raise UserError(
                f"budget.classes.{name}.clients={share} is not possible: {count} of {len(clients)} clients are wanted "
                f"and {len(free)} are in no other class, choose less."
            )
        members[name], free = free[:count], free[count:]
    return members


def _is_limit(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 < value < float("inf"))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
