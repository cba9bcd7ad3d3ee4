"""Rows of ``classes.csv``, and the accuracy on classes with many, medium and few training images."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional as F

from datasets.federation import Federation
from datasets.shots import SHOT_RULES, SHOTS, long_tailed
from fedsim.core.threads import one_thread
from fedsim.metrics.measured import Measured, pool
from fedsim.metrics.round_metrics import Row
from fedsim.models.classifier import class_layers
from fedsim.server.evaluation import Evaluation
from fedsim.server.federated_model import FederatedModel


class ClassTracker:
    """Knows how many training images of each class there are, and which layers of the model have a row for each."""

    def __init__(self, model: nn.Module, federation: Federation, shots: str) -> None:
        self.names = federation.source.class_names
        self.images = [0] * len(self.names) if federation.on_devices else federation.label_counts().sum(axis=0).tolist()
        tail = long_tailed(self.images) and not federation.on_devices
        self.shots = SHOT_RULES[shots](self.images) if tail else [""] * len(self.images)
        self.layers = class_layers(model, federation.num_classes)

    def metrics(self, evaluation: Evaluation) -> Row:
        """``many``, ``medium`` and ``few``: the global model's accuracy on their test images, where there is a tail.

        The same for its other predictors, as ``realigned_many``. A group without a test image is left out.
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
        """Whether there is a global model whose hits were counted class by class."""
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
        """One for each class: ``round,class,train_images,shot,num_examples,accuracy``, then what the model adds.

        ``NAME_accuracy`` for each further predictor of the global ``model``. For each layer with a row :math:`w_c` for
        each class, ``LAYER_norm`` is :math:`|w_c|`, ``LAYER_angle`` the mean and ``LAYER_nearest`` the smallest of its
        angles to the other rows, in degrees; of a layer that stays on the clients, the mean over them. Nothing where
        no global model was evaluated.
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
            entry = f"{layer}.weight"
            if entry not in model.complete:  # a reparametrization keeps it under another name
                continue
            own = entry in model.personal
            for name, values in _geometry(model.personal_entry(entry) if own else [model.complete[entry]]).items():
                for row, value in zip(rows, values, strict=True):
                    row[f"{layer}_{name}"] = value
        return rows


def _geometry(weights: Iterable[torch.Tensor]) -> dict[str, list[float]]:
    """Lengths of rows and their angles to each other in degrees, the mean over weights (classes, features)."""
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
