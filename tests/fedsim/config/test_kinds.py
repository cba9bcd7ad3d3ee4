"""Every setting is sorted: by one kind of those that decide no number, or as one that decides some."""

from fedsim.config import kinds
from fedsim.config.composition import compose

KINDS = (kinds.OF_THE_RUN, kinds.COMPUTED, kinds.SAID, kinds.KEPT, kinds.MEASURED, kinds.OF_THE_PLACE)
DECIDES = {
    *("dataset", "split", "model", "head", "attention", "reparam", "norm", "strategy", "aggregation", "budget"),
    *("lr", "lr_schedule", "lr_decay", "lr_decay_rounds", "rounds", "local_epochs", "batch_size", "drop_last"),
    *("optimizer", "momentum", "weight_decay", "precision", "train_only", "deterministic", "update_limit"),
    *("fraction", "min_fraction_success", "faults", "privacy", "compression"),
    *("seed", "seed_model", "seed_split", "seed_cohort", "seed_batches"),
    *("evaluate_every", "mask_absent_classes", "shots", "tta"),
}


def test_each_setting_is_of_one_kind_or_decides_numbers() -> None:
    sorted_ones = [key for kind in KINDS for key in kind]
    assert len(sorted_ones) == len(set(sorted_ones))
    assert not DECIDES & set(sorted_ones)
    assert DECIDES | set(sorted_ones) == compose([]).keys()
