"""Images as a user has them, in the form in which a data set holds them: pixels from 0 to 255, channels first."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsim.core.errors import UserError
from fedsim.models.first_pass import ImageShape

Images = npt.NDArray[Any] | torch.Tensor


def pixels_of(images: Images, shape: ImageShape) -> torch.Tensor:
    """Return the images as a tensor (N, channels, height, width) of pixels from 0 to 255.

    Args:
        images: A numpy array of uint8 (N, height, width, channels), for one channel also (N, height, width); or a
            tensor (N, channels, height, width) of uint8, or of floats from 0 to 1.
        shape: Channels, height and width that the network was trained with.

    Raises:
        UserError: If the images are of another form.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        channels_last = images[..., None] if images.ndim == 3 and shape[0] == 1 else images
        if channels_last.ndim == 4 and channels_last.shape[1:] == (*shape[1:], shape[0]):
            return torch.from_numpy(np.ascontiguousarray(channels_last.transpose(0, 3, 1, 2)))
    if isinstance(images, torch.Tensor) and images.ndim == 4 and tuple(images.shape[1:]) == shape:
        if images.dtype == torch.uint8:
            return images.cpu()
        if images.is_floating_point():
            pixels = images.detach().cpu().float()
            if len(pixels) and not (pixels.min() >= 0 and pixels.max() <= 1):
                raise UserError(
                    f"images from {pixels.min():.4g} to {pixels.max():.4g} are not possible: choose floats from 0 to "
                    "1, which are normalized here, or uint8."
                )
            return 255 * pixels
    channels, height, width = shape
    kind = f"{type(images).__name__} {getattr(images, 'dtype', '')} {tuple(getattr(images, 'shape', ()))}"
    raise UserError(
        f"images={kind} are not possible: choose a numpy array of uint8 (N, {height}, {width}, {channels}), or a "
        f"tensor (N, {channels}, {height}, {width}) of uint8 or of floats from 0 to 1."
    )
