"""What a node says of itself in ``flower-supernode --node-config``, and what the server's settings may ask of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord

from fedsim.errors import UserError
from fedsim.settings import Settings

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
WORDS = {int: "a whole number of at least 0", str: "a text in quotes", bool: "true or false"}


@dataclass(frozen=True)
class NodeConfig:
    """One node's, checked.

    ``partition``: which client of the federation it is. With ``num_partitions`` it plays several, all p with
    p mod num_partitions = partition; so Flower's simulated nodes do, which say nothing else.
    """

    partition: int
    num_partitions: int | None = None
    data_dir: Path | None = None
    """Where its images are; whatever ``data_dir`` the server's settings have"""
    domain: str | None = None
    """What its images are called in the tables, where they are its own (``dataset=devices``)"""
    state_dir: Path | None = None
    """Where it keeps what is personal; without it that is lost when the node's process ends"""
    state_afresh: bool = False
    """Whether it may begin anew where what it kept is lost or cannot be read"""
    keep_runs: int = 5
    """Of how many runs the state stays in ``state_dir``"""
    share_personal: bool = False
    """Whether it tells its personal part and sums of features, for measuring"""

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> "NodeConfig":
        """Errors: ``UserError`` naming a key that is missing, unknown (it may be misspelt) or of another type."""
        for key, value in node_config.items():
            kind = KEYS.get(key)
            if kind is None:
                raise UserError(f"node-config {key}={value} is not known: choose from {', '.join(KEYS)}.")
            right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
            if not right or (kind is int and value < 0) or value == "":
                raise UserError(f"node-config {key}={value} is not possible: choose {WORDS[kind]}.")
        if "partition-id" not in node_config:
            raise UserError("node-config has no partition-id: say which client of the federation this node is.")
        given = {key.replace("-", "_"): value for key, value in node_config.items()}
        partition, count, kept = given.pop("partition_id"), given.get("num_partitions"), given.get("keep_runs", 1)
        if count is not None and partition >= count:
            raise UserError(f"node-config partition-id={partition} is not possible: choose 0 to {count - 1}.")
        if kept < 1:
            raise UserError(f"node-config keep-runs={kept} is not possible: choose a whole number of at least 1.")
        for key in ("data_dir", "state_dir"):
            if key in given:
                given[key] = Path(given[key]).expanduser()
        return cls(partition=partition, **given)

    @property
    def simulated(self) -> bool:
        """Whether it is a node of Flower's simulation, which works on the server's machine with the server's files."""
        return self == NodeConfig(self.partition, self.num_partitions) and self.num_partitions is not None

    def profile(self, images: tuple[int, int, int] = (0, 0, 0)) -> "NodeProfile":
        return NodeProfile(
            *(self.partition, self.num_partitions or 0, self.simulated, self.share_personal, self.domain or "", images)
        )


@dataclass(frozen=True)
class NodeProfile:
    """What a node tells the server of itself (``query.node``); no path of the device is among it."""

    partition: int
    num_partitions: int
    """0 for a device, which plays one client"""
    simulated: bool
    shares_personal: bool
    domain: str
    """What its own images are called, or nothing"""
    images: tuple[int, int, int]
    """Its own for training, validation and test; zeros where the settings name the images"""

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
        """Errors: ``ValueError`` for an answer of another form."""
        try:
            images = told["images"]
            assert isinstance(images, list)
            train, validation, test = map(int, images)
            return cls(
                partition=int(str(told["partition"])),
                num_partitions=int(str(told["num_partitions"])),
                simulated=told["simulated"] is True,
                shares_personal=told["shares_personal"] is True,
                domain=str(told["domain"]),
                images=(train, validation, test),
            )
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"it does not say who it is ({error})") from error


def confined(settings: Settings, node: NodeConfig) -> Settings:
    """The server's settings as this device follows them: its own ``data_dir``, and nothing that lies outside of it.

    Errors: ``UserError`` for a path in the settings that leads elsewhere.
    """
    if node.simulated:
        return settings
    if node.data_dir is None:
        if settings.data_dir is not None:
            raise UserError(
                f"data_dir={settings.data_dir} is the server's word: a device reads what its own node-config names, "
                'as data-dir="/data".'
            )
        return replace(settings, download=False)
    inside = node.data_dir.resolve()
    for key, value in settings.dataset.items():
        for text in value if isinstance(value, list | tuple) else [value]:
            if key in ("name", "_target_") or not isinstance(text, str):
                continue
            if "://" in text or not (inside / text).resolve().is_relative_to(inside):
                raise UserError(f"dataset.{key}={text} leads out of this device's data-dir: choose what is inside it.")
    target = str(settings.dataset["_target_"])
    if not target.startswith("datasets."):
        raise UserError(f"dataset._target_={target} is not for devices: choose a dataset of configs/dataset.")
    return replace(settings, data_dir=str(inside), download=False)
