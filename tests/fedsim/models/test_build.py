"""The seed decides the initial weights, whatever was drawn before and whatever the norm."""

import pytest
import torch

from fedsim.config import compose
from fedsim.errors import UserError
from fedsim.models import CNNSmall, build_model
from fedsim.seeding import derive_seed

SMALL = {"name": "cnn_small", "_target_": "fedsim.models.CNNSmall"}
BN = {"name": "bn", "_target_": "fedsim.norms.keep_batch_norm"}


def test_the_weights_are_those_torch_draws_with_the_derived_seed() -> None:
    torch.rand(7)
    built = build_model(SMALL, BN, num_classes=10, seed=3).state_dict()
    torch.manual_seed(derive_seed(3, "model"))
    expected = CNNSmall(10).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in built.items())
    other = build_model(SMALL, BN, num_classes=10, seed=4).state_dict()
    assert not torch.equal(other["head.weight"], expected["head.weight"])


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    build_model(SMALL, BN, num_classes=10, seed=3)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("norm", ["gn", "none", "sws"])
def test_every_norm_starts_from_the_same_convolutions(norm: str) -> None:
    config = compose([f"norm={norm}"])
    with_norm = build_model(SMALL, config["norm"], num_classes=10, seed=0).state_dict()
    with_bn = build_model(SMALL, BN, num_classes=10, seed=0).state_dict()
    weights = [name for name, tensor in with_bn.items() if tensor.dim() > 1]
    assert len(weights) == 4
    assert all(torch.equal(with_norm[name], with_bn[name]) for name in weights)


def test_the_number_of_classes_is_the_datasets() -> None:
    assert build_model(SMALL, BN, num_classes=7, seed=0).head.out_features == 7


@pytest.mark.parametrize(
    ("model", "norm", "sentence"),
    [
        ({**SMALL, "width": 64}, BN, r"width=64 is not an option of cnn_small: leave it out\."),
        (SMALL, {**BN, "groups": 2}, r"groups=2 is not an option of bn: leave it out\."),
    ],
)
def test_an_option_that_is_none_is_refused(model: dict[str, object], norm: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_model(model, norm, num_classes=10, seed=0)
