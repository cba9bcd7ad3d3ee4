"""A device's part of a federation: its own images, or its partition of a data set that the settings name."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from datasets.build import build_federation
from datasets.devices import NAME as DEVICES
from datasets.devices import classes_found, own_federation
from datasets.federation import Federation
from datasets.source import Part
from fedsim.config.settings import Settings, settings_on_nodes
from fedsim.core.errors import UserError
from fedsim.deployment.devices.node import NodeConfig, confined

CLASSES = "dataset.classes="


def federation_of(settings: Settings, node: NodeConfig) -> Federation:
    """Return the federation as ``node`` sees it.

    Raises:
        UserError: If the node does not follow the settings, or images are missing or cannot be read.
    """
    settings = confined(settings, node)
    return own_federation(settings, node) if settings.dataset["name"] == DEVICES else build_federation(settings)


def images_in_words(node: NodeConfig, words: Sequence[str]) -> str:
    """Read all images of ``node`` as a run of these ``words`` would, and return their numbers per class, in words.

    Without ``dataset=`` the data set is ``devices``, and without ``dataset.classes=`` its classes are those found.

    Raises:
        UserError: As ``federation_of``, and if there are no images to train or to test on.
    """
    words = [*([] if any(word.startswith("dataset=") for word in words) else [f"dataset={DEVICES}"]), *words]
    settings = settings_on_nodes(words)
    own = settings.dataset["name"] == DEVICES
    if own and node.data_dir is not None and not any(word.startswith(CLASSES) for word in words):
        settings = replace(settings, dataset={**settings.dataset, "classes": classes_found(node.data_dir)})
    federation = federation_of(settings, node)
    if node.partition not in federation.clients:
        raise UserError(
            f"partition-id={node.partition} is no client of this federation: choose 0 to {len(federation.clients) - 1}."
        )
    names = federation.source.class_names
    told = []
    for part, what in ((Part.TRAIN, "to train on"), (Part.TEST, "to test on")):
        counts = Counter(federation.examples_of(node.partition, part).labels.tolist())
        if not counts:
            raise UserError(f"there are no images {what} for client {node.partition}: it needs both.")
        each = ", ".join(f"{name}: {counts[label]}" for label, name in enumerate(names))
        told.append(f"{counts.total()} {what} ({each})")
    where = f"{node.data_dir}: " if node.data_dir is not None and (own or settings.data_dir is None) else ""
    return f"{where}{'; '.join(told)}"
