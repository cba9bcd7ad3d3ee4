"""The classifier as an axis: what stands where the model's author put the linear layer that makes the logits.

``head=`` names a function ``(model) -> model`` of this package. Every head is an ``nn.Linear``, so that what is said of
the classifier, by adaptive gradient clipping or by ``train_only=norm_and_head``, holds for it too; of the three
of ``local_generic`` it holds for the one that answers.
"""

from fedsim.heads.cosine import CosineLinear, use_cosine
from fedsim.heads.etf import ETFLinear, simplex_frame, use_etf
from fedsim.heads.linear import keep_linear, replace_classifier
from fedsim.heads.local_generic import LocalGenericHeads, PersonalLinear, local_generic_heads, use_local_generic
from fedsim.heads.sparse_frame import SparseFrame, refuse_unmade, sparse_frame

__all__ = [
    "CosineLinear",
    "ETFLinear",
    "LocalGenericHeads",
    "PersonalLinear",
    "SparseFrame",
    "keep_linear",
    "local_generic_heads",
    "refuse_unmade",
    "replace_classifier",
    "simplex_frame",
    "sparse_frame",
    "use_cosine",
    "use_etf",
    "use_local_generic",
]
