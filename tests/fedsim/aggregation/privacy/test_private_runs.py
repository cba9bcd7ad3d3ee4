"""Whole runs with clipping and noise: what they leave alone, and which settings do not go with them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.methods.sparse.masks import kept
from fedsim.output.progress import Reporter
from fedsim.output.results import Result
from fedsim.server.preparation import Prepared, prepare
from fedsim.server.simulation import run
from strategies import Pruned

MakeSettings = Callable[..., Settings]
Play = Callable[..., tuple[Prepared, Result, dict[str, torch.Tensor]]]
CLIPPING = "privacy=server_fixed_clipping"
NOISE = (CLIPPING, "privacy.noise_multiplier=0.5", "privacy.clipping_norm=0.1", "strategy.weighting=uniform")
TINY = ("strategy=fedtiny", "strategy.density=0.05", "strategy.candidates=2", "strategy.interval=1")


@pytest.fixture
def play(small_settings: MakeSettings, tmp_path: Path) -> Play:
    def once(name: str, *overrides: str) -> tuple[Prepared, Result, dict[str, torch.Tensor]]:
        prepared = prepare(small_settings("engine=inline", *overrides))
        result = run(prepared, tmp_path / name, Reporter())
        return prepared, result, load_file(tmp_path / name / "model.safetensors")

    return once


@pytest.mark.nightly
@pytest.mark.parametrize("options", [("strategy=fedavg",), ("strategy=fedloge", "head.steps=20"), TINY], ids=" ".join)
def test_a_run_in_which_nothing_is_clipped_is_the_run_without_privacy_bit_for_bit(
    options: tuple[str, ...], play: Play
) -> None:
    _, _, plain = play("plain", *options)
    _, result, clipped = play("clipped", *options, CLIPPING, "privacy.clipping_norm=1e6")
    assert all(torch.equal(tensor, clipped[name]) for name, tensor in plain.items())
    assert result.rounds["train_clipped"].tolist()[1:] == [0.0, 0.0]
    assert (result.rounds["train_update_norm"].dropna() > 0).all()


def test_clipped_updates_are_told_and_the_model_moves_by_no_more_than_the_norm(play: Play) -> None:
    prepared, result, final = play("run", "rounds=1", "norm=gn", CLIPPING, "privacy.clipping_norm=0.01")
    assert result.rounds["train_clipped"].tolist()[1:] == [1.0]
    initial = prepared.model.state_dict()
    moved = sum((final[name].double() - initial[name].double()).square().sum().item() for name in final) ** 0.5
    assert 0.0 < moved <= 0.01 * (1 + 1e-4)


def test_a_sparse_network_stays_sparse_under_clipping_and_noise(play: Play) -> None:
    for name, options in {
        "tiny": (*TINY, CLIPPING, "privacy.clipping_norm=0.1"),
        "pruned": ("strategy=pruned", "strategy.density=0.05", "norm=gn", *NOISE),
    }.items():
        prepared, _, final = play(name, *options)
        assert isinstance(prepared.strategy, Pruned)
        masks = prepared.strategy.masks
        assert sum(kept(masks).values()) == round(0.05 * sum(mask.numel() for mask in masks.values()))
        assert not any(final[f"{layer}.weight"][~mask].any() for layer, mask in masks.items())


def test_noise_reaches_what_travels_and_nothing_else_and_the_seed_repeats_it(play: Play, tmp_path: Path) -> None:
    """After one round, in which every client still starts from the same weights."""
    options = ("strategy=fedbn", "rounds=1", CLIPPING, "privacy.clipping_norm=1.0")
    prepared, _, plain = play("plain", *options)
    _, _, noisy = play("noisy", *options, "privacy.noise_multiplier=0.5")
    _, _, again = play("again", *options, "privacy.noise_multiplier=0.5")
    shared = [name for name in plain if name not in prepared.strategy.personal]
    noise = torch.cat([(noisy[name] - plain[name]).flatten() for name in shared]).double()
    assert len(noise) > 50_000
    assert noise.std().item() == pytest.approx(0.5 * 1.0 / 6, rel=0.02)
    assert all(torch.equal(noisy[name], again[name]) for name in noisy)
    for client in range(6):
        parts = [load_file(tmp_path / run / "clients" / f"{client}.safetensors") for run in ("plain", "noisy")]
        assert parts[0].keys() == prepared.strategy.personal
        assert all(torch.equal(tensor, parts[1][name]) for name, tensor in parts[0].items())


@pytest.mark.nightly
def test_an_adapted_norm_goes_on_after_a_checkpoint(play: Play, small_settings: MakeSettings, tmp_path: Path) -> None:
    adaptive = ("privacy=server_adaptive_clipping", "privacy.initial_clipping_norm=0.5", "strategy=fedloge")
    steps = ("head.steps=20",)
    _, straight, expected = play("straight", *adaptive, *steps, "rounds=4")
    norms = straight.rounds["train_clipping_norm"].tolist()[1:]
    assert norms[0] == 0.5
    assert len(set(norms)) > 1
    play("stopped", *adaptive, *steps, "rounds=2")
    resumed = prepare(small_settings("engine=inline", *adaptive, *steps, "rounds=4", f"resume={tmp_path / 'stopped'}"))
    result = run(resumed, tmp_path / "stopped", Reporter())
    assert result.rounds["train_clipping_norm"].tolist()[1:] == norms
    final = load_file(tmp_path / "stopped" / "model.safetensors")
    assert all(torch.equal(tensor, final[name]) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("strategy.weighting=examples",), "strategy.weighting=examples lets a client weigh more than privacy.noise_"),
        (("aggregation=median",), "privacy.noise_multiplier=0.5 is made for a mean: choose aggregation=mean"),
        (("norm=bn",), "privacy.noise_multiplier=0.5 adds noise to what is averaged, and a running statistic such as"),
        (("diagnostics=true",), "diagnostics=true has clients tell sums of their activations, which privacy.noise_"),
        (TINY, "strategy=fedtiny has clients tell statistics, losses and gradients beside the model, which"),
        (("strategy=prunefl",), "strategy=prunefl has clients tell the squares of their gradients, which"),
        (("strategy=pruned", "strategy.criterion=snip"), "strategy.criterion=snip has clients tell their gradients"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_noise_that_would_not_keep_its_promise_is_refused(
    options: tuple[str, ...], sentence: str, small_settings: MakeSettings
) -> None:
    with pytest.raises(UserError) as error:
        prepare(small_settings("norm=gn", *NOISE, *options))
    assert str(error.value).startswith(sentence)
    prepare(small_settings("norm=gn", *NOISE, *options, "aggregation=mean", "privacy.noise_multiplier=0"))


@pytest.mark.parametrize(
    "options",
    [
        ("norm=bn", "strategy=fedbn"),
        ("norm=bn", "norm.statistics=local"),
        ("norm=gn", "head=etf"),
        ("norm=gn", "strategy=fedloge", "head.steps=20"),
        ("norm=gn", "strategy=pruned"),
        ("strategy=fedwon",),
        ("norm=gn", "strategy=fedper"),
        ("norm=gn", "reparam=weight_compander", "head=cosine"),
    ],
    ids=" ".join,
)
def test_noise_goes_with_what_shares_no_statistics(options: tuple[str, ...], small_settings: MakeSettings) -> None:
    assert prepare(small_settings(*NOISE, *options)).strategy is not None
