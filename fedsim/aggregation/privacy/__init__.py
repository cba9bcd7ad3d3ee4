"""Clipping of what clients send, and noise on what comes of it: central differential privacy for clients.

``privacy=`` names one. It stands around an aggregation, so that it sees what travels and nothing else.
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
