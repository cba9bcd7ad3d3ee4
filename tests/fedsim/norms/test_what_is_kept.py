"""What a norm keeps of the BatchNorm in whose place it stands: eps, no scale where there was none, first scales."""

import pytest
import torch
from timm.layers.evo_norm import EvoNorm2dB0
from timm.layers.filter_response_norm import FilterResponseNormTlu2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import BasicBlock, ResNet

from fedsim.core.errors import UserError
from fedsim.norms import ChannelNorm, InstanceBatchNorm2d, norm_names, use_norm

REPLACING = [name for name in norm_names() if name not in ("bn", "dse", "ibn_a", "ibn_b", "none", "sws", "ws")]
ESTIMATED = "bcn, estimated"
CHANNELS = 32


def replaced(norm: str, batch_norm: _BatchNorm, **options: object) -> nn.Module:
    """What stands in the place of the BatchNorm."""
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 3), batch_norm, nn.ReLU())
    if norm == ESTIMATED:
        return use_norm(model, "bcn", estimated=True, **options)[1]
    return use_norm(model, norm, **options)[1]


def unlike_a_new_one() -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(CHANNELS, eps=0.25)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(0.5, 2, CHANNELS))
        layer.bias.copy_(torch.linspace(-1, 1, CHANNELS))
    return layer


@pytest.mark.parametrize("norm", [*REPLACING, ESTIMATED])
def test_the_first_scales_and_shifts_are_kept(norm: str) -> None:
    old = unlike_a_new_one()
    weight, bias = old.weight.clone(), old.bias.clone()
    new = replaced(norm, old)
    scales = [each for name, each in new.named_parameters() if name.endswith("weight") and len(each) == CHANNELS]
    assert len(scales) == 1
    assert torch.equal(scales[0], weight)
    shifts = [each for name, each in new.named_parameters() if name.endswith("bias") and len(each) == CHANNELS]
    assert len(shifts) == (0 if norm in ("rms", "crms") else 1)
    assert all(torch.equal(each, bias) for each in shifts)


@pytest.mark.parametrize("norm", [*REPLACING, ESTIMATED])
def test_without_a_scale_there_is_none_and_the_output_is_that_of_a_scale_of_one(norm: str) -> None:
    new = replaced(norm, nn.BatchNorm2d(CHANNELS, affine=False))
    own = {name.rpartition(".")[2] for name, _ in new.named_parameters()}
    assert own <= {"v", "tau", "mix"}  # of the activation in it, or of the statistics
    assert not {name for name in new.state_dict() if name.endswith(("weight", "bias"))}
    images = torch.randn(4, CHANNELS, 5, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.testing.assert_close(new(images), replaced(norm, nn.BatchNorm2d(CHANNELS))(images))
    new(images).square().sum().backward()
    assert images.grad is not None
    new.load_state_dict(new.state_dict())


@pytest.mark.parametrize("norm", [*REPLACING, ESTIMATED])
def test_without_a_shift_there_is_none(norm: str) -> None:
    new = replaced(norm, nn.BatchNorm2d(CHANNELS, bias=False))
    assert any(name.endswith("weight") for name, _ in new.named_parameters())
    assert not [name for name, _ in new.named_parameters() if name.endswith("bias")]
    images = torch.randn(4, CHANNELS, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(new(images), replaced(norm, nn.BatchNorm2d(CHANNELS))(images))


@pytest.mark.parametrize("norm", [name for name in [*REPLACING, ESTIMATED] if name != "frn"])
def test_the_eps_is_kept_unless_another_is_given(norm: str) -> None:
    def epsilons(layer: nn.Module) -> set[float]:
        return {each.eps for each in layer.modules() if hasattr(each, "eps")}

    assert epsilons(replaced(norm, nn.BatchNorm2d(CHANNELS, eps=0.25))) == {0.25}
    if norm in ("crms", "evonorm_b0", "evonorm_s0", "powernorm", "rms", "unified"):
        assert epsilons(replaced(norm, nn.BatchNorm2d(CHANNELS, eps=0.25), eps=0.125)) == {0.125}


def test_filter_response_norm_has_its_papers_eps() -> None:
    layer = replaced("frn", nn.BatchNorm2d(CHANNELS, eps=0.25))
    assert isinstance(layer, FilterResponseNormTlu2d)
    assert layer.eps == 1e-6


def test_running_statistics_move_as_fast_as_before() -> None:
    slow = nn.BatchNorm2d(CHANNELS, momentum=0.02)
    evonorm = replaced("evonorm_b0", slow)
    assert isinstance(evonorm, EvoNorm2dB0)
    assert evonorm.momentum == 0.02
    assert replaced(ESTIMATED, slow)[0].moving_speed == 0.02
    assert replaced(ESTIMATED, slow, moving_speed=0.5)[0].moving_speed == 0.5
    assert replaced(ESTIMATED, nn.BatchNorm2d(CHANNELS, momentum=None))[0].moving_speed == 0.1


def residual_network(**options: object) -> ResNet:
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5, **options)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.Identity()
    return model


@pytest.mark.parametrize("norm", ["bcn", "gn", "in", "ln", "powernorm", "rms", "unified", "ibn_a", "ws_gn"])
def test_residual_branches_that_start_at_zero_still_do(norm: str) -> None:
    torch.manual_seed(0)
    model = use_norm(residual_network(zero_init_residual=True), norm)
    images = torch.randn(4, 64, 8, 8)
    block = model.layer1[0]
    assert torch.equal(block(images), images.relu())  # its shortcut alone
    block(images).square().sum().backward()
    last = block.bn2[-1] if norm == "bcn" else block.bn2
    if norm == "bcn":
        assert isinstance(last, ChannelNorm)
        assert block.bn2[0].weight.tolist() == [1] * 64
    assert last.weight.tolist() == [0] * len(last.weight)
    assert last.weight.grad is not None
    assert last.weight.grad.abs().max() > 0


def test_ibn_halves_keep_theirs() -> None:
    model = residual_network()
    old = nn.BatchNorm2d(64, eps=0.25, momentum=0.02)
    with torch.no_grad():
        old.weight.copy_(torch.arange(64))
        old.bias.copy_(-torch.arange(64))
    model.layer1[0].bn1 = old
    model.layer2[0].bn1 = nn.BatchNorm2d(128, affine=False)
    use_norm(model, "ibn_a")
    new = model.layer1[0].bn1
    assert isinstance(new, InstanceBatchNorm2d)
    assert [*new.instance.weight.tolist(), *new.batch.weight.tolist()] == list(range(64))
    assert [*new.instance.bias.tolist(), *new.batch.bias.tolist()] == [-each for each in range(64)]
    assert (new.instance.eps, new.batch.eps, new.batch.momentum) == (0.25, 0.25, 0.02)
    assert not list(model.layer2[0].bn1.parameters())


def test_instance_norm_takes_volumes() -> None:
    volumes = 3 + torch.randn(2, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    output = use_norm(nn.Sequential(nn.BatchNorm3d(4)), "in")(volumes)
    torch.testing.assert_close(output.mean((2, 3, 4)), torch.zeros(2, 4), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["evonorm_b0", "evonorm_s0", "frn"])
def test_norms_for_images_refuse_volumes(norm: str) -> None:
    with pytest.raises(UserError, match=rf"^norm={norm} is for images, and this network has a BatchNorm3d: choose"):
        use_norm(nn.Sequential(nn.BatchNorm3d(16), nn.ReLU()), norm)


@pytest.mark.parametrize("norm", ["evonorm_b0", "evonorm_s0", "frn", "in"])
def test_a_batch_norm_behind_a_one_dimensional_convolution_is_not_left_out_in_silence(norm: str) -> None:
    model = use_norm(nn.Sequential(nn.Conv1d(3, 32, 3), nn.BatchNorm1d(32), nn.ReLU()), norm)
    with pytest.raises(UserError, match=rf"^norm={norm} .* here it is behind a one-dimensional convolution: choose"):
        model(torch.zeros(2, 3, 8))
    for advised in ("gn", "ln"):
        model = use_norm(nn.Sequential(nn.Conv1d(3, 32, 3), nn.BatchNorm1d(32), nn.ReLU()), advised)
        assert model(torch.zeros(2, 3, 8)).shape == (2, 32, 6)
