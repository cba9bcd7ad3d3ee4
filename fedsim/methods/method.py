"""A method as configured: its server strategy, its local trainer, and which class accepts which option."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from fedsim.client.lr_schedule import LearningRateSchedule
from fedsim.config.binding import Factory, bind, locate, options_of, refuse_options
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.methods.interfaces import LocalTrainer, ServerStrategy
from fedsim.methods.training import LocalTraining, ServerTraining

STRUCTURE = frozenset({"name", "server", "client"})
"""The keys of ``configs/strategy/NAME.yaml`` that are not options of the method."""
WEIGHTING = "weighting"
"""The setting of all server strategies that is written among a method's options."""


@dataclass(frozen=True)
class Method:
    """Both classes of a method, located once.

    ``configs/strategy/NAME.yaml`` names them under ``server`` and ``client``; its other keys are the method's options,
    and each class receives those that its constructor names. A user can write ``strategy.clip=0.1`` without knowing
    which class does the clipping.
    """

    options: Mapping[str, Any]
    server: Factory
    client: Factory

    @classmethod
    def of(cls, strategy: Mapping[str, Any]) -> Self:
        """Locate the classes of the group ``strategy``.

        Raises:
            UserError: If a class cannot be imported or is none, or neither class accepts an option.
        """
        method = cls(strategy, *(locate("strategy", half, strategy.get(half)) for half in ("server", "client")))
        for half, factory in (("server", method.server), ("client", method.client)):
            if not isinstance(factory, type):
                raise UserError(f"strategy.{half}={strategy.get(half)} is not possible: it is no class; choose one.")
        taken = {*STRUCTURE, WEIGHTING, *options_of(method.server, 2), *options_of(method.client, 1)}
        refuse_options("strategy", strategy, strategy.keys() - taken)
        return method

    @property
    def size_option(self) -> str | None:
        """The strategy's ``size_option``: its option, from 0 to 1, for the share of the network that devices train.

        Where that is null the budget decides: the server's network has the size that the strongest class of devices can
        afford, and the clients of the other classes are in ``ServerTraining.client_sizes``. ``None`` without one.
        """
        option: str | None = getattr(self.server, "size_option", None)
        return option

    @property
    def uses_aggregation(self) -> bool:
        """Whether the strategy combines the replies by ``ServerTraining.aggregation``."""
        return bool(getattr(self.server, "uses_aggregation", False))

    def make_strategy(self, model: nn.Module, training: ServerTraining, **options: Any) -> ServerStrategy:
        """Return the server strategy; ``options`` override the configured ones.

        Raises:
            UserError: If an option has a wrong type, or the method refuses it.
        """
        strategy: ServerStrategy = bind("strategy", {**self.options, **options}, self.server, model, training)
        return strategy

    def make_trainer(self, settings: Settings) -> LocalTrainer:
        """Return the local trainer with the settings of local training.

        Raises:
            UserError: If an option has a wrong type, or the method refuses it.
        """
        training = LocalTraining(
            local_epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            drop_last=settings.drop_last,
            lr=settings.lr,
            momentum=settings.momentum,
            optimizer=settings.optimizer,
            weight_decay=settings.weight_decay,
            schedule=LearningRateSchedule(
                settings.lr_schedule, settings.rounds, settings.lr_decay or 1.0, settings.lr_decay_rounds or 1
            ),
        )
        trainer: LocalTrainer = bind("strategy", self.options, self.client, training)
        return trainer
