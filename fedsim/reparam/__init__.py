"""Reparameterization: weights that are a function of the trained parameters.

``reparam=`` names a function ``(model) -> model`` of this package. It is applied after ``norm=``, ``attention=`` and
``head=``, so that a standardized convolution standardizes the reparameterized weight.
"""

from fedsim.reparam.weight_compander import Companded, compand, keep_weights, use_weight_compander

__all__ = ["Companded", "compand", "keep_weights", "use_weight_compander"]
