"""What is told of each class, computed by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from flwr.app import ArrayRecord, RecordDict
from torch import nn

from datasets.federation import Federation
from fedsim.messages.arrays import to_record
from fedsim.methods.client_state import PERSONAL
from fedsim.methods.federated_model import FederatedModel
from fedsim.metrics.class_metrics import ClassTracker
from fedsim.metrics.measured import Evaluation, Measured
from fedsim.reparam import use_weight_compander

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
REALIGNED = {
    "domain0": Measured(8, 3, 1.0, by_class=((6, 1), (2, 2), (0, 0))),
    "domain1": Measured(4, 4, 1.0, by_class=((2, 2), (2, 2), (0, 0))),
}
EVALUATION = Evaluation(
    clients={},
    domains={
        "domain0": Measured(8, 5, 1.0, {"realigned": REALIGNED["domain0"]}, ((6, 5), (2, 0), (0, 0))),
        "domain1": Measured(4, 2, 1.0, {"realigned": REALIGNED["domain1"]}, ((2, 1), (2, 1), (0, 0))),
    },
)


@pytest.fixture
def federation(make_federation: Callable[..., Federation]) -> Federation:
    return make_federation(4)  # 0 + 1 + 2 + 3 images of class 0, 4 of class 1, none of class 2


def test_groups_of_classes_are_weighed_by_their_test_images(federation: Federation) -> None:
    # By share 6, 4 and 0 of 10 images: classes 0 and 1 are many, class 2 is few and has no test image.
    assert ClassTracker(MODEL, federation, "share").metrics(EVALUATION) == {"many": 7 / 12, "realigned_many": 7 / 12}
    by_count = ClassTracker(MODEL, federation, "count")
    assert by_count.shots == ["few"] * 3
    assert by_count.metrics(EVALUATION) == {"few": 7 / 12, "realigned_few": 7 / 12}


def test_of_devices_no_numbers_of_images_are_known(federation: Federation) -> None:
    class OnDevices(Federation):
        on_devices = True

    tracker = ClassTracker(MODEL, OnDevices(federation.source, federation.partitions), "share")
    assert tracker.images == [0, 0, 0]
    assert tracker.shots == ["", "", ""]
    assert tracker.metrics(EVALUATION) == {}


def test_without_a_tail_there_are_no_groups(federation: Federation) -> None:
    balanced = replace_counts(federation, [6, 4, 5])
    assert ClassTracker(MODEL, balanced, "share").metrics(EVALUATION) == {}
    assert set(ClassTracker(MODEL, balanced, "share").shots) == {""}
    assert set(ClassTracker(MODEL, replace_counts(federation, [6, 3, 5]), "share").shots) != {""}


def replace_counts(federation: Federation, counts: list[int]) -> Federation:
    """The same source, one client with so many images of each class."""
    source = federation.source
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts)).numpy()
    other = replace(
        source,
        images=source.images[:1].repeat(len(labels) + 1, 0),
        labels=torch.cat([torch.from_numpy(labels), torch.tensor([0])]).numpy(),
        domains=source.domains[:1].repeat(len(labels) + 1),
        parts=torch.tensor([0] * len(labels) + [int(source.parts[-1])], dtype=torch.uint8).numpy(),
    )
    partition = replace(federation.partitions[0], train=torch.arange(len(labels)).numpy(), test=None)
    return Federation(other, [partition])


def test_a_row_for_each_class(federation: Federation) -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]])
    model = FederatedModel({}, to_record({"1.weight": weight}), frozenset(), {})
    rows = ClassTracker(MODEL, federation, "share").rows(7, EVALUATION, model)
    assert [(row["round"], row["class"], row["train_images"], row["shot"]) for row in rows] == [
        *((7, "0", 6, "many"), (7, "1", 4, "many"), (7, "2", 0, "few")),
    ]
    assert [(row["num_examples"], row["accuracy"], row["realigned_accuracy"]) for row in rows] == [
        *((8, 6 / 8, 3 / 8), (4, 1 / 4, 1.0), (0, None, None)),
    ]
    between = {(0, 1): math.degrees(math.acos(4 / 5)), (0, 2): math.degrees(math.acos(-3 / 5)), (1, 2): 90.0}
    for c, row in enumerate(rows):
        mine = [angle for pair, angle in between.items() if c in pair]
        assert row["1_norm"] == pytest.approx([5, 2, 1][c])
        assert row["1_angle"] == pytest.approx(sum(mine) / 2)
        assert row["1_nearest"] == pytest.approx(min(mine))


def test_of_a_classifier_that_clients_keep_it_is_the_mean_over_them(federation: Federation) -> None:
    initial = {"1.weight": torch.eye(3)[:, :2] * 2, "1.bias": torch.zeros(3)}
    kept = torch.tensor([[0.0, 6.0], [0.0, 4.0], [1.0, 0.0]])
    states = {
        0: RecordDict({PERSONAL: to_record({"1.weight": kept, "1.bias": torch.zeros(3)})}),
        1: RecordDict(),  # has not trained yet
    }
    model = FederatedModel(initial, ArrayRecord(), frozenset({"1.weight", "1.bias"}), states)
    rows = ClassTracker(MODEL, federation, "share").rows(0, EVALUATION, model)
    assert [row["1_norm"] for row in rows] == pytest.approx([(6 + 2) / 2, (4 + 2) / 2, (1 + 0) / 2])
    # Client 0's first two rows are alike; client 1's stand at right angles, and its third has no direction.
    assert rows[0]["1_nearest"] == pytest.approx((0 + 90) / 2, abs=1e-3)


def test_a_reparametrized_classifier_is_left_out(federation: Federation) -> None:
    model = FederatedModel({}, to_record({"1.original": torch.zeros(3, 2)}), frozenset(), {})
    rows = ClassTracker(MODEL, federation, "share").rows(0, EVALUATION, model)
    assert not any(name.startswith("1_") for name in rows[0])


@pytest.mark.parametrize("personal", [False, True])
def test_of_a_companded_classifier_it_is_the_weight_that_is_used(federation: Federation, personal: bool) -> None:
    network = use_weight_compander(nn.Sequential(nn.Flatten(), nn.Linear(2, 3)), a=2.0)
    trained = [torch.tensor([[3.0, 0.0], [0.0, 5.0], [1.0, 1.0]]), torch.tensor([[1.0, 2.0], [4.0, 0.0], [0.0, 7.0]])]
    scales = [(0.5, 2.0), (1.5, 0.25)]
    states = [
        {"1.weight": v, "1.bias": torch.zeros(3), "1.a": torch.tensor(a), "1.b": torch.tensor(b)}
        for v, (a, b) in zip(trained, scales, strict=True)
    ]
    if personal:
        kept = {client: RecordDict({PERSONAL: to_record(state)}) for client, state in enumerate(states)}
        model = FederatedModel(dict(network.state_dict()), ArrayRecord(), frozenset(states[0]), kept)
    else:
        model = FederatedModel({}, to_record(states[0]), frozenset(), {})
    rows = ClassTracker(network, federation, "share").rows(0, EVALUATION, model)
    used = [
        [[a * math.atan(each / b) for each in row] for row in v.tolist()]
        for v, (a, b) in zip(trained, scales, strict=True)
    ][: 2 if personal else 1]
    for c, row in enumerate(rows):
        assert row["1_norm"] == pytest.approx(sum(math.hypot(*weight[c]) for weight in used) / len(used))
    angles = [[abs(math.atan2(*weight[0]) - math.atan2(*weight[c])) * 180 / math.pi for c in (1, 2)] for weight in used]
    assert rows[0]["1_nearest"] == pytest.approx(sum(map(min, angles)) / len(used), abs=1e-3)
