"""Where an image's result depends on its batch, a client of several domains is tested on its own batches."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from datasets.build import build_federation
from datasets.source import Part
from fedsim.config.settings import Settings
from fedsim.output.progress import Reporter
from fedsim.output.results import Result
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run

MakeSettings = Callable[..., Settings]
MIXED = ("split=iid", "split.num_clients=3", "engine=inline", "rounds=1", "lr=0.2")


class Untracked(nn.Module):
    """A network of somebody else's whose BatchNorm never had running statistics."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 5, 2), nn.BatchNorm2d(8, track_running_stats=False)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(torch.relu(self.norm(self.conv(images))).mean((2, 3)))
        return logits


def played(settings: Settings, folder: Path) -> Result:
    return run(prepare(settings), folder, Reporter())


def normalized_by_their_batch(run_dir: Path, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """The final global model, in which every BatchNorm takes the mean and variance of all images it is given."""
    model.load_state_dict(load_file(run_dir / "model.safetensors"), strict=False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    return model.eval()


@pytest.mark.parametrize("words", [("norm.statistics=none",), ("norm.evaluation=batch",), ()])
def test_accuracy_is_that_of_the_clients_own_test_set(
    words: tuple[str, ...], small_settings: MakeSettings, tmp_path: Path
) -> None:
    settings = small_settings(*MIXED, *words)
    if not words:
        settings = replace(settings, model={"name": "mine", "_target_": f"{__name__}.Untracked"})
    result = played(settings, tmp_path / "run")
    federation = build_federation(settings)
    written = Untracked() if not words else prepare(settings).model
    model = normalized_by_their_batch(tmp_path / "run", written)
    images, labels = federation.examples_of(0, Part.TEST).batch(torch.arange(120))  # fewer than a batch may have
    with torch.no_grad():
        right = int((model(images).argmax(1) == labels).sum())
        by_domain = sum(
            int((model(images[first : first + 20]).argmax(1) == labels[first : first + 20]).sum())
            for first in range(0, 120, 20)
        )
    assert right != by_domain  # else this could not fail
    final = result.clients.query("round == 1")
    assert final["accuracy"].tolist() == pytest.approx([right / 120] * 3)
    assert result.summary["final"]["global_accuracy"] == pytest.approx(by_domain / 120)


def test_what_is_measured_beside_it_does_not_change_it(small_settings: MakeSettings, tmp_path: Path) -> None:
    for words in (("norm.statistics=none", "mask_absent_classes=true"), ("norm.evaluation=batch", "tta=tent")):
        plain, more = (
            played(small_settings(*MIXED, *some), tmp_path / str(len(some)) / words[0]).clients
            for some in (words[:1], words)
        )
        assert plain["accuracy"].tolist() == more["accuracy"].tolist()


def test_a_client_of_one_domain_still_takes_the_number_of_its_domain(
    small_settings: MakeSettings, tmp_path: Path
) -> None:
    result = played(small_settings("norm.statistics=none", "engine=inline", "rounds=1"), tmp_path / "run")
    by_domain = result.summary["final"]["domain_accuracy"]
    final = result.clients.query("round == 1")
    assert dict(zip(final["domain"], final["accuracy"], strict=True)) == pytest.approx(by_domain)
