"""When, where and how many weights change places, and that the right ones do."""

import math

import pytest
import torch

from fedsim.core.errors import UserError
from fedsim.methods.sparse.adjustment import Schedule, blocks_of, contested_masks, replace_weights
from fedsim.methods.sparse.masks import prunable_layers
from fedsim.models import resnet18, vgg11


def test_the_share_falls_by_the_cosine_and_ends_at_the_stop_round() -> None:
    schedule = Schedule(interval=10, stop_round=100, rate=0.3)
    assert [round for round in range(1, 151) if schedule.due(round)] == list(range(10, 100, 10))
    for round, share in (
        (10, 0.15 * (1 + math.cos(math.pi / 10))),
        (50, 0.15),
        (90, 0.15 * (1 - math.cos(0.1 * math.pi))),
    ):
        assert schedule.replaced(round, 1000, 9000) == math.ceil(1000 * share)
    assert schedule.replaced(10, 1000, 7) == 7  # no more than there are to come
    assert schedule.replaced(50, 1, 100) == 1  # rounded up


def test_blocks_go_round_from_output_to_input() -> None:
    schedule = Schedule(interval=2, stop_round=100, rate=0.3)
    assert [schedule.block(round, 3) for round in (2, 4, 6, 8, 10)] == [2, 1, 0, 2, 1]


def test_blocks_are_even_or_by_names() -> None:
    layers = ["layer1.0.conv1", "layer1.0.conv2", "layer10.0", "layer2.0", "fc"]
    assert blocks_of(layers, 2) == [layers[:2], layers[2:]]
    assert blocks_of(layers, 5) == [[layer] for layer in layers]
    assert blocks_of(layers, ["layer1", "layer10", "layer2", "fc"]) == [
        layers[:2],
        [layers[2]],
        [layers[3]],
        [layers[4]],
    ]


def test_by_themselves_blocks_are_the_stages_of_a_resnet_or_five() -> None:
    resnet = list(prunable_layers(resnet18(10)))
    assert [block[0] for block in blocks_of(resnet, None)] == [f"layer{n}.0.conv1" for n in range(1, 5)] + ["fc"]
    vgg = list(prunable_layers(vgg11(10)))
    assert [len(block) for block in blocks_of(vgg, None)] == [
        len(vgg) * (n + 1) // 5 - len(vgg) * n // 5 for n in range(5)
    ]
    assert blocks_of(["features.3", "features.6", "head"], None) == [["features.3"], ["features.6"], ["head"]]


def test_the_smallest_go_and_the_largest_gradients_come_as_zeros() -> None:
    weight = torch.tensor([[0.5, 0.0, -0.1], [0.0, 0.2, 0.0]])
    mask = torch.tensor([[True, False, True], [False, True, False]])
    gradient = torch.tensor(
        [[9.0, -3.0, 9.0], [1.0, 9.0, 2.0]]
    )  # large ones where weights are: these are there already
    changed, new = replace_weights(weight, mask, gradient, 2)
    assert new.tolist() == [[True, True, False], [False, False, True]]
    assert changed.tolist() == [[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
    same, unchanged = replace_weights(weight, mask, gradient, 0)
    assert torch.equal(same, weight)
    assert torch.equal(unchanged, mask)


def test_what_has_just_come_does_not_go_and_what_goes_does_not_come() -> None:
    weight = torch.tensor([1e-3, 1e-2, 1e-1, 0.0, 0.0, 0.0])
    mask = torch.tensor([True, True, True, False, False, False])
    gradient = torch.tensor([5.0, 5.0, 5.0, 0.0, 0.0, 0.0])  # those that come have no gradient at all
    _, new = replace_weights(weight, mask, gradient, 3)
    assert new.tolist() == [False, False, False, True, True, True]


def test_only_the_smallest_of_each_layer_compete_with_what_is_not_there() -> None:
    """By hand. Half of a's four weights may go, 1 and 2, and of b's two only -0.1; three places are left for these and
    for the three that are not there, with scores 0.9 and 0.3 in a and 0.8 in b."""
    masks = {"a": torch.tensor([[True, True, True], [True, False, False]]), "b": torch.tensor([True, True, False])}
    weights = {"a": torch.tensor([[1.0, 2.0, -3.0], [4.0, 0.0, 0.0]]), "b": torch.tensor([5.0, -0.1, 0.0])}
    scores = {"a": torch.tensor([[0.2, 0.1, 0.0], [0.0, 0.9, 0.3]]), "b": torch.tensor([0.0, 0.25, 0.8])}
    new = contested_masks(masks, weights, scores, 0.5)
    assert new["a"].tolist() == [[False, False, True], [True, True, True]]
    assert new["b"].tolist() == [True, False, True]
    # With less to gain the places are kept: of the six, -0.1 and 1 have the largest scores after 0.9.
    scores["a"][1, 2], scores["b"][2] = 0.15, 0.05
    new = contested_masks(masks, weights, scores, 0.5)
    assert new["a"].tolist() == [[True, False, True], [True, True, False]]
    assert new["b"].tolist() == [True, True, False]
    # A quarter of four weights is one, and of two none; of all weights the scores alone decide.
    new = contested_masks(masks, weights, scores, 0.25)
    assert (new["a"].tolist(), new["b"].tolist()) == ([[False, True, True], [True, True, False]], [True, True, False])
    assert contested_masks(masks, weights, scores, 0.0)["a"].equal(masks["a"])
    new = contested_masks(masks, weights, {"a": torch.arange(6).view(2, 3) + 1.0, "b": -torch.arange(3.0)}, 1.0)
    assert (new["a"].tolist(), new["b"].tolist()) == ([[False, True, True], [True] * 3], [True, False, False])


def test_weights_as_large_as_the_next_that_stays_stay_too() -> None:
    """As in the authors' code, where the threshold itself stays."""
    masks, weights = {"a": torch.tensor([True] * 4 + [False])}, {"a": torch.tensor([1.0, -1.0, 1.0, 2.0, 0.0])}
    scores = {"a": torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0])}
    assert contested_masks(masks, weights, scores, 0.5)["a"].equal(masks["a"])
    weights["a"][0] = 0.5
    assert contested_masks(masks, weights, scores, 0.5)["a"].tolist() == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((0, 100, 0.3), r"^strategy\.interval=0 is not possible: choose a whole number of at least 1\.$"),
        ((10, 0, 0.3), r"^strategy\.stop_round=0 is not possible"),
        ((10, 100, 0.0), r"^strategy\.rate=0\.0 is not possible: choose a number above 0 and at most 1\.$"),
        ((10, 100, 1.1), r"^strategy\.rate=1\.1 is not possible"),
    ],
)
def test_wrong_schedules_are_refused(options: tuple[int, int, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Schedule(*options)


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        (0, r"^strategy\.blocks=0 is not possible: choose a whole number from 1 to 2, the layers that are pruned"),
        (3, r"^strategy\.blocks=3 is not possible"),
        (["a", "c"], r"^strategy\.blocks: no layer that is pruned is called c: choose from"),
        (["a"], r"^strategy\.blocks=\['a'\] leaves out b: name a block for every layer\.$"),
    ],
)
def test_wrong_blocks_are_refused(blocks: int | list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        blocks_of(["a", "b"], blocks)
