"""Runs one contestant in this process: ``python -m benchmarks.contestants.run TASK``, as ``compare.py`` does."""

import sys
from importlib import import_module

from benchmarks.contestants import CONTESTANTS
from benchmarks.contestants.cases import Task
from benchmarks.contestants.record import Record


def main() -> None:
    task = Task.of(sys.argv[1])
    module = CONTESTANTS[task.contestant].module
    import_module(f"benchmarks.contestants.{module}").main(task, Record(task.rounds))


if __name__ == "__main__":
    main()
