"""The memory that the sliced way of finding the largest gradients of inactive weights takes."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedsim.methods.sparse.gradients import sliced_largest_gradients
from fedsim.norms.scaled_ws import ScaledWSConv2d
from tests.fedsim.methods.sparse.test_gradients import BatchLoss, prune, weights_of


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made in here had at one time, looked at after each operation.

    Every operation passes through here, those of the backward pass as well; what a kernel allocates and frees within
    one operation does not show.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known and storage._cdata not in self.live:
                    self.live[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.live = {key: one for key, one in self.live.items() if not one[0].expired()}
        self.now = sum(size for _, size in self.live.values())
        self.peak = max(self.peak, self.now)
        return result


@contextmanager
def live_bytes(known: Iterable[torch.Tensor]) -> Iterator[LiveBytes]:
    """Without the garbage collector, so that nothing is freed by chance."""
    gc.disable()
    try:
        with LiveBytes(known) as live:
            yield live
    finally:
        gc.enable()


def wide(*layers: nn.Module) -> nn.Module:
    """Far more weights than activations; takes images of 2x2 pixels."""
    return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), *layers, nn.ReLU(), nn.Linear(128, 5))


WIDE: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: wide(
        *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(128, 144, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten()),
        nn.Linear(576, 128),
    ),
    "standardized": lambda: wide(ScaledWSConv2d(64, 128, 3, padding=1), nn.Flatten(2), nn.AvgPool1d(4), nn.Flatten()),
}


def test_the_count_of_live_bytes_is_right() -> None:
    known = torch.zeros(1000)
    with live_bytes([known]) as live:
        first = known + 1
        assert live.peak == 4000
        for _ in range(3):
            known.view(10, 100) * 2  # a view of what was there, and what is let go at once
        assert live.peak == 2 * 4000
        root = first.requires_grad_().square()  # which saves the first
        del first
        assert live.peak == 2 * 4000
        root.backward(known)
    # What is saved, the root, and in the backward pass one to three steps of 2 x times the gradient and the result.
    assert 4 * 4000 <= live.peak <= 6 * 4000


@pytest.mark.parametrize(
    ("network", "wanted"),
    [("plain", ["4"]), ("plain", ["2", "4", "7"]), ("standardized", ["2"])],
    ids=["grouped", "plain", "standardized"],
)
@pytest.mark.parametrize("count", [50, 576, 800])
def test_memory_is_a_few_times_what_is_wanted_and_never_a_dense_gradient(
    network: str, wanted: list[str], count: int
) -> None:
    """Each output channel of the wanted layers has 576 weights, so that 576 makes a slice as large as it can be."""
    torch.manual_seed(0)
    model = WIDE[network]()
    masks = prune(model, share=0.02)
    images, labels = torch.randn(2, 3, 2, 2, requires_grad=True), torch.tensor([0, 1])
    known = [*model.parameters(), *masks.values(), images, labels]

    def peaks(work: Callable[[BatchLoss], Any]) -> tuple[int, int]:
        """Of the forward pass, and of all that follows."""
        forward = 0

        def batch_loss() -> torch.Tensor:
            nonlocal forward
            loss = F.cross_entropy(model(images), labels)
            forward, live.peak = live.peak, 0
            return loss

        with live_bytes(known) as live:
            work(batch_loss)
        return forward, live.peak

    weights = weights_of(model)
    model.requires_grad_(False)
    forward, backward = peaks(lambda batch_loss: torch.autograd.grad(batch_loss(), images))
    searched = peaks(
        lambda batch_loss: sliced_largest_gradients(model, batch_loss, masks, dict.fromkeys(wanted, count))
    )
    for name in wanted:
        weights[name].requires_grad_()
    _, dense = peaks(lambda batch_loss: batch_loss().backward())

    # Numbers of 4 bytes for the layer at hand, and of every layer a place and a value for each weight that is found.
    bound = 4 * 14 * max(count, 576) + 8 * count * len(wanted)
    assert searched[0] <= forward + 4 * len(wanted)
    assert backward < searched[1] <= backward + bound
    assert dense > backward + 5 * bound


def test_inputs_are_let_go_as_their_layers_are_done() -> None:
    layers = [layer for _ in range(6) for layer in (nn.Conv2d(4, 4, 1), nn.Tanh())]
    model, images = nn.Sequential(*layers), torch.randn(4, 4, 16, 16)
    masks = prune(model)
    at_the_end: list[int] = []

    def look(layer: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        output.register_hook(lambda gradient: at_the_end.append(live.now))

    model[0].register_forward_hook(look)
    with live_bytes([*model.parameters(), *masks.values(), images]) as live:
        sliced_largest_gradients(model, lambda: model(images).square().mean(), masks, dict.fromkeys(masks, 4))
    # Of the first layers their outputs and gradients, of the others not what they were given; while the activation
    # functions had theirs to wait for, there were six and more.
    assert at_the_end[0] <= 4 * images.nbytes
    assert live.peak >= 6 * images.nbytes
