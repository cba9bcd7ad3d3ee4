"""Test-time adaptation: adaptation of a model to images of another domain without labels.

``tta=`` names one. It is applied to each test set separately, batch by batch in one pass, and its accuracy is reported
beside the plain one; the stored model does not change.
"""

from fedsim.tta.adaptation import Adaptation, Batches, adaptation_of, no_adaptation
from fedsim.tta.alpha_bn import AlphaBN
from fedsim.tta.bn_batch import BatchStatistics
from fedsim.tta.cafa import CAFA
from fedsim.tta.tent import Tent

__all__ = ["CAFA", "Adaptation", "AlphaBN", "BatchStatistics", "Batches", "Tent", "adaptation_of", "no_adaptation"]
