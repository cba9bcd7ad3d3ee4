"""Norms by their name: the same names, functions, options and defaults as ``configs/norm``."""

import inspect
from pkgutil import resolve_name
from typing import Any

import pytest
from omegaconf import OmegaConf
from torch import nn

from fedsim.config.composition import CONFIG_DIR
from fedsim.core.errors import UserError
from fedsim.norms import norm_names, use_norm
from fedsim.norms.factory import NORMS


def configured() -> dict[str, dict[str, Any]]:
    files = sorted((CONFIG_DIR / "norm").glob("*.yaml"))
    return {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in files}  # type: ignore[misc]


def test_names_and_functions_are_those_of_the_configuration() -> None:
    groups = configured()
    assert norm_names() == list(groups)
    assert {name: group["name"] for name, group in groups.items()} == {name: name for name in groups}
    assert {name: resolve_name(group["_target_"]) for name, group in groups.items()} == NORMS


@pytest.mark.parametrize("name", norm_names())
def test_options_and_defaults_are_those_of_the_configuration(name: str) -> None:
    options = {key: value for key, value in configured()[name].items() if key not in ("name", "_target_")}
    model, *parameters = inspect.signature(NORMS[name]).parameters.values()
    assert model.name == "model"
    assert options == {parameter.name: parameter.default for parameter in parameters}


def test_names_are_found_by_a_pattern() -> None:
    assert norm_names("*gn") == ["gn", "ws_gn"]
    assert norm_names("evonorm_*") == ["evonorm_b0", "evonorm_s0"]
    assert norm_names("GN") == []


def test_options_reach_the_layers() -> None:
    model = nn.Sequential(nn.BatchNorm2d(8))
    assert use_norm(model, "gn", groups=4) is model
    assert isinstance(model[0], nn.GroupNorm)
    assert model[0].num_groups == 4


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("groupnorm", {}, r"^norm=groupnorm is not known: choose bcn, bn, crms, .*, ws, ws_gn\.$"),
        ("gn", {"group": 4}, r"^norm\.group=4 is not an option of gn: leave it out\.$"),
        ("bn", {"groups": 4}, r"^norm\.groups=4 is not an option of bn: leave it out\.$"),
        ("gn", {"groups": 4.0}, r"^norm\.groups=4\.0 is not possible: choose a whole number or null\.$"),
        ("bcn", {"estimated": 1}, r"^norm\.estimated=1 is not possible: choose true or false\.$"),
        ("powernorm", {"groups": "all"}, r"^norm\.groups=all is not possible: choose a whole number or null\.$"),
    ],
)
def test_what_is_not_known_is_refused(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        use_norm(nn.Sequential(nn.BatchNorm2d(8)), name, **options)
