"""``GROUP=list``: every choice with a line of its own, what methods exchange, and nothing loaded or started for it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.config.composition import GROUPS
from fedsim.config.listing import LIST, METHODS, Traffic, asked_for, described, listing, paper_name, read_traffic
from fedsim.config.reference import choices, default_of
from tests.conftest import ROOT

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
YEAR = re.compile(r"\b(19|20)\d\d\b")


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_has_a_line_that_says_what_it_is(group: str) -> None:
    lines = [line for line in listing(group).splitlines()[1:] if not line.split()[0].startswith("travels:")]
    assert [line.split()[0] for line in lines] == list(choices(group))
    assert all(len(line.split()) > 3 for line in lines)
    assert listing(group).startswith(f"{group}= ({default_of(group)} by default)\n")
    assert LIST not in choices(group)


def test_a_line_is_the_first_sentence_with_the_paper_and_its_year() -> None:
    told = dict(described(METHODS))
    assert (
        told["fedbn"] == "FedBN (Li et al., ICLR 2021, arXiv 2102.07623): every client keeps its own BatchNorm layers."
    )
    assert told["ditto"] == (
        "Ditto (Li et al., ICML 2021, arXiv 2012.04221): a model of its own is held near the shared one."
    )  # its server half only says that it is FedAvg's
    without_paper = {name for name, line in told.items() if not YEAR.search(line)}
    assert without_paper <= {"local", "pruned", "central", "flower/NAME"}
    assert not [line for line in told.values() if line.endswith("et al.")]


@pytest.mark.parametrize(("choice", "name"), [("scaffold", "SCAFFOLD"), ("fedbn", "FedBN"), ("local", "local")])
def test_a_method_has_the_name_of_its_paper(choice: str, name: str) -> None:
    assert paper_name(choice) == name


def test_what_travels_is_told_in_words() -> None:
    row = {
        "strategy": "x",
        "shared": "model",
        "down": "control; mu (config)",
        "up": "control",
        "sometimes": "squares",
        "once": "masks",
        "queries": "gradients",
        "stays": "BatchNorm2d; own model",
        "bytes_down": "2000000",
        "bytes_up": "1",
        "first_down": "5",
        "first_up": "0",
    }
    traffic = Traffic.read(row)
    assert traffic.travels == (
        "model; control both ways; mu (config) down; squares up in some rounds; masks down once; gradients asked before"
    )
    assert traffic.kept == "BatchNorm2d, own model"
    assert traffic.bytes_down == 2_000_000
    assert {name: str(value) for name, value in traffic.written().items()} == row
    nothing = Traffic.read({name: "0" if "bytes" in name or "first" in name else "" for name in row})
    assert (nothing.travels, nothing.kept) == ("nothing", "nothing")


def test_every_method_has_a_row_and_no_row_is_of_another_one() -> None:
    assert list(read_traffic()) == [choice for choice in choices(METHODS) if "/" not in choice]
    lines = listing(METHODS).splitlines()
    assert sum(line.split()[0] == "travels:" for line in lines) == len(read_traffic())
    after = lines[next(number for number, line in enumerate(lines) if line.startswith("  scaffold ")) + 1]
    assert after.split("travels: ")[1] == "model; control both ways. stays: control."


def test_the_words_that_ask_are_choices_of_groups() -> None:
    assert asked_for(["strategy=list", "rounds=3", "norm=list", "out_dir=list", "model=cnn6"]) == ["strategy", "norm"]


def test_the_command_prints_and_starts_nothing(run_py: CommandLine, tmp_path: Path) -> None:
    done = run_py("strategy=list", "norm=list")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout == f"{listing('strategy')}\n{listing('norm')}\n"
    assert list(tmp_path.iterdir()) == []


def test_neither_torch_nor_flower_is_loaded() -> None:
    code = "import sys; from fedsim.config.listing import listing; listing('strategy'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "flwr", "pandas", "matplotlib"} & set(done.stdout.split())
