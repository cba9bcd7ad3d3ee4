"""The settings of a run, checked: every value that gets past here is one the rest of the simulator can work with."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from datasets.shots import SHOT_RULES
from fedsim.config.composition import compose, with_resumed
from fedsim.config.paths import OPTIONS, PATHS, expanded
from fedsim.core.errors import UserError
from fedsim.messages.compression import FORMS
from fedsim.models.freeze import TRAINABLE

Group = Mapping[str, Any]


def _whole(minimum: int) -> tuple[Callable[[Any], bool], str]:
    def allowed(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= minimum

    return allowed, f"a whole number of at least {minimum}"


def _number(allowed: Callable[[float], bool], words: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and allowed(value), words


_TEXT: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, str), "a text")
_PATH: tuple[Callable[[Any], bool], str] = (
    lambda value: value is None or (isinstance(value, str | int) and not isinstance(value, bool) and value != ""),
    "a path or null",
)
_SWITCH: tuple[Callable[[Any], bool], str] = (lambda value: isinstance(value, bool), "true or false")
_POSITIVE, _ = _number(lambda value: 0 < value < float("inf"), "a number above 0")
OPTIMIZERS = ("sgd", "sgdp", "adam", "amsgrad", "adamw", "adamp")
WITH_MOMENTUM = ("sgd", "sgdp")

_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "rounds": _whole(1),
    "local_epochs": _whole(1),
    "batch_size": _whole(1),
    "lr": _number(lambda value: 0 < value < float("inf"), "a number above 0"),
    "momentum": _number(lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "optimizer": (lambda value: value in OPTIMIZERS, ", ".join(OPTIMIZERS[:-1]) + f" or {OPTIMIZERS[-1]}"),
    "weight_decay": _number(lambda value: 0 <= value < float("inf"), "a number of at least 0"),
    "train_only": (lambda value: value in (None, *TRAINABLE), f"{' or '.join(TRAINABLE)}, or null"),
    "fraction": _number(lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "diagnostics": _SWITCH,
    "diagnostics_every": _whole(1),
    "diagnostics_images": _whole(2),
    "evaluate_every": _whole(1),
    "checkpoint_every": _whole(0),
    "budget": (
        lambda value: (
            isinstance(value, Mapping)
            and value.keys() <= {"memory_mb", "flops", "classes"}
            and all(value.get(key) is None or _POSITIVE(value[key]) for key in ("memory_mb", "flops"))
            and isinstance(value.get("classes") or {}, Mapping)
        ),
        "numbers above 0 or null for budget.memory_mb and budget.flops, and classes of devices for budget.classes",
    ),
    "mask_absent_classes": _SWITCH,
    "shots": (lambda value: value in SHOT_RULES, " or ".join(SHOT_RULES)),
    "compression": (lambda value: value in (None, *FORMS), f"{' or '.join(FORMS)}, or null"),
    "join_timeout": (lambda value: value is None or _POSITIVE(value), "a number of seconds above 0, or null"),
    "round_timeout": (lambda value: value is None or _POSITIVE(value), "a number of seconds above 0, or null"),
    "update_limit": (lambda value: value is None or _POSITIVE(value), "a number above 0, or null"),
    "min_fraction_success": _number(lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
    "seed": _whole(0),
    "device": _TEXT,
    **dict.fromkeys(PATHS, _PATH),
    "download": _SWITCH,
    "pictures": _SWITCH,
    "verbose": _SWITCH,
}


@dataclass(frozen=True)
class Settings:
    """What ``configs/config.yaml`` holds; the groups stay mappings, since each choice has its own entries."""

    dataset: Group
    split: Group
    model: Group
    norm: Group
    attention: Group
    head: Group
    reparam: Group
    tta: Group
    aggregation: Group
    privacy: Group
    engine: Group
    strategy: Group
    rounds: int
    local_epochs: int
    batch_size: int
    lr: float
    momentum: float
    optimizer: str
    weight_decay: float
    train_only: str | None
    fraction: float
    diagnostics: bool
    diagnostics_every: int
    diagnostics_images: int
    evaluate_every: int
    checkpoint_every: int
    budget: Group
    mask_absent_classes: bool
    shots: str
    min_fraction_success: float
    compression: str | None
    join_timeout: float | None
    round_timeout: float | None
    update_limit: float | None
    seed: int
    device: str
    data_dir: str | None
    download: bool
    out_dir: str | None
    resume: str | None
    pictures: bool
    verbose: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Checks a resolved configuration key by key.

        Errors: ``UserError`` naming the first key whose value is not allowed, or that is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        for key in config:
            if key not in known:
                raise UserError(f"{key}={config[key]} is not a setting: the settings are {', '.join(sorted(known))}.")
        for key in sorted(known):
            if key not in config:
                raise UserError(f"{key} is missing from the configuration: give it as {key}=VALUE.")
            if key in _ALLOWED:
                allowed, words = _ALLOWED[key]
                if not allowed(config[key]):
                    raise UserError(f"{key}={_shown(config[key])} is not possible: choose {words}.")
            elif not isinstance(config[key], Mapping):
                raise UserError(f"{key}={config[key]} is not possible: choose a file of configs/{key}.")
        if config["momentum"] and config["optimizer"] not in WITH_MOMENTUM:
            raise UserError(
                f"momentum={config['momentum']} is not used by optimizer={config['optimizer']}: "
                f"leave it out, or choose {' or '.join(WITH_MOMENTUM)}."
            )
        paths: dict[str, Any] = {key: expanded(key, config[key]) for key in PATHS}
        for group, options in OPTIONS.items():
            there = {option: config[group][option] for option in options if isinstance(config[group].get(option), str)}
            given = {option: expanded(f"{group}.{option}", path) for option, path in there.items()}
            paths[group] = {**config[group], **given}
        return cls(**{**config, **paths})

    def to_config(self) -> dict[str, Any]:
        return asdict(self)


def _shown(value: Any) -> str:
    """As it was written: a text that looks like a number has its quotes."""
    if isinstance(value, str):
        with suppress(ValueError):
            float(value)
            return repr(value)
    return str(value)


def settings_of(config: dict[str, Any], overrides: Sequence[str] = ()) -> Settings:
    """Return the checked settings; those of the run directory where a run is resumed.

    Raises:
        UserError: for a wrong one, for others beside ``resume``, or if that run's are damaged.
    """
    resumed = with_resumed(config, overrides)
    try:
        return Settings.from_config(resumed)
    except UserError as error:
        if resumed is config:
            raise
        path = Path(resumed["resume"], "config.yaml")
        raise UserError(
            f"{path} was cut off or is of another version ({str(error).partition(':')[0]}): put back the file that the "
            "run has written, or start a new run."
        ) from error


def settings_on_nodes(words: Sequence[str]) -> Settings:
    """Return the settings that the words of a run on Flower's nodes make.

    Raises:
        UserError: For a wrong one, or for ``resume``: what clients have kept is on the nodes, not in a checkpoint.
    """
    settings = Settings.from_config(compose(words))
    if settings.resume is not None:
        raise UserError(f"resume={settings.resume} is not possible with flwr run: SuperNodes keep the clients' states.")
    return settings
