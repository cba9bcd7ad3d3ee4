"""The seeds of a run; what is drawn from them is in ``seeding.py``, which needs torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Seeds:
    """A seed for each kind of what a run draws, so that one can be changed while the others stay."""

    model: int
    """Initial weights, and what a method draws beside them"""
    split: int
    """Which client holds which images, and which is in which class of devices"""
    cohort: int
    """Which clients train in which round"""
    batches: int
    """What clients draw in training: the order of images, augmentation, dropout"""
