"""Pre-LN, Pre-RMSNorm and Pre-CRMSNorm vision transformers compute the same (Jiang et al. 2023, arXiv 2305.14858)."""

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from fedsim.core.errors import UserError
from fedsim.models import CNNSmall, vit_tiny
from fedsim.norms import CRMSNorm, use_norm
from fedsim.norms.tokens import Tokens

IMAGES = torch.randn((3, 3, 28, 28), generator=torch.Generator().manual_seed(0)).double()
FORMS: dict[str, dict[str, object]] = {
    "mean of tokens": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "class token": {"class_token": True, "global_pool": "token"},
    "norm behind the mean": {"class_token": True, "global_pool": "avg"},
    "registers": {"class_token": True, "global_pool": "token", "reg_tokens": 2, "no_embed_class": True},
}


def trained(**options: object) -> VisionTransformer:
    """A pre-LN transformer in float64 all of whose parameters, scales and shifts among them, are those of no start."""
    torch.manual_seed(0)
    sizes = {"img_size": 28, "patch_size": 7, "num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3}
    model = VisionTransformer(**sizes, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + 0.1)
    return model.eval()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("norm", ["rms", "crms"])
def test_the_converted_network_computes_what_the_one_with_layer_norm_does(form: str, norm: str) -> None:
    expected = trained(**FORMS[form])(IMAGES)
    model = use_norm(trained(**FORMS[form]), norm, recentre=True)
    assert not any(isinstance(layer, nn.LayerNorm) for layer in model.modules())
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-11, atol=1e-11)
    plain = use_norm(trained(**FORMS[form]), norm)
    assert (plain(IMAGES) - expected).abs().max() > 0.01  # not without the conversion


@pytest.mark.parametrize("norm", ["rms", "crms"])
def test_the_gradient_of_the_images_is_the_same(norm: str) -> None:
    gradients = []
    for model in (trained(**FORMS["class token"]), use_norm(trained(**FORMS["class token"]), norm, recentre=True)):
        images = IMAGES.clone().requires_grad_()
        F.cross_entropy(model(images), torch.tensor([0, 1, 2])).backward()
        gradients.append(images.grad)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_every_token_of_the_stream_has_zero_mean() -> None:
    model, seen = use_norm(trained(**FORMS["class token"]), "rms", recentre=True), []
    for block in model.blocks:
        block.register_forward_hook(lambda *args: seen.append(args[-1]))
    model(IMAGES)
    assert len(seen) == 2
    for stream in seen:
        assert stream.abs().max() > 1
        torch.testing.assert_close(stream.mean(-1), torch.zeros(3, 17).double(), rtol=0, atol=1e-12)


def test_the_compressed_stream_is_one_value_narrower_and_lacks_the_last() -> None:
    streams = {}
    for norm in ("rms", "crms"):
        model = use_norm(trained(**FORMS["class token"]), norm, recentre=True)
        model.blocks[-1].register_forward_hook(lambda *args, norm=norm: streams.update({norm: args[-1]}))
        model(IMAGES)
    assert streams["crms"].shape == (3, 17, 23)
    torch.testing.assert_close(streams["crms"], streams["rms"][..., :-1], rtol=1e-10, atol=1e-10)
    norms = [each.layer for each in model.modules() if isinstance(each, Tokens)]
    assert [type(layer) for layer in norms] == [CRMSNorm] * 5
    assert {(len(layer.weight), layer.eps) for layer in norms} == {(23, 1e-6)}
    whole, compressed = (sum(each.numel() for each in model.parameters()) for model in (trained(), model))
    readers, writers = 2 * (72 + 96) + 5, 2 * (24 + 1 + 96 + 1) + (3 * 49 + 1)
    assert whole - compressed == readers + writers + 5 * 2 + 5 * 23 + 1 + 17  # scales and shifts, and the embeddings


def test_the_compressed_network_trains_and_its_names_tell_its_width() -> None:
    model = use_norm(trained(**FORMS["mean of tokens"]), "crms", recentre=True).train()
    optimizer, losses = torch.optim.SGD(model.parameters(), lr=0.01), []
    for _ in range(5):
        loss = F.cross_entropy(model(IMAGES), torch.tensor([0, 1, 2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert (model.head.in_features, model.patch_embed.proj.out_channels, model.embed_dim) == (23, 23, 23)
    assert {(block.attn.qkv.in_features, block.mlp.fc2.out_features) for block in model.blocks} == {(23, 23)}


@pytest.mark.parametrize("norm", ["rms", "crms"])
@pytest.mark.parametrize(
    "network",
    [
        lambda: CNNSmall(10),
        lambda: trained(init_values=0.1),
        lambda: trained(qk_norm=True),
        lambda: trained(pre_norm=True),
        lambda: trained(global_pool="max", class_token=False),
        lambda: trained(qkv_bias=False),
        lambda: trained(final_norm=False),
    ],
    ids=["convolutions", "scaled branches", "norms of queries", "norm before", "maximum", "no bias", "no last norm"],
)
def test_networks_of_another_form_are_refused(norm: str, network: Callable[[], nn.Module]) -> None:
    sentence = (
        rf"^norm\.recentre=true converts norm={norm} of timm's plain pre-LN vision transformers, and this network"
    )
    with pytest.raises(UserError, match=sentence):
        use_norm(network(), norm, recentre=True)


def test_vit_tiny_is_of_that_form() -> None:
    torch.manual_seed(1)
    model = vit_tiny(10, (3, 28, 28), width=24, depth=2)
    expected = model(IMAGES.float())
    torch.testing.assert_close(use_norm(model, "crms", recentre=True)(IMAGES.float()), expected, rtol=1e-4, atol=1e-5)
