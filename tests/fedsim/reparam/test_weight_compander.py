"""The weight compander against its formula in float64, and what a network of companded layers can still do."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from clients.adaptive_clipping import all_but_last_linear
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.models import CNNSmall, build_model
from fedsim.norms import ScaledWSConv2d, WSConv2d
from fedsim.output.progress import Reporter
from fedsim.reparam import Companded, compand, use_weight_compander
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run

IMAGES = torch.randn((4, 3, 28, 28), generator=torch.Generator().manual_seed(0))
MakeSettings = Callable[..., Settings]


def companded(model: nn.Module) -> dict[str, nn.Module]:
    return {path: layer for path, layer in model.named_modules() if isinstance(layer, Companded)}


def test_it_is_the_formula() -> None:
    trained = torch.tensor([-1e6, -2.0, -0.1, 0.0, 1e-3, 0.5, 3.0, 1e6], dtype=torch.float64)
    a, b = (torch.tensor(value, dtype=torch.float64) for value in (0.7, 0.3))
    expected = [0.7 * math.atan(v / 0.3) for v in trained.tolist()]
    assert compand(trained, a, b).tolist() == pytest.approx(expected, rel=1e-12)
    assert compand(trained, a, b).abs().max() < 0.7 * math.pi / 2


def test_gradients_reach_what_is_trained_and_both_hyperparameters() -> None:
    torch.manual_seed(0)
    layer = use_weight_compander(nn.Linear(4, 3), a=0.75, b=0.5).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    layer(x).square().sum().backward()
    parameters = dict(layer.named_parameters())
    v, a, b = (parameters[name] for name in ("weight", "a", "b"))
    w = 0.75 * torch.atan(v.detach() / 0.5)
    by_weight = 2 * (x @ w.T + layer.bias.detach()).T @ x
    torch.testing.assert_close(v.grad, by_weight * 0.75 * 0.5 / (0.25 + v.detach() ** 2))
    torch.testing.assert_close(a.grad, (by_weight * w / 0.75).sum())
    torch.testing.assert_close(b.grad, (by_weight * -0.75 * v.detach() / (0.25 + v.detach() ** 2)).sum())


def test_a_network_starts_as_it_was(small_settings: MakeSettings) -> None:
    plain = build_model(small_settings(), 10)
    changed = build_model(small_settings("reparam=weight_compander", "reparam.a=0.5", "reparam.b=0.2"), 10)
    assert list(companded(changed)) == ["features.0", "features.4", "features.8", "head"]
    for path, layer in companded(changed).items():
        weight = plain.get_submodule(path).weight
        torch.testing.assert_close(layer.weight, weight, rtol=1e-5, atol=1e-8)
        trained = dict(layer.named_parameters())["weight"]
        torch.testing.assert_close(trained, 0.2 * torch.tan(weight / 0.5))
        assert not torch.allclose(trained, weight)
    torch.testing.assert_close(changed(IMAGES), plain(IMAGES), rtol=1e-4, atol=1e-5)
    added = {f"{path}.{name}" for path in companded(changed) for name in ("a", "b")}
    assert set(changed.state_dict()) == set(plain.state_dict()) | added


@pytest.mark.parametrize("learnable", [True, False])
def test_a_shared_weight_is_companded_once(learnable: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    model[2].weight = model[0].weight
    initial, x = model[0].weight.detach().clone(), torch.randn(5, 4, dtype=torch.float64)
    biases = [model[0].bias.detach(), model[2].bias.detach()]
    before = model(x).detach()
    use_weight_compander(model, a=0.75, b=0.5, learnable=learnable).double()
    torch.testing.assert_close(model(x), before)
    trained, again = (dict(model[each].named_parameters())["weight"] for each in (0, 2))
    assert trained is again
    torch.testing.assert_close(trained.detach(), 0.5 * torch.tan(initial / 0.75))
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(x), before)
    assert len(list(copied.parameters())) == (5 if learnable else 3)
    model(x).square().sum().backward()
    v, a, b = (each.detach().clone().requires_grad_() for each in (trained, model[0].a, model[0].b))
    w = a * torch.atan(v / b)
    expected = ((x @ w.T + biases[0]).tanh() @ w.T + biases[1]).square().sum()
    by_hand = torch.autograd.grad(expected, (v, a, b))
    torch.testing.assert_close(trained.grad, by_hand[0])
    if learnable:
        torch.testing.assert_close(torch.stack([model[2].a.grad, model[0].b.grad]), torch.stack(by_hand[1:]))


def test_a_weight_that_an_embedding_reads_is_refused() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(6, 4), "logits": nn.Linear(4, 6)})
    model["logits"].weight = model["words"].weight
    with pytest.raises(UserError, match=r"^reparam=weight_compander .* of logits, which words \(Embedding\) shares"):
        use_weight_compander(model, a=5)
    assert not companded(model)


def test_weights_stay_within_their_bound() -> None:
    torch.manual_seed(0)
    layer = use_weight_compander(nn.Linear(4, 3), a=0.6)
    with torch.no_grad():
        dict(layer.named_parameters())["weight"].mul_(1e9)
    torch.testing.assert_close(layer.weight.abs(), torch.full((3, 4), 0.6 * math.pi / 2))


def test_the_head_can_be_left_alone_and_a_frame_is() -> None:
    convolutions = ["features.0", "features.4", "features.8"]
    assert list(companded(use_weight_compander(CNNSmall(), head=False))) == convolutions


@pytest.mark.parametrize(("head", "count"), [("linear", 4), ("cosine", 4), ("etf", 3)])
def test_it_goes_with_every_head(head: str, count: int, small_settings: MakeSettings) -> None:
    model = build_model(small_settings("reparam=weight_compander", f"head={head}"), 10)
    plain = build_model(small_settings(f"head={head}"), 10)
    assert len(companded(model)) == count
    torch.testing.assert_close(model(IMAGES), plain(IMAGES), rtol=1e-4, atol=1e-4)
    if head == "etf":
        assert torch.equal(model.head.weight, plain.head.weight)


@pytest.mark.parametrize(("norm", "kind"), [("sws", ScaledWSConv2d), ("ws", WSConv2d)])
def test_standardization_is_of_the_companded_weight(norm: str, kind: type, small_settings: MakeSettings) -> None:
    choices = (f"norm={norm}", "norm.eps=1e-12", "reparam=weight_compander", "reparam.b=0.1")
    model = build_model(small_settings(*choices), 10).double()
    layer = model.features[4]
    assert isinstance(layer, kind)
    trained = dict(layer.named_parameters())["weight"]
    for channel in (0, 63):
        w = [math.atan(v / 0.1) for v in trained[channel].flatten().tolist()]
        mean = sum(w) / len(w)
        squares = sum((each - mean) ** 2 for each in w)
        if norm == "sws":
            expected = [layer.gamma * (each - mean) / math.sqrt(max(squares, layer.eps)) for each in w]
        else:
            expected = [(each - mean) / math.sqrt(squares / (len(w) - 1) + layer.eps) for each in w]
        assert layer.standardized_weight()[channel].flatten().tolist() == pytest.approx(expected, rel=1e-9)
    (model(IMAGES.double()) ** 2).sum().backward()
    assert abs(layer.a.grad) < 1e-4 * abs(layer.b.grad)  # standardization takes out what `a` does


def test_without_learning_them_there_are_no_more_entries(small_settings: MakeSettings) -> None:
    model = build_model(small_settings("reparam=weight_compander", "reparam.learnable=false"), 10)
    assert len(companded(model)) == 4
    assert set(model.state_dict()) == set(build_model(small_settings(), 10).state_dict())


@pytest.mark.parametrize("choice", ["norm=bn", "norm=sws", "norm=ws_gn", "norm=evonorm_s0", "reparam.learnable=false"])
def test_a_companded_network_learns_and_can_be_copied(choice: str, small_settings: MakeSettings) -> None:
    def build(seed: int) -> nn.Module:
        return build_model(small_settings("reparam=weight_compander", "attention=se", choice, f"seed={seed}"), 10)

    network, other = build(0), build(1)
    network(IMAGES).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    torch.optim.SGD(network.parameters(), lr=0.01).step()
    logits = network.eval()(IMAGES)
    assert not torch.equal(other.eval()(IMAGES), logits)
    other.load_state_dict(network.state_dict())
    copies = [other, copy.deepcopy(network), pickle.loads(pickle.dumps(network))]
    for copied in copies:
        assert torch.equal(copied(IMAGES), logits)
        assert list(companded(copied)) == list(companded(network))
        assert {id(each) for each in copied.parameters()}.isdisjoint(id(each) for each in network.parameters())
    assert repr(copies[1]) == repr(network)


def test_layers_whose_weight_is_read_from_outside_are_companded_too() -> None:
    torch.manual_seed(0)
    plain = VisionTransformer(32, 16, 1, 2, 16, 16, num_classes=7)
    nn.init.normal_(plain.heads.head.weight, std=0.1)
    changed = use_weight_compander(copy.deepcopy(plain), b=0.3)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(changed(images), plain(images), rtol=1e-4, atol=1e-5)
    attention = changed.encoder.layers[0].self_attention.out_proj
    assert isinstance(attention, Companded)
    changed(images).sum().backward()
    assert dict(attention.named_parameters())["b"].grad.abs() > 0


def test_clipping_spares_the_companded_head() -> None:
    model = use_weight_compander(CNNSmall())
    clipped = {id(parameter) for parameter in all_but_last_linear(model)}
    spared = {name for name, parameter in model.named_parameters() if id(parameter) not in clipped}
    assert spared == {"head.weight", "head.bias", "head.a", "head.b"}


def test_a_run_trains_averages_and_stores_them(small_settings: MakeSettings, tmp_path: Path) -> None:
    prepared = prepare(small_settings("reparam=weight_compander", "engine=inline"))
    before = {name: tensor.clone() for name, tensor in prepared.model.state_dict().items()}
    result = run(prepared, tmp_path / "run", Reporter())
    after = load_file(tmp_path / "run" / "model.safetensors")
    assert after.keys() == before.keys()
    assert not [name for name in after if torch.equal(after[name], before[name])]
    assert result.summary["bytes_up"] == 2 * 6 * sum(tensor.nbytes for tensor in before.values())


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (CNNSmall(), {"a": 0.0}, r"reparam\.a=0\.0 is not possible: choose a number above 0\."),
        (CNNSmall(), {"b": -1.0}, r"reparam\.b=-1\.0 is not possible: choose a number above 0\."),
        (CNNSmall(), {"a": 0.1}, r"reparam\.a=0\.1 allows weights below 0\.157, and features\.0 starts with 0\.19"),
        (CNNSmall(), {"train_only": "norm"}, r"train_only=norm freezes the weights that reparam=weight_compander is"),
        (nn.Sequential(nn.ReLU()), {}, "reparam=weight_compander needs convolutions or linear layers that are trained"),
    ],
)
def test_what_makes_no_sense_is_refused(model: nn.Module, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=f"^{sentence}"):
        use_weight_compander(model, **options)  # type: ignore[arg-type]
