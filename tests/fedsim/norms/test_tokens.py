"""What stands in the place of LayerNorm: which axes it normalizes, what it keeps, and what is refused."""

import numpy as np
import pytest
import timm.layers
import torch
from timm.layers import LayerNorm2d, LayerNormAct2d
from torch import nn
from torchvision import models

from fedsim.core.errors import UserError
from fedsim.models import vit_tiny
from fedsim.norms import CRMSNorm, PowerNorm, UnifiedNorm, norm_layers, norm_names, use_norm
from fedsim.norms.own_statistics import own_statistics
from fedsim.norms.tokens import Tokens, channels_last, of_images

OF_TOKENS = ("bn", "crms", "ln", "none", "powernorm", "rms", "unified")
TOKENS = 1 + 2 * torch.randn((4, 5, 6), generator=torch.Generator().manual_seed(0))
SCALE, SHIFT = torch.linspace(-1, 2, 6), torch.linspace(1, -1, 6)


def written(layer: type[nn.LayerNorm] = nn.LayerNorm) -> nn.LayerNorm:
    norm = layer(6, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(SCALE)
        norm.bias.copy_(SHIFT)
    return norm


def replaced(name: str, layer: nn.LayerNorm | None = None, **options: object) -> nn.Module:
    return use_norm(nn.Sequential(written() if layer is None else layer), name, **options)[0]


def by_rows(name: str) -> np.ndarray:
    """The output of a layer for ``TOKENS``, token by token or channel by channel, in float64."""
    x = TOKENS.double().numpy()
    expected = np.zeros_like(x)
    for n, image in enumerate(x):
        for place, token in enumerate(image):
            if name == "ln":
                expected[n, place] = (token - token.mean()) / np.sqrt(token.var() + 1e-3)
            elif name == "rms":
                expected[n, place] = token / np.sqrt((token**2).mean() + 1e-3)
            elif name == "crms":
                expected[n, place] = token / np.sqrt(((token**2).sum() + token.sum() ** 2) / 7 + 1e-3)
    for channel in range(6):
        values = x[:, :, channel]
        if name == "bn":
            expected[:, :, channel] = (values - values.mean()) / np.sqrt(values.var() + 1e-3)
        elif name in ("powernorm", "unified"):  # in the warm-up
            expected[:, :, channel] = values / np.sqrt((values**2).mean() + 1e-3)
    shift = 0 if name in ("rms", "crms") else SHIFT.double().numpy()
    return expected * SCALE.double().numpy() + shift


@pytest.mark.parametrize("name", [name for name in OF_TOKENS if name != "none"])
def test_the_axes_are_those_of_tokens_and_eps_scale_and_shift_are_kept(name: str) -> None:
    output = replaced(name).train()(TOKENS)
    np.testing.assert_allclose(output.detach().numpy(), by_rows(name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in OF_TOKENS if name not in ("none", "ln")])
@pytest.mark.parametrize("kind", [*dict.fromkeys((LayerNorm2d, of_images()[0]))], ids=["timm", "torchvision"])
def test_a_layer_norm_of_images_is_replaced_pixel_by_pixel(name: str, kind: type[nn.LayerNorm]) -> None:
    pixels = TOKENS.movedim(-1, 1).unflatten(2, (5, 1)).contiguous()  # five pixels of six channels
    output = replaced(name, written(kind)).train()(pixels)
    assert output.shape == pixels.shape
    expected = replaced(name).train()(TOKENS)
    torch.testing.assert_close(output.flatten(2).movedim(1, -1), expected, rtol=1e-5, atol=1e-5)


def test_layer_norm_stays_and_nothing_is_nothing() -> None:
    layer = written()
    assert replaced("ln", layer) is layer
    assert isinstance(replaced("none"), nn.Identity)


def test_a_layer_without_scale_leaves_none() -> None:
    for name in ("bn", "crms", "powernorm", "rms", "unified"):
        new = replaced(name, nn.LayerNorm(6, elementwise_affine=False))
        assert not list(new.parameters())
        assert not {entry for entry in new.state_dict() if entry.endswith(("weight", "bias"))}
        assert new.train()(TOKENS).shape == TOKENS.shape
        assert [each for each, _ in replaced(name, nn.LayerNorm(6, bias=False)).named_parameters()][-1].endswith(
            "weight"
        )


@pytest.mark.parametrize("name", OF_TOKENS)
def test_the_activation_of_timms_layers_stays(name: str) -> None:
    pixels = TOKENS.movedim(-1, 1).unsqueeze(-1)
    own = written(LayerNormAct2d)
    model = use_norm(nn.Sequential(own), name)
    assert model.train()(pixels).min() == 0  # ReLU
    batch = use_norm(nn.Sequential(timm.layers.BatchNormAct2d(6)), name)
    assert batch.train()(pixels).min() == 0


@pytest.mark.parametrize("name", [name for name in norm_names() if name not in OF_TOKENS])
def test_what_makes_no_sense_for_tokens_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"^norm={name} .*: choose"):
        use_norm(vit_tiny(5, (3, 8, 8), width=6, depth=1), name)


def test_a_layer_norm_whose_input_is_not_known_is_refused() -> None:
    class Own(nn.LayerNorm):
        pass

    for layer in (Own(6), nn.LayerNorm((6, 2, 2))):
        with pytest.raises(UserError, match=r"^norm=rms would replace 0, a \w+ over \(6.*\) that is not known to"):
            replaced("rms", layer)


def test_a_network_with_both_has_both_replaced() -> None:
    model = use_norm(nn.Sequential(nn.BatchNorm2d(6), nn.Flatten(2), nn.LayerNorm(5)), "powernorm")
    assert isinstance(model[0], PowerNorm)
    assert isinstance(model[2], Tokens)
    assert len(model[2].layer.weight) == 5
    kept = use_norm(nn.Sequential(nn.BatchNorm2d(6), nn.LayerNorm(5)), "gn", groups=2)
    assert [type(layer) for layer in kept] == [nn.GroupNorm, nn.LayerNorm]  # gn knows BatchNorm alone


def test_groups_of_channels_are_scaled_before_power_norm() -> None:
    layer = replaced("powernorm", groups=2).train()
    grouped = TOKENS.unflatten(-1, (2, 3))
    scaled = (grouped / (grouped.square().mean(-1, keepdim=True) + 1e-3).sqrt()).flatten(-2)
    expected = scaled / (scaled.square().mean((0, 1)) + 1e-3).sqrt() * SCALE + SHIFT
    torch.testing.assert_close(layer(TOKENS), expected)
    with pytest.raises(UserError, match=r"^norm\.groups=6 leaves each group a single value"):
        replaced("powernorm", groups=6)


@pytest.mark.parametrize("name", ["bn", "powernorm", "unified"])
def test_statistics_of_ones_own_images_are_over_their_tokens(name: str) -> None:
    torch.manual_seed(0)
    model = use_norm(vit_tiny(5, (3, 8, 8), width=6, depth=1), name).eval()
    layer, seen = model.blocks[0].norm1, []
    layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    statistic = "phi" if name == "powernorm" else "running_var"
    before = getattr(layer.layer, statistic).clone()
    with own_statistics(model, [torch.randn(4, 3, 8, 8)]):
        tokens = seen[0]
        square = tokens.var((0, 1)) if name == "bn" else tokens.square().mean((0, 1))
        torch.testing.assert_close(getattr(layer.layer, statistic), square)
    assert torch.equal(getattr(layer.layer, statistic), before)


@pytest.mark.parametrize("name", ["bn", "crms", "none", "powernorm", "rms", "unified"])
@pytest.mark.parametrize("network", ["convnext", "swin", "vit"])
def test_torchvisions_transformers_compute_with_it(name: str, network: str) -> None:
    torch.manual_seed(0)
    if network == "convnext":
        setting = models.convnext.CNBlockConfig(8, None, 2)
        model: nn.Module = models.ConvNeXt([setting], num_classes=3)
    elif network == "swin":
        model = models.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=3)
    else:
        model = models.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3)
    assert any(isinstance(layer, nn.LayerNorm) for layer in model.modules())
    model = use_norm(model, name).train()
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert not any(isinstance(layer, nn.LayerNorm) for layer in model.modules())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    kinds = {"bn": nn.BatchNorm1d, "crms": CRMSNorm, "powernorm": PowerNorm, "rms": nn.RMSNorm, "unified": UnifiedNorm}
    assert name == "none" or any(isinstance(layer, kinds[name]) for layer in model.modules())


def test_names_of_layers_whose_channels_are_last() -> None:
    model = nn.Sequential(nn.LayerNorm(4), LayerNorm2d(4), nn.BatchNorm2d(4), nn.Sequential(nn.LayerNorm(2)))
    assert list(channels_last(model)) == ["0", "3.0"]


def test_every_norm_layer_of_timm_is_known() -> None:
    blocks = ("ConvNormAct", "ConvNormActAa", "SeparableConvNormAct", "ClNormMlpClassifierHead")
    layers = {
        name: value
        for name, value in vars(timm.layers).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and "Norm" in name
    }
    assert len(layers) > 20
    unknown = {name for name, layer in layers.items() if not issubclass(layer, norm_layers())}
    assert unknown <= {*blocks, "GlobalResponseNormMlp", "NormMlpClassifierHead"}


@pytest.mark.parametrize("name", OF_TOKENS)
@pytest.mark.parametrize("norm_first", [True, False])
def test_torchs_encoder_computes_the_same_in_evaluation(name: str, norm_first: bool) -> None:
    """Without gradients and with a mask of what is no token, where torch would read the scales of LayerNorms itself."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)
    model, tokens = use_norm(encoder, name).eval(), torch.randn(3, 5, 8)
    absent = torch.arange(5) >= torch.tensor([5, 3, 4])[:, None]

    def by_hand(hidden: torch.Tensor, block: nn.Module) -> torch.Tensor:
        def attended(given: torch.Tensor) -> torch.Tensor:
            queries, keys, values = (
                each.unflatten(2, (2, 4)).transpose(1, 2)
                for each in (given @ block.self_attn.in_proj_weight.T + block.self_attn.in_proj_bias).chunk(3, dim=2)
            )
            weights = (queries @ keys.transpose(2, 3) / 2).masked_fill(absent[:, None, None], -torch.inf).softmax(3)
            return block.self_attn.out_proj((weights @ values).transpose(1, 2).flatten(2))

        def widened(given: torch.Tensor) -> torch.Tensor:
            return block.linear2(block.linear1(given).relu())

        if norm_first:
            hidden = hidden + attended(block.norm1(hidden))
            return hidden + widened(block.norm2(hidden))
        hidden = block.norm1(hidden + attended(hidden))
        return block.norm2(hidden + widened(hidden))

    with torch.no_grad():
        expected = by_hand(by_hand(tokens, model.layers[0]), model.layers[1])
        given = model(tokens, src_key_padding_mask=absent)
        torch.testing.assert_close(given[~absent], expected[~absent], rtol=1e-4, atol=1e-5)
        assert model(tokens).shape == tokens.shape
