"""Preparation of a run from its settings: data, model, method and costs; invalid settings are refused here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from datasets.build import build_federation
from datasets.federation import Federation
from fedsim.aggregation import Aggregation, Mean, aggregation_of
from fedsim.aggregation.privacy import refuse_noise, refuse_noise_on_statistics
from fedsim.config.binding import instantiate, target_of
from fedsim.config.settings import Settings
from fedsim.core import collector
from fedsim.core.errors import UserError
from fedsim.core.hardware import resolve_devices
from fedsim.core.seeding import cohort_size
from fedsim.cost import Budget, CostTracker, model_cost
from fedsim.diagnostics.diagnosis import Diagnosis
from fedsim.engines.faults import Faults, faults_of
from fedsim.heads import refuse_unmade
from fedsim.methods.interfaces import ServerStrategy
from fedsim.methods.method import WEIGHTING, Method
from fedsim.methods.training import ServerTraining
from fedsim.models import build_model
from fedsim.models.layer_map import as_written, replaced_layers
from fedsim.models.pretrained import origin_of
from fedsim.norms.factory import grouping
from fedsim.norms.gathered import refuse_ungathered
from fedsim.norms.policy import NormPolicy
from fedsim.server.smallest_batches import try_smallest_batches
from fedsim.trackers.tracker import Tracker
from fedsim.trackers.tracking import trackers_of
from fedsim.tta import adaptation_of


@dataclass(frozen=True)
class Prepared:
    """A run whose settings have been checked completely; nothing has been written or started yet."""

    settings: Settings
    federation: Federation
    model: nn.Module
    strategy: ServerStrategy
    devices: list[torch.device]
    costs: CostTracker
    diagnosis: Diagnosis | None
    one_model: bool
    """Whether every client uses the model that the server sends, without a part of its own."""
    by_batch: bool
    """Whether, at evaluation, the result of an image depends on the other images of its batch."""
    own_models: bool = False
    """Whether the model that a client is evaluated with may differ from the global model."""
    trackers: Sequence[Tracker] = ()
    """The trackers that are told of the run."""
    faults: Faults | None = None
    """The faults that are injected, if any."""
    size_option: str | None = None
    """The method's option for the share of the network that devices train, if it has one."""
    sizes: Mapping[str, float] = field(default_factory=dict)
    """The share of the network that each class of devices can afford, if the budget decides ``size_option``."""

    def __str__(self) -> str:
        """Return one line about the run for the terminal.

        ``fedwon on digits: 6 clients, cnn_small with sws, sgd with lr 0.8, process on cpu``
        """
        settings, groups, origin = self.settings, grouping(self.settings.norm), origin_of(self.model)
        schedule = "" if settings.lr_schedule == "constant" else f" ({settings.lr_schedule})"
        precision = "" if settings.precision == "float32" else f" in {settings.precision}"
        return (
            f"{settings.strategy['name']} on {settings.dataset['name']}: {len(self.federation.clients)} clients, "
            f"{settings.model['name']} with {settings.norm['name']}{'' if groups is None else f' (norm.{groups})'}"
            f"{'' if origin is None else f' {origin}'}, "
            f"{settings.optimizer} with lr {settings.lr:g}{schedule}{precision}, "
            f"{settings.engine['name']} on {', '.join(map(str, self.devices))}"
            f"{self._sizes()}"
        )

    def _sizes(self) -> str:
        if not self.sizes:
            return ""
        named = ", ".join(f"{name}: {size:.3g}" for name, size in self.sizes.items() if name)
        return f", {self.size_option} {max(self.sizes.values()):.3g}{named and f' ({named})'}"

    def replaced_layers(self) -> str:
        """Return a line for every layer that was replaced by another one, for ``verbose=true``."""
        settings, source = self.settings, self.federation.source
        written = as_written(settings.model, self.federation.num_classes, source.image_shape)
        rows = replaced_layers(written, self.model)
        head = f"layers of {settings.model['name']} that were replaced: {len(rows) or 'none'}"
        return "\n".join([head, *(f"  {name}: {before} -> {now}" for name, before, now in rows)])


@collector.paused()
def prepare(settings: Settings, federation: Federation | None = None) -> Prepared:
    """Load the data, unless devices hold it, and build the model, the server strategy and the local trainer.

    Raises:
        UserError: If a setting is invalid or settings contradict each other.
    """
    devices = resolve_devices(settings.device)
    engine = target_of("engine", settings.engine)
    engine.check(devices, settings.engine)
    trackers = trackers_of(settings.tracker)
    method = Method.of(settings.strategy)
    federation = build_federation(settings) if federation is None else federation
    faults = faults_of(settings.faults, settings.seed)
    if faults is not None:
        faults.check(settings.fraction, settings.min_fraction_success, on_devices=federation.on_devices)
    model = build_model(settings, federation.num_classes, federation.source.image_shape)
    policy = NormPolicy.of(settings.norm, settings.rounds)
    policy.apply(model)
    trainer = method.make_trainer(settings)
    adaptation = adaptation_of(settings.tta)
    if adaptation is not None:
        adaptation.check(model)
    costs = CostTracker(model_cost(model, federation.source.image_shape), federation, settings)
    asked = 1.0 if faults is None else faults.over_selection
    strategy, sizes = _strategy_within_budget(method, settings, model, federation, costs, asked)
    _refuse_other_place(strategy, federation, settings)
    refuse_unmade(model, settings.head["name"], settings.strategy["name"])
    if not strategy.gathers_statistics:
        refuse_ungathered(model, settings.norm["name"], settings.strategy["name"])
    policy.refuse_contradiction(model, strategy.personal, settings.strategy["name"])
    strategy.keep_on_clients(policy.local_entries(model))
    refuse_noise_on_statistics(settings.privacy, model, strategy.personal)
    own_models = bool(strategy.personal or strategy.own_models or policy.reestimates or not strategy.sends_one_model)
    by_batch = try_smallest_batches(settings, federation, model, trainer, strategy.queried_share)
    engine.check_training(settings, trainer, model, federation)
    own_predictions = adaptation is not None or settings.mask_absent_classes
    return Prepared(
        settings,
        federation,
        model,
        strategy,
        devices,
        costs,
        diagnosis=_diagnosis(settings, model, federation, strategy) if settings.diagnostics else None,
        one_model=not own_models and not own_predictions,
        by_batch=by_batch,
        own_models=own_models,
        trackers=trackers,
        faults=faults,
        size_option=method.size_option,
        sizes=sizes,
    )


def _strategy_within_budget(
    method: Method, settings: Settings, model: nn.Module, federation: Federation, costs: CostTracker, asked: float
) -> tuple[ServerStrategy, Mapping[str, float]]:
    """Return the strategy, and the size that the budget allows by class of devices if ``size_option`` is null.

    Args:
        method: The method.
        settings: The settings.
        model: The network.
        federation: The clients.
        costs: What training costs them.
        asked: How many times the cohort is asked.

    Raises:
        UserError: If a class of devices cannot afford the training.
    """
    options, option = method.options, method.size_option
    budget = Budget(costs)
    aggregation = _aggregation(method, settings, len(federation.clients))

    def make(size: float | None = None, client_sizes: Mapping[int, float] | None = None) -> ServerStrategy:
        training = ServerTraining(
            weighting=options.get(WEIGHTING),
            fraction=min(1.0, asked * settings.fraction),
            seed=settings.seeds.model,
            cohort_seed=settings.seeds.cohort,
            aggregation=aggregation,
            image_shape=federation.source.image_shape,
            client_sizes=client_sizes or {},
        )
        return method.make_strategy(model, training, **({} if size is None else {str(option): size}))

    if option is None or options[option] is not None:
        strategy = make()
        remedy = "a strategy that trains a smaller network" if option is None else f"a smaller strategy.{option}"
        budget.check(strategy.planned(), remedy)
        return strategy, {}
    sizes = budget.sizes(f"strategy.{option}", lambda whole, part: make(whole).planned(part))
    whole = max(sizes)
    by_class = list(zip(costs.classes, sizes, strict=True))
    smaller = {client: size for each, size in by_class for client in each.clients if size < whole}
    return make(whole, smaller), {each.name: size for each, size in by_class}


def _aggregation(method: Method, settings: Settings, clients: int) -> Aggregation:
    """Return the aggregation, wrapped for ``privacy``, for a federation of ``clients`` clients.

    Raises:
        UserError: If an option is wrong, a cohort has too few clients, or the strategy does not use an aggregation.
    """
    inner = aggregation_of(settings.aggregation)
    aggregation: Aggregation = instantiate("privacy", settings.privacy, inner, offered={"seed": settings.seed})
    if not isinstance(aggregation, Mean) and not method.uses_aggregation:
        raise UserError(
            f"strategy={settings.strategy['name']} averages in a way of its own: choose aggregation=mean and "
            "privacy=none, or another strategy."
        )
    aggregation.check(cohort_size(clients, settings.fraction))
    if settings.diagnostics:
        refuse_noise(aggregation, "diagnostics=true", "sums of their activations")
    return aggregation


def _refuse_other_place(strategy: ServerStrategy, federation: Federation, settings: Settings) -> None:
    """Refuse training images of all clients in one place for a federated method, and the contrary.

    Raises:
        UserError: If the strategy needs what ``split.pooled`` does not say.
    """
    name = settings.strategy["name"]
    if strategy.pooled and not federation.pooled:
        raise UserError(
            f"split.pooled=false is not possible with strategy={name}, which needs all training images in one place: "
            "choose split.pooled=true."
        )
    if federation.pooled and not strategy.pooled:
        raise UserError(
            f"split.pooled=true gives each client the training images of all, which strategy={name} is not for: choose "
            "split.pooled=false."
        )


def _diagnosis(settings: Settings, model: nn.Module, federation: Federation, strategy: ServerStrategy) -> Diagnosis:
    if not strategy.sends_one_model:
        raise UserError(
            "diagnostics=true compares devices that train the same weights: leave it out, or budget.classes."
        )
    if federation.on_devices:
        raise UserError("diagnostics=true needs what devices do not tell: leave it out with dataset=devices.")
    return Diagnosis(model, federation, settings.rounds, settings.diagnostics_every)
