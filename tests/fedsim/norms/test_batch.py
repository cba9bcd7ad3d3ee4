"""``norm=bn`` keeps the author's BatchNorms, and puts one over the tokens where the author has LayerNorm."""

import torch
from torch import nn

from fedsim.models import vit_tiny
from fedsim.norms.batch import keep_batch_norm, normalizes_tokens


def test_the_model_stays_what_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm(4))  # also what stands beside it
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = keep_batch_norm(model)
    assert kept is model
    assert isinstance(kept[1], nn.BatchNorm2d)
    assert isinstance(kept[2], nn.LayerNorm)
    assert not normalizes_tokens(kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept.state_dict().items())


def test_a_network_with_neither_stays_what_it_was() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert repr(keep_batch_norm(model)) == repr(nn.Sequential(nn.Linear(2, 2)))


def test_each_channel_of_tokens_is_normalized_over_batch_and_tokens() -> None:
    model = keep_batch_norm(vit_tiny(5, (3, 8, 8), width=6, depth=1)).train()
    assert normalizes_tokens(model)
    tokens = 3 + 2 * torch.randn((4, 9, 6), generator=torch.Generator().manual_seed(0))
    mean, variance = tokens.mean((0, 1)), tokens.var((0, 1), correction=0)
    layer = model.blocks[0].norm1
    torch.testing.assert_close(layer(tokens), (tokens - mean) / (variance + 1e-6).sqrt(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.layer.running_mean, 0.1 * mean)
    torch.testing.assert_close(layer.layer.running_var, 0.9 + 0.1 * tokens.var((0, 1)))
