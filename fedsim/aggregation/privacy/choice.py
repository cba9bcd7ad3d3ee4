"""The choice of ``privacy=``, and checks of settings that it contradicts."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from fedsim.aggregation.aggregation import Aggregation
from fedsim.core.errors import UserError
from fedsim.methods.state_split import frozen_entries


def no_privacy(aggregation: Aggregation) -> Aggregation:
    """Leave the aggregation unchanged (``privacy=none``): updates are not clipped, and no noise is added."""
    return aggregation


def refuse_noise(aggregation: Aggregation, setting: str, told: str) -> None:
    """Refuse noise for a setting in which clients also send numbers to which no noise is added.

    Args:
        aggregation: The aggregation.
        setting: The setting, such as ``strategy=scaffold``.
        told: Description of these numbers, for the error message.

    Raises:
        UserError: If the aggregation adds noise.
    """
    if aggregation.noisy:
        raise UserError(
            f"{setting} has clients tell {told}, which privacy.noise_multiplier adds no noise to: choose "
            "privacy.noise_multiplier=0, or do without."
        )


def refuse_noise_on_statistics(privacy: Mapping[str, Any], model: nn.Module, personal: Collection[str]) -> None:
    """Refuse noise if running statistics are shared, since variances would become negative.

    Raises:
        UserError: If noise is to be added and a running statistic is neither personal nor frozen.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = {*personal, *frozen_entries(model), *parameters}
    floats = [name for name, tensor in model.state_dict().items() if tensor.is_floating_point()]
    statistics = [name for name in floats if name not in held]
    if privacy.get("noise_multiplier") and statistics:
        raise UserError(
            f"privacy.noise_multiplier={privacy['noise_multiplier']} adds noise to what is averaged, and a running "
            f"statistic such as {statistics[0]} does not stand that: choose norm.statistics=local or another norm."
        )
