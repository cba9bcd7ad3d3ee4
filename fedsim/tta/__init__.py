"""Test-time adaptation: what a model can do on images of another domain when it may adapt to them without labels.

``tta=`` names one. It is applied anew to each test set, batch by batch in one pass, and reported beside the plain
accuracy; the stored model stays as it is.
"""

from fedsim.tta.adaptation import Adaptation, Batches, adaptation_of, no_adaptation
from fedsim.tta.alpha_bn import AlphaBN
from fedsim.tta.bn_batch import BatchStatistics
from fedsim.tta.cafa import CAFA
from fedsim.tta.tent import Tent

__all__ = ["CAFA", "Adaptation", "AlphaBN", "BatchStatistics", "Batches", "Tent", "adaptation_of", "no_adaptation"]
