"""Heads, which replace the classifier of a model, the linear layer that makes the logits.

``head=`` names a function ``(model) -> model`` of this package. Every head is an ``nn.Linear``, so that rules for the
classifier, of adaptive gradient clipping or of ``train_only=norm_and_head``, apply to it, too; of several classifiers,
as ``local_generic`` has, they apply to the generic one.
"""

from fedsim.heads.cosine import CosineLinear, use_cosine
from fedsim.heads.etf import ETFLinear, ProjectedETF, simplex_frame, use_etf
from fedsim.heads.generic_personal import GenericPersonalHeads, generic_personal_heads, use_generic_personal
from fedsim.heads.linear import keep_linear, replace_classifier
from fedsim.heads.local_generic import LocalGenericHeads, PersonalLinear, local_generic_heads, use_local_generic
from fedsim.heads.retrained import RetrainedHeads, RetrainedLinear, retrained_heads, use_retrained
from fedsim.heads.sparse_frame import SparseFrame, refuse_unmade, sparse_frame
from fedsim.heads.stochastic import StochasticHead, stochastic_head, use_stochastic

__all__ = [
    "CosineLinear",
    "ETFLinear",
    "GenericPersonalHeads",
    "LocalGenericHeads",
    "PersonalLinear",
    "ProjectedETF",
    "RetrainedHeads",
    "RetrainedLinear",
    "SparseFrame",
    "StochasticHead",
    "generic_personal_heads",
    "keep_linear",
    "local_generic_heads",
    "refuse_unmade",
    "replace_classifier",
    "retrained_heads",
    "simplex_frame",
    "sparse_frame",
    "stochastic_head",
    "use_cosine",
    "use_etf",
    "use_generic_personal",
    "use_local_generic",
    "use_retrained",
    "use_stochastic",
]
