"""The authors' code: their modules, and what it needs to run beside a client here: its network, loaders and data."""

import contextlib
import importlib
import importlib.util
import io
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from clients import FedLoGe
from datasets.examples import Examples
from fedsim.methods.training import LocalTraining

CLASSES, FEATURES = 10, 16
TRAINING = LocalTraining(local_epochs=2, batch_size=8, lr=0.03, momentum=0.5)


def authors(code: Path) -> types.SimpleNamespace:
    """Their modules. What is only imported and not there is replaced by an empty module."""
    sys.path.insert(0, str(code))
    for name, attribute in (("seaborn", ""), ("imghdr", "tests")):
        if importlib.util.find_spec(name) is None:
            module = types.ModuleType(name)
            setattr(module, attribute or "unused", None)
            sys.modules[name] = module
    names = {"etf": "etf_methods", "update": "update_baseline", "fedavg": "fedavg", "util": "util", "data": "dataset"}
    with mock.patch.multiple("torchvision.datasets", CIFAR10=LabelsOnly, CIFAR100=LabelsOnly100):
        modules = {name: importlib.import_module(f"util.{module}") for name, module in names.items()}
    return types.SimpleNamespace(**modules, networks=importlib.import_module("model.model_res"))


def quietly() -> contextlib.AbstractContextManager[Any]:
    return contextlib.redirect_stdout(io.StringIO())


class LabelsOnly:
    """In the place of torchvision's CIFAR sets: as many labels, and images of one number."""

    classes = 10

    def __init__(self, root: str, train: bool = True, *_: object, **__: object) -> None:
        classes = getattr(self, "cls_num", self.classes)
        count = 50_000 if train else 10_000
        self.targets = np.repeat(np.arange(classes), count // classes).tolist()
        self.data = np.zeros((count, 1))

    def __len__(self) -> int:
        return len(self.data)


class LabelsOnly100(LabelsOnly):
    classes = 100


class Backbone(nn.Module):
    """Two convolutions with BatchNorm, called as the authors call a network: it answers with the features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, FEATURES, 3, stride=2, bias=False), nn.BatchNorm2d(FEATURES), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )

    def forward(self, images: torch.Tensor, latent_output: bool = True) -> torch.Tensor:
        features: torch.Tensor = self.layers(images)
        return features


class Batches:
    """The batches that a client here draws, for a loader of the authors."""

    def __init__(self, examples: int, seed: int) -> None:
        self.examples, self.generator = examples, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[list[int]]:
        yield from (each.tolist() for each in FedLoGe(TRAINING).batches(self.examples, self.generator))


def arguments() -> types.SimpleNamespace:
    training = {"lr": TRAINING.lr, "momentum": TRAINING.momentum, "local_bs": TRAINING.batch_size}
    return types.SimpleNamespace(**training, device="cpu", num_classes=CLASSES)


def loaders_of(theirs: types.SimpleNamespace, examples: Examples, seed: int) -> Any:
    """Their client, with the batches of ours."""

    def loader(dataset: Any, batch_size: int, shuffle: bool = False) -> Any:
        if shuffle:
            return DataLoader(dataset, batch_sampler=Batches(len(dataset), seed))
        return DataLoader(dataset, batch_size)

    with mock.patch.object(theirs.update, "DataLoader", loader):
        return theirs.update.LocalUpdate(arguments(), images_and_labels(examples), range(len(examples)))


def images_and_labels(examples: Examples) -> list[tuple[torch.Tensor, int]]:
    images, labels = examples.batch(torch.arange(len(examples)))
    return list(zip(images, labels.tolist(), strict=True))
