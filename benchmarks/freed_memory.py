"""What a training step costs when freed memory goes back to the system, and when it is kept, in turn.

    python benchmarks/freed_memory.py --network CNN6 --repeat 4

Each is a process of its own: processor milliseconds of a step (batch 32, 28x28x3, SGD, one thread), page faults, and
the peak of memory. ``fedsim/core/freed_memory.py`` says what is done.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import torch
from torch.nn import functional as F

from fedsim import models
from fedsim.core.freed_memory import keep_freed_memory

WARM_UP = 5


def measure(network: str, steps: int) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = getattr(models, network)(num_classes=10, image_shape=(3, 28, 28)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.randn(32, 3, 28, 28), torch.randint(10, (32,))
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            before, started = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    seconds, after = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "step_ms": 1000 * seconds / steps,
        "page_faults": (after.ru_minflt - before.ru_minflt) / steps,
        "peak_mb": after.ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="CNN6")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--child", choices=("returned", "kept"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        if options.child == "kept" and not keep_freed_memory():
            sys.exit("freed memory cannot be kept here")
        print(json.dumps(measure(options.network, options.steps)))
        return
    rows = []
    for repetition in range(options.repeat):
        for way in ("returned", "kept")[:: -1 if repetition % 2 else 1]:
            words = [sys.executable, __file__, "--network", options.network, "--steps", str(options.steps)]
            done = subprocess.run([*words, "--child", way], stdout=subprocess.PIPE, text=True, check=True)
            rows.append(
                {"network": options.network, "repetition": repetition, "memory": way, **json.loads(done.stdout)}
            )
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    steps = table.pivot(index="repetition", columns="memory", values="step_ms")
    print(table.groupby("memory")[["step_ms", "page_faults", "peak_mb"]].median().round(1).to_string())
    print("kept, as a share of returned, by repetition:", (steps["kept"] / steps["returned"]).round(2).tolist())


if __name__ == "__main__":
    main()
