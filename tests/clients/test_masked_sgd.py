"""Training with masks against a loop written out, and the gradients that are reported against autograd's."""

import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from torch import nn
from torch.nn import functional as F

from clients import LocalSGD, MaskedSGD
from datasets.examples import Examples
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.client_state import ClientState
from fedsim.methods.interfaces import ClientContext, TrainingContext
from fedsim.methods.sparse.masks import Masks, apply, encode, pack
from fedsim.methods.sparse.records import GRADIENTS, MASKS
from fedsim.methods.training import LocalTraining

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.5, weight_decay=0.01)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def masks() -> Masks:
    generator = torch.Generator().manual_seed(1)
    return {"0": torch.rand(4, 1, 3, 3, generator=generator) < 0.5, "4": torch.rand(3, 16, generator=generator) < 0.3}


def examples() -> Examples:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (12, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return Examples(images, torch.randint(0, 3, (12,), generator=generator))


def context(kept: Masks | None = None, **config: int) -> TrainingContext:
    """With the masks that the client holds."""
    return TrainingContext(
        data=examples(),
        generator=torch.Generator().manual_seed(3),
        round=1,
        config=ConfigRecord(config),
        cached={MASKS: to_record(encode(masks() if kept is None else kept))},
    )


def trained(training: LocalTraining, **config: int) -> tuple[nn.Module, TrainingContext, dict[str, torch.Tensor]]:
    """The model, what the client knew, and what it sends, as its host lets it work."""
    model, half, mine = make_model(), MaskedSGD(training), context(**config)
    arrived = pack(masks(), model.state_dict())
    model.load_state_dict(half.unpack(arrived, model, mine))
    half.train(model, mine)
    return model, mine, dict(half.pack(model.state_dict(), model, mine))


def test_training_is_plain_sgd_on_what_the_mask_leaves() -> None:
    model, _, sent = trained(TRAINING)
    expected = make_model()
    expected.load_state_dict(apply(masks(), expected.state_dict()))
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
    generator, data = torch.Generator().manual_seed(3), examples()
    expected.train()
    for _ in range(2):
        for indices in torch.randperm(12, generator=generator).split(4):
            images, labels = data.batch(indices)
            optimizer.zero_grad()
            F.cross_entropy(expected(images), labels).backward()
            for layer, mask in masks().items():
                expected.get_submodule(layer).weight.grad *= mask  # type: ignore[union-attr, operator]
            optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name], msg=name)
    for layer, mask in masks().items():
        assert sent[f"{layer}.weight"].shape == (int(mask.sum()),)
    assert torch.equal(sent["4.weight"], model.state_dict()["4.weight"][masks()["4"]])


@pytest.mark.parametrize("optimizer", ["sgd", "sgdp", "adam", "amsgrad", "adamw", "adamp"])
def test_what_is_left_out_stays_zero_with_every_optimizer(optimizer: str) -> None:
    momentum = 0.9 if optimizer.startswith("sgd") else 0.0
    model, _, _ = trained(LocalTraining(2, 4, 0.05, momentum, optimizer, 0.1))
    for layer, mask in masks().items():
        weight = model.state_dict()[f"{layer}.weight"]
        assert not weight[~mask].any()
        assert weight[mask].all()


def test_a_full_mask_is_local_sgd_bit_for_bit() -> None:
    model, half = make_model(), MaskedSGD(TRAINING)
    full = {layer: torch.ones_like(mask) for layer, mask in masks().items()}
    mine = context(full)
    model.load_state_dict(half.unpack(pack(full, model.state_dict()), model, mine))
    half.train(model, mine)
    plain = make_model()
    LocalSGD(TRAINING).train(plain, context())
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_the_largest_gradients_of_what_is_left_out_are_reported() -> None:
    model, mine, _ = trained(TRAINING, **{"grow-4": 5})
    undisturbed, _, _ = trained(TRAINING)
    assert all(torch.equal(tensor, undisturbed.state_dict()[name]) for name, tensor in model.state_dict().items())
    told = to_tensors(mine.reply[GRADIENTS])  # type: ignore[arg-type]
    assert set(told) == {"4/places", "4/values"}

    generator, data = torch.Generator().manual_seed(3), examples()
    for _ in range(2):
        torch.randperm(12, generator=generator)  # the passes of the training
    images, labels = data.batch(torch.randperm(12, generator=generator)[:4])
    model.train()
    F.cross_entropy(model(images), labels).backward()
    gradient = model.get_submodule("4").weight.grad.flatten()  # type: ignore[union-attr, operator]
    inactive = (~masks()["4"]).flatten()
    largest = gradient.abs().where(inactive, -1).topk(5).indices.sort().values
    assert told["4/places"].tolist() == largest.tolist()
    torch.testing.assert_close(told["4/values"], gradient[largest])


def test_a_client_without_masks_says_so() -> None:
    model, half = make_model(), MaskedSGD(TRAINING)
    lost = TrainingContext(data=examples(), generator=torch.Generator(), round=1)
    with pytest.raises(RuntimeError, match="the masks are missing: the server gives them to a client once"):
        half.unpack(model.state_dict(), model, lost)


def test_masks_that_were_given_before_are_found_in_the_state() -> None:
    """The second message does not bring them, neither to train nor to be evaluated."""
    model, half = make_model(), MaskedSGD(TRAINING)
    state = ClientState(RecordDict())
    state.cache(RecordDict({f"cached/{MASKS}": to_record(encode(masks()))}))
    later = ClientContext(round=2, cached=state.cached(RecordDict()))
    unpacked = half.unpack(pack(masks(), model.state_dict()), model, later)
    assert all(torch.equal(tensor, apply(masks(), model.state_dict())[name]) for name, tensor in unpacked.items())
