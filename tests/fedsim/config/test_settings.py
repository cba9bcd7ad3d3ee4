"""Every setting is checked, and a refusal names the key, the value and what is allowed."""

import math
import re
from typing import Any

import pytest

from fedsim.config.composition import compose
from fedsim.config.published import FORM
from fedsim.config.settings import Settings
from fedsim.core.errors import UserError
from fedsim.server.preparation import prepare


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    return compose([])


AT_LEAST_1 = "a whole number of at least 1"
AT_LEAST_0 = "a whole number of at least 0"
SHARE = "a number above 0 and at most 1"
WRONG = {
    "rounds": (AT_LEAST_1, [0, -1, 2.0, "3", True, None, [1]]),
    "local_epochs": (AT_LEAST_1, [0, 1.5, None]),
    "batch_size": (AT_LEAST_1, [0, 32.0, False]),
    "drop_last": ("true or false", ["yes", 1, None]),
    "evaluate_every": (AT_LEAST_1, [0, "1"]),
    "checkpoint_every": (AT_LEAST_0, [-1, 0.5, False]),
    "checkpoint_minutes": ("a number of minutes above 0, or null", [0, -1, "soon", True]),
    "checkpoint_keep": (AT_LEAST_1, [0, -1, 1.5, None, True]),
    "diagnostics": ("true or false", ["yes", 1, None]),
    "pictures": ("true or false", ["no", 0, None]),
    "diagnostics_every": (AT_LEAST_1, [0, 0.5]),
    "diagnostics_images": ("a whole number of at least 2", [1, "many"]),
    "budget": (
        "numbers above 0 or null for budget.memory_mb and budget.flops, and classes of devices for budget.classes",
        [None, 5, {"memory_mb": 0}, {"flops": "many"}, {"gflops": 1}, {"classes": 3}],
    ),
    "mask_absent_classes": ("true or false", ["yes", 1, None]),
    "metrics": (
        "a list in brackets, without repetition, of ece, balanced_accuracy",
        ["ece", None, ["f1"], ["ece", "ece"], ["ece", 1], {"ece": True}, [["ece"]]],
    ),
    "shots": ("share or count", ["many", 1, None, ["share"]]),
    "seed": (AT_LEAST_0, [-1, 1.0, None]),
    "seed_model": (f"{AT_LEAST_0}, or null", [-1, 1.0, "1", True]),
    "seed_split": (f"{AT_LEAST_0}, or null", [-1, 1.0, "1", True]),
    "seed_cohort": (f"{AT_LEAST_0}, or null", [-1, 1.0, "1", True]),
    "seed_batches": (f"{AT_LEAST_0}, or null", [-1, 1.0, "1", True]),
    "lr": ("a number above 0", [0, -0.1, math.inf, math.nan, "0.1", True, None]),
    "lr_schedule": ("constant, cosine or step", ["linear", None, ["step"]]),
    "lr_decay": (f"{SHARE}, or null", [0, 1.5, math.nan, "0.1", True]),
    "lr_decay_rounds": (f"{AT_LEAST_1}, or null", [0, 1.5, "10", True]),
    "momentum": ("a number from 0 to below 1", [-0.1, 1, 1.0, math.nan, "0", False]),
    "optimizer": ("sgd, sgdp, adam, amsgrad, adamw or adamp", ["lamb", None, 1, ["sgd"]]),
    "published": (FORM, ["Table 1", {"table": "Table 1"}, {"table": "T", "experiment": "e", "rows": [{"mean": 101}]}]),
    "weight_decay": ("a number of at least 0", [-1e-4, math.inf, math.nan, "0", True, None]),
    "precision": ("float32 or bf16", ["fp16", None, 16, ["bf16"]]),
    "train_only": ("norm or norm_and_head, or null", ["head", 1, False]),
    "fraction": (SHARE, [0, 0.0, -1, 1.1, math.nan, math.inf, True, "1"]),
    "compression": ("fp16 or int8, or null", ["int4", 8, False]),
    "join_timeout": ("a number of seconds above 0, or null", [0, -1, "soon", True]),
    "round_timeout": ("a number of seconds above 0, or null", [0, -1, "soon", True]),
    "update_limit": ("a number above 0, or null", [0, -1, "large", True]),
    "min_fraction_success": (SHARE, [0, 1.01, math.nan, None]),
    "device": ("a text", [None, 0]),
    "data_dir": ("a path or null", [1.5, False]),
    "out_dir": ("a path or null", [1.5, ["a"]]),
    "resume": ("a path or null", [True]),
    "deterministic": ("true or false", ["yes", 1, None]),
    "download": ("true or false", ["yes", 0, None]),
    "quiet": ("true or false", ["yes", 1, None]),
    "verbose": ("true or false", ["yes", 1, None]),
    "dataset": ("a file of configs/dataset", [None, "digits"]),
    "split": ("a file of configs/split", ["domain"]),
    "model": ("a file of configs/model", [["cnn6"]]),
    "norm": ("a file of configs/norm", [None]),
    "attention": ("a file of configs/attention", ["se"]),
    "head": ("a file of configs/head", [None]),
    "reparam": ("a file of configs/reparam", [[]]),
    "tta": ("a file of configs/tta", ["tent"]),
    "aggregation": ("a file of configs/aggregation", ["median", None]),
    "privacy": ("a file of configs/privacy", ["none", None]),
    "engine": ("a file of configs/engine", [1]),
    "tracker": ("a file of configs/tracker", [1]),
    "faults": ("a file of configs/faults", ["injected", None]),
    "strategy": ("a file of configs/strategy", ["fedavg", None]),
}


@pytest.mark.parametrize(
    ("key", "value", "words"), [(key, value, words) for key, (words, values) in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused(key: str, value: Any, words: str, defaults: dict[str, Any]) -> None:
    numeral = isinstance(value, str) and value.replace(".", "", 1).isdecimal()
    sentence = f"{key}={repr(value) if numeral else value} is not possible: choose {words}."
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        Settings.from_config({**defaults, key: value})


@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "adamw", "adamp"])
def test_momentum_is_refused_where_it_would_not_be_used(optimizer: str, defaults: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^momentum=0\.9 is not used by optimizer={optimizer}: leave it out, or"):
        Settings.from_config({**defaults, "optimizer": optimizer, "momentum": 0.9})


def test_every_setting_has_a_wrong_value_above(defaults: dict[str, Any]) -> None:
    assert WRONG.keys() == defaults.keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("rounds", 1), ("seed", 0), ("seed", 2**70), ("checkpoint_every", 0), ("lr", 1), ("lr", 1e-12)],
        *[("momentum", 0), ("momentum", 0.999), ("fraction", 1), ("fraction", 1e-9), ("min_fraction_success", 1)],
        *[("data_dir", "/data"), ("out_dir", None), ("device", "cuda:1"), ("verbose", True)],
    ],
)
def test_the_edges_of_what_is_allowed_are_allowed(key: str, value: Any, defaults: dict[str, Any]) -> None:
    assert getattr(Settings.from_config({**defaults, key: value}), key) == value


def test_a_path_that_yaml_reads_as_a_number_is_a_text(defaults: dict[str, Any]) -> None:
    assert Settings.from_config({**defaults, "out_dir": 7, "data_dir": 0}).out_dir == "7"


def test_a_missing_setting_is_named(defaults: dict[str, Any]) -> None:
    for key in defaults:
        with pytest.raises(UserError, match=f"^{key} is missing from the configuration: give it as {key}=VALUE"):
            Settings.from_config({name: value for name, value in defaults.items() if name != key})


def test_an_unknown_setting_is_named_with_those_there_are(defaults: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match=r"^roundz=3 is not a setting: the settings are aggregation, attention, .*, weight_decay\.$"
    ):
        Settings.from_config({**defaults, "roundz": 3})


def test_an_option_of_another_strategy_is_refused(defaults: dict[str, Any]) -> None:
    strategy = {**defaults["strategy"], "clip": 0.1}
    with pytest.raises(UserError, match=r"^strategy\.clip=0\.1 is not an option of fedavg: leave it out\.$"):
        prepare(Settings.from_config({**defaults, "strategy": strategy}))


def test_settings_come_back_from_their_configuration(defaults: dict[str, Any]) -> None:
    settings = Settings.from_config(defaults)
    assert settings.to_config() == defaults
    assert Settings.from_config(settings.to_config()) == settings
