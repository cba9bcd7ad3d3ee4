"""A method as the configuration names it: its server strategy, its local trainer, and who takes which option."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from torch import nn

from fedsim.config.binding import Factory, bind, locate, options_of, refuse_options
from fedsim.config.settings import Settings
from fedsim.methods.interfaces import LocalTrainer, ServerStrategy
from fedsim.methods.training import LocalTraining, ServerTraining

STRUCTURE = frozenset({"name", "server", "client"})
"""What ``configs/strategy/NAME.yaml`` has beside the method's options."""
WEIGHTING = "weighting"
"""The setting of every server strategy that stands among a method's options."""


@dataclass(frozen=True)
class Method:
    """Both classes of a method, located once.

    ``configs/strategy/NAME.yaml`` names them under ``server`` and ``client``; what else stands there are the method's
    options, and each class takes those that its constructor names. So a user writes ``strategy.clip=0.1`` without
    knowing which of them clips.
    """

    options: Mapping[str, Any]
    server: Factory
    client: Factory

    @classmethod
    def of(cls, strategy: Mapping[str, Any]) -> Self:
        """Locate the classes of the group ``strategy``.

        Raises:
            UserError: If one cannot be imported, or for an option that neither takes.
        """
        method = cls(strategy, *(locate("strategy", half, strategy.get(half)) for half in ("server", "client")))
        taken = {*STRUCTURE, WEIGHTING, *options_of(method.server, 2), *options_of(method.client, 1)}
        refuse_options("strategy", strategy, strategy.keys() - taken)
        return method

    @property
    def size_option(self) -> str | None:
        """The option of a ``Resizable`` method that says how much of the network devices train."""
        option: str | None = getattr(self.server, "size_option", None)
        return option

    @property
    def uses_aggregation(self) -> bool:
        """Whether its strategy makes one model of the replies by ``ServerTraining.aggregation``."""
        return bool(getattr(self.server, "uses_aggregation", False))

    def make_strategy(self, model: nn.Module, training: ServerTraining, **options: Any) -> ServerStrategy:
        """Return the server strategy; ``options`` stand in the place of the configured ones.

        Raises:
            UserError: For an option of another type, or what the method refuses.
        """
        strategy: ServerStrategy = bind("strategy", {**self.options, **options}, self.server, model, training)
        return strategy

    def make_trainer(self, settings: Settings) -> LocalTrainer:
        """Return the local trainer with the settings of local training.

        Raises:
            UserError: For an option of another type, or what the method refuses.
        """
        training = LocalTraining(**{field.name: getattr(settings, field.name) for field in fields(LocalTraining)})
        trainer: LocalTrainer = bind("strategy", self.options, self.client, training)
        return trainer
