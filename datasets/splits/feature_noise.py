"""``split=feature_noise``: the noise on a client's images grows with the client's number (NIID-Bench, arXiv
2102.02079)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datasets.splits.steps import Disturbing
from fedsim.core.errors import UserError


@dataclass(frozen=True)
class FeatureNoise(Disturbing):
    """Client k of K has Gaussian noise of standard deviation ``noise`` * k/(K-1), as NIID-Bench's code does it.

    The deviation is in units of the pixels' range. The noise is on training, validation and test images, and the same
    in every round; pixels are rounded and clipped to their range, as in a camera. The global model is evaluated on the
    clean images of the domains.
    """

    noise: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.noise < np.inf:
            raise UserError(f"split.noise={self.noise} is not possible: choose a finite number above 0.")

    def deviations(self, clients: int) -> npt.NDArray[np.float64]:
        return self.noise * np.arange(clients) / max(1, clients - 1)
