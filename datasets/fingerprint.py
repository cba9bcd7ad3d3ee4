"""A fingerprint of a federation, a few bytes for each client, to check whether a resumed run still has the same data.

It is computed from the decoded images in their order, their labels, and their clients; not from paths or times of
files, so that a run may be resumed where the same images are in another folder. Each image is represented by its
CRC-32, which takes one read at a gigabyte a second and detects any accidental change; a client's digest is over those
of its images.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from datasets.federation import Federation
from datasets.source import Indices, Part

PARTS = (Part.TRAIN, Part.VALIDATION, Part.TEST)
NAMED = 3
"""How many clients a sentence names one by one."""


@dataclass(frozen=True)
class Holding:
    """The data of one client: its domain, the numbers of training, validation and test images, and a digest of them."""

    domain: str
    images: tuple[int, int, int]
    digest: str | None
    """``None`` where the images are on a device"""

    def difference(self, now: "Holding") -> str:
        """Return the difference between this and ``now`` as the end of a sentence about the client."""
        if self.domain != now.domain:
            return f"of {now.domain} instead of {self.domain}"
        for part, before, after in zip(("training", "validation", "test"), self.images, now.images, strict=True):
            if before != after:
                return f"of {self.domain}, {after} {part} images instead of {before}"
        return f"of {self.domain}, other images or labels"


@dataclass(frozen=True)
class Fingerprint:
    """The fingerprint of a federation."""

    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    tests: Mapping[str, str | None]
    """A digest of the test images of each domain, also of those that were left out"""
    clients: tuple[Holding, ...]

    @classmethod
    def of(cls, federation: Federation) -> Self:
        """Compute the fingerprint: read every image of a client or of a domain's test set.

        Images on devices are not read; only their numbers count.
        """
        source = federation.source
        counts = [tuple(federation.num_images(client, part) for part in PARTS) for client in federation.clients]
        domains = [federation.domain_of(client) for client in federation.clients]
        held = {**federation.domain_tests, **federation.unseen_tests}
        digests: list[str | None] = [None] * len(counts)
        tests: dict[str, str | None] = dict.fromkeys(held)
        if not federation.on_devices:
            digest_of = _digest_function(federation, held.values())
            tests = {domain: digest_of(indices) for domain, indices in held.items()}
            by_part = [federation.each(part, digest_of) for part in PARTS]
            digests = [
                _digest([repr(noise), *client])
                for noise, *client in zip(federation.partitions.noise, *by_part, strict=True)
            ]
        holdings = [Holding(*each) for each in zip(domains, counts, digests, strict=True)]  # type: ignore[arg-type]
        return cls(source.class_names, source.image_shape, tests, tuple(holdings))

    def to_json(self) -> dict[str, Any]:
        return {
            "classes": self.classes,
            "image_shape": self.image_shape,
            "tests": self.tests,
            "clients": [[each.domain, *each.images, each.digest] for each in self.clients],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read the form that ``to_json`` returns.

        Raises:
            KeyError: If an entry is missing.
            TypeError: If an entry is of another type.
            ValueError: If a client has another number of entries.
        """
        clients = [
            Holding(domain, (train, validation, test), digest)
            for domain, train, validation, test, digest in value["clients"]
        ]
        classes, shape = tuple(value["classes"]), tuple(value["image_shape"])
        if not classes or not clients:
            raise ValueError("it has no class or no client")
        if not all(isinstance(name, str) for name in classes):
            raise TypeError("a class has no text for a name")
        if len(shape) != 3 or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"images of {_size(shape)} are not possible")
        for holding in clients:
            if not isinstance(holding.domain, str) or not all(isinstance(count, int) for count in holding.images):
                raise TypeError("a client has no domain or no numbers of images")
        return cls(classes, shape, dict(value["tests"]), tuple(clients))

    def differences(self, now: "Fingerprint") -> list[str]:
        """Return the differences between this and ``now`` as parts of a sentence; empty if there are none."""
        found = []
        if self.classes != now.classes:
            before, after = len(self.classes), len(now.classes)
            found.append(f"{after} classes instead of {before}" if before != after else "the classes have other names")
        if self.image_shape != now.image_shape:
            found.append(f"images of {_size(now.image_shape)} instead of {_size(self.image_shape)}")
        if len(self.clients) != len(now.clients):
            found.append(f"{len(now.clients)} clients instead of {len(self.clients)}")
        pairs = enumerate(zip(self.clients, now.clients, strict=False))
        changed = [f"client {client} is {was.difference(has)}" for client, (was, has) in pairs if was != has]
        found += changed[:NAMED]
        if len(changed) > NAMED:
            found.append(f"and so on for {len(changed)} clients")
        tests = [domain for domain in {**self.tests, **now.tests} if self.tests.get(domain) != now.tests.get(domain)]
        if tests and not changed:
            found.append(f"other test images of {', '.join(tests)}")
        return found


def _digest_function(federation: Federation, tests: Iterable[Indices]) -> Callable[[Indices], str]:
    """Return a function that computes a digest, 16 hexadecimal digits, of the images and labels at some indices.

    It may be called with those of ``tests`` and of the clients.
    """
    source, partitions = federation.source, federation.partitions
    mask = np.zeros(len(source.labels), bool)
    for indices in (*tests, *(lists.indices for lists in (partitions.train, partitions.validation, partitions.test))):
        mask[indices] = True
    sums, images = np.zeros(len(mask), np.uint32), np.asarray(source.images)  # a memory map's own views take longer
    for place in np.flatnonzero(mask):  # in the order of the memory-mapped file, if it is one
        sums[place] = zlib.crc32(images[place])
    return lambda indices: _digest([sums[indices], source.labels[indices]])


def _digest(parts: Sequence[str | npt.NDArray[Any]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        content = part.encode() if isinstance(part, str) else part.tobytes()
        digest.update(f"{len(content)} ".encode() + content)
    return digest.hexdigest()


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
