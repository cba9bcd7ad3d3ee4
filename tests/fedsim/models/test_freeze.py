"""train_only: what is trained, what travels, and that the rest stays what it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.methods.state_split import frozen_entries
from fedsim.models import CNNSmall
from fedsim.models.freeze import train_only
from fedsim.norms import use_group_norm, use_scaled_ws
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run


@pytest.mark.parametrize(("part", "head"), [("norm", False), ("norm_and_head", True)])
@pytest.mark.parametrize("use", [lambda model: model, use_group_norm], ids=["bn", "gn"])
def test_only_scales_and_shifts_are_trained(part: str, head: bool, use: Callable[[nn.Module], nn.Module]) -> None:
    torch.manual_seed(0)
    model = train_only(use(CNNSmall()), part)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {
        f"{path}.{name}"
        for path, layer in model.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.GroupNorm)
        for name in ("weight", "bias")
    }
    assert trained == expected | ({"head.weight", "head.bias"} if head else set())
    assert frozen_entries(model) == {name for name, _ in model.named_parameters()} - trained
    scales = torch.cat(
        [parameter for name, parameter in model.named_parameters() if name in expected and "weight" in name]
    )
    assert 0 <= scales.min() < 0.1
    assert 0.9 < scales.max() < 1


def test_a_network_without_norm_parameters_is_refused() -> None:
    with pytest.raises(UserError, match=r"^train_only=norm needs norm layers with a scale and a shift"):
        train_only(use_scaled_ws(CNNSmall()), "norm")


@pytest.mark.parametrize("strategy", ["fedavg", "fedbn"])
def test_nothing_else_travels_is_kept_or_changes(
    small_settings: Callable[..., Settings], tmp_path: Path, strategy: str
) -> None:
    settings = small_settings("train_only=norm_and_head", f"strategy={strategy}", "engine=inline")
    prepared = prepare(settings)
    before = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
    result = run(prepared, tmp_path / "run", Reporter())
    after = load_file(tmp_path / "run" / "model.safetensors")
    frozen = frozen_entries(prepared.model)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == frozen
    travelling = [tensor for name, tensor in before.items() if name not in frozen | prepared.strategy.personal]
    assert result.summary["bytes_up"] == 2 * 6 * sum(tensor.nbytes for tensor in travelling)
    if strategy == "fedbn":
        assert set(load_file(tmp_path / "run" / "clients" / "0.safetensors")) == prepared.strategy.personal
