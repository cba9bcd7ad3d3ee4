"""From settings to a finished run: the one place where data, model, method, engine and recorder meet."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.build import build_federation
from datasets.federation import Federation
from fedsim.aggregation.privacy import aggregation_for, refuse_noise_on_statistics
from fedsim.client.host import ClientAppFactory, client_half
from fedsim.config.binding import bind_half, instantiate, target_of
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.core.files import writing
from fedsim.core.hardware import resolve_devices
from fedsim.cost import Budget, CostTracker, model_cost
from fedsim.diagnostics.diagnosis import Diagnosis
from fedsim.diagnostics.pictures import plot_diagnostics
from fedsim.engines.grid import FederationGrid, LocalGrid
from fedsim.heads import SparseFrame
from fedsim.messages.compression import buffers_of
from fedsim.methods.interfaces import ServerHalf
from fedsim.metrics.class_metrics import ClassTracker
from fedsim.models import build_model
from fedsim.models.layer_map import as_written, replaced_layers
from fedsim.norms.factory import grouping
from fedsim.norms.pixels import refuse_batch_of_one
from fedsim.norms.policy import NormPolicy, statistics_kept
from fedsim.output.progress import Reporter, logging_to
from fedsim.output.provenance import Provenance
from fedsim.output.recorder import Recorder
from fedsim.output.results import Result, read_result
from fedsim.report.class_pictures import plot_classes
from fedsim.report.federation_pictures import plot_federation
from fedsim.report.page import write_html
from fedsim.report.plots import plot_run
from fedsim.server.loop import FederatedLoop
from fedsim.server.smallest_batches import try_smallest_batches
from fedsim.tta import adaptation_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Everything that can be wrong with the settings has been tried, and nothing has been written or started."""

    settings: Settings
    federation: Federation
    model: nn.Module
    strategy: ServerHalf
    devices: list[torch.device]
    costs: CostTracker
    diagnosis: Diagnosis | None
    densities: Mapping[str, float] = field(default_factory=dict)
    """What each class of devices affords of the network, where that was left open"""
    by_batch: bool = False
    """Whether, at evaluation, the result of an image depends on the others of its batch"""

    def __str__(self) -> str:
        """One line for the person who waits.

        ``fedwon on digits: 6 clients, cnn_small with sws, sgd with lr 0.05, process on cpu``
        """
        settings = self.settings
        return (
            f"{settings.strategy['name']} on {settings.dataset['name']}: {len(self.federation.clients)} clients, "
            f"{settings.model['name']} with {settings.norm['name']}{self._groups()}, "
            f"{settings.optimizer} with lr {settings.lr:g}, "
            f"{settings.engine['name']} on {', '.join(map(str, self.devices))}"
            f"{self._densities()}"
        )

    def _groups(self) -> str:
        groups = grouping(self.settings.norm)
        return "" if groups is None else f" (norm.{groups})"

    def _densities(self) -> str:
        if not self.densities:
            return ""
        named = ", ".join(f"{name}: {density:.3g}" for name, density in self.densities.items() if name)
        return f", density {max(self.densities.values()):.3g}{named and f' ({named})'}"

    def replaced_layers(self) -> str:
        """A line for every layer that stands in another one's place, for ``verbose=true``."""
        settings, source = self.settings, self.federation.source
        written = as_written(settings.model, self.federation.num_classes, source.image_shape)
        rows = replaced_layers(written, self.model)
        head = f"layers of {settings.model['name']} that were replaced: {len(rows) or 'none'}"
        return "\n".join([head, *(f"  {name}: {before} -> {now}" for name, before, now in rows)])


def prepare(settings: Settings, federation: Federation | None = None) -> Prepared:
    """Loads the data, unless devices hold it, and builds the model and both halves of the method.

    Errors: ``UserError`` for settings that do not go together.
    """
    devices = resolve_devices(settings.device)
    target_of("engine", settings.engine).check(devices, settings.engine)
    federation = build_federation(settings) if federation is None else federation
    model = build_model(settings, federation.num_classes, federation.source.image_shape)
    policy = NormPolicy.of(settings.norm, settings.rounds)
    policy.apply(model)
    half = client_half(settings)
    adaptation = adaptation_of(settings.tta)
    if adaptation is not None:
        adaptation.check(model)
    if settings.batch_size == 1:
        refuse_batch_of_one(model, settings.norm["name"])
    costs = CostTracker(model_cost(model, federation.source.image_shape), federation, settings)
    strategy, densities = _server_half(settings, model, federation, costs)
    if any(isinstance(layer, SparseFrame) and not layer.made for layer in model.modules()):
        raise UserError(
            f"head={settings.head['name']} has a fixed classifier, which strategy={settings.strategy['name']} does not "
            "make: choose the strategy that brings this head with it, or another head."
        )
    policy.refuse_contradiction(model, strategy.personal, settings.strategy["name"])
    strategy.keep_on_clients(policy.local_entries(model))
    refuse_noise_on_statistics(settings.privacy, model, strategy.personal)
    diagnosis = None
    if settings.diagnostics:
        if not strategy.alike:
            raise UserError(
                "diagnostics=true compares devices that train the same weights: leave it out, or budget.classes."
            )
        if federation.on_devices:
            raise UserError("diagnostics=true needs what devices do not tell: leave it out with dataset=devices.")
        diagnosis = Diagnosis(model, federation, settings.rounds, settings.diagnostics_every)
    by_batch = try_smallest_batches(settings, federation, model, half, strategy.asked_share)
    return Prepared(settings, federation, model, strategy, devices, costs, diagnosis, densities, by_batch)


def _server_half(
    settings: Settings, model: nn.Module, federation: Federation, costs: CostTracker
) -> tuple[ServerHalf, Mapping[str, float]]:
    """The strategy, within the budget; an open density is the largest that each class of devices affords, by class."""
    aggregation = aggregation_for(settings, len(federation.clients))
    offered = {"image_shape": federation.source.image_shape, "aggregation": aggregation}
    budget = Budget(costs)

    def make(options: Mapping[str, Any], client_densities: Mapping[int, float] | None = None) -> ServerHalf:
        half: ServerHalf = bind_half(
            *(options, "server", model),
            fraction=settings.fraction,
            seed=settings.seed,
            offered={**offered, "client_densities": client_densities},
        )
        return half

    if settings.strategy.get("density", 1) is not None:
        strategy = make(settings.strategy)
        prunes = "density" in settings.strategy
        budget.check(strategy.planned(), "a smaller strategy.density" if prunes else "a strategy that prunes")
        return strategy, {}
    densities = budget.densities(lambda whole, part: make({**settings.strategy, "density": whole}).planned(part))
    whole = max(densities)
    by_class = list(zip(costs.classes, densities, strict=True))
    smaller = {client: density for each, density in by_class for client in each.clients if density < whole}
    strategy = make({**settings.strategy, "density": whole}, smaller)
    return strategy, {each.name: density for each, density in by_class}


def run(prepared: Prepared, run_dir: Path, reporter: Reporter, grid: FederationGrid | None = None) -> Result:
    """Runs on the settings' engine, or on ``grid`` where Flower's runtime brings one, and fills the run directory.

    Errors: ``UserError`` if the directory cannot be used, or that of a resumed run is damaged or of other data;
    ``FileError`` if a file cannot be written, ``RoundFailed`` if too many clients fail.
    """
    settings = prepared.settings
    recorder = Recorder(run_dir, settings)
    with logging_to(reporter, verbose=settings.verbose):
        try:
            provenance = Provenance.of(prepared.federation, prepared.devices[0])
            if settings.resume is not None:
                provenance.hold_against(run_dir)
            recorder.open()
            if settings.resume is None:
                provenance.save(run_dir)
            if grid is None:
                with start_engine(prepared) as local:
                    _play(prepared, local, recorder, reporter)
            else:
                _play(prepared, grid, recorder, reporter)
        except BaseException:
            recorder.take_back()
            raise
        finally:
            reporter.close()
    result = read_result(run_dir)
    if settings.pictures:
        _draw(result, prepared.federation, settings.shots)
    with writing(run_dir / "report.html"):
        write_html(result.run_dir)
    return result


def _draw(result: Result, federation: Federation, shots: str) -> None:
    folder = result.run_dir / "plots"
    plot_run(result.clients, result.rounds, folder)
    if not federation.on_devices:
        plot_federation(federation, folder, shots)
    if result.classes is not None:
        plot_classes(result.classes, folder / "classes.png")
    if result.diagnostics is not None:
        plot_diagnostics(result.diagnostics, folder / "diagnostics.png")


def start_engine(prepared: Prepared) -> LocalGrid:
    """The Grid that ``engine=`` names, ready to take messages."""
    factory = ClientAppFactory(prepared.settings, prepared.federation)
    grid = instantiate("engine", prepared.settings.engine, factory, len(prepared.federation.clients), prepared.devices)
    assert isinstance(grid, LocalGrid)
    return grid


def _play(prepared: Prepared, grid: FederationGrid, recorder: Recorder, reporter: Reporter) -> None:
    _warn_of_stale_statistics(prepared)
    initial = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
    settings, federation = prepared.settings, prepared.federation
    classes = ClassTracker(prepared.model, federation, settings.shots)
    FederatedLoop(
        *(settings, federation, grid, prepared.strategy, initial, recorder, reporter, classes, prepared.costs),
        *(prepared.diagnosis, buffers_of(prepared.model)),
        by_batch=prepared.by_batch,
    ).run()


def _warn_of_stale_statistics(prepared: Prepared) -> None:
    fraction = prepared.settings.fraction
    if fraction < 1 and statistics_kept(prepared.model, prepared.strategy.personal):
        age = (1 - fraction) / fraction
        log.warning(
            f"with fraction={fraction:g} the statistics that clients keep are {age:.1f} rounds old on average "
            "(personal_age_mean in rounds.csv); under 10 % participation FedBN has been reported to collapse"
        )
