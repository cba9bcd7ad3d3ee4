"""What PruneFL's client keeps and sends, against gradients of a loop written out."""

import torch
from flwr.app import ConfigRecord, RecordDict
from torch import nn
from torch.nn import functional as F

from clients import MaskedSGD, PruneFL
from datasets.examples import Examples
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import TrainingContext
from fedsim.methods.sparse.masks import Masks, encode, pack
from fedsim.methods.sparse.records import MASKS, SQUARES, SQUARES_SINCE
from fedsim.methods.training import LocalTraining

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.5, weight_decay=0.01)


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).double()


def masks() -> Masks:
    generator = torch.Generator().manual_seed(1)
    return {"0": torch.rand(4, 1, 3, 3, generator=generator) < 0.5, "4": torch.rand(3, 16, generator=generator) < 0.3}


def examples() -> Examples:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (12, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (12,), generator=generator)
    return Examples(images, labels, lambda batch, _: batch.double() / 255)


def train(half: MaskedSGD, model: nn.Module, round: int, state: RecordDict, **config: int | bool) -> RecordDict:
    context = TrainingContext(
        data=examples(),
        generator=torch.Generator().manual_seed(round),
        round=round,
        config=ConfigRecord(dict(config)),
        cached={MASKS: to_record(encode(masks()))},
        state=state,
    )
    model.load_state_dict(dict(half.unpack(pack(masks(), model.state_dict()), model, context)))
    half.train(model, context)
    return context.reply


def summed_gradients(model: nn.Module, round: int) -> dict[str, torch.Tensor]:
    """Of the steps of one round, which trains the model on."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
    generator, data = torch.Generator().manual_seed(round), examples()
    sums = {layer: torch.zeros(mask.shape, dtype=torch.float64) for layer, mask in masks().items()}
    model.train()
    for _ in range(2):
        for indices in torch.randperm(12, generator=generator).split(4):
            images, labels = data.batch(indices)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            for layer, mask in masks().items():
                gradient = model.get_parameter(f"{layer}.weight").grad
                assert gradient is not None
                sums[layer] += gradient
                gradient *= mask
            optimizer.step()
    return sums


def test_squares_of_each_rounds_summed_gradients_are_added_up_until_they_are_asked_for() -> None:
    model, half, state = make_model(), PruneFL(TRAINING), RecordDict()
    expected = make_model()
    for layer, mask in masks().items():
        expected.get_parameter(f"{layer}.weight").data *= mask
    by_round = []
    for round in (3, 4):
        reply = train(half, model, round, state, **{SQUARES_SINCE: 3, SQUARES: round == 4})
        by_round.append(summed_gradients(expected, round))
        assert (SQUARES in reply) == (round == 4)
    told = to_tensors(reply.array_records[SQUARES])
    for layer, mask in masks().items():
        both = by_round[0][layer].square() + by_round[1][layer].square()
        torch.testing.assert_close(told[layer], both)
        assert (told[layer][~mask] > 0).any()
    assert SQUARES not in state  # they are of use for one adjustment only
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected.state_dict()[name])


def test_sums_of_an_adjustment_that_went_by_are_dropped() -> None:
    """A client that was in no cohort when they were asked for begins again."""
    model, half, state = make_model(), PruneFL(TRAINING), RecordDict()
    train(half, model, 1, state, **{SQUARES_SINCE: 1, SQUARES: False})
    before = make_model()
    before.load_state_dict(model.state_dict())
    reply = train(half, model, 4, state, **{SQUARES_SINCE: 3, SQUARES: True})
    for layer, sums in summed_gradients(before, 4).items():
        torch.testing.assert_close(to_tensors(reply.array_records[SQUARES])[layer], sums.square())


def test_it_trains_as_a_masked_client_does_and_keeps_nothing_unless_told_to() -> None:
    plain, other, state = make_model(), make_model(), RecordDict()
    assert not train(PruneFL(TRAINING), plain, 1, state)
    assert not state
    train(MaskedSGD(TRAINING), other, 1, RecordDict())
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in plain.state_dict().items())
