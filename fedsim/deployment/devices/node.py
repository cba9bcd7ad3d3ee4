"""A node's own configuration, ``flower-supernode --node-config``, and how far it follows the server's settings."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord
from omegaconf import DictConfig, OmegaConf

from fedsim.config.composition import CONFIG_DIR
from fedsim.config.paths import OPTIONS, expanded
from fedsim.config.settings import Settings
from fedsim.core.errors import Refusal
from fedsim.deployment.devices.checks import DOMAIN
from fedsim.models.pretrained import OPTION

KEYS: dict[str, type] = {
    "partition-id": int,
    "num-partitions": int,
    "data-dir": str,
    "domain": str,
    "state-dir": str,
    "state-afresh": bool,
    "keep-runs": int,
    "share-personal": bool,
}
EMBEDDED = "datasets.digits.load"
"""The data set that needs no files"""
OWN_FUNCTION = "tensors"
NO_PATHS = ("name", "_target_", "classes")
"""Entries of ``dataset`` that may have any text: classes are compared with the names of folders, and not opened."""
WORDS = {int: "a whole number of at least 0", str: "a text in quotes", bool: "true or false"}


@dataclass(frozen=True)
class NodeConfig:
    """The checked configuration of one node.

    ``partition`` is the client of the federation that it hosts. With ``num_partitions`` it hosts several, all p with
    p mod num_partitions = partition, as Flower's simulated nodes do, which have no other entries.
    """

    partition: int
    num_partitions: int | None = None
    simulated: bool = False
    """Whether it is a node of Flower's simulation, which runs on the server's machine with the server's files"""
    data_dir: Path | None = None
    """The folder of its images; ``data_dir`` of the server's settings does not count"""
    domain: str | None = None
    """The name of its images in the tables, where they are its own (``dataset=devices``)"""
    state_dir: Path | None = None
    """The folder of its client state; without one, the state is lost when the node's process ends"""
    state_afresh: bool = False
    """Whether it may begin without a client state where that is lost or cannot be read"""
    keep_runs: int = 5
    """The number of runs whose states stay in ``state_dir``"""
    share_personal: bool = False
    """Whether it sends its personal part and sums of features, for measurement"""

    @classmethod
    def of(cls, node_config: Mapping[str, Any], *, simulated: bool = False) -> "NodeConfig":
        """Check a node-config.

        Raises:
            Refusal: If a key is missing, unknown (it may be misspelt) or has a value that is not possible; names it.
            UserError: If a path cannot be one here. It names the path, which is not for the server.
        """
        for key, value in node_config.items():
            kind = KEYS.get(key)
            if kind is None:
                raise Refusal(f"node-config {key}={value} is not known: choose from {', '.join(KEYS)}.")
            right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
            if not right or (kind is int and value < 0) or value == "":
                raise Refusal(f"node-config {key}={value} is not possible: choose {WORDS[kind]}.")
        if "partition-id" not in node_config:
            raise Refusal("node-config has no partition-id: say which client of the federation this node is.")
        given = {key.replace("-", "_"): value for key, value in node_config.items()}
        partition, count, kept = given.pop("partition_id"), given.get("num_partitions"), given.get("keep_runs", 1)
        if count is not None and partition >= count:
            raise Refusal(f"node-config partition-id={partition} is not possible: choose 0 to {count - 1}.")
        if kept < 1:
            raise Refusal(f"node-config keep-runs={kept} is not possible: choose a whole number of at least 1.")
        if not DOMAIN.fullmatch(given.get("domain", "")):
            raise Refusal(
                f"node-config domain={given['domain']} is not possible: choose up to 64 letters, digits, _, . or -."
            )
        for key in ("data_dir", "state_dir"):
            if key in given:
                given[key] = Path(expanded(f"node-config {key.replace('_', '-')}", given[key]))
        if count is not None and not simulated:
            raise Refusal("node-config num-partitions is for Flower's simulation: a device plays the client it names.")
        return cls(partition=partition, simulated=simulated, **given)

    def profile(self, images: tuple[int, int, int] = (0, 0, 0)) -> "NodeProfile":
        return NodeProfile(
            partition=self.partition,
            num_partitions=self.num_partitions or 0,
            simulated=self.simulated,
            shares_personal=self.share_personal,
            domain=self.domain or "",
            images=images,
        )


@dataclass(frozen=True)
class NodeProfile:
    """A node's report about itself to the server (``query.node``); it holds no path of the device."""

    partition: int
    num_partitions: int
    """0 for a device, which hosts one client"""
    simulated: bool
    shares_personal: bool
    domain: str
    """The name of its own images, or an empty text"""
    images: tuple[int, int, int]
    """The numbers of its own images for training, validation and test; zeros where the settings name the images"""

    def hosts(self, partition: int) -> bool:
        return partition == self.partition or (
            self.num_partitions > 0 and partition % self.num_partitions == self.partition
        )

    def told(self) -> ConfigRecord:
        return ConfigRecord(
            {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        )

    @classmethod
    def of(cls, told: ConfigRecord) -> "NodeProfile":
        """Read a profile from the config of a reply.

        Raises:
            ValueError: If the config is of another form, or has numbers that no ``NodeConfig`` allows.
        """
        try:
            images = told["images"]
            train, validation, test = map(int, images if isinstance(images, list) else [])
            profile = cls(
                partition=int(str(told["partition"])),
                num_partitions=int(str(told["num_partitions"])),
                simulated=told["simulated"] is True,
                shares_personal=told["shares_personal"] is True,
                domain=str(told["domain"]),
                images=(train, validation, test),
            )
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"it does not say who it is ({error})") from error
        if impossible := profile._impossible():
            raise ValueError(f"it does not say who it is ({impossible})")
        return profile

    def _impossible(self) -> str:
        """Return the entry that cannot be, as a text; nothing where there is none.

        Whoever sends it has no ``NodeConfig`` that was checked, and one such node could end the run of all others.
        """
        if self.partition < 0:
            return f"partition={self.partition}"
        if self.num_partitions < 0 or 0 < self.num_partitions <= self.partition:
            return f"num_partitions={self.num_partitions}"
        if min(self.images) < 0:
            return f"images={list(self.images)}"
        # It stands in tables and in names of columns.
        return "" if DOMAIN.fullmatch(self.domain) else f"domain={self.domain}"


def confined(settings: Settings, node: NodeConfig) -> Settings:
    """Return the server's settings as this device follows them: with its own ``data_dir``, and no file outside of it.

    ``model.pretrained`` names a file in that folder, too.

    Raises:
        Refusal: If the data set is not one of this project's, needs a ``data-dir`` that the device does not have, as
            ``model.pretrained`` does, or names a path outside of it.
    """
    if node.simulated:
        return settings
    target = settings.dataset["_target_"]
    if target not in _known_targets():
        raise Refusal(f"dataset._target_={target} is not for devices: choose a dataset of configs/dataset.")
    if node.data_dir is None:
        if settings.data_dir is not None:
            raise Refusal(
                f"data_dir={settings.data_dir} is the server's word: a device reads what its own node-config names, "
                'as data-dir="/data".'
            )
        if target != EMBEDDED:
            raise Refusal(f"dataset={settings.dataset['name']} needs a device's node-config to have a data-dir.")
        if settings.model.get(OPTION) is not None:
            raise Refusal(f"model.{OPTION} needs a device's node-config to have a data-dir with that file.")
        return replace(settings, download=False)
    inside = node.data_dir.resolve()
    for key, value in settings.dataset.items():
        if key not in NO_PATHS:
            _refuse_ways_out(f"dataset.{key}", value, inside)
    model = settings.model
    if model.get(OPTION) is not None:
        _refuse_ways_out(f"model.{OPTION}", model[OPTION], inside)
        model = {**model, OPTION: str(inside / model[OPTION])}
    paths = {
        key: str(inside / settings.dataset[key]) for key in OPTIONS["dataset"] if settings.dataset.get(key) is not None
    }
    dataset = {**settings.dataset, **paths}
    return replace(settings, dataset=dataset, model=model, data_dir=str(inside), download=False)


def _known_targets() -> set[str]:
    """Return the functions that ``dataset=`` may name on a device: those of ``configs/dataset``, not a user's own."""
    configs = [OmegaConf.load(path) for path in sorted((CONFIG_DIR / "dataset").glob("*.yaml"))]
    described = [config for config in configs if isinstance(config, DictConfig)]
    return {str(config["_target_"]) for config in described if config["name"] != OWN_FUNCTION}


def _refuse_ways_out(key: str, value: Any, inside: Path) -> None:
    """Refuse a path in the value of a setting that leads out of the device's folder.

    Raises:
        Refusal: If a text, at any depth, names a place outside of the folder, or on another machine.
    """
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            _refuse_ways_out(key, each, inside)
    elif isinstance(value, str) and (
        ":" in value or value.startswith("~") or not (inside / value).resolve().is_relative_to(inside)
    ):
        home = os.path.expanduser("~")  # shown as ~ again, so that the server does not learn where it is
        shown = f"~{value.removeprefix(home)}" if value.startswith(f"{home}{os.sep}") else value
        raise Refusal(f"{key}={shown} leads out of this device's data-dir: choose what is inside it.")
