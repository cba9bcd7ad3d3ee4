"""The small vision transformer: its size, its patches, its options, its FLOPs, and its rounds in a federation."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from fedsim.config.composition import compose
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.cost import model_cost
from fedsim.models import build_model, vit_tiny
from fedsim.models.classifier import classifier_of
from fedsim.models.vit import patch_for
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from tests.methods import some_by_day

MakeSettings = Callable[..., Settings]
TINY = ("model=vit_tiny", "model.width=12", "model.depth=1", "model.patch=4", "engine=inline", "lr=0.1")
NORMS = ("bn", "ln", "rms", "crms", "crms norm.recentre=true", "powernorm", "unified", "none")
BLOCK = 192 * 576 + 576 + 192 * 192 + 192 + 2 * 192 * 768 + 768 + 192 + 4 * 192


class Told(Reporter):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize(("size", "patch", "tokens"), [(28, 4, 49), (32, 4, 64), (64, 8, 64), (224, 16, 196)])
def test_it_has_the_parameters_of_its_layers_and_a_patch_for_each_size(size: int, patch: int, tokens: int) -> None:
    with torch.device("meta"):
        model = vit_tiny(10, (3, size, size))
    assert model.patch_embed.proj.kernel_size == (patch, patch)
    assert model.pos_embed.shape == (1, tokens, 192)
    expected = (3 * patch**2 + 1) * 192 + tokens * 192 + 6 * BLOCK + 2 * 192 + 193 * 10
    assert sum(parameter.numel() for parameter in model.parameters()) == expected < 5e6


@pytest.mark.parametrize(
    ("height", "width", "patch"), [(30, 30, 3), (28, 56, 4), (96, 96, 8), (100, 100, 5), (128, 128, 16), (8, 8, 4)]
)
def test_a_patch_divides_both_sides(height: int, width: int, patch: int) -> None:
    assert patch_for(height, width) == patch


def test_it_takes_images_of_one_channel_and_any_shape() -> None:
    model = vit_tiny(7, (1, 28, 56), width=12, depth=1)
    assert model(torch.zeros(2, 1, 28, 56)).shape == (2, 7)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"patch": 5}, r"model\.patch=5 does not divide images of 28x28: choose a divisor of 28, or null\."),
        ({"patch": 0}, r"model\.patch=0 does not divide images"),
        ({"heads": 5}, r"model\.heads=5 does not divide model\.width=192: choose a divisor of 192\."),
        ({"depth": 0}, r"model\.depth=0 is not possible: choose a whole number of 1 or more\."),
    ],
)
def test_options_that_are_not_possible_are_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        vit_tiny(10, (3, 28, 28), **options)


def test_images_that_no_patch_divides_are_refused() -> None:
    with pytest.raises(UserError, match=r"^model=vit_tiny has no patch of about 4 pixels that divides images of 31x31"):
        vit_tiny(10, (3, 31, 31))


def test_it_is_written_with_layer_norm_and_another_norm_wins() -> None:
    assert compose(["model=vit_tiny"])["norm"]["name"] == "ln"
    assert compose(["model=vit_tiny", "norm=bn"])["norm"]["name"] == "bn"
    assert compose(["model=vit_tiny", "strategy=fedwon"])["norm"]["name"] == "sws"  # which is refused
    assert compose([])["norm"]["name"] == "bn"


def test_its_classifier_is_found(small_settings: MakeSettings) -> None:
    model = build_model(small_settings(*TINY), 10)
    assert classifier_of(model, "x")[0] == "head"


def test_attention_is_counted() -> None:
    width, tokens, hidden = 12, 16, 48
    cost = model_cost(vit_tiny(10, (3, 28, 28), patch=7, width=width, depth=2), (3, 28, 28))
    attention = 2 * 2 * tokens * tokens * width  # queries by keys, and weights by values, of all heads together
    linear = 2 * tokens * (width * 3 * width + width * width + 2 * width * hidden)
    assert cost.elsewhere == 2 * attention
    assert cost.forward_flops() == 2 * tokens * 3 * 7 * 7 * width + 2 * (attention + linear) + 2 * width * 10
    assert cost.training_flops(5) == 5 * 3 * cost.forward_flops()


@pytest.mark.parametrize("norm", some_by_day(NORMS, by_day=("bn", "crms norm.recentre=true")))
def test_a_federation_trains_it_with_every_norm(norm: str, small_settings: MakeSettings, tmp_path: Path) -> None:
    settings = small_settings(*TINY, *f"norm={norm}".split(), "diagnostics=true", "rounds=1")
    told = Told()
    result = run(prepare(settings), tmp_path, told)
    assert any("norm=ln leaves it as it is" in line for line in told.lines) == (norm == "bn")
    losses = pd.read_csv(tmp_path / "rounds.csv")["train_loss"].dropna()
    assert losses.between(0, 5).all()
    sites = pd.read_csv(tmp_path / "diagnostics.csv").query("metric == 'kl_clients_before'")
    assert set(sites["layer"]) == {"blocks.0.norm1", "blocks.0.norm2", "norm"}
    assert result.summary["final"]["round"] == 1


@pytest.mark.parametrize("norm", ["bn", "powernorm", "unified"])
def test_statistics_over_tokens_stay_on_the_clients(norm: str, small_settings: MakeSettings, tmp_path: Path) -> None:
    settings = small_settings(*TINY, f"norm={norm}", "norm.policy=fedbn", "strategy.weighting=uniform")
    prepared = prepare(settings)
    layers = ("blocks.0.norm1", "blocks.0.norm2", "norm")
    state = prepared.model.state_dict()
    assert prepared.strategy.personal == {name for name in state if name.startswith(tuple(f"{e}." for e in layers))}
    run(prepared, tmp_path, Reporter())
    own = [load_file(tmp_path / "clients" / f"{client}.safetensors") for client in range(6)]
    assert all(set(each) == prepared.strategy.personal for each in own)
    statistic = "norm.layer.phi" if norm == "powernorm" else "norm.layer.running_var"
    assert not torch.equal(own[0][statistic], own[1][statistic])


def test_fedbn_is_that_policy(small_settings: MakeSettings, tmp_path: Path) -> None:
    for name, words in (("a", ["strategy=fedbn"]), ("b", ["norm.policy=fedbn", "strategy.weighting=uniform"])):
        run(prepare(small_settings(*TINY, "norm=bn", *words)), tmp_path / name, Reporter())
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
