"""Conversions of a pre-LN vision transformer for RMSNorm and CRMSNorm (Jiang et al. 2023, arXiv 2305.14858).

In a pre-LN transformer every layer reads the residual stream through a LayerNorm, which subtracts each token's mean
first. So the mean may be removed where it is written: with

.. math:: \\hat W = W - \\tfrac{1}{d} \\mathbf{1} \\mathbf{1}^\\top W, \\quad
    \\hat b = b - \\tfrac{1}{d} \\mathbf{1} \\mathbf{1}^\\top b

in every layer that writes into the stream of width d (the embeddings, the output projection of each attention, the last
layer of each MLP) every token has zero mean, its variance is its mean square, and LayerNorm is RMSNorm. The last of its
d values is then minus the sum of the others; without it, RMSNorm is CRMSNorm of width d - 1, and a layer with weight W
that reads the stream reads

.. math:: \\sum_{c < d} (W_c \\gamma_c - W_d \\gamma_d) \\, y_c

The shifts of the LayerNorms, which the two layers do not have, move to the biases behind them. All three networks
compute the same. Trained by gradient steps they part: nothing but the initial weights keeps the means of the network
with RMSNorm at zero, and that with CRMSNorm, whose stream has the zero mean by construction, has other coordinates.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fedsim.core.errors import UserError
from fedsim.core.loaded import loaded

TRANSFORMER = "timm.models.vision_transformer"
Reader = tuple[Any, Any]
"""A LayerNorm of the stream, and the linear layer behind it."""


@torch.no_grad()
def zero_mean_stream(model: nn.Module, norm: str) -> nn.Module:
    """Recentre all that writes into the residual stream, in place, so that each LayerNorm of it could be an RMSNorm.

    The shifts of the LayerNorms, then zero, are moved to the linear layers behind them.

    Raises:
        UserError: If the network is not one of timm's plain pre-LN vision transformers.
    """
    network = _plain(model, norm)
    for reader, linear in _readers(network):
        linear.bias += linear.weight @ reader.bias
        reader.bias.zero_()
    for tokens in _embeddings(network):
        tokens -= tokens.mean(dim=-1, keepdim=True)
    for writer in _writers(network):
        writer.weight -= writer.weight.mean(dim=0)
        writer.bias -= writer.bias.mean()
    return model


@torch.no_grad()
def compressed_stream(model: nn.Module, norm: str) -> nn.Module:
    """Reduce the residual stream from d to d - 1 values, in place, so that each LayerNorm of it could be a CRMSNorm.

    The network has to be completed by replacing its LayerNorms, whose scales are moved to the layers behind them.

    Raises:
        UserError: As ``zero_mean_stream``.
    """
    network = _plain(zero_mean_stream(model, norm), norm)
    width = network.embed_dim - 1
    for reader, linear in _readers(network):
        weight = linear.weight * reader.weight
        linear.weight = nn.Parameter(weight[:, :-1] - weight[:, -1:])
        linear.in_features = width
        reader.weight, reader.bias = nn.Parameter(reader.weight.new_ones(width)), nn.Parameter(reader.bias[:-1])
        reader.normalized_shape = (width,)
    for name in ("cls_token", "reg_token", "pos_embed"):
        tokens = getattr(network, name, None)
        if tokens is not None:
            setattr(network, name, nn.Parameter(tokens[..., :-1].clone()))
    for writer in _writers(network):
        writer.weight, writer.bias = nn.Parameter(writer.weight[:-1].clone()), nn.Parameter(writer.bias[:-1].clone())
        if isinstance(writer, nn.Linear):
            writer.out_features = width
        else:
            writer.out_channels = width
    network.embed_dim = network.num_features = network.head_hidden_size = width
    return model


def _plain(model: Any, norm: str) -> Any:
    """Return the model if everything that reads its stream does so through LayerNorm and a linear layer with a bias.

    Raises:
        UserError: If it is of another form.
    """

    def is_plain(block: Any) -> bool:
        attention, mlp = block.attn, block.mlp
        norms = (getattr(layer, "norm", nn.Identity()) for layer in (attention, mlp))
        inner = (block.ls1, block.ls2, attention.q_norm, attention.k_norm, *norms)
        return (
            type(block) in loaded(TRANSFORMER, "Block")
            and type(attention) in loaded("timm.layers.attention", "Attention")
            and type(mlp) in loaded("timm.layers.mlp", "Mlp")
            and getattr(attention, "gate", None) is None
            and hasattr(attention, "attn_dim")  # by which alone its width is told, as in recent versions
            and all(isinstance(each, nn.Identity) for each in inner)
        )

    if (
        type(model) not in loaded(TRANSFORMER, "VisionTransformer")
        or model.global_pool not in ("avg", "token")
        or not all(map(is_plain, model.blocks))
        or not all(isinstance(each, nn.Identity) for each in (model.patch_embed.norm, model.norm_pre))
        or getattr(model, "attn_pool", None) is not None
        or sum(isinstance(each, nn.LayerNorm) for each in (model.norm, model.fc_norm)) != 1
        or not all(
            isinstance(linear, nn.Linear) and linear.bias is not None and reader.bias is not None
            for reader, linear in _readers(model)
        )
        or not all(writer.bias is not None for writer in _writers(model))
    ):
        raise UserError(
            f"norm.recentre=true converts norm={norm} of timm's plain pre-LN vision transformers, and this network is "
            "another: leave norm.recentre out, or choose model=vit_tiny."
        )
    return model


def _readers(network: Any) -> Iterator[Reader]:
    for block in network.blocks:
        yield block.norm1, block.attn.qkv
        yield block.norm2, block.mlp.fc1
    yield network.norm if isinstance(network.norm, nn.LayerNorm) else network.fc_norm, network.head


def _writers(network: Any) -> Iterator[Any]:
    """Yield the convolution and the linear layers that write into the stream."""
    yield network.patch_embed.proj
    for block in network.blocks:
        yield block.attn.proj
        yield block.mlp.fc2


def _embeddings(network: Any) -> Iterator[torch.Tensor]:
    for name in ("cls_token", "reg_token", "pos_embed"):
        tokens = getattr(network, name, None)
        if tokens is not None:
            yield tokens
