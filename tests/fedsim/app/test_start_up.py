"""Answers that need no training come before torch and Flower are imported, which takes seconds, and before rich."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PROGRAM = """
import atexit, sys
sys.argv = ["run.py", *{words}]
late = {{"torch", "flwr", "pandas", "rich"}}
atexit.register(lambda: print("imported:", *late & sys.modules.keys(), file=sys.stderr))
from fedsim.app.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["strategy=fedwonn"], 2, "error: strategy=fedwonn is not known: choose"),
        (["strategy=fedwon", "leraning_rate=1"], 2, "error: leraning_rate=1 is not a setting"),
        (["-m", "strategy=fedbn,fedwonn"], 2, "error: strategy=fedwonn is not known"),
        (["--helpp"], 2, "error: --helpp is not a flag"),
        (["--help"], 0, "strategy"),
        (["--cfg", "job"], 0, "rounds: "),
        (["strategy=list"], 0, "fedwon"),
        (["-sc", "query=bash"], 0, "strategy=fedbn"),
    ],
)
def test_neither_torch_nor_flower_is_imported(words: list[str], status: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(words=words)],
        cwd=ROOT,
        env={**os.environ, "COMP_LINE": "python run.py strategy=fedb", "COMP_POINT": "27"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
    assert done.stderr.endswith("imported:\n")
