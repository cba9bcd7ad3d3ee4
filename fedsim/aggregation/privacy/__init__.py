"""Clipping of clients' updates, and noise on their mean: central differential privacy at the level of clients.

``privacy=`` names one. It wraps an aggregation, so that it applies to the shared part of the model and nothing else.
"""

from fedsim.aggregation.privacy.choice import no_privacy, refuse_noise, refuse_noise_on_statistics
from fedsim.aggregation.privacy.clipping import AdaptiveClipping, FixedClipping

__all__ = [
    "AdaptiveClipping",
    "FixedClipping",
    "no_privacy",
    "refuse_noise",
    "refuse_noise_on_statistics",
]
