"""FedProto's client against the official procedure, written out in float64."""

import copy

import pytest
import torch
from flwr.app import RecordDict
from torch import nn
from torch.nn import functional as F

from clients import FedProto, LocalSGD
from fedsim.core.errors import UserError
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.methods.interfaces import ClientContext, TrainingContext
from fedsim.methods.training import LocalTraining
from tests.clients.small import batches, examples, network

TRAINING = LocalTraining(local_epochs=2, batch_size=4, lr=0.1, momentum=0.0)
GENERATOR = torch.Generator().manual_seed(5)
SENT = {label: torch.randn(5, generator=GENERATOR, dtype=torch.float64) for label in (0, 2)}
"""Prototypes of two of the three classes."""


def context(prototypes: dict[int, torch.Tensor]) -> TrainingContext:
    record = to_record({str(label): prototype for label, prototype in prototypes.items()})
    sent = RecordDict({"prototypes": record})
    return TrainingContext(data=examples(), generator=torch.Generator().manual_seed(3), sent=sent)


def by_hand(model: nn.Sequential, sent: dict[int, torch.Tensor], lam: float) -> dict[int, torch.Tensor]:
    """Train as the official ``update_weights_het`` does; return the means of the features of the last pass."""
    model.train()
    drawn = list(batches(examples(), 2, 4))
    seen: dict[int, list[torch.Tensor]] = {}
    for number, (images, labels) in enumerate(drawn):
        features = model[:-1](images)
        loss = F.cross_entropy(model[-1](features), labels)
        if sent:
            targets = copy.deepcopy(features.detach())
            for place, label in enumerate(labels.tolist()):
                if label in sent:
                    targets[place, :] = sent[label]
            loss = loss + lam * nn.MSELoss()(targets, features)
        if number >= len(drawn) // 2:
            for place, label in enumerate(labels.tolist()):
                seen.setdefault(label, []).append(features[place].detach())
        found = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for each, gradient in zip(model.parameters(), found, strict=True):
                each -= 0.1 * gradient
    return {label: sum(features[1:], features[0]) / len(features) for label, features in seen.items()}


@pytest.mark.parametrize("sent", [{}, SENT], ids=["first round", "two of three classes"])
def test_training_and_prototypes_are_those_written_out(sent: dict[int, torch.Tensor]) -> None:
    model, reference, mine = network(), network(), context(sent)
    FedProto(TRAINING, lam=0.7).train(model, mine)
    assert isinstance(reference, nn.Sequential)
    expected = by_hand(reference, sent, 0.7)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, reference.state_dict()[name], msg=name, rtol=1e-9, atol=1e-12)
    found = to_tensors(mine.reply.array_records["prototypes"])
    assert found.keys() == {"0", "1", "2"}
    for label, prototype in expected.items():
        torch.testing.assert_close(found[str(label)], prototype, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("lam", "sent"), [(0.0, SENT), (0.7, {})], ids=["lam=0", "no prototypes yet"])
def test_without_the_distance_it_is_local_sgd_bit_for_bit(lam: float, sent: dict[int, torch.Tensor]) -> None:
    model, plain = network(), network()
    metrics = FedProto(TRAINING, lam=lam).train(model, context(sent))
    assert metrics == LocalSGD(TRAINING).train(plain, context({}))
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_a_client_predicts_the_class_of_the_nearest_prototype_and_none_without_one() -> None:
    model = network().eval()
    assert isinstance(model, nn.Sequential)
    trainer, images = FedProto(TRAINING, lam=1.0), torch.cat([images for images, _ in batches(examples(), 1, 4)])
    sent = context(SENT).sent
    with torch.no_grad():
        found = trainer.predict(model, images, ClientContext(sent=sent))
        features = model[:-1](images)
        assert torch.equal(found[""], model[-1](features))
        for place, feature in enumerate(features):
            assert found["prototypes"][place, 1] == -torch.inf
            for label in (0, 2):
                distance = nn.MSELoss()(feature, SENT[label])
                torch.testing.assert_close(found["prototypes"][place, label], -distance)
        none = trainer.predict(model, images, ClientContext())["prototypes"]
        assert torch.equal(none, torch.zeros_like(found[""]))
        assert list(trainer.predict(model, images, ClientContext(sent=sent, own=False))) == [""]


@pytest.mark.parametrize("lam", [-1.0, float("inf"), float("nan")])
def test_an_impossible_lam_is_refused(lam: float) -> None:
    with pytest.raises(UserError, match=r"^strategy\.lam=.* is not possible: choose a number of at least 0\."):
        FedProto(TRAINING, lam=lam)
