"""FedPer: the classifier, and no other linear layer, stays on the clients."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from torch import nn
from torchvision.models import resnet18

from datasets.federation import Federation
from fedsim.client.app_factory import ClientAppFactory
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.engines.inline import InlineGrid
from fedsim.heads import use_cosine, use_etf
from fedsim.messages.arrays import to_record, to_tensors
from fedsim.messages.schema import arrays_of, metrics_of, number
from fedsim.methods.client_state import PERSONAL, TRAINED
from fedsim.methods.training import ServerTraining
from fedsim.models import CNN6, build_model
from fedsim.reparam import use_weight_compander
from strategies import FedPer, FedRep

MakeModel = Callable[..., nn.Module]
HEAD_OF_TOY = {"4.weight", "4.bias"}


@pytest.mark.parametrize(
    ("model", "personal"),
    [
        (CNN6(), {"head.weight", "head.bias"}),
        (resnet18(weights=None), {"fc.weight", "fc.bias"}),
        (use_cosine(CNN6(), learnable=True), {"head.weight", "head.scale"}),
        (use_weight_compander(CNN6()), {"head.weight", "head.bias", "head.a", "head.b"}),
        (nn.Linear(3, 2), {"weight", "bias"}),
    ],
    ids=["cnn6", "resnet18", "cosine", "companded", "classifier alone"],
)
def test_all_of_the_last_linear_layer_is_personal_and_nothing_else(model: nn.Module, personal: set[str]) -> None:
    assert FedPer(model).personal == personal
    assert set(FedPer(model).arrays_to_train(ArrayRecord(model.state_dict()))) == set(model.state_dict()) - personal


def test_flowers_own_start_leaves_each_client_its_classifier(grid: InlineGrid, make_model: MakeModel) -> None:
    model = make_model()
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = FedPer(model).start(grid, ArrayRecord(model.state_dict()), num_rounds=2)
    assert not HEAD_OF_TOY & set(result.arrays)
    kept = [to_tensors(state.array_records["mine"]) for state in grid.client_states().values()]
    for name in HEAD_OF_TOY:
        for client in range(3):
            assert not torch.equal(kept[client][name], initial[name])
            assert not torch.equal(kept[client][name], kept[client - 1][name])


def test_a_classifier_waits_for_its_clients_next_turn(
    small_settings: Callable[..., Settings], federation: Federation
) -> None:
    """In this simulator, with half of the clients in each round; the body is the average of what they return."""
    settings = small_settings("strategy=fedper", "engine=inline", "momentum=0.5")
    grid = InlineGrid(ClientAppFactory(settings, federation), 6, [torch.device("cpu")])
    model = build_model(settings, 10)
    strategy = FedPer(model, ServerTraining(fraction=0.5))
    body = to_record(model.state_dict())
    classifiers: dict[int, ArrayRecord] = {}
    waited = 0
    for round in range(1, 5):
        before = {
            client: {name: tensor.clone() for name, tensor in to_tensors(record).items()}
            for client, record in classifiers.items()
        }
        messages = list(strategy.configure_train(round, body, ConfigRecord(), grid))
        replies = list(grid.send_and_receive(messages))
        cohort = {message.metadata.dst_node_id for message in messages}
        assert len(cohort) == 3
        states = grid.client_states()
        classifiers = {client: state.array_records[PERSONAL] for client, state in states.items() if PERSONAL in state}
        for client, record in classifiers.items():
            after = to_tensors(record)
            assert set(after) == {"head.weight", "head.bias"}
            assert (states[client].config_records[TRAINED]["server-round"] == round) == (client in cohort)
            if client in before:
                waited += client not in cohort
                for name, tensor in after.items():
                    assert torch.equal(tensor, before[client][name]) == (client not in cohort), (client, name)

        weights = np.array([number(metrics_of(reply), "num-examples") for reply in replies])
        returned = [to_tensors(arrays_of(reply)) for reply in replies]
        averaged, _ = strategy.aggregate_train(round, replies)
        assert averaged is not None
        assert set(averaged) == set(model.state_dict()) - {"head.weight", "head.bias"}
        for name, tensor in to_tensors(averaged).items():
            values = np.stack([each[name].double().numpy() for each in returned])
            whole = not tensor.is_floating_point()
            expected = values.max(0) if whole else np.tensordot(weights / weights.sum(), values, axes=1)
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=1e-6, atol=1e-7)
        body = averaged
    assert waited > 2
    assert len(classifiers) > 3


def test_replies_are_weighted_by_examples_by_default(make_model: MakeModel) -> None:
    assert FedPer(make_model()).weighting == "examples"


@pytest.mark.parametrize(("strategy", "name"), [(FedPer, "fedper"), (FedRep, "fedrep")])
def test_a_model_without_a_classifier_that_is_trained_is_refused(strategy: type[FedPer], name: str) -> None:
    with pytest.raises(UserError, match=rf"^strategy={name} needs .*, and those of Conv2d come from no linear"):
        strategy(nn.Conv2d(3, 3, 1))
    with pytest.raises(
        UserError, match=rf"^strategy={name} needs a classifier that is trained, .*: choose head=linear"
    ):
        strategy(use_etf(CNN6()))
