"""Seconds and memory of every split: ``python benchmarks/splits.py [images] [clients]``.

Two million images over 100,000 clients by default. The pixels are one byte each, so that what is measured is the split.
The peak is that of the whole process, which holds the labels and the partitions; each split runs in a process of its
own.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES, CLIENTS, CLASSES = 2_000_000, 100_000, 100
SPLITS = (
    "iid",
    "dirichlet split.alpha=10 split.min_size=0 split.drop_empty=true",
    "dirichlet split.alpha=0.1 split.min_size=0 split.drop_empty=true",
    "dirichlet split.balance=true split.min_size=0 split.drop_empty=true",
    "inner_dirichlet",
    "pathological",
    "shards",
    "[quantity,iid] split.sizes=power_law split.size_exponent=0.3",
    "[longtail,dirichlet] split.min_size=0 split.drop_empty=true",
    "naturalid split.num_clients=null",
    "iid split.test=matched",
    "iid split.validation=0.2",
)


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    clients = int(sys.argv[2]) if len(sys.argv) > 2 else CLIENTS
    print(f"{images} images of {CLASSES} classes, {clients} clients")
    for split in SPLITS:
        command = [sys.executable, __file__, "--one", str(images), str(clients), split]
        subprocess.run(command, check=True, cwd=ROOT)


def measure(images: int, clients: int, split: str) -> None:
    sys.path.insert(0, str(ROOT))
    import numpy as np

    from datasets.source import Part, Source
    from datasets.splits.build import build_split
    from fedsim.config.composition import compose

    rng = np.random.default_rng(0)
    source = Source(
        images=np.zeros((images, 1, 1, 1), np.uint8),
        labels=rng.integers(CLASSES, size=images),
        domains=np.zeros(images, np.int64),
        parts=np.where(np.arange(images) % 10 == 0, Part.TEST, Part.TRAIN).astype(np.uint8),
        domain_names=("one",),
        class_names=tuple(map(str, range(CLASSES))),
        writers=rng.integers(clients, size=images),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    words = [f"split.num_clients={clients}", *f"split={split}".split()]
    started = time.perf_counter()
    federation = build_split(source, compose(words)["split"], seed=0)
    seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    print(f"{split:70} {len(federation.clients):7} clients {seconds:6.1f} s  {grown:6.0f} MB more", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main()
