"""What must hold of every norm that a name stands for, in small networks and in whole ones."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.resnet import BasicBlock, ResNet

from fedsim.core.errors import UserError
from fedsim.models import CNNSmall, resnet18
from fedsim.norms import norm_names, use_norm

MICRO_BATCHES = "bcn, estimated"
NAMES = [*norm_names(), MICRO_BATCHES]
IN_RESNETS_ONLY = ("ibn_a", "ibn_b")
NOT_IN_RESNETS = ("dse", "evonorm_b0", "evonorm_s0", "frn")
IMAGES = 1 + 2 * torch.randn((6, 3, 9, 9), generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])

every_norm = pytest.mark.parametrize("name", NAMES)


def with_norm(model: nn.Module, name: str) -> nn.Module:
    return use_norm(model, "bcn", estimated=True) if name == MICRO_BATCHES else use_norm(model, name)


def three_stages() -> ResNet:
    """Torchvision's smallest residual network without what needs larger images, and without its last, largest stage."""
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.Identity()
    model.layer4, model.fc = nn.Identity(), nn.Linear(256, 5)
    return model


def small(name: str, seed: int = 0) -> nn.Module:
    """Norms of images and of features; the layout of the images is left as it is."""
    torch.manual_seed(seed)
    if name in IN_RESNETS_ONLY:
        return with_norm(three_stages(), name)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 5)),
    )
    return with_norm(model, name)


def step(model: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    """One step of training; the logits that it was made from."""
    model.train()
    logits: torch.Tensor = model(images)
    model.zero_grad()
    F.cross_entropy(logits, LABELS.to(images.device)).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 0.01 * parameter.grad
    return logits.detach()


def trained(name: str) -> nn.Module:
    model = small(name)
    for _ in range(3):
        step(model)
    return model


def evaluated(model: nn.Module, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(images)
    return logits


def assert_same(one: nn.Module, other: nn.Module) -> None:
    """In evaluation and in two more steps of training, numbers and states are equal."""
    assert torch.equal(evaluated(one), evaluated(other))
    for _ in range(2):
        assert torch.equal(step(one), step(other))
    state = other.state_dict()
    assert list(one.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.state_dict().items())


@every_norm
def test_a_model_goes_on_from_its_state(name: str) -> None:
    model, fresh = trained(name), small(name, seed=1)
    assert not torch.equal(evaluated(model), evaluated(fresh))
    fresh.load_state_dict(model.state_dict())
    assert_same(model, fresh)


@every_norm
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_a_model_of_its_own(name: str, copied: Callable[[nn.Module], nn.Module]) -> None:
    model = trained(name)
    other = copied(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step(copied(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert_same(model, other)


@every_norm
def test_the_layout_of_images_changes_nothing_and_is_kept(name: str) -> None:
    model, other = trained(name), trained(name)
    last = IMAGES.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(step(model), step(other, last), rtol=1e-4, atol=1e-4)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(evaluated(model), evaluated(other, last), rtol=1e-4, atol=1e-4)


@every_norm
def test_float64_is_computed_in_float64(name: str) -> None:
    model, exact = trained(name), trained(name).double()
    for run in (step, evaluated):
        logits = run(exact, IMAGES.double())
        assert logits.dtype == torch.float64
        torch.testing.assert_close(run(model), logits.float(), rtol=1e-3, atol=1e-3)
    floating = [tensor for tensor in exact.state_dict().values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floating} == {torch.float64}


@every_norm
def test_evaluation_needs_no_gradient_and_changes_nothing(name: str) -> None:
    model = trained(name)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits = evaluated(model)
    assert not logits.requires_grad
    assert torch.equal(model(IMAGES), logits)  # in evaluation still, with a gradient
    for n in range(2):  # whatever else is in the batch
        torch.testing.assert_close(evaluated(model, IMAGES[n : n + 1]), logits[n : n + 1], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@every_norm
def test_two_batches_may_pass_before_one_goes_back(name: str) -> None:
    model = small(name)
    (model(IMAGES).square().sum() + model(IMAGES.flip(0)).square().sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def plain(name: str) -> nn.Module:
    """What ``small`` gives to the norm."""
    torch.manual_seed(0)
    return three_stages() if name in IN_RESNETS_ONLY else small("bn")


@every_norm
@pytest.mark.parametrize("affine", [True, False])
def test_a_model_in_float64_stays_in_it(name: str, affine: bool) -> None:
    """As if it had been converted afterwards, but for scales that float32 does not have."""
    models = plain(name), plain(name).double()
    for layer in (layer for model in models for layer in model.modules() if isinstance(layer, _BatchNorm)):
        if affine:
            nn.init.constant_(layer.weight, 1 / 3)
        else:
            layer.affine, layer.weight, layer.bias = False, None, None
    torch.manual_seed(1)
    afterwards = with_norm(models[0], name).double()
    torch.manual_seed(1)
    model = with_norm(models[1], name)
    numbers = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in numbers} == {torch.float64}
    assert all((tensor == 1 / 3).all() for tensor in numbers if ((tensor - 1 / 3).abs() < 1e-6).all())
    ours, theirs = (each.train()(IMAGES.double()) for each in (model, afterwards))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@every_norm
def test_a_model_in_evaluation_stays_in_it(name: str) -> None:
    for training in (True, False):
        model = with_norm(plain(name).train(training), name)
        assert all(module.training == training for module in model.modules())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(IMAGES)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", sorted({*NAMES} - {"bcn", MICRO_BATCHES}))  # which compare scales
def test_a_model_on_another_device_stays_there(name: str) -> None:
    model = with_norm(plain(name).to("meta"), name)
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("norm", ["none", "sws"])
def test_scaled_branches_are_in_the_numbers_of_their_model(norm: str) -> None:
    model = use_norm(three_stages().double().eval(), norm, residual="nf")
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert model(IMAGES.double()).dtype == torch.float64


@every_norm
def test_everything_moves_to_another_device(name: str) -> None:
    # On the device without values a tensor left behind cannot be computed with, and no branch can ask for a value.
    model = small(name).to("meta")
    for logits in (step(model, IMAGES.to("meta")), evaluated(model, IMAGES.to("meta"))):
        assert logits.is_meta
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use")
@every_norm
def test_a_gpu_agrees(name: str) -> None:
    model, other = trained(name).double(), trained(name).double().to("cuda")
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if name.startswith("evonorm") else {}  # timm's take variances in float32
    for _ in range(3):
        torch.testing.assert_close(step(model, IMAGES.double()), step(other, IMAGES.double().cuda()).cpu(), **tolerance)
    torch.testing.assert_close(
        evaluated(model, IMAGES.double()), evaluated(other, IMAGES.double().cuda()).cpu(), **tolerance
    )


@every_norm
@pytest.mark.parametrize(("network", "refused"), [(CNNSmall, IN_RESNETS_ONLY), (resnet18, NOT_IN_RESNETS)])
def test_whole_networks_are_trained_and_evaluated(
    name: str, network: Callable[..., nn.Module], refused: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    model = network(num_classes=5, image_shape=(3, 16, 16))
    if name in refused:
        with pytest.raises(UserError, match=rf"^norm={name} "):
            with_norm(model, name)
        return
    model = with_norm(model, name)
    images = torch.randn((6, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    assert step(model, images).isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    logits = evaluated(model, images)
    assert logits.shape == (6, 5)
    assert logits.isfinite().all() or name == "ws"  # alone it lets the signal grow with every layer
