"""The classifier as an axis: what stands where the model's author put the last linear layer.

``head=`` names a function ``(model) -> model`` of this package. Every head is an ``nn.Linear``, so that what is said of
the last linear layer, by adaptive gradient clipping or by ``train_only=norm_and_head``, holds for it too.
"""

from fedsim.heads.cosine import CosineLinear, use_cosine
from fedsim.heads.etf import ETFLinear, simplex_frame, use_etf
from fedsim.heads.linear import keep_linear, replace_classifier

__all__ = ["CosineLinear", "ETFLinear", "keep_linear", "replace_classifier", "simplex_frame", "use_cosine", "use_etf"]
