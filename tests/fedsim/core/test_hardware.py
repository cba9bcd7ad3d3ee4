"""``device=`` on machines with and without GPUs; torch's count of them is replaced, so that both can be tested here."""

import pytest
import torch

from fedsim.core.errors import UserError
from fedsim.core.hardware import resolve_devices


def set_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("gpus", "device", "expected"),
    [
        (0, "auto", ["cpu"]),
        (0, "cpu", ["cpu"]),
        (2, "cpu", ["cpu"]),
        (2, "auto", ["cuda:0", "cuda:1"]),
        (2, "cuda", ["cuda:0", "cuda:1"]),
        (2, "cuda:1", ["cuda:1"]),
        (12, "cuda:11", ["cuda:11"]),
    ],
)
def test_the_devices_are_those_of_the_machine(
    gpus: int, device: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus(monkeypatch, gpus)
    assert resolve_devices(device) == [torch.device(name) for name in expected]


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "gpu", "", "CPU", "mps"])
def test_what_a_machine_without_gpus_does_not_have_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(monkeypatch, 0)
    sentence = (
        rf"^device={device} is not possible: choose auto or cpu \(this machine has no GPU that torch can use\)\.$"
    )
    with pytest.raises(UserError, match=sentence):
        resolve_devices(device)


@pytest.mark.parametrize("device", ["cuda:2", "cuda:-1", "cuda:", "cuda:x", "cpu:0", "cuda:1.0"])
def test_a_gpu_that_is_not_there_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(monkeypatch, 2)
    sentence = rf"^device={device} is not possible: choose auto or cpu \(cuda, cuda:0 to cuda:1\)\.$"
    with pytest.raises(UserError, match=sentence):
        resolve_devices(device)
