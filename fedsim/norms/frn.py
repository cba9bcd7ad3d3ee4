"""``norm=frn``: Filter Response Normalization (Singh & Krishnan, CVPR 2020, arXiv 1911.09737) with its activation.

The layer is timm's. It replaces a BatchNorm together with the ReLU that follows it.
"""

from torch import nn
from torch.nn.modules.batchnorm import BatchNorm1d, BatchNorm3d

from fedsim.core.errors import UserError
from fedsim.norms.checks import check_positive
from fedsim.norms.replace import channels_of, keep_affine, of_features_only, replace_with_relu


def use_frn(model: nn.Module, eps: float = 1e-6) -> nn.Module:
    r"""Replace each BatchNorm and the ReLU after it by Filter Response Normalization with a learned threshold.

    .. math:: y = \max(\gamma x / \sqrt{\mathrm{mean}(x^2) + \epsilon} + \beta, \tau)

    with the mean over the pixels of each channel of each image. A linear layer has one number per channel, of which
    only the sign would remain, so BatchNorm1d is removed and its ReLU stays. (The mean square is computed in float32
    whatever the type of x.)

    Raises:
        UserError: If a BatchNorm is not followed by a ReLU in the same ``nn.Sequential``, there is a BatchNorm3d, or
            ``eps`` is not above 0.
    """
    check_positive("eps", eps)
    from timm.layers.filter_response_norm import FilterResponseNormTlu2d  # timm takes seconds to import

    def make(layer: nn.Module) -> nn.Module:
        if isinstance(layer, BatchNorm3d):
            raise UserError("norm=frn is for images, and this network has a BatchNorm3d: choose norm=gn or norm=ln.")
        if isinstance(layer, BatchNorm1d):
            return of_features_only("frn", nn.ReLU())
        return keep_affine(layer, FilterResponseNormTlu2d(channels_of(layer), eps=eps))

    return replace_with_relu(model, "frn", make)
