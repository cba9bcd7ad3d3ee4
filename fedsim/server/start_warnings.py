"""What a run is warned of at its start: settings that can be computed, and may not be what was meant."""

import logging

from torch import nn

from datasets.source import Part
from fedsim.norms.batch import normalizes_tokens
from fedsim.norms.policy import statistics_kept
from fedsim.norms.registry import batch_layers
from fedsim.server.preparation import Prepared

log = logging.getLogger(__name__)

FEW = 0.25
"""The share of ``batch_size`` below which a last batch is told of."""


def warn_at_start(prepared: Prepared) -> None:
    """Log a warning for each of them."""
    _warn_of_stale_statistics(prepared)
    _warn_of_batch_norm_over_tokens(prepared)
    _warn_of_small_batches(prepared)
    _warn_of_pairs(prepared)


def _warn_of_stale_statistics(prepared: Prepared) -> None:
    fraction = prepared.settings.fraction
    if fraction < 1 and statistics_kept(prepared.model, prepared.strategy.personal):
        age = (1 - fraction) / fraction
        log.warning(
            f"with fraction={fraction:g} the statistics that clients keep are {age:.1f} rounds old on average "
            "(personal_age_mean in rounds.csv); under 10 % participation FedBN has been reported to collapse"
        )


def _warn_of_small_batches(prepared: Prepared) -> None:
    """Warn if the network takes statistics of last batches that are far smaller than the others."""
    size = prepared.settings.batch_size
    if prepared.settings.drop_last or not any(isinstance(each, batch_layers()) for each in prepared.model.modules()):
        return
    images = [prepared.federation.num_images(client, Part.TRAIN) for client in prepared.federation.clients]
    small = [each % size for each in images if each > size and 1 < each % size < size * FEW]
    if len(small) > len(images) / 2:
        few = f"{min(small)}" if min(small) == max(small) else f"{min(small)} to {max(small)}"
        log.warning(
            f"{len(small)} of {len(images)} clients end a pass with a batch of {few} images, of which "
            f"the network takes statistics as of {size}: drop_last=true leaves it out, which made up to nine "
            "points of accuracy at a large learning rate (results/digits5)"
        )


def _warn_of_batch_norm_over_tokens(prepared: Prepared) -> None:
    """Warn if the default norm replaced the LayerNorms of a transformer, which may not be what was meant."""
    if normalizes_tokens(prepared.model):
        log.warning(
            f"model={prepared.settings.model['name']} is written with LayerNorm, in whose place norm=bn puts BatchNorm "
            "over the batch and its tokens: norm=ln leaves it as it is"
        )


def _warn_of_pairs(prepared: Prepared) -> None:
    """Warn if BatchNorm behind linear layers normalizes batches of two images."""
    layers = [name for name, layer in prepared.model.named_modules() if isinstance(layer, nn.BatchNorm1d)]
    if prepared.settings.batch_size == 2 and layers:
        log.warning(
            f"with batch_size=2 BatchNorm behind a linear layer ({layers[0]}) tells of two images only which has more "
            "of each feature: model=alexnet has not learned so, and has with model.linear_norm=false, an option of "
            "model=cnn6, too (results/office_caltech10)"
        )
