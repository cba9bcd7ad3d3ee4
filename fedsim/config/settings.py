"""The settings of a run and their checks: every value that passes is one that the rest of the simulator accepts."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Self

from datasets.shots import SHOT_RULES
from fedsim.config.composition import compose, load
from fedsim.config.paths import OPTIONS, PATHS, expanded
from fedsim.config.published import FORM, is_published
from fedsim.config.resuming import with_resumed
from fedsim.core.errors import UserError
from fedsim.core.seeds import Seeds

Group = Mapping[str, Any]
Rule = tuple[Callable[[Any], bool], str]
"""What values are allowed, and that in words"""


def _whole(minimum: int) -> Rule:
    def allowed(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= minimum

    return allowed, f"a whole number of at least {minimum}"


def _number(allowed: Callable[[float], bool], words: str) -> Rule:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and allowed(value), words


def _positive(words: str = "a number above 0") -> Rule:
    return _number(lambda value: 0 < value < float("inf"), words)


def _one_of(names: Iterable[str]) -> Rule:
    *first, last = names
    return lambda value: value in (*first, last), f"{', '.join(first)} or {last}"


def _or_null(rule: Rule) -> Rule:
    allowed, words = rule
    return lambda value: value is None or allowed(value), f"{words}, or null"


_TEXT: Rule = (lambda value: isinstance(value, str), "a text")
_PATH: Rule = (
    lambda value: value is None or (isinstance(value, str | int) and not isinstance(value, bool) and value != ""),
    "a path or null",
)
_SWITCH: Rule = (lambda value: isinstance(value, bool), "true or false")
_SHARE = _number(lambda value: 0 < value <= 1, "a number above 0 and at most 1")

_ALLOWED: dict[str, Rule] = {
    "rounds": _whole(1),
    "local_epochs": _whole(1),
    "batch_size": _whole(1),
    "drop_last": _SWITCH,
    "lr": _positive(),
    "momentum": _number(lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "lr_decay": _or_null(_SHARE),
    "lr_decay_rounds": _or_null(_whole(1)),
    "weight_decay": _number(lambda value: 0 <= value < float("inf"), "a number of at least 0"),
    "fraction": _SHARE,
    "diagnostics": _SWITCH,
    "diagnostics_every": _whole(1),
    "diagnostics_images": _whole(2),
    "evaluate_every": _whole(1),
    "checkpoint_every": _whole(0),
    "checkpoint_minutes": _or_null(_positive("a number of minutes above 0")),
    "checkpoint_keep": _whole(1),
    "mask_absent_classes": _SWITCH,
    "shots": _one_of(SHOT_RULES),
    "join_timeout": _or_null(_positive("a number of seconds above 0")),
    "round_timeout": _or_null(_positive("a number of seconds above 0")),
    "update_limit": _or_null(_positive()),
    "min_fraction_success": _SHARE,
    "seed": _whole(0),
    **dict.fromkeys(("seed_model", "seed_split", "seed_cohort", "seed_batches"), _or_null(_whole(0))),
    "device": _TEXT,
    "deterministic": _SWITCH,
    **dict.fromkeys(PATHS, _PATH),
    "download": _SWITCH,
    "pictures": _SWITCH,
    "published": (is_published, FORM),
    "quiet": _SWITCH,
    "verbose": _SWITCH,
}
"""By setting; neither the groups, of which each must be a mapping, nor what ``_of_owners`` has."""
OWNED = ("budget", "compression", "lr_schedule", "metrics", "optimizer", "precision", "train_only")


@cache
def _of_owners() -> dict[str, Rule]:
    """Return the rules of the settings in ``OWNED``, as their owners have them.

    The owners load torch, which takes seconds: what is wrong elsewhere is refused before.
    """
    from fedsim.client.lr_schedule import SCHEDULES
    from fedsim.client.mixed_precision import PRECISIONS
    from fedsim.client.optimizers import OPTIMIZERS
    from fedsim.cost.device_classes import BUDGET, is_budget
    from fedsim.messages.compression import FORMS
    from fedsim.metrics.registry import FURTHER_METRICS
    from fedsim.models.freeze import TRAINABLE

    return {
        "budget": (is_budget, BUDGET),
        "compression": _or_null(_one_of(FORMS)),
        "metrics": (
            lambda value: (
                isinstance(value, list)
                and all(isinstance(name, str) and name in FURTHER_METRICS for name in value)
                and len(set(value)) == len(value)
            ),
            f"a list in brackets, without repetition, of {', '.join(FURTHER_METRICS)}",
        ),
        "lr_schedule": _one_of(SCHEDULES),
        "optimizer": _one_of(OPTIMIZERS),
        "precision": _one_of(PRECISIONS),
        "train_only": _or_null(_one_of(TRAINABLE)),
    }


@dataclass(frozen=True)
class Settings:
    """The settings of ``configs/config.yaml``; groups stay mappings, since each choice has its own entries."""

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
    tracker: Group
    faults: Group
    strategy: Group
    rounds: int
    local_epochs: int
    batch_size: int
    drop_last: bool
    lr: float
    lr_schedule: str
    lr_decay: float | None
    lr_decay_rounds: int | None
    momentum: float
    optimizer: str
    weight_decay: float
    precision: str
    train_only: str | None
    fraction: float
    diagnostics: bool
    diagnostics_every: int
    diagnostics_images: int
    evaluate_every: int
    checkpoint_every: int
    checkpoint_minutes: float | None
    checkpoint_keep: int
    budget: Group
    mask_absent_classes: bool
    metrics: list[str]
    shots: str
    min_fraction_success: float
    compression: str | None
    join_timeout: float | None
    round_timeout: float | None
    update_limit: float | None
    seed: int
    seed_model: int | None
    seed_split: int | None
    seed_cohort: int | None
    seed_batches: int | None
    device: str
    deterministic: bool
    data_dir: str | None
    download: bool
    out_dir: str | None
    resume: str | None
    pictures: bool
    published: dict[str, Any] | None
    quiet: bool
    verbose: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Check a resolved configuration key by key and return it as settings.

        Raises:
            UserError: If a key is unknown or missing, or its value is not allowed; names the first.
        """
        known = {field.name for field in fields(cls)}
        for key in config:
            if key not in known:
                raise UserError(f"{key}={config[key]} is not a setting: the settings are {', '.join(sorted(known))}.")
        for key in sorted(known):
            if key not in config:
                raise UserError(f"{key} is missing from the configuration: give it as {key}=VALUE.")
            if key in _ALLOWED:
                _refuse_unless(_ALLOWED[key], key, config[key])
            elif key not in OWNED and not isinstance(config[key], Mapping):
                raise UserError(f"{key}={config[key]} is not possible: choose a file of configs/{key}.")
        for key, rule in _of_owners().items():
            _refuse_unless(rule, key, config[key])
        from fedsim.client.lr_schedule import refuse_wrong_decay
        from fedsim.client.optimizers import refuse_unused_momentum

        refuse_unused_momentum(config["optimizer"], config["momentum"])
        refuse_wrong_decay(config["lr_schedule"], config["lr_decay"], config["lr_decay_rounds"])
        paths: dict[str, Any] = {key: expanded(key, config[key]) for key in PATHS}
        for group, options in OPTIONS.items():
            there = {option: config[group][option] for option in options if isinstance(config[group].get(option), str)}
            given = {option: expanded(f"{group}.{option}", path) for option, path in there.items()}
            paths[group] = {**config[group], **given}
        return cls(**{**config, **paths})

    @property
    def seeds(self) -> Seeds:
        """The seed of each purpose: ``seed`` where it has none of its own."""
        own = {each.name: getattr(self, f"seed_{each.name}") for each in fields(Seeds)}
        return Seeds(**{name: self.seed if value is None else value for name, value in own.items()})

    def to_config(self) -> dict[str, Any]:
        return asdict(self)


def _refuse_unless(rule: Rule, key: str, value: Any) -> None:
    allowed, words = rule
    if not allowed(value):
        raise UserError(f"{key}={_shown(value)} is not possible: choose {words}.")


def _shown(value: Any) -> str:
    """Return the value as it was written: a text that looks like a number keeps its quotes."""
    if isinstance(value, str):
        with suppress(ValueError):
            float(value)
            return repr(value)
    return str(value)


def settings_of(config: dict[str, Any], overrides: Sequence[str] = ()) -> Settings:
    """Return the checked settings; where a run is resumed, those of its run directory.

    Raises:
        UserError: If a setting is wrong, is not possible beside ``resume``, or the resumed run's are damaged.
    """
    resumed = with_resumed(config, overrides)
    if resumed is config:
        return Settings.from_config(config)
    with _written_by(Path(resumed["resume"])):
        return Settings.from_config(resumed)


def settings_in(run_dir: Path) -> Settings:
    """Return the checked settings of a run directory.

    Raises:
        UserError: If it holds none, or damaged ones.
    """
    config = load(run_dir)
    with _written_by(run_dir):
        return Settings.from_config(config)


@contextmanager
def _written_by(run_dir: Path) -> Iterator[None]:
    """Let the refusal of a setting, which nobody has given, name the file of the run directory."""
    try:
        yield
    except UserError as error:
        fault = str(error).partition(":")[0]
        raise UserError(
            f"{run_dir / 'config.yaml'} was cut off or is of another version ({fault}): put back the file that the run "
            "has written, or start a new run."
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
