"""The authors' code: their modules, and a server of theirs with users whose batches and noise are given."""

import contextlib
import importlib
import io
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

SETS = ("PACS", "Digits", "VLCS", "OfficeHome", "miniDomainNet", "DomainNet_FedBN")
STEPS, BATCH, ROUNDS, CLASSES, FEATURES = 4, 8, 3, 5, 12
FIXED: Mapping[str, Any] = {
    "model": "small",
    "dataset": "given",
    "device": "cpu",
    "optimizer": "SGD",
    "algorithm": "FRAug",
    "source_domains": ["a", "b", "c"],
    "user_per_domain": 1,
    "num_users": -1,
    "portion": 1.0,
    "seed": 42,
    "class_num": CLASSES,
    "batch_size": BATCH,
    "local_epochs": STEPS,
    "global_epochs": ROUNDS,
    "lr": 0.01,
    "local_momentum": 0.5,
    "cls_mean_momentum": 0.3,
    "steps_using_G": 1,
    "start_add_G": 0,
    "use_G": True,
    "use_FTNet": True,
    "FTNet_with_BN": True,
    "FTNet_with_cls": True,
}
"""What their ``main.py`` has in all of its settings, at the size of this comparison."""


class Network(nn.Module):
    """Two convolutions with BatchNorm and a classifier, with the names that their code looks for."""

    feature_dim = FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential()
        for place, (inputs, outputs) in enumerate(((3, 8), (8, FEATURES))):
            self.encoder.add_module(f"conv{place}", nn.Conv2d(inputs, outputs, 3, stride=2))
            self.encoder.add_module(f"bn{place}", nn.BatchNorm2d(outputs))
            self.encoder.add_module(f"relu{place}", nn.ReLU())
        self.encoder.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.encoder.add_module("flatten", nn.Flatten())
        self.classifier = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.encoder(images))
        return logits


class Noise:
    """In the place of ``torch.rand``, as they and we call it: draws of one generator, in float64."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *size: Any, **_: Any) -> torch.Tensor:
        shape = size[0] if isinstance(size[0], tuple) else size
        return torch.empty(shape, dtype=torch.float64).uniform_(generator=self.generator)


def authors(code: Path) -> types.SimpleNamespace:
    """Their modules: without Ray, whose reports nobody reads here, and without their data sets."""
    sys.path.insert(0, str(code))
    tune = types.SimpleNamespace(report=lambda **_: None)
    ray = types.ModuleType("ray")
    ray.tune = tune  # type: ignore[attr-defined]
    sets = types.ModuleType("datasets")
    for name in SETS:
        setattr(sets, name, None)
    with mock.patch.dict(sys.modules, {"ray": ray, "datasets": sets}):
        names = {"users": "users.user_FRAug", "server": "servers.server_FRAug", "networks": "networks"}
        return types.SimpleNamespace(**{key: importlib.import_module(name) for key, name in names.items()})


@contextmanager
def their_server(
    theirs: types.SimpleNamespace, model: nn.Module, config: Mapping[str, Any], sizes: Sequence[int]
) -> Iterator[Any]:
    """Their server and its users, who say that they have so many images."""

    def prepare(user: Any, _: object, number: int) -> None:
        user.num_train_samples = sizes[number]

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(theirs.users.User, "prepare_data_loader", prepare),
        mock.patch.object(theirs.users, "open", side_effect=lambda *_: io.StringIO(), create=True),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        server = theirs.server.FRAug({**FIXED, **config, "model_path": folder}, model)
        with contextlib.redirect_stdout(io.StringIO()):
            server.selected_users = server.select_users(server.num_users)
        yield server


def train(
    user: Any, round: int, batches: Sequence[tuple[torch.Tensor, torch.Tensor]], rand: Callable[..., Any]
) -> None:
    """Let a user of theirs train on these batches, with this noise."""
    user.iter_trainloader = iter(batches)
    with mock.patch("torch.rand", rand):
        user.train(round)
