"""The frame of head=etf: its angles, where it comes from, and that it stays and never travels."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fedsim.config.composition import load
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.heads import ETFLinear, simplex_frame
from fedsim.methods.state_split import frozen_entries
from fedsim.models import build_model
from fedsim.output.progress import Reporter
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run


@pytest.mark.parametrize(("classes", "features"), [(10, 576), (10, 10), (10, 9), (3, 2), (2, 1), (126, 125)])
def test_its_directions_have_unit_length_and_equal_angles(classes: int, features: int) -> None:
    torch.manual_seed(0)
    frame = simplex_frame(classes, features)
    assert frame.shape == (classes, features)
    off = -1 / (classes - 1)
    expected = torch.full((classes, classes), off, dtype=torch.float64).fill_diagonal_(1.0)
    torch.testing.assert_close(frame @ frame.T, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(frame.sum(0), torch.zeros(features, dtype=torch.float64), rtol=0, atol=1e-12)


def test_it_is_helmerts_basis_turned_by_what_was_drawn() -> None:
    """Orthonormalized by Gram and Schmidt, which has no signs to choose."""
    torch.manual_seed(3)
    frame = simplex_frame(4, 6)
    torch.manual_seed(3)
    columns: list[torch.Tensor] = []
    for column in torch.randn(6, 3, dtype=torch.float64).T:
        for done in columns:
            column = column - (column @ done) * done
        columns.append(column / (column @ column).sqrt())
    basis = torch.tensor([[1, -1, 0, 0], [1, 1, -2, 0], [1, 1, 1, -3]], dtype=torch.float64)
    basis /= (basis**2).sum(1, keepdim=True).sqrt()
    expected = sum((4 / 3) ** 0.5 * torch.outer(row, column) for row, column in zip(basis, columns, strict=True))
    torch.testing.assert_close(frame, expected)


def test_the_layer_holds_the_frame_in_its_own_precision() -> None:
    torch.manual_seed(0)
    weight = ETFLinear(64, 10).weight
    assert weight.dtype == torch.float32
    assert not weight.requires_grad
    expected = torch.full((10, 10), -1 / 9, dtype=torch.float64).fill_diagonal_(1.0)
    torch.testing.assert_close(weight.double() @ weight.double().T, expected, rtol=0, atol=1e-6)


def test_logits_are_scaled_cosines_with_the_frame() -> None:
    torch.manual_seed(0)
    head = ETFLinear(8, 4, scale=3).double()
    features = torch.randn(5, 8, dtype=torch.float64)
    expected = 3 * (features @ head.weight.T) / features.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(head(features), expected)


def test_the_seed_turns_the_frame(small_settings: Callable[..., Settings]) -> None:
    frames = [build_model(small_settings("head=etf", f"seed={seed}"), 10).head.weight for seed in (0, 0, 1)]
    assert torch.equal(frames[0], frames[1])
    assert (frames[0] - frames[2]).abs().max() > 0.1


@pytest.mark.parametrize(("classes", "features"), [(10, 8), (1, 8)])
def test_classes_that_do_not_fit_are_refused(classes: int, features: int) -> None:
    sentence = rf"^head=etf is not possible for {classes} classes and {features} features, which hold 2 to 9 classes: "
    with pytest.raises(UserError, match=sentence):
        ETFLinear(features, classes)


@pytest.mark.parametrize("strategy", ["fedavg", "local"])
def test_the_frame_never_travels_and_stays_bit_equal(
    small_settings: Callable[..., Settings], tmp_path: Path, strategy: str
) -> None:
    settings = small_settings("head=etf", f"strategy={strategy}", "engine=inline", "weight_decay=0.1")
    prepared = prepare(settings)
    before = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
    assert frozen_entries(prepared.model) == {"head.weight"}
    result = run(prepared, tmp_path / "run", Reporter())
    path = tmp_path / "run" / "model.safetensors"
    after = load_file(path)
    assert after.keys() == before.keys()
    assert {name for name in before if torch.equal(before[name], after[name])} == {"head.weight"}
    if strategy == "local":
        assert result.summary["bytes_up"] == result.summary["bytes_down"] == 0
        for client in range(6):
            kept = load_file(tmp_path / "run" / "clients" / f"{client}.safetensors")
            assert torch.equal(kept["head.weight"], before["head.weight"])
    else:
        travelling = sum(tensor.nbytes for name, tensor in before.items() if name != "head.weight")
        assert result.summary["bytes_up"] == result.summary["bytes_down"] == 2 * 6 * travelling

    # A run that is taken up again draws the frame anew.
    path.unlink()
    resumed = Settings.from_config({**load(tmp_path / "run"), "resume": str(tmp_path / "run")})
    run(prepare(resumed), tmp_path / "run", Reporter())
    again = load_file(path)
    assert all(torch.equal(again[name], after[name]) for name in after)
