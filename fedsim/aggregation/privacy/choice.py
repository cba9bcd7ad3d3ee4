"""What ``aggregation=`` and ``privacy=`` name together, and with what they do not go together."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from fedsim.aggregation import Aggregation, Mean, aggregation_of
from fedsim.config.binding import instantiate, takes
from fedsim.core.errors import UserError
from fedsim.core.seeding import cohort_size
from fedsim.methods.state_split import frozen_entries

if TYPE_CHECKING:  # strategies need this file: see fedsim/strategies.py
    from fedsim.config.settings import Settings


def no_privacy(aggregation: Aggregation) -> Aggregation:
    """``privacy=none``: updates are neither clipped nor given noise."""
    return aggregation


def aggregation_for(settings: "Settings", clients: int) -> Aggregation:
    """The aggregation, within what is to keep it private, for a federation of so many clients.

    Errors: ``UserError`` for a wrong option, too few clients in a cohort, or a strategy that does not use it.
    """
    inner = aggregation_of(settings.aggregation)
    aggregation: Aggregation = instantiate("privacy", settings.privacy, inner, offered={"seed": settings.seed})
    if not isinstance(aggregation, Mean) and not takes(settings.strategy, "server", "aggregation"):
        raise UserError(
            f"strategy={settings.strategy['name']} averages in a way of its own: choose aggregation=mean and "
            "privacy=none, or another strategy."
        )
    aggregation.check(cohort_size(clients, settings.fraction))
    if settings.diagnostics:
        refuse_noise(aggregation, "diagnostics=true", "sums of their activations")
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
