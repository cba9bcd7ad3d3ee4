"""Rows of ``classes.csv``, and the accuracy on classes with many, medium and few training images."""

from collections.abc import Iterable, Iterator
from copy import deepcopy

import torch
from torch import nn
from torch.nn import functional as F

from datasets.federation import Federation
from datasets.shots import SHOT_RULES, SHOTS, long_tailed
from fedsim.core.threads import one_thread
from fedsim.methods.federated_model import FederatedModel
from fedsim.metrics.measured import Evaluation, Measured, pool
from fedsim.metrics.round_metrics import Row
from fedsim.models.classifier import class_layers, weight_in


class ClassTracker:
    """Class metrics of a run, from the number of training images and the rows of classifier layers of each class."""

    def __init__(self, model: nn.Module, federation: Federation, shots: str) -> None:
        self.names = federation.source.class_names
        self.images = [0] * len(self.names) if federation.on_devices else federation.label_counts().sum(axis=0).tolist()
        tail = long_tailed(self.images) and not federation.on_devices
        self.shots = SHOT_RULES[shots](self.images) if tail else [""] * len(self.images)
        self.layers = {
            name: deepcopy(model.get_submodule(name)) for name in class_layers(model, federation.num_classes)
        }

    def metrics(self, evaluation: Evaluation) -> Row:
        """Return the global model's accuracy on the classes in ``many``, ``medium`` and ``few``, for long-tailed data.

        Names for other predictors are as ``realigned_many``. A group without a test image is left out.
        """
        if not self._counted(evaluation):
            return {}
        union = pool(evaluation.domains.values())
        row = self._of_shots(union, "")
        for name, other in union.others.items():
            row |= self._of_shots(other, f"{name}_")
        return row

    @staticmethod
    def _counted(evaluation: Evaluation) -> bool:
        """Return whether there is a global model that was scored by class."""
        return any(measured.by_class for measured in evaluation.domains.values())

    def _of_shots(self, measured: Measured, prefix: str) -> Row:
        row: Row = {}
        for shot in SHOTS:
            mine = [counts for counts, name in zip(measured.by_class, self.shots, strict=True) if name == shot]
            images = sum(each for each, _ in mine)
            if images:
                row[f"{prefix}{shot}"] = sum(right for _, right in mine) / images
        return row

    @one_thread()
    def rows(
        self,
        round: int,
        evaluation: Evaluation,
        model: FederatedModel,
    ) -> list[Row]:
        """Return a row for each class: ``round,class,train_images,shot,num_examples,accuracy``, and further columns.

        These are ``NAME_accuracy`` for each further predictor of the global ``model``, and for each layer with a row
        :math:`w_c` for each class ``LAYER_norm``, :math:`|w_c|`, ``LAYER_angle``, the mean, and ``LAYER_nearest``, the
        smallest of its angles to the other rows, in degrees; for a personal layer, the mean over clients. Empty if no
        global model was evaluated.
        """
        if not self._counted(evaluation):
            return []
        union = pool(evaluation.domains.values())
        rows: list[Row] = [
            {"round": round, "class": name, "train_images": images, "shot": shot}
            for name, images, shot in zip(self.names, self.images, self.shots, strict=True)
        ]
        for row, (examples, _) in zip(rows, union.by_class, strict=True):
            row["num_examples"] = examples
        for name, measured in {"": union, **{f"{name}_": other for name, other in union.others.items()}}.items():
            for row, (examples, right) in zip(rows, measured.by_class, strict=True):
                row[f"{name}accuracy"] = right / examples if examples else None
        for layer in self.layers:
            if f"{layer}.weight" not in model.complete:  # a reparametrization may rename it
                continue
            for name, values in _geometry(self._weights(layer, model)).items():
                for row, value in zip(rows, values, strict=True):
                    row[f"{layer}_{name}"] = value
        return rows

    def _weights(self, name: str, model: FederatedModel) -> Iterator[torch.Tensor]:
        """Yield the weight of a layer, (classes, features), or if something of it is personal that of each client."""
        layer = self.layers[name]
        assert isinstance(layer, nn.Linear)
        if not any(entry.startswith(f"{name}.") for entry in model.personal):
            yield weight_in(layer, name, model.complete)
            return
        for _, part in model.personal_parts():
            yield weight_in(layer, name, {**model.complete, **part})


def _geometry(weights: Iterable[torch.Tensor]) -> dict[str, list[float]]:
    """Return norms of rows and their angles to each other in degrees, averaged over weights (classes, features)."""
    sums: dict[str, torch.Tensor] = {}
    count = 0
    for weight in weights:
        count += 1
        rows = weight.detach().cpu().double()
        unit = F.normalize(rows)
        angles = (unit @ unit.T).clamp(-1, 1).acos().rad2deg()
        angles.fill_diagonal_(0)
        mean = angles.sum(1) / max(1, len(rows) - 1)
        nearest = angles.fill_diagonal_(torch.inf).amin(1)
        for name, values in (("norm", rows.norm(dim=1)), ("angle", mean), ("nearest", nearest)):
            sums[name] = sums[name] + values if name in sums else values
    return {name: (total / count).tolist() for name, total in sums.items()}
