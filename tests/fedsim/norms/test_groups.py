"""How many groups a layer has: as many as are said, or as leave each enough channels."""

import re

import pytest
import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.models import CNNSmall
from fedsim.norms import ChannelNorm, GroupScaling, norm_names, use_norm
from fedsim.norms.factory import GROUPED, NORMS, grouping
from fedsim.norms.groups import groups_in


@pytest.mark.parametrize(
    ("channels", "groups", "per_group", "expected"),
    [
        (32, None, None, 2),
        (64, None, None, 4),
        (512, None, None, 32),
        (2048, None, None, 128),
        (16, None, None, 1),
        (8, None, None, 1),  # fewer than sixteen are one group
        (24, None, None, 1),  # two of twelve would be too small
        (40, None, None, 2),  # of twenty
        (144, None, None, 9),
        (17, None, None, 1),
        (24, None, 8, 3),
        (24, None, 5, 4),  # of six
        (64, None, 1, 64),
        (64, None, 1000, 1),
        (64, 32, None, 32),
        (64, 1, None, 1),
    ],
)
def test_groups_are_as_many_as_leave_each_enough_channels(
    channels: int, groups: int | None, per_group: int | None, expected: int
) -> None:
    assert groups_in(nn.BatchNorm2d(channels), groups, per_group) == expected
    if groups is None:  # by trying every number
        least = 16 if per_group is None else per_group
        fitting = [n for n in range(1, channels + 1) if channels % n == 0 and channels // n >= least]
        assert expected == max(fitting, default=1)


@pytest.mark.parametrize(
    ("layer", "options", "sentence"),
    [
        (nn.BatchNorm2d(8), (2, 4), "norm.groups=2 and norm.channels_per_group=4 both say what a group is: leave one"),
        (nn.BatchNorm2d(8), (None, 0), "norm.channels_per_group=0 is not possible: choose a whole number of 1 or more"),
        (nn.BatchNorm1d(8), (None, 1), "norm.channels_per_group=1 leaves each group a single value in a linear layer"),
        (nn.BatchNorm1d(1), (None, None), "norm.channels_per_group=16 leaves each group a single value in a linear"),
    ],
)
def test_what_cannot_be_is_refused(layer: nn.Module, options: tuple[int | None, int | None], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}"):
        groups_in(layer, *options)


def groups_of(model: nn.Module) -> list[int]:
    return [
        int(getattr(layer, "num_groups", getattr(layer, "groups", 0)))
        for layer in model.modules()
        if isinstance(layer, nn.GroupNorm | ChannelNorm | GroupScaling) or type(layer).__name__ == "EvoNorm2dS0"
    ]


@pytest.mark.parametrize("norm", [*GROUPED, "powernorm"])
def test_every_norm_with_groups_takes_both_and_never_one_channel_a_group_unasked(norm: str) -> None:
    assert {"groups", "channels_per_group"} <= NORMS[norm].__annotations__.keys()
    channels = [layer.num_features for layer in CNNSmall().modules() if isinstance(layer, nn.BatchNorm2d)]
    default = [] if norm == "powernorm" else [each // 16 for each in channels]
    assert groups_of(use_norm(CNNSmall(), norm)) == default
    assert groups_of(use_norm(CNNSmall(), norm, channels_per_group=8)) == [each // 8 for each in channels]
    assert groups_of(use_norm(CNNSmall(), norm, groups=32)) == [32] * len(channels)
    with pytest.raises(UserError, match="both say what a group is"):
        use_norm(CNNSmall(), norm, groups=4, channels_per_group=16)


def test_no_other_norm_has_groups() -> None:
    with_groups = {name for name in norm_names() if "groups" in NORMS[name].__annotations__}
    assert with_groups == {*GROUPED, "powernorm"}


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        ({"name": "gn"}, "channels_per_group=16"),
        ({"name": "bcn", "groups": None, "channels_per_group": None}, "channels_per_group=16"),
        ({"name": "ws_gn", "groups": 32}, "groups=32"),
        ({"name": "evonorm_s0", "channels_per_group": 4}, "channels_per_group=4"),
        ({"name": "ln"}, None),
        ({"name": "powernorm", "groups": None}, None),
    ],
)
def test_the_grouping_is_told_with_its_default(norm: dict[str, object], said: str | None) -> None:
    assert grouping(norm) == said


def test_sixteen_channels_are_normalized_together() -> None:
    images = torch.randn(2, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    output = use_norm(nn.Sequential(nn.BatchNorm2d(32)), "gn")(images).view(2, 2, 16 * 9)
    torch.testing.assert_close(output.mean(2), torch.zeros(2, 2), rtol=0, atol=1e-5)
    assert output.view(2, 32, 9).mean(2).abs().max() > 0.1  # as InstanceNorm's would not be
