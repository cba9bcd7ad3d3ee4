"""LotteryFL's client against the official procedure, written out in float64."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from clients import LocalSGD, LotteryFL
from clients.lotteryfl import _accuracy
from datasets.examples import Examples
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.sparse.masks import Masks, decode, density, encode, pack
from fedsim.methods.sparse.tickets import all_ones
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.5)
LAYERS = ("0", "4", "6")
Tensors = dict[str, torch.Tensor]


def trainer(**options: float) -> LotteryFL:
    return LotteryFL(TRAINING, **{"rate": 0.3, "accuracy": 0.0, "density": 0.4, **options})


def state_of(seed: int) -> Tensors:
    return {name: each.clone() for name, each in network(seed).state_dict().items()}


def trained(client: LotteryFL, received: Tensors, masks: Masks, seed: int) -> tuple[Tensors, TrainingContext]:
    """Return what the client sends, and what it tells beside; it receives the weights of its masks."""
    model = network()
    cached = {"masks": to_record(encode(masks))}
    mine = context(model, examples(), seed=seed, cached=cached, initial=state_of(0))
    model.load_state_dict(client.unpack(pack(masks, received), model, mine))
    client.train(model, mine)
    assert not mine.state
    return dict(client.pack(model.state_dict(), model, mine)), mine


def told(mine: TrainingContext, masks: Masks) -> Masks:
    """The masks in a reply; as before if there are none."""
    record = mine.reply.array_records.get("masks")
    return masks if record is None else decode(to_tensors(record), {layer: m.shape for layer, m in masks.items()})


WHOLE = all_ones({layer: state_of(0)[f"{layer}.weight"].shape for layer in LAYERS})


def test_two_rounds_prune_begin_anew_and_train_as_in_the_official_code() -> None:
    client, own = trainer(), WHOLE
    masks = {layer: np.ones_like(state_of(0)[f"{layer}.weight"].numpy()) for layer in LAYERS}
    for round in (1, 2):
        received = state_of(round)
        sent, mine = trained(client, received, own, seed=round)

        before = {layer: mask.copy() for layer, mask in masks.items()}
        for layer in LAYERS:
            tensor = received[f"{layer}.weight"].numpy() * masks[layer]
            alive = tensor[np.nonzero(tensor)]
            masks[layer] = np.where(abs(tensor) < np.percentile(abs(alive), 30), 0, masks[layer])
        reference, parameters = network(), dict(network().named_parameters())
        begun = {name: state_of(0)[name] if name in parameters else each for name, each in received.items()}
        reference.load_state_dict(begun)
        with torch.no_grad():
            for layer in LAYERS:
                reference.get_parameter(f"{layer}.weight").mul_(torch.from_numpy(masks[layer]))
        optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.5)
        reference.train()
        for images, labels in batches(examples(), 2, 4, seed=round):
            optimizer.zero_grad()
            F.cross_entropy(reference(images), labels).backward()
            for layer in LAYERS:
                weight = reference.get_parameter(f"{layer}.weight")
                assert weight.grad is not None
                weight.grad.copy_(torch.where(weight.detach().abs() < 1e-6, 0, weight.grad))
            optimizer.step()
        for name, tensor in reference.state_dict().items():
            layer = name.removesuffix(".weight")
            expected = tensor[torch.from_numpy(before[layer]).bool()] if layer in LAYERS else tensor
            torch.testing.assert_close(sent[name], expected, msg=name, rtol=1e-9, atol=1e-12)
        own = told(mine, own)
        assert all(np.array_equal(own[layer].numpy(), masks[layer].astype(bool)) for layer in LAYERS)


def test_it_stops_at_the_density_and_never_begins_with_a_bad_network() -> None:
    masks, pruned = WHOLE, []
    for round in (1, 2, 3, 4):
        _, mine = trained(trainer(density=0.5), state_of(round), masks, round)
        pruned.append(bool(mine.reply))
        masks = told(mine, masks)
    assert pruned == [True, True, False, False]  # 0.7 and 0.49
    assert density(masks) == pytest.approx(0.49, abs=0.01)
    assert not trained(trainer(accuracy=1.0), state_of(1), WHOLE, 1)[1].reply


def test_while_it_does_not_prune_it_is_local_sgd_bit_for_bit() -> None:
    sent, mine = trained(trainer(accuracy=1.0), state_of(1), WHOLE, seed=3)
    plain = network()
    plain.load_state_dict(state_of(1))
    LocalSGD(TRAINING).train(plain, context(plain, examples(), seed=3))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(sent[name].view(tensor.shape), tensor)
    assert not mine.reply


def test_without_its_masks_it_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"^the masks are missing: the server gives them to a client once"):
        trainer().unpack(state_of(0), network(), context(network(), examples()))


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("rate", 1.0, "above 0 and below 1"), ("accuracy", 1.1, "from 0 to 1"), ("density", -0.1, "from 0 to 1")],
)
def test_impossible_options_are_refused(name: str, value: float, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{name}={value} is not possible: choose a number {allowed}\.$"):
        trainer(**{name: value})


def test_a_network_is_good_enough_by_its_share_of_right_answers_on_all_images() -> None:
    """In more than one batch, in evaluation mode, and the mode is what it was."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2 * 2), nn.Linear(2 * 2, 3))
    data = Examples(torch.randint(0, 256, (1300, 1, 2, 2), dtype=torch.uint8), torch.randint(0, 3, (1300,)))
    images, labels = data.batch(torch.arange(1300))
    with torch.no_grad():
        right = (deepcopy(model).eval()(images).argmax(1) == labels).sum().item()
    told = _accuracy(model, context(model, data))
    assert told == right / 1300
    assert 0 < told < 1
    assert model.training
