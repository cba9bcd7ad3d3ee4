"""Layers are replaced by type, wherever they stand."""

from torch import nn
from torchvision.models import resnet18

from fedsim.norms import norm_layers
from fedsim.norms.replace import replace_layers


def test_every_norm_layer_of_torch_is_known() -> None:
    layers = {
        name: value
        for name, value in vars(nn).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and "Norm" in name
    }
    assert len(layers) >= 16
    assert not {name for name, layer in layers.items() if not issubclass(layer, norm_layers())}


def test_layers_are_replaced_at_every_depth_and_the_model_stays_the_same_object() -> None:
    model = resnet18(weights=None)
    replaced: list[nn.Module] = []

    def make(layer: nn.Module) -> nn.Module:
        replaced.append(layer)
        return nn.Identity()

    before = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    others = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert replace_layers(model, (nn.BatchNorm2d,), make) is model
    assert {id(layer) for layer in replaced} == {id(layer) for layer in before}
    assert len(replaced) == 20
    assert isinstance(model.layer2[0].downsample[1], nn.Identity)
    assert [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)] == others


def test_what_a_new_layer_holds_is_not_replaced_again() -> None:
    model = replace_layers(nn.Sequential(nn.ReLU()), (nn.ReLU,), lambda layer: nn.Sequential(layer, nn.Dropout()))
    assert [type(layer) for layer in model[0]] == [nn.ReLU, nn.Dropout]


def test_a_layer_used_twice_is_replaced_in_both_places() -> None:
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), norm, nn.Conv2d(4, 4, 1), norm)
    replace_layers(model, (nn.BatchNorm2d,), lambda layer: nn.Identity())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
