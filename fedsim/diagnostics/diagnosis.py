"""The server side of a diagnosis: queries clients, and makes rows of ``diagnostics.csv`` from their replies."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from torch import nn

from datasets.federation import Federation
from fedsim.core.threads import one_thread
from fedsim.diagnostics.activations import AFTER, BEFORE, COUNTS, NUM_IMAGES, SUMS, TRAINING
from fedsim.diagnostics.collapse import ClassMeans, collapse_metrics
from fedsim.diagnostics.divergence import mean_shift, mean_symmetric_kl, pooled, symmetric_kl
from fedsim.diagnostics.updates import UpdateStatistics
from fedsim.engines.grid import FederationGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import (
    ARRAYS,
    COLLAPSE,
    CONFIG,
    GLOBAL,
    QUERY_ACTIVATIONS,
    QUERY_CLASS_SCATTER,
    ROUND,
    arrays_of,
    metrics_of,
    number,
)
from fedsim.methods.federated_model import FederatedModel
from fedsim.methods.interfaces import ServerStrategy
from fedsim.models.classifier import classifier_of, weight_in

Row = dict[str, Any]
Tensors = Mapping[str, torch.Tensor]
Successful = Callable[[Iterable[Message], int], Iterator[Message]]

MOST_CLIENTS = 100
"""The largest number of diagnosed clients; of a larger federation every n-th client is diagnosed."""


class Diagnosis:
    """Diagnoses the models of round 0, of the last round, and of every n-th round."""

    def __init__(self, model: nn.Module, federation: Federation, rounds: int, every: int) -> None:
        self.federation = federation
        self.rounds, self.every = rounds, every
        self.parameters = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.classifier, layer = classifier_of(model, "diagnostics=true")
        self._layer = deepcopy(layer)
        self.order = {name: place for place, (name, _) in enumerate(model.named_modules())}
        step = -(-len(federation.clients) // MOST_CLIENTS)
        self.clients = federation.clients[::step]

    def due(self, round: int) -> bool:
        return round in (0, self.rounds) or round % self.every == 0

    def updates(self, round: int, sent: ArrayRecord) -> UpdateStatistics | None:
        """Return an object that collects this round's updates, if a diagnosis is due; else ``None``."""
        return UpdateStatistics(to_tensors(sent), self.parameters) if self.due(round) else None

    @one_thread()
    def rows(
        self,
        round: int,
        grid: FederationGrid,
        strategy: ServerStrategy,
        model: FederatedModel,
        successful: Successful,
        updates: UpdateStatistics | None,
    ) -> list[Row]:
        """Return a row for each layer and metric; neural collapse is that of the global model."""
        config = ConfigRecord({ROUND: round})
        evaluations = list(strategy.configure_evaluate(round, model.arrays, ConfigRecord(), grid))
        # With the content of the method's evaluation messages, including its further records; where these share one,
        # so do the queries, since engines send it once.
        contents = {id(each.content): RecordDict({**each.content, CONFIG: config}) for each in evaluations}
        to_clients = [
            Message(contents[id(each.content)], each.metadata.dst_node_id, QUERY_ACTIVATIONS)
            for each in evaluations
            if each.metadata.dst_node_id in self.clients
        ]

        def ask(messages: list[Message]) -> Iterator[Message]:
            return successful(grid.send_and_receive(messages), len(messages))

        told = {reply.metadata.src_node_id: to_tensors(arrays_of(reply)) for reply in ask(to_clients)}
        metrics = self._of_activations(told)
        for layer, values in (updates.metrics() if updates is not None else {}).items():
            metrics.setdefault(layer, {}).update(values)
        metrics.setdefault(self.classifier, {}).update(
            self._of_classes(round, ask, to_record(model.complete), None if strategy.personal else told)
        )
        return [
            {"round": round, "layer": layer, "metric": name, "value": value}
            for layer, values in sorted(metrics.items(), key=lambda item: self.order.get(item[0], len(self.order)))
            for name, value in values.items()
        ]

    def _of_activations(self, told: Mapping[int, Tensors]) -> dict[str, dict[str, float]]:
        """Return metrics by site; with distances between domains if the clients belong to several."""
        clients = list(told.values())
        sizes = torch.stack([each[NUM_IMAGES] for each in clients])
        names = [self.federation.partitions.domains[client] for client in told]
        members = [[place for place, each in enumerate(names) if each == name] for name in dict.fromkeys(names)]

        def of(site: str, place: str) -> tuple[torch.Tensor, torch.Tensor]:
            mean, variance = (
                torch.stack([each[f"{site}/{place}/{what}"] for each in clients]) for what in ("mean", "variance")
            )
            return mean, variance

        result = {}
        for site in (name.removesuffix("/dead") for name in clients[0] if name.endswith("/dead")):
            values: dict[str, float] = {}
            for place in (BEFORE, AFTER):
                mean, variance = of(site, place)
                values[f"kl_clients_{place}"] = mean_symmetric_kl(mean, variance)
                if len(members) > 1:
                    by_domain = [pooled(mean[group], variance[group], sizes[group]) for group in members]
                    means, variances = map(torch.stack, zip(*by_domain, strict=True))
                    values[f"kl_domains_{place}"] = mean_symmetric_kl(means, variances)
                values[f"mean_shift_{place}"] = mean_shift(mean, variance)
            values["kl_clients_training"] = mean_symmetric_kl(*of(site, TRAINING))
            values["kl_training"] = symmetric_kl(*of(site, TRAINING), *of(site, AFTER)).mean().item()
            values["dead"] = torch.stack([each[f"{site}/dead"] for each in clients]).mean().item()
            result[site] = values
        return result

    def _of_classes(
        self,
        round: int,
        ask: Callable[[list[Message]], Iterator[Message]],
        model: ArrayRecord,
        told: Mapping[int, Tensors] | None,
    ) -> dict[str, float]:
        """Return the metrics of neural collapse; empty if features are not finite.

        Args:
            round: The round.
            ask: Sends messages and yields the replies without errors.
            model: The global model.
            told: The clients' statistics by client, if they are of the global model because nothing is personal; with
                ``None`` the clients are queried again.
        """
        content = RecordDict({CONFIG: ConfigRecord({ROUND: round, GLOBAL: True}), ARRAYS: model})
        if told is None:
            replies = ask([Message(content, client, QUERY_ACTIVATIONS) for client in self.clients])
            told = {reply.metadata.src_node_id: to_tensors(arrays_of(reply)) for reply in replies}
        sums, counts = (torch.stack([each[name].double() for each in told.values()]).sum(0) for name in (SUMS, COUNTS))
        if not sums.isfinite().all():
            return {}
        classes = ClassMeans.of(sums, counts)
        known = to_record({"means": classes.means, "projection": classes.projection()})
        content = RecordDict({**content, COLLAPSE: known})
        images = scatter = disagreeing = 0.0
        for reply in ask([Message(content, client, QUERY_CLASS_SCATTER) for client in told]):
            metrics = metrics_of(reply)
            images += number(metrics, NUM_IMAGES)
            scatter += number(metrics, "scatter")
            disagreeing += number(metrics, "disagreeing")
        weight = weight_in(self._layer, self.classifier, to_tensors(model))
        return collapse_metrics(classes, weight, scatter / images, disagreeing / images)
