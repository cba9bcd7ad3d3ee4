"""Options of norms out of their range, and networks in which a norm cannot stand, are refused in one sentence."""

from typing import Any

import pytest
from torch import nn

from fedsim.core.errors import UserError
from fedsim.norms import use_norm


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU()),
    )


NUMBER = r"choose a number above 0\.$"
SHARE = r"choose a number from 0 to below 1\.$"


@pytest.mark.parametrize(
    ("norm", "options", "sentence"),
    [
        *((name, {"eps": 0.0}, NUMBER) for name in ("crms", "evonorm_b0", "evonorm_s0", "frn", "powernorm", "rms")),
        *((name, {"eps": -1.0}, NUMBER) for name in ("sws", "unified", "ws", "ws_gn")),
        ("powernorm", {"eps": float("nan")}, NUMBER),
        ("powernorm", {"eps": float("inf")}, NUMBER),
        ("sws", {"gamma": 0.0}, NUMBER),
        *((name, {"warmup": -1}, r"choose a whole number of 0 or more\.$") for name in ("powernorm", "unified")),
        ("unified", {"ratio_after": -1}, r"choose a whole number of 0 or more\.$"),
        ("unified", {"window": 1}, r"choose a whole number of 2 or more\.$"),
        ("unified", {"momentum": 1.0}, SHARE),
        ("powernorm", {"alpha_forward": 1.0}, SHARE),
        ("powernorm", {"alpha_backward": -0.1}, SHARE),
        ("bcn", {"moving_speed": 0.0}, r"choose a number above 0, 1 at most\.$"),
        ("bcn", {"moving_speed": 1.5}, r"choose a number above 0, 1 at most\.$"),
    ],
)
def test_a_value_out_of_range_is_refused(norm: str, options: dict[str, Any], sentence: str) -> None:
    [(key, value)] = options.items()
    with pytest.raises(UserError, match=rf"^norm\.{key}={value} is not possible: {sentence}"):
        use_norm(network(), norm, **options)


@pytest.mark.parametrize("norm", ["bcn", "evonorm_s0", "gn", "powernorm", "ws_gn"])
def test_groups_must_divide_the_channels_and_leave_a_linear_layer_more_than_single_values(norm: str) -> None:
    with pytest.raises(
        UserError,
        match=r"^norm\.groups=3 does not divide the 8 channels .* a divisor of 8, or norm\.channels_per_group ",
    ):
        use_norm(network(), norm, groups=3)
    sentence = r"^norm\.groups=4 leaves each group a single value in a linear layer of 4: choose a smaller divisor of 4"
    with pytest.raises(UserError, match=sentence):
        use_norm(network(), norm, groups=4)
    use_norm(network(), norm, groups=2)


@pytest.mark.parametrize("norm", ["bcn", "crms", "gn", "in", "ln", "powernorm", "rms", "unified", "ws_gn"])
def test_a_network_without_batch_norm_is_refused(norm: str) -> None:
    with pytest.raises(UserError, match=rf"^norm={norm} replaces BatchNorm, and this network has none: choose norm=bn"):
        use_norm(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), norm)


@pytest.mark.parametrize("norm", ["ws", "ws_gn", "sws"])
def test_a_filter_of_one_weight_cannot_be_standardized(norm: str) -> None:
    depthwise = nn.Sequential(nn.Conv2d(32, 32, 1, groups=32), nn.BatchNorm2d(32))
    with pytest.raises(UserError, match=rf"^norm={norm} is not possible for a convolution with a fan-in of 1"):
        use_norm(depthwise, norm)
