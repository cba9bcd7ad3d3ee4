"""Weights that are replaced in the middle of training, against a loop written out."""

import copy
from collections.abc import Mapping

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from torch import nn
from torch.nn import functional as F

from clients import FedDST, MaskedSGD
from datasets.examples import Examples
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.sparse.masks import Masks, decode, encode, kept, pack
from fedsim.methods.sparse.records import MASKS
from fedsim.methods.training import LocalTraining

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.5, weight_decay=0.01)
COUNTS = {"0": 3, "4": 5}
REPLACING = {f"replace-{layer}": count for layer, count in COUNTS.items()}
State = dict[str, torch.Tensor]


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def masks() -> Masks:
    generator = torch.Generator().manual_seed(1)
    return {"0": torch.rand(4, 1, 3, 3, generator=generator) < 0.5, "4": torch.rand(3, 16, generator=generator) < 0.4}


def examples() -> Examples:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (12, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.randint(0, 3, (12,), generator=generator))


def trained(
    half: MaskedSGD, config: Mapping[str, int] = REPLACING, data: Examples | None = None
) -> tuple[State, State, RecordDict]:
    """The model's state after training, what the client sends of it, and what beside, as its host lets it work."""
    model, context = (
        make_model(),
        TrainingContext(
            data=examples() if data is None else data,
            generator=torch.Generator().manual_seed(3),
            round=1,
            config=ConfigRecord({**config}),
            cached={MASKS: to_record(encode(masks()))},
        ),
    )
    model.load_state_dict(half.unpack(pack(masks(), model.state_dict()), model, context))
    half.train(model, context)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return state, dict(half.pack(state, model, context)), context.reply


def told(reply: RecordDict) -> Masks:
    record = reply[MASKS]
    assert isinstance(record, ArrayRecord)
    return decode(to_tensors(record), {layer: mask.shape for layer, mask in masks().items()})


def by_hand(after: int) -> tuple[State, Masks]:
    """SGD with momentum, in which weights are replaced after so many steps."""
    model, now, step = make_model().train(), masks(), 0
    weights = dict(model.named_parameters())
    velocity = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    generator, data = torch.Generator().manual_seed(3), examples()

    def replace() -> None:
        images, labels = data.batch(torch.randperm(12, generator=generator)[:4])
        other = copy.deepcopy(model)  # so that running statistics do not move
        other.zero_grad()
        F.cross_entropy(other(images), labels).backward()
        for layer, count in COUNTS.items():
            name, everywhere = f"{layer}.weight", range(now[layer].numel())
            values, gradients = weights[name].detach().flatten(), other.get_parameter(name).grad.flatten()  # type: ignore[union-attr]
            active = now[layer].flatten().nonzero()[:, 0].tolist()
            stay = sorted(active, key=lambda place: abs(values[place].item()))[count:]
            absent = [place for place in everywhere if place not in stay]
            come = sorted(absent, key=lambda place: -abs(gradients[place].item()))[:count]
            values[absent] = 0
            velocity[name].view(-1)[absent] = 0
            now[layer] = torch.tensor([place in {*stay, *come} for place in everywhere]).view(now[layer].shape)

    with torch.no_grad():
        for layer, mask in now.items():
            weights[f"{layer}.weight"].mul_(mask)
    if after == 0:
        replace()
    for _ in range(2):
        for indices in torch.randperm(12, generator=generator).split(4):
            images, labels = data.batch(indices)
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            with torch.no_grad():
                for name, weight in weights.items():
                    assert weight.grad is not None
                    mask = now.get(name.removesuffix(".weight"), torch.ones(()))
                    velocity[name] = 0.5 * velocity[name] + mask * weight.grad + 0.01 * weight
                    weight -= 0.1 * velocity[name]
            step += 1
            if step == after:
                replace()
    return model.state_dict(), now


@pytest.mark.parametrize(("adjust_after", "steps"), [(0.0, 0), (0.1, 0), (0.5, 3), (0.9, 5), (1.0, 6)])
def test_the_smallest_go_and_the_largest_gradients_come(adjust_after: float, steps: int) -> None:
    state, sent, reply = trained(FedDST(TRAINING, adjust_after))
    expected, now = by_hand(steps)
    found = told(reply)
    assert all(torch.equal(found[layer], now[layer]) for layer in now)
    assert kept(found) == kept(masks())
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, expected[name], msg=name)
    for layer, mask in now.items():
        assert not mask.equal(masks()[layer])
        assert not state[f"{layer}.weight"][~mask].any()
        assert sent[f"{layer}.weight"].equal(state[f"{layer}.weight"][mask])
        come = mask & ~masks()[layer]
        assert come.any()
        assert state[f"{layer}.weight"][come].any() == (steps < 6)  # zeros, until they are trained


@pytest.mark.parametrize("optimizer", ["sgd", "sgdp", "adam", "amsgrad", "adamw", "adamp"])
@pytest.mark.parametrize("adjust_after", [0.0, 0.4, 1.0])
def test_what_is_left_out_is_zero_with_every_optimizer(optimizer: str, adjust_after: float) -> None:
    momentum = 0.9 if optimizer.startswith("sgd") else 0.0
    half = FedDST(LocalTraining(2, 4, 0.05, momentum, optimizer, 0.1), adjust_after)
    state, _, reply = trained(half)
    for layer, mask in told(reply).items():
        weight = state[f"{layer}.weight"]
        assert not weight[~mask].any()
        assert weight[mask & masks()[layer]].any()
        assert int(mask.sum()) == int(masks()[layer].sum())


def test_layers_that_nobody_asked_about_keep_their_masks_and_tell_none() -> None:
    _, sent, reply = trained(FedDST(TRAINING, 0.5), {"replace-4": 2})
    record = reply[MASKS]
    assert isinstance(record, ArrayRecord)
    assert set(record) == {"4"}
    assert sent["0.weight"].shape == (int(masks()["0"].sum()),)


def test_unasked_it_is_masked_sgd_bit_for_bit() -> None:
    state, _, reply = trained(FedDST(TRAINING, 0.5), {})
    plain, _, _ = trained(MaskedSGD(TRAINING), {})
    assert all(torch.equal(tensor, plain[name]) for name, tensor in state.items())
    assert not reply


def test_a_client_that_failed_leaves_nothing_to_the_next() -> None:
    """One object plays many clients."""
    half, broken = FedDST(TRAINING, 0.5), examples()
    broken.labels[:] = 99
    with pytest.raises(IndexError):
        trained(half, data=broken)
    state, _, _ = trained(half, {})
    plain, _, _ = trained(MaskedSGD(TRAINING), {})
    assert all(torch.equal(tensor, plain[name]) for name, tensor in state.items())


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.adjust_after={share} is not possible: choose a number from 0 to"):
        FedDST(TRAINING, share)
