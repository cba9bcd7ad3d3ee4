"""YAML files of users, whose aliases are counted before they are followed: a few lines can stand for billions."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

MOST = 100_000
"""Values in one file, with what its aliases repeat"""


def read_yaml(path: Path) -> DictConfig:
    """Return the settings of a file.

    For a file that is damaged or of another kind, it raises the exceptions that ``fedsim.core.files.reading`` converts
    into one sentence.
    """
    check_aliases(path)
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig):
        raise ValueError("it is no configuration")
    return config


def check_aliases(path: Path) -> None:
    """Check that the aliases of a file stand for no more than ``MOST`` values.

    Raises:
        ValueError: If they do; for a damaged file also what ``read_yaml`` raises.
    """
    text = path.read_text(encoding="utf-8")
    if "*" in text and _values(yaml.compose(text, Loader=yaml.SafeLoader), {}) > MOST:
        raise ValueError(f"its aliases repeat more than {MOST} values")


def _values(node: Any, known: dict[int, int]) -> int:
    """Return how many values a node stands for, each node of the file being counted once."""
    if id(node) not in known:
        known[id(node)] = MOST + 1  # what holds an alias of itself
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        known[id(node)] = 1 + sum(_values(each, known) for child in children for each in (child if pairs else (child,)))
    return known[id(node)]
