"""Reparameterization as an axis: weights that are a function of what is trained.

``reparam=`` names a function ``(model) -> model`` of this package. It is applied last, behind ``norm=``, ``attention=``
and ``head=``, so that a standardized convolution standardizes the weight that comes out of it.
"""

from fedsim.reparam.weight_compander import Companded, compand, keep_weights, use_weight_compander

__all__ = ["Companded", "compand", "keep_weights", "use_weight_compander"]
