"""HBN's client: what it reports before it trains and when asked, and whose factors it starts from."""

import copy

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import nn

from clients import HBN, LocalSGD
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import ClientContext, QueryContext
from fedsim.methods.training import LocalTraining
from fedsim.norms import use_norm
from tests.clients.small import context, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)
CONFIG = ConfigRecord({"statistics-images": 5})


def hybrid(seed: int = 0) -> nn.Module:
    return use_norm(network(seed), "hbn").double()


def by_hand(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of the first five images."""
    with torch.no_grad():
        activations = model[0](examples().images[:5].double() / 127.5 - 1)
        share = 1 / (1 + torch.exp(-model[1].mix))
        over = activations.transpose(0, 1).flatten(1)
        mean = share * over.mean(1) + (1 - share) * model[1].global_mean
        variance = share * over.var(1, correction=0) + (1 - share) * model[1].global_var
    return {"1.running_mean": mean, "1.running_var": variance}


def test_it_trains_as_local_sgd_and_reports_statistics_of_what_it_was_sent() -> None:
    model, plain = hybrid(), hybrid()
    expected = by_hand(model)
    mine = context(model, examples(), config=CONFIG)
    metrics = HBN(TRAINING).train(model, mine)
    assert metrics == LocalSGD(TRAINING).train(plain, context(plain, examples()))
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())
    reported = to_tensors(mine.reply.array_records["statistics"])
    assert reported.keys() == expected.keys()
    for name, tensor in reported.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)
    kept = mine.state["mix"]
    assert isinstance(kept, ArrayRecord)
    assert torch.equal(to_tensors(kept)["1.mix"], model[1].mix)
    assert model[1].mix.abs().min() > 0


@pytest.mark.parametrize("trained", [False, True])
def test_its_own_factors_win_over_the_average_once_it_has_some(trained: bool) -> None:
    arrays = {"1.mix": torch.ones(4), "1.weight": torch.ones(4)}
    state = {"mix": to_record({"1.mix": torch.full((4,), 3.0)})} if trained else {}
    unpacked = HBN(TRAINING).unpack(arrays, hybrid(), ClientContext(state=state))
    assert unpacked["1.mix"].tolist() == [3.0 if trained else 1.0] * 4
    assert unpacked["1.weight"] is arrays["1.weight"]


def test_when_asked_it_answers_for_the_model_of_the_message_with_its_own_factors() -> None:
    model, sent = hybrid(), hybrid(seed=5)
    own = torch.tensor([-1.0, 0.0, 1.0, 2.0]).double()
    asked = QueryContext(
        config=CONFIG,
        state={"mix": to_record({"1.mix": own})},
        model=model,
        arrays=copy.deepcopy(sent.state_dict()),
        data=examples(),
        generator_for=lambda purpose: torch.Generator(),
        load=model.load_state_dict,
        images=lambda data: iter(()),
        score=lambda data: {},
    )
    answer = HBN.queries["statistics"](asked)
    with torch.no_grad():
        sent[1].mix.copy_(own)
    for name, tensor in by_hand(sent).items():
        torch.testing.assert_close(answer.arrays[name], tensor, rtol=1e-12, atol=1e-12)
    assert answer.metrics == {"num-examples": 5}
