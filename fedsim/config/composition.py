"""From ``key=value`` overrides to a resolved configuration, with errors that a user can act on.

Hydra composes; this module finds the configuration folder, registers the resolvers that ``configs/config.yaml`` uses,
and converts Hydra's report of a wrong override into one sentence.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedsim.config.overrides import parse, readable
from fedsim.config.paths import KEYS, expanded
from fedsim.config.run_folders import RUNS, SWEEPS
from fedsim.config.yaml_files import check_aliases, read_yaml
from fedsim.core.checkout import ROOT
from fedsim.core.errors import UserError
from fedsim.core.files import DAMAGED, reading

CONFIG_DIR = ROOT / "configs"
CONFIG_NAME = "config"
GROUPS = (
    "strategy",
    "dataset",
    "split",
    "model",
    "norm",
    "attention",
    "head",
    "reparam",
    "tta",
    "aggregation",
    "privacy",
    "engine",
    "tracker",
    "faults",
    "experiment",
)
OPTIONAL_GROUPS = ("experiment",)
COMPOSED_GROUPS = ("split", "tracker")
"""Groups of which several files may be chosen at once: split=[longtail,domain]"""

PLACEHOLDER = "_name_"
MOVED = {"fedsim.privacy.": "fedsim.aggregation.privacy.", "fedsim.superlink.": "fedsim.deployment.superlink."}
"""Beginnings of dotted names in the configurations of older runs, and where those classes are now."""
RENAMED = {("dataset", "percent"): "share", ("dataset", "validation_percent"): "validation_share"}
"""Options of groups in the configurations of older runs, and what they are called now."""
YOUNGER_OPTIONS = {("strategy", "fedwon"): {"standardized": True}}
"""Options that older runs with this choice of a group do not have, and what those runs did."""
UNUSED_BESIDE = {"norm.alpha": ("norm.residual", "plain"), "norm.moving_speed": ("norm.estimated", False)}
"""Settings that older runs may have beside this value of another, where they have no effect and are refused now."""
YOUNGER = ("faults", "tracker")
"""Groups that older runs do not have."""
NOT_CHOSEN = ("._target_", ".server", ".client", ".steps", ".trackers")
"""Ends of the keys that only a file of a group sets."""


def register_resolvers(new: Path | None = None) -> None:
    """Register with Hydra where a run and a sweep are written: ``resume``, else ``out_dir``, else the ``new`` folder.

    Without ``new``, where nothing will be written, the name of the folder's parent is shown.
    """
    OmegaConf.register_new_resolver(
        "fedsim.run_dir", lambda out_dir, resume: named_folder(out_dir, resume) or str(new or RUNS), replace=True
    )
    OmegaConf.register_new_resolver(
        "fedsim.sweep_dir", lambda out_dir: named_folder(out_dir, None) or str(new or SWEEPS), replace=True
    )


def named_folder(out_dir: Any, resume: Any) -> str | None:
    """Return the folder that ``resume`` or else ``out_dir`` names; ``None`` if neither does."""
    folder: str | None = expanded("out_dir", out_dir) if resume is None else expanded("resume", resume)
    return folder


def compose(overrides: Sequence[str], config_dir: Path = CONFIG_DIR, config_name: str = CONFIG_NAME) -> dict[str, Any]:
    """Return the resolved configuration as plain dictionaries.

    Raises:
        UserError: If a key or choice is unknown, or a value cannot be read.
    """
    register_resolvers()
    if not os.path.isdir(config_dir):  # pathlib asks the system for a name that is too long, and raises
        raise UserError(f"--config-path={config_dir} is not a folder: choose one that holds a {config_name}.yaml.")
    if not os.path.isfile(config_dir / f"{config_name}.yaml"):
        raise UserError(f"--config-name={config_name} is not in {config_dir}: choose a YAML file of that folder.")
    if config_dir != CONFIG_DIR:
        _check_files(config_dir, config_name)
    overrides = [readable(text) for text in overrides]
    parsed = [_one_value(text) for text in overrides]
    for override in parsed:
        _refuse_unknown_choice(override, config_dir)
        _refuse_name(override, config_dir)
    register_families(overrides, config_dir)
    with hydra_at(config_dir), reading(config_dir / f"{config_name}.yaml", errors=_of_a_file(config_dir)):
        try:
            resolved = OmegaConf.to_container(hydra_compose(config_name, overrides=overrides), resolve=True)
        except (HydraException, OmegaConfBaseException) as error:
            groups = [override for override in parsed if (config_dir / override.key_or_group).is_dir()]
            known = _settings(hydra_compose(config_name, overrides=[str(group.input_line) for group in groups]))
            explained = _explain(error, parsed, known, config_dir)
            if explained is None and config_dir != CONFIG_DIR:
                raise  # the file is to be named
            raise UserError(explained or _told(error)) from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _check_files(config_dir: Path, config_name: str) -> None:
    """Check the files of a user's folder that Hydra may read, which would follow any aliases.

    Raises:
        UserError: If one cannot be read; names it.
    """
    main = config_dir / f"{config_name}.yaml"
    with reading(main):
        if not read_yaml(main):
            raise ValueError("it is empty")
    for file in (file for group in GROUPS for file in sorted((config_dir / group).rglob("*.yaml"))):
        with reading(file):
            check_aliases(file)


def _of_a_file(config_dir: Path) -> tuple[type[Exception], ...]:
    """Return the exceptions of Hydra that the content of the files can cause: none, where they are our own."""
    return () if config_dir == CONFIG_DIR else (*DAMAGED, HydraException)


@contextmanager
def hydra_at(config_dir: Path) -> Iterator[GlobalHydra]:
    """Let Hydra read ``config_dir`` inside the block, and restore the state of a ``@hydra.main`` of the caller."""
    around, base = GlobalHydra.instance(), VersionBase.instance().getbase()
    hydra = around.hydra
    around.clear()
    try:
        with initialize_config_dir(config_dir=str(config_dir.resolve()), version_base="1.3"):
            yield GlobalHydra.instance()
    finally:
        around.hydra = hydra
        GlobalHydra.set_instance(around)
        VersionBase.instance().version_base = base


def load(run_dir: Path) -> dict[str, Any]:
    """Return the settings of a run directory; settings that did not exist when it was made have their defaults.

    Raises:
        UserError: If it holds no configuration, or a damaged one.
    """
    path = run_dir / "config.yaml"
    with reading(path, "put it back whole, or start a new run"):
        try:
            config = OmegaConf.to_container(read_yaml(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"{run_dir} is not a run directory: choose one that holds a config.yaml.") from error
        assert isinstance(config, dict)
        younger = deepcopy(_defaults()) if "hydra" in config else {}  # the last key: without it, the file was cut off
        mine = {str(key): value for key, value in config.items() if key not in ("defaults", "hydra")}
        return _completed({key: _as_called_now(key, value) for key, value in mine.items()}, younger)


def _completed(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with those that they lack, also in the groups for which ``config.yaml`` has settings."""
    grouped = {
        key: {**defaults[key], **value}
        for key, value in settings.items()
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    }
    return defaults | settings | grouped


def _as_called_now(key: str, group: Any) -> Any:
    """Return a group of an older run's settings with the options and the ``_target_`` of now."""
    if not isinstance(group, dict):
        return group
    group = {RENAMED.get((key, str(option)), option): value for option, value in group.items()}
    group = {**group, **{k: v for k, v in YOUNGER_OPTIONS.get((key, group.get("name")), {}).items() if k not in group}}
    flat = {f"{key}.{option}": value for option, value in group.items()}
    group = {option: None if is_unused(f"{key}.{option}", flat) else value for option, value in group.items()}
    old = next((old for old in MOVED if str(group.get("_target_")).startswith(old)), None)
    return group if old is None else {**group, "_target_": str(group["_target_"]).replace(old, MOVED[old], 1)}


def is_unused(key: str, settings: Mapping[str, Any]) -> bool:
    """Return whether the value of this key has no effect in an older run's settings, which are by dotted names."""
    other = UNUSED_BESIDE.get(key)
    return other is not None and other in settings.items()


@cache
def _defaults() -> dict[str, Any]:
    """Return the settings that ``configs/config.yaml`` has, and the groups that are younger than some runs."""
    config = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / f"{CONFIG_NAME}.yaml"))
    assert isinstance(config, dict)
    groups = {group: OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / group / "none.yaml")) for group in YOUNGER}
    return {str(key): value for key, value in config.items() if key not in ("defaults", "hydra")} | groups


def repeatable(settings: dict[str, Any]) -> DictConfig:
    """Return the settings as a complete configuration file, which Hydra can run again into another directory."""
    hydra = OmegaConf.load(CONFIG_DIR / f"{CONFIG_NAME}.yaml").hydra
    defaults = ["_self_", {"override hydra/job_logging": "none"}]
    return OmegaConf.create({"defaults": defaults, **settings, "out_dir": None, "resume": None, "hydra": hydra})


def choices(group: str, config_dir: Path = CONFIG_DIR) -> list[str]:
    """Return the values allowed after ``group=``: the group's files, and its families as ``FAMILY/NAME``."""
    families = [f"{path.parent.name}/NAME" for path in (config_dir / group).glob(f"*/{PLACEHOLDER}.yaml")]
    return sorted(path.stem for path in (config_dir / group).glob("*.yaml")) + sorted(families)


def _one_value(text: str) -> Override:
    override = parse(text)
    if override.is_sweep_override():
        refuse_continuous(override)
        comma = f", or write '{override.get_key_element()}=\"...\"' if it is a comma of the path"
        raise UserError(
            f"{text} names several values: choose one, or add -m for a sweep over all of "
            f"them{comma if override.key_or_group in KEYS else ''}."
        )
    return override


def refuse_continuous(override: Override) -> None:
    """Refuse a continuous range, which only an optimizer could sweep over.

    Raises:
        UserError: If the override is an ``interval``.
    """
    if override.is_interval_sweep():
        raise UserError(
            f"{override.input_line} has no end of values: choose range(START,STOP,STEP) or choice(VALUE,VALUE) and -m."
        )


def _refuse_unknown_choice(override: Override, config_dir: Path) -> None:
    group = override.key_or_group
    if not (config_dir / group).is_dir():
        return
    known = choices(group, config_dir)
    chosen = override.value()
    if isinstance(chosen, str) and _of_a_family(group, chosen, config_dir) is not None:
        return
    if override.is_delete():
        return
    if chosen is None and group in OPTIONAL_GROUPS:  # Hydra does not accept it on the command line
        raise UserError(f"{group}=null is not possible: leave it out, or choose {', '.join(known)}.")
    names = chosen if group in COMPOSED_GROUPS and isinstance(chosen, list) and chosen else [chosen]
    value = override.get_value_element_as_str()
    if any(name not in known for name in names):
        raise UserError(f"{group}={value} is not known: choose {', '.join(known)}.")
    if len(set(names)) < len(names):
        raise UserError(f"{group}={value} is not possible: choose each of them once.")


def _refuse_name(override: Override, config_dir: Path) -> None:
    """Refuse an override of a file's ``name``: it labels the other entries of the file, and would become wrong.

    Raises:
        UserError: If the override sets the ``name`` of a group.
    """
    group, _, option = override.key_or_group.partition(".")
    if option == "name" and (config_dir / group).is_dir():
        value = override.get_value_element_as_str()
        chosen = f"{group}={value}" if value in choices(group, config_dir) else f"{group}=NAME"
        raise UserError(f"{override.input_line} would change a name and nothing else: write {chosen}.")


def register_families(overrides: Sequence[str], config_dir: Path = CONFIG_DIR) -> None:
    """Register choices such as ``model=FAMILY/NAME`` with Hydra.

    The choice is ``configs/model/FAMILY/_name_.yaml`` with NAME in the place of the placeholder.
    """
    for text in overrides:
        group, _, choice = text.partition("=")
        node = _of_a_family(group, choice, config_dir)
        if node is not None:
            family, _, name = choice.partition("/")
            ConfigStore.instance().store(name, node, group=f"{group}/{family}", package=group)


def _of_a_family(group: str, choice: str, config_dir: Path) -> DictConfig | None:
    family, slash, name = choice.partition("/")
    template = config_dir / group / family / f"{PLACEHOLDER}.yaml"
    if not slash or not name.isidentifier() or not template.is_file():
        return None
    node = OmegaConf.create(template.read_text(encoding="utf-8").replace(PLACEHOLDER, name))
    assert isinstance(node, DictConfig)
    return node


def _told(error: Exception) -> str:
    return " ".join(str(error).split())


def _explain(error: Exception, overrides: Sequence[Override], known: Sequence[str], config_dir: Path) -> str | None:
    """Return one sentence for an error of Hydra, which is almost always a key that does not exist.

    It is ``None`` if none of the overrides is the cause.
    """
    for override in overrides:
        key = override.key_or_group
        if override.is_add() or key in known or key in GROUPS or key.startswith("hydra"):
            continue
        visible = [name for name in known if not name.endswith((*NOT_CHOSEN, ".name"))]
        close = difflib.get_close_matches(key, [*visible, *GROUPS], n=1)
        hint = f"did you mean {close[0]}?" if close else f"the settings are {', '.join(sorted([*visible, *GROUPS]))}."
        elsewhere = _choices_with(key, config_dir)
        if elsewhere:
            which = f"{elsewhere[0]}, which has it" if len(elsewhere) == 1 else f"one of {', '.join(elsewhere)}"
            hint = f"leave it out, or choose {which}."
        return f"{override.input_line} is not a setting: {hint}"
    for override in overrides:
        if _told(error) == f"Error merging override {override.input_line}":
            return f"{override.input_line} is not possible: choose values for the settings below it, or leave it out."
    return None


def _choices_with(key: str, config_dir: Path) -> list[str]:
    """Return the choices of the key's group that have this option, such as ``strategy=fedwon``."""
    group, _, option = key.partition(".")
    if not option or group in OPTIONAL_GROUPS or not (config_dir / group).is_dir():
        return []
    files = {path.stem: OmegaConf.load(path) for path in sorted((config_dir / group).glob("*.yaml"))}
    nodes = {name: file.get(group, file) for name, file in files.items() if isinstance(file, DictConfig)}
    return [f"{group}={name}" for name, node in nodes.items() if isinstance(node, DictConfig) and option in node]


def _settings(config: DictConfig) -> list[str]:
    """Return the dotted names of all settings, two levels deep."""
    names: list[str] = []
    for key in map(str, config):
        value = config._get_node(key)
        names += [f"{key}.{inner}" for inner in map(str, value)] if isinstance(value, DictConfig) else [key]
    return names
