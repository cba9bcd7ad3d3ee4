"""LotteryFL's client against the official procedure, written out in float64."""

from collections.abc import MutableMapping

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clients import LocalSGD, LotteryFL
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_tensors
from fedsim.methods.interfaces import ClientContext, Record, TrainingContext
from fedsim.methods.sparse.masks import decode
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.5)
LAYERS = ("0", "4", "6")
Tensors = dict[str, torch.Tensor]


def trainer(**options: float) -> LotteryFL:
    return LotteryFL(TRAINING, **{"dense": [], "rate": 0.3, "accuracy": 0.0, "density": 0.4, **options})  # type: ignore[arg-type]


def state_of(seed: int) -> Tensors:
    return {name: each.clone() for name, each in network(seed).state_dict().items()}


def trained(
    client: LotteryFL, received: Tensors, state: MutableMapping[str, Record], seed: int
) -> tuple[Tensors, TrainingContext]:
    """What the client sends, and what it is told beside; it receives the weights of its mask, as it is now."""
    model = network()
    mine = context(model, examples(), seed=seed, state=state, initial=state_of(0))
    packed = client.pack(received, model, _with_masks(client, received, state))
    model.load_state_dict(client.unpack(packed, model, mine))
    client.train(model, mine)
    return dict(client.pack(model.state_dict(), model, mine)), mine


def _with_masks(client: LotteryFL, received: Tensors, state: MutableMapping[str, Record]) -> TrainingContext:
    known = context(network(), examples(), state=state)
    shapes = {layer: received[f"{layer}.weight"].shape for layer in LAYERS}
    record = state.get("masks")
    whole = {layer: torch.ones(shape, dtype=torch.bool) for layer, shape in shapes.items()}
    known.scratch["masks of the message"] = whole if record is None else decode(to_tensors(record), shapes)  # type: ignore[arg-type]
    return known


def test_two_rounds_prune_begin_anew_and_train_as_in_the_official_code() -> None:
    client, state = trainer(), {}
    masks = {layer: np.ones_like(state_of(0)[f"{layer}.weight"].numpy()) for layer in LAYERS}
    for round in (1, 2):
        received = state_of(round)
        sent, mine = trained(client, received, state, seed=round)

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
        shapes = {layer: torch.Size(mask.shape) for layer, mask in masks.items()}
        found = decode(to_tensors(mine.reply.array_records["masks"]), shapes)
        assert all(np.array_equal(found[layer].numpy(), masks[layer].astype(bool)) for layer in LAYERS)


def test_it_stops_at_the_density_and_never_begins_with_a_bad_network() -> None:
    state: dict[str, Record] = {}
    told = [bool(trained(trainer(density=0.5), state_of(round), state, round)[1].reply) for round in (1, 2, 3, 4)]
    assert told == [True, True, False, False]  # 0.7 and 0.49
    assert state["prunings"] == {"prunings": 2}
    assert not trained(trainer(accuracy=1.0), state_of(1), {}, 1)[1].reply


def test_while_it_does_not_prune_it_is_local_sgd_bit_for_bit() -> None:
    sent, mine = trained(trainer(accuracy=1.0), state_of(1), {}, seed=3)
    plain = network()
    plain.load_state_dict(state_of(1))
    LocalSGD(TRAINING).train(plain, context(plain, examples(), seed=3))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(sent[name].view(tensor.shape), tensor)
    assert not mine.state


def test_it_is_evaluated_with_its_own_part() -> None:
    client, state = trainer(), {}
    trained(client, state_of(1), state, seed=1)
    known, model = ClientContext(state=state), network()
    mask = decode(to_tensors(state["masks"]), {layer: model.get_parameter(f"{layer}.weight").shape for layer in LAYERS})  # type: ignore[arg-type]
    packed = {
        name: each[mask[layer]] if (layer := name.removesuffix(".weight")) in mask else each
        for name, each in state_of(2).items()
    }
    whole = client.unpack(packed, model, known)
    assert torch.equal(whole["4.weight"], state_of(2)["4.weight"] * mask["4"])
    assert not mask["4"].all()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("rate", 1.0, "above 0 and below 1"), ("accuracy", 1.1, "from 0 to 1"), ("density", -0.1, "from 0 to 1")],
)
def test_impossible_options_are_refused(name: str, value: float, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy\.{name}={value} is not possible: choose a number {allowed}\.$"):
        trainer(**{name: value})
