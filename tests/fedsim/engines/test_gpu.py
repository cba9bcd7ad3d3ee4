"""Clients on a GPU: the same federation, the same batches, numbers that agree with the CPU's up to rounding."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord

from datasets.build import build_federation
from fedsim import simulate
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.hardware import resolve_devices
from fedsim.engines.inline import InlineGrid
from fedsim.engines.process import ProcessGrid
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of
from fedsim.server.preparation import prepare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use"),
]


def one_round(settings: Settings, grid: InlineGrid | ProcessGrid) -> list[dict[str, torch.Tensor]]:
    """What the clients of one round send back."""
    prepared = prepare(settings)
    arrays = to_record(prepared.model.state_dict())
    messages = prepared.strategy.configure_train(1, arrays, ConfigRecord(), grid)
    return [to_tensors(arrays_of(reply)) for reply in grid.send_and_receive(messages)]


@pytest.mark.parametrize("strategy", ["fedavg", "fedbn", "fedwon"])
def test_a_round_on_the_gpu_agrees_with_one_on_the_cpu(small_settings: Callable[..., Settings], strategy: str) -> None:
    settings = small_settings(f"strategy={strategy}", "engine=inline")
    federation = build_federation(settings)
    initial = prepare(settings).model.state_dict()
    factory = ClientAppFactory(settings, federation)
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False  # TF32 keeps ten bits of a product; this compares all of float32
    try:
        on_cpu = one_round(settings, InlineGrid(factory, 6, [torch.device("cpu")]))
        on_gpu = one_round(settings, InlineGrid(factory, 6, resolve_devices("cuda")))
    finally:
        torch.backends.cudnn.allow_tf32 = before
    for cpu, gpu in zip(on_cpu, on_gpu, strict=True):
        assert all(tensor.is_cuda for tensor in gpu.values())  # nothing was copied that need not be
        # What training changed agrees to a part in twenty: a rounding error can send an activation to the other side
        # of a ReLU, and so single weights differ by more than rounding.
        changed = sum((tensor - initial[name]).double().square().sum() for name, tensor in cpu.items())
        differs = sum((tensor - gpu[name].cpu()).double().square().sum() for name, tensor in cpu.items())
        assert (differs / changed).sqrt() < 0.05


@pytest.mark.parametrize(
    "options",
    [
        ("strategy=fedloge", "head.steps=20", "mask_absent_classes=true"),
        ("strategy=fedtiny", "strategy.candidates=2", "strategy.interval=1"),
        ("strategy=prunefl", "strategy.criterion=snip", "strategy.interval=1"),
        ("strategy=feddst", "strategy.interval=2", "strategy.density=0.5"),
    ],
    ids=lambda options: options[0],
)
def test_what_the_server_makes_of_replies_on_the_gpu_is_no_error(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Masks, gradients and a fixed classifier, part of them on the CPU and part on the GPU."""
    for number, engine in enumerate(("engine=inline", "engine.workers_per_gpu=2")):
        words = ("dataset.train_per_domain=40", "dataset.test_per_domain=20", "rounds=3", "device=cuda", engine)
        result = simulate(*options, *words, f"out_dir={tmp_path / str(number)}")
        assert np.isfinite(result.summary["final"]["global_loss"])


def test_workers_share_a_gpu_and_each_gpu_gets_its_workers(small_settings: Callable[..., Settings]) -> None:
    settings = small_settings("strategy=fedbn")
    federation = build_federation(settings)
    devices = resolve_devices("cuda")
    with ProcessGrid(ClientAppFactory(settings, federation), 6, devices, workers_per_gpu=3) as grid:
        assert len(grid.worker_process_ids()) == min(6, 3 * len(devices))
        from_pool = one_round(settings, grid)
    alone = one_round(settings, InlineGrid(ClientAppFactory(settings, federation), 6, devices))
    for pooled, single in zip(from_pool, alone, strict=True):
        for name, tensor in single.items():
            torch.testing.assert_close(pooled[name], tensor.cpu(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("words", ["strategy=fedbn", "strategy=fedwon model=resnet20", "engine=vectorized"])
def test_equal_settings_give_equal_bits_where_they_are_to(tmp_path: Path, words: str) -> None:
    small = ("dataset.train_per_domain=40", "dataset.test_per_domain=20", "rounds=3", "engine=inline", "lr=0.05")
    for name in ("one", "other"):
        simulate(*small, *words.split(), "device=cuda", "deterministic=true", f"out_dir={tmp_path / name}")
    for file in ("clients.csv", "model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    assert not torch.are_deterministic_algorithms_enabled()


def test_auto_takes_the_gpu() -> None:
    assert [device.type for device in resolve_devices("auto")] == ["cuda"] * torch.cuda.device_count()
    assert resolve_devices("cuda:0") == [torch.device("cuda", 0)]


@pytest.mark.parametrize("engine", ["engine=inline", "engine.workers_per_gpu=2"])
def test_a_whole_run_on_the_gpu_learns_like_one_on_the_cpu(tmp_path: Path, engine: str) -> None:
    settings = (
        *("strategy=fedbn", "rounds=15", "dataset.train_per_domain=120", "dataset.test_per_domain=100"),
        *("diagnostics=true", "tta=cafa"),
    )
    gpu = simulate(*settings, engine, "device=auto", f"out_dir={tmp_path / 'gpu'}")
    cpu = simulate(*settings, "device=cpu", f"out_dir={tmp_path / 'cpu'}")
    assert cpu.summary["final"]["client_accuracy_mean"] > 0.5
    difference = np.abs(gpu.summary["final"]["client_accuracy_mean"] - cpu.summary["final"]["client_accuracy_mean"])
    assert difference < 0.03
    told = [result.diagnostics.set_index(["round", "layer", "metric"])["value"] for result in (gpu, cpu)]
    assert told[0].index.equals(told[1].index)
    np.testing.assert_allclose(*(each.loc[0] for each in told), rtol=0.01, atol=1e-3)  # the same initial weights
