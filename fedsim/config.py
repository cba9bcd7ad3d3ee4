"""From ``key=value`` overrides to a resolved configuration, with errors a person can act on.

Hydra composes; this file finds the configuration folder, registers the resolvers that ``configs/config.yaml`` uses, and
turns what Hydra reports about a wrong override into one sentence.
"""

import difflib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedsim.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
"""The checkout, or the unpacked Flower app: where ``configs/`` and the other top-level folders lie."""
CONFIG_DIR = ROOT / "configs"
CONFIG_NAME = "config"

_STARTED = datetime.now()


def run_directory(
    out_dir: str | None, resume: str | None, started: datetime = _STARTED, folder: str = "outputs"
) -> str:
    """Where a run is written: ``resume``, else ``out_dir``, else a dated folder under ``folder``."""
    for path in (resume, out_dir):
        if path is not None:
            return str(path)  # YAML reads a path like 7 as a number
    return f"{folder}/{started:%Y-%m-%d}/{started:%H-%M-%S}"


def register_resolvers() -> None:
    """The two resolvers that say where a run and a sweep are written."""
    OmegaConf.register_new_resolver("fedsim.run_dir", run_directory, replace=True)
    OmegaConf.register_new_resolver(
        "fedsim.sweep_dir", lambda out_dir: run_directory(out_dir, None, folder="multirun"), replace=True
    )


def compose(overrides: Sequence[str], config_dir: Path = CONFIG_DIR, config_name: str = CONFIG_NAME) -> dict[str, Any]:
    """The resolved configuration as plain dictionaries.

    Errors: ``UserError`` for an unknown key or choice, or a value that cannot be read.
    """
    register_resolvers()
    if not config_dir.is_dir():
        raise UserError(f"--config-path={config_dir} is not a folder: choose one that holds a {config_name}.yaml.")
    try:
        with initialize_config_dir(config_dir=str(config_dir.resolve()), version_base="1.3"):
            config = hydra_compose(config_name, overrides=list(overrides))
            resolved = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_sentence(error, overrides, config_dir, config_name)) from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def load(run_dir: Path) -> dict[str, Any]:
    """The settings a run directory was made with.

    Errors: ``UserError`` if it holds none.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run_dir} is not a run directory: choose one that holds a config.yaml.")
    config = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items() if key not in ("defaults", "hydra")}


def repeatable(settings: dict[str, Any]) -> DictConfig:
    """The settings as a configuration file of their own, which Hydra can run again into another directory."""
    hydra = OmegaConf.load(CONFIG_DIR / f"{CONFIG_NAME}.yaml").hydra
    defaults = ["_self_", {"override hydra/job_logging": "disabled"}]
    return OmegaConf.create({"defaults": defaults, **settings, "out_dir": None, "resume": None, "hydra": hydra})


def choices(group: str, config_dir: Path = CONFIG_DIR) -> list[str]:
    """The files of a configuration group: what may stand behind ``group=``."""
    return sorted(path.stem for path in (config_dir / group).glob("*.yaml"))


def _sentence(error: Exception, overrides: Sequence[str], config_dir: Path, config_name: str) -> str:
    """Says which override is wrong and what would be right."""
    if isinstance(error, MissingConfigException) and not (config_dir / f"{config_name}.yaml").is_file():
        return f"--config-name={config_name} is not in {config_dir}: choose a YAML file of that folder."
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            return f"{text!r} cannot be read: write key=value."
        key, group = override.key_or_group, config_dir / override.key_or_group
        if group.is_dir():
            if isinstance(error, MissingConfigException) and override.value() not in choices(key, config_dir):
                allowed = ", ".join(choices(key, config_dir)) or "nothing, there is none yet"
                return f"{key}={override.value()} is not known: choose {allowed}."
        elif isinstance(error, HydraException) and not _is_setting(key, overrides, config_dir, config_name):
            return unknown_key(text, key, _settings(overrides, config_dir, config_name))
    return " ".join(str(error).split())


def unknown_key(text: str, key: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f"did you mean {close[0]}?" if close else "the settings are " + ", ".join(sorted(allowed)) + "."
    return f"{text} is not a setting: {hint}"


def _settings(overrides: Sequence[str], config_dir: Path, config_name: str) -> list[str]:
    """Dotted names of all settings under the group choices among the overrides, the wrong keys left aside."""
    groups = [text for text in overrides if (config_dir / text.lstrip("+~").partition("=")[0]).is_dir()]
    with initialize_config_dir(config_dir=str(config_dir.resolve()), version_base="1.3"):
        config = OmegaConf.to_container(hydra_compose(config_name, overrides=groups))
    names: list[str] = []
    assert isinstance(config, dict)
    for key, value in ((str(key), value) for key, value in config.items()):
        names += [f"{key}.{inner}" for inner in value if inner != "_target_"] if isinstance(value, dict) else [key]
    return names


def _is_setting(key: str, overrides: Sequence[str], config_dir: Path, config_name: str) -> bool:
    return key in _settings(overrides, config_dir, config_name)
