"""``norm.policy``: the treatment of layers with running statistics in federated training.

Frameworks differ in this, mostly without documentation. Here a policy consists of

* ``affine``: gamma and beta are ``shared`` (averaged like all weights) or ``local`` (they never leave the client);
* ``statistics``: the running statistics are ``shared``, ``local``, or there are ``none``;
* ``evaluation``: normalization is by the ``running`` statistics, by each test ``batch``, or by statistics
  ``reestimated`` on the client's training images;
* ``freeze_after``: after that many rounds the running statistics are also used in training, and no longer change.

Averages have the strategy's weights of clients. Counters of batches are not averaged: they take the maximum. Running
statistics are averaged plainly, whatever the server does with weights: they are not parameters, and a server optimizer
could make a variance negative.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fedsim.core.errors import UserError
from fedsim.methods.state_split import entries_under
from fedsim.norms.registry import statistics_layers
from fedsim.norms.statistics import (
    batch_statistics,
    forget_running_statistics,
    frozen_statistics,
    reestimated_statistics,
)

SHARED, LOCAL, NONE = "shared", "local", "none"
RUNNING, BATCH, REESTIMATED = "running", "batch", "reestimated"
CHOICES = {
    "affine": (SHARED, LOCAL),
    "statistics": (SHARED, LOCAL, NONE),
    "evaluation": (RUNNING, BATCH, REESTIMATED),
}
PRESETS: dict[str, dict[str, str]] = {
    "fedavg": {"affine": SHARED, "statistics": SHARED},
    "fedbn": {"affine": LOCAL, "statistics": LOCAL},  # Li et al., ICLR 2021, arXiv 2102.07623
    "silobn": {"affine": SHARED, "statistics": LOCAL},  # Andreux et al. 2020, arXiv 2008.07424
    "fixbn": {"affine": SHARED, "statistics": SHARED},  # Zhong et al. 2023, arXiv 2303.06530: frozen after rounds // 2
}

Images = Callable[[], Iterable[torch.Tensor]]


@dataclass(frozen=True)
class NormPolicy:
    """A policy; an option that is ``None`` is left to the strategy, which shares what it does not declare personal."""

    affine: str | None = None
    statistics: str | None = None
    evaluation: str | None = None
    freeze_after: int | None = None

    @classmethod
    def of(cls, norm: Mapping[str, Any], rounds: int) -> "NormPolicy":
        """Make the policy of the preset ``norm.policy``, with the other options of ``norm``, which override it.

        Raises:
            UserError: If a value is unknown or options contradict each other.
        """
        preset = norm.get("policy")
        if preset is not None and preset not in PRESETS:
            raise UserError(f"norm.policy={preset} is not known: choose {', '.join(PRESETS)}, or null.")
        given = {key: norm.get(key) for key in CHOICES}
        for key, value in given.items():
            if value is not None and value not in CHOICES[key]:
                raise UserError(f"norm.{key}={value} is not known: choose {', '.join(CHOICES[key])}, or null.")
        answers = {**PRESETS.get(str(preset), {}), **{key: value for key, value in given.items() if value is not None}}
        freeze_after = norm.get("freeze_after")
        if freeze_after is None and preset == "fixbn":
            freeze_after = rounds // 2
        policy = cls(**answers, freeze_after=freeze_after)
        policy._check(rounds)
        return policy

    def _check(self, rounds: int) -> None:
        after = self.freeze_after
        if after is not None:
            if isinstance(after, bool) or not isinstance(after, int) or not 1 <= after < rounds:
                raise UserError(
                    f"norm.freeze_after={after} is not possible: choose a whole number from 1 to below rounds={rounds}."
                )
            if self.statistics == NONE:
                raise UserError(
                    f"norm.freeze_after={after} needs statistics to freeze: leave norm.statistics=none out."
                )
        if self.statistics == NONE and self.evaluation == RUNNING:
            raise UserError(
                "norm.evaluation=running needs running statistics: choose batch or reestimated, "
                "or another norm.statistics."
            )

    @property
    def _said(self) -> str | None:
        """One of the options as a user writes it, for error messages; ``None`` if all are ``None``."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                return f"norm.{field.name}={value}"
        return None

    @property
    def by_batch(self) -> bool:
        """Whether the result of a test image depends on the other images of its batch."""
        return self.evaluation == BATCH or (self.statistics == NONE and self.evaluation is None)

    @property
    def reestimates(self) -> bool:
        return self.evaluation == REESTIMATED

    def apply(self, model: nn.Module) -> nn.Module:
        """Return the model, whose running statistics are removed in place if the policy has none.

        Raises:
            UserError: If the model has no layers with running statistics, or layers of a type for which the policy is
                not possible.
        """
        if self._said is None:
            return model
        layers = list(layers_with_statistics(model).values())
        if not layers:
            raise UserError(
                f"{self._said} is about layers with running statistics, and this network has none: "
                "choose norm=bn and a model with BatchNorm, such as model=cnn_small, or leave it out."
            )
        others = sorted({type(layer).__name__ for layer in layers if not isinstance(layer, _BatchNorm)})
        if others and (self.by_batch or self.reestimates or self.freeze_after is not None or self.statistics == NONE):
            raise UserError(
                f"the statistics of {', '.join(others)} can only be shared or local and used as they run: "
                "leave norm.evaluation, norm.freeze_after and norm.statistics=none out, or choose norm=bn."
            )
        return forget_running_statistics(model) if self.statistics == NONE else model

    def local_entries(self, model: nn.Module) -> frozenset[str]:
        """Return the entries of the model's ``state_dict`` that never leave a client."""
        local = [key for key in ("affine", "statistics") if self._answer(key) == LOCAL]
        return frozenset().union(*(_entries(model, key) for key in local))

    def refuse_contradiction(self, model: nn.Module, personal: frozenset[str], strategy: str) -> None:
        """Refuse a policy that shares entries which are personal in the strategy.

        Raises:
            UserError: If there are such entries.
        """
        for key in ("affine", "statistics"):
            if self._answer(key) == SHARED and _entries(model, key) & personal:
                raise UserError(
                    f"norm.{key}=shared contradicts strategy={strategy}, which keeps it on the clients: "
                    "choose strategy=fedavg, or leave norm.policy out."
                )

    def _answer(self, key: str) -> str | None:
        answer: str | None = getattr(self, key)
        return answer

    def frozen(self, round: int) -> bool:
        """Return whether training in this round normalizes by the running statistics, without updating them."""
        return self.freeze_after is not None and round > self.freeze_after

    @contextmanager
    def training(self, model: nn.Module, round: int) -> Iterator[None]:
        """Apply the policy to training of the model inside the block."""
        if self.frozen(round):
            with frozen_statistics(model):
                yield
        else:
            yield

    @contextmanager
    def evaluating(self, model: nn.Module, images: Images) -> Iterator[None]:
        """Apply the policy to evaluation inside the block; ``images`` is called only to re-estimate statistics."""
        if self.by_batch:
            with batch_statistics(model):
                yield
        elif self.reestimates:
            with reestimated_statistics(model, images()):
                yield
        else:
            yield


def layers_with_statistics(model: nn.Module) -> dict[str, nn.Module]:
    """Return every layer with running statistics, found by type, under all of its names.

    InstanceNorm is included only if it tracks running statistics.
    """
    types = statistics_layers()
    return {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if isinstance(layer, types) or (isinstance(layer, _InstanceNorm) and layer.track_running_stats)
    }


def statistics_kept(model: nn.Module, personal: frozenset[str]) -> bool:
    """Return whether some running statistics of the model are personal."""
    return bool(_entries(model, "statistics") & personal)


POLICY_KEYS = ("policy", *(field.name for field in fields(NormPolicy)))


def layer_options(norm: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the ``norm`` group without those of the policy."""
    return {key: value for key, value in norm.items() if key not in POLICY_KEYS}


def _entries(model: nn.Module, key: str) -> frozenset[str]:
    """Return entries of the layers with statistics: the parameters for ``affine``, the buffers for ``statistics``."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    entries = entries_under(model, layers_with_statistics(model))
    return frozenset(name for name in entries if (name in parameters) == (key == "affine"))
