"""What ``aggregation=`` and ``privacy=`` name together, and with what they do not go together."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from fedsim.aggregation.aggregation import Aggregation
from fedsim.core.errors import UserError
from fedsim.methods.state_split import frozen_entries


def no_privacy(aggregation: Aggregation) -> Aggregation:
    """``privacy=none``: updates are neither clipped nor given noise."""
    return aggregation


def refuse_noise(aggregation: Aggregation, setting: str, told: str) -> None:
    """Errors: ``UserError`` if there is to be noise and clients tell something that it is not added to."""
    if aggregation.noisy:
        raise UserError(
            f"{setting} has clients tell {told}, which privacy.noise_multiplier adds no noise to: choose "
            "privacy.noise_multiplier=0, or do without."
        )


def refuse_noise_on_statistics(privacy: Mapping[str, Any], model: nn.Module, personal: Collection[str]) -> None:
    """Errors: ``UserError`` if there is to be noise and running statistics travel: variances would become negative."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = {*personal, *frozen_entries(model), *parameters}
    floats = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
    statistics = [name for name in floats if name not in held]
    if privacy.get("noise_multiplier") and statistics:
        raise UserError(
            f"privacy.noise_multiplier={privacy['noise_multiplier']} adds noise to what is averaged, and a running "
            f"statistic such as {statistics[0]} does not stand that: choose norm.statistics=local or another norm."
        )
