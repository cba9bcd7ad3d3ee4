"""Any file, with any harm: the same numbers, or one sentence that names it; nothing is run, inflated or changed."""

import contextlib
import io
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

import fedsim
from datasets.build import build_federation
from fedsim.app.cli import _jobs, _parse
from fedsim.app.sweep import Sweep
from fedsim.config.composition import compose
from fedsim.config.settings import settings_of
from fedsim.core.errors import UserError
from fedsim.deployment.devices.authority import Authority
from fedsim.deployment.devices.readiness import findings
from fedsim.deployment.devices.state import StateDir
from fedsim.messages.arrays import to_tensors
from fedsim.methods.client_state import PERSONAL, TRAINED
from fedsim.models import CNNSmall
from fedsim.models.pretrained import Pretrained
from fedsim.output.progress import Reporter
from fedsim.report.command import main as report
from fedsim.server.preparation import prepare
from fedsim.server.simulation import run
from fedsim.tune import main as tune
from tests import harms
from tests.conftest import small_settings
from tests.test_any_configuration import one_sentence
from tests.whole_files import know_sums, write_images, write_runs

resource = pytest.importorskip("resource")

CHECKPOINT = "run/checkpoints/round_00001.safetensors"
ROOM = 3 << 30
"""Bytes of addresses that an action may take beside what the process has: less than a bomb."""
STATE, DEVICE = "state/run-1/partition-3.safetensors", "devices/one/device.env"
TABLES = ("clients.csv", "rounds.csv", "classes.csv", "federation.csv")
Action = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """An action, and the files of a folder that it may be given harmed."""

    name: str
    action: Action
    files: tuple[str, ...]
    unread: frozenset[str] = frozenset()
    """Files that do not matter to it: it has the numbers of the undamaged ones"""
    certain: frozenset[str] = frozenset()
    """Files with a checksum: they are refused, or it has the numbers of the undamaged ones"""
    writes: bool = False
    """Whether it changes the folder where it succeeds"""
    slow: bool = False
    """Whether it is for the night alone"""


def of_run(*names: str) -> tuple[str, ...]:
    return tuple(f"run/{name}" for name in names)


def said(command: Callable[[list[str]], int], words: list[str]) -> str:
    """What a command prints; a refusal is raised as it was printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = command(words)
    if status:
        assert status == UserError.exit_status, err.getvalue()
        assert out.getvalue() == ""
        assert err.getvalue().startswith("error: ")
        raise UserError(err.getvalue().removeprefix("error: ").removesuffix("\n"))
    return out.getvalue()


def resume(root: Path) -> object:
    run(prepare(settings_of({"resume": str(root / "run")})), root / "run", Reporter())
    return [(root / "run" / name).read_bytes() for name in ("clients.csv", "classes.csv", "model.safetensors")]


def predict(root: Path) -> object:
    trained = fedsim.load(root / "run")
    images = np.zeros((2, *trained._models.image_shape[1:], trained._models.image_shape[0]), np.uint8)
    return [trained.predict(images, client).tobytes() for client in (None, 0)]


def repeat(root: Path) -> object:
    settings_of(compose([], root / "run", "config"), [])
    return None


def compare(root: Path) -> str:
    return said(report, ["--compare", str(root / "run"), str(root / "other")]).replace(str(root), "")


def table(root: Path, by: str = "domain") -> str:
    return said(report, [str(root / "run"), "--csv", "--by", by]).replace(str(root), "")


def page(root: Path) -> str:
    with tempfile.TemporaryDirectory() as out:
        return said(report, [str(root / "run"), "--out", out]).replace(out, "")


def tuned(root: Path) -> str:
    with tempfile.TemporaryDirectory() as out:
        return said(tune, [str(root / "run"), "--out", out]).replace(out, "")


def go_on(root: Path) -> object:
    """What resuming a sweep does before its first job."""
    going_on = Sweep.named_by([f"resume={root / 'sweep'}"])
    if going_on is None:
        raise UserError(f"{root / 'sweep'} is no sweep.")
    folder, sweep = going_on
    options, _ = _parse(["-m"])
    options.configuration = sweep.configuration
    jobs = list(_jobs(sweep.words_in(folder), options))
    return [settings_of(compose(words, *sweep.configuration), words).lr for words in jobs]


def images(root: Path, name: str) -> object:
    source = build_federation(small_settings(f"data_dir={root / name}", *DATA[name][0], small=False)).source
    arrays = (source.images, source.labels, source.domains, source.parts)
    return [blake2b(np.ascontiguousarray(array).tobytes()).hexdigest() for array in arrays]


def pretrained(root: Path, name: str) -> object:
    model = CNNSmall(10)
    Pretrained.read("model.pretrained", str(root / name)).load(model)
    return None


def state(root: Path) -> object:
    kept = StateDir(root / "state", 1, "s").load(3)
    return kept[TRAINED], to_tensors(kept.array_records[PERSONAL])["bn"].tolist()


def keys(root: Path) -> object:
    authority = Authority.open(root / "federation")
    return [authority.root.serial_number, authority.superlink, [device.partition for device in authority.devices]]


def renewed(root: Path) -> object:
    Authority.open(root / "federation").renew()
    return None


def ready(root: Path) -> object:
    """The first two findings: a damaged file is one of them, or a refusal."""
    found = findings(root / "federation" / "devices" / "one", [])
    for each in (next(found), next(found)):
        if not each.good:
            raise UserError(each.text)
    return None


RUN = of_run("config.yaml", "provenance.json", *TABLES, "summary.json", "model.safetensors", "clients/0.safetensors")
MODELS = frozenset(of_run("model.safetensors", "clients/0.safetensors"))
UNREPORTED = MODELS | {CHECKPOINT, "run/provenance.json"}
DIGITS = ("dataset=digits5", "dataset.share=1")
DATA: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mnist": ((*DIGITS, "dataset.domains=[mnist]"), ("train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte")),
    "svhn": ((*DIGITS, "dataset.domains=[svhn]"), ("train_32x32.mat",)),
    "usps": ((*DIGITS, "dataset.domains=[usps]"), ("usps.bz2",)),
    "archive": (
        (*DIGITS, "dataset.domains=[synth_digits]"),
        ("SynthDigits/partitions/train_part1.pkl", "SynthDigits/test.pkl"),
    ),
    "npz": ((*DIGITS, "dataset.domains=[own]"), ("own.npz",)),
    "cifar": (("dataset=cifar10",), ("cifar-10-batches-py/data_batch_2", "cifar-10-batches-py/batches.meta")),
    "office": (
        ("dataset=office_caltech10", "dataset.image_size=8"),
        ("amazon_train.pkl", "dslr_test.pkl", "amazon/bike/000.png"),
    ),
    "folders": (("dataset=imagefolder", "dataset.image_size=8"), ("b/x/001.png",)),
    "parquet": (("dataset=femnist",), ("train.parquet",)),
}
"""By folder the words with which its images are read, and some of its files."""
CASES = (
    Case(
        *("resume", resume, (*RUN, CHECKPOINT, CHECKPOINT)),
        unread=MODELS | {"run/summary.json", "run/federation.csv"},
        certain=frozenset({CHECKPOINT}),
        writes=True,
    ),
    Case("table", table, RUN, unread=UNREPORTED),
    Case("table of classes", partial(table, by="class"), RUN, unread=UNREPORTED),
    Case("compare", compare, RUN, unread=UNREPORTED - {"run/provenance.json"}),
    Case("load", predict, RUN, unread=frozenset({CHECKPOINT, *of_run(*TABLES, "summary.json")})),
    Case("repeat", repeat, of_run("config.yaml")),
    Case("sweep", go_on, ("sweep/sweep.json",)),
    *(
        Case(f"images of {name}", partial(images, name=name), tuple(f"{name}/{file}" for file in files))
        for name, (_, files) in DATA.items()
    ),
    *(Case(f"pretrained {name}", partial(pretrained, name=name), (name,)) for name in ("w.safetensors", "w.pt")),
    Case("state", state, (STATE,), certain=frozenset({STATE})),
    Case("keys", keys, tuple(f"federation/{name}" for name in ("ca.crt", "server.pem", "server.env", DEVICE))),
    Case("renew", renewed, tuple(f"federation/{name}" for name in ("ca.key", "server.key")), writes=True),
    Case("ready", ready, tuple(f"federation/devices/one/{name}" for name in ("key", "ca.crt", "device.env"))),
    Case("tune", tuned, RUN, unread=UNREPORTED, slow=True),
    Case("page", page, RUN, unread=UNREPORTED - {"run/provenance.json"}, slow=True),
)
EXAMPLES = [(case, file) for case in CASES for file in case.files]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a tiny, undamaged one of everything that is read."""
    root = tmp_path_factory.mktemp("whole")
    write_runs(root)
    write_images(root)
    with pytest.MonkeyPatch.context() as patch:
        know_sums(root, patch)
        yield root


@contextmanager
def little_memory() -> Iterator[None]:
    """Let the process have only so much more memory that a bomb does not fit."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def unopened(pipe: Path) -> Iterator[None]:
    """Fail if somebody opens the pipe, which otherwise would wait for ever: here it is then closed at once."""
    opened = pipe.with_name(f"{pipe.name}.opened")
    waiting = subprocess.Popen(["sh", "-c", 'exec 3>"$0"; : >"$1"', str(pipe), str(opened)])
    try:
        yield
        assert not opened.exists(), f"{pipe} was opened"
    finally:
        waiting.kill()
        waiting.wait()


def content(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def inflated(error: BaseException) -> bool:
    return any(isinstance(each, MemoryError) or "alloc" in str(each) for each in causes(error))


@cache
def undamaged(case: Case, whole: Path) -> object:
    with tempfile.TemporaryDirectory() as folder:
        return case.action(Path(shutil.copytree(whole, Path(folder, "all"))))


def check(whole: Path, case: Case, name: str, harm: str, other: str, seed: int) -> str:
    """Harm a file of a copy, and act on it; return how that ended."""
    expected = undamaged(case, whole)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "all")
        top = name.partition("/")[0]
        root.mkdir()
        for each in (top, *(("other",) if case.name == "compare" else ())):
            copy = shutil.copytree if (whole / each).is_dir() else shutil.copy
            copy(whole / each, root / each)
        file = root / name
        if harm == PIPE:
            file.unlink()
            os.mkfifo(file)
        elif harm == SWAPPED:
            shutil.copy(whole / other, file)
        else:
            getattr(harms, harm)(file, random.Random(seed))
        mark, before, around = harms.mark_of(file), content(root), sorted(Path(folder).iterdir())
        numbers, refused = None, None
        try:
            with little_memory(), unopened(file) if harm == PIPE else contextlib.nullcontext():
                numbers = case.action(root)
        except UserError as error:
            refused = error
        assert not mark.exists()
        assert sorted(Path(folder).iterdir()) == around
        if refused is not None:
            assert not inflated(refused), refused
            assert one_sentence(refused), refused
            named = [each for each in (file, *file.parents) if root in each.parents]
            # A valid file of settings of which one is wrong: the sentence names that.
            wrong_setting = name in SETTINGS and harm in ("other_values", "flipped", "inserted", "truncated", SWAPPED)
            assert wrong_setting or any(str(each) in str(refused) for each in named), refused
            assert content(root) == before
            in_the_way = case.writes and harm == "folder"  # the run would write a file there
            assert name not in case.unread or in_the_way, refused
            return "refused"
        if name in case.unread | case.certain:
            assert numbers == expected
        assert case.writes or content(root) == before
        return "the same" if numbers == expected else "other numbers"


SETTINGS = ("run/config.yaml", "sweep/sweep.json")
PIPE, SWAPPED = "pipe", "swapped"
HARMED = sorted({file for _, file in EXAMPLES})


@st.composite
def examples(draw: st.DrawFn, *, slow: bool) -> tuple[Case, str, str, str, int]:
    """A case with one of its files, a harm to that file, a file of another kind, and a seed for the harm."""
    case = draw(st.sampled_from([case for case in CASES if slow or not case.slow]))
    file = draw(st.sampled_from(case.files))
    harm = draw(st.sampled_from([PIPE, SWAPPED, *(each.__name__ for each in harms.harms_of(file))]))
    other = draw(st.sampled_from([each for each in HARMED if each != file]))
    return case, file, harm, other, draw(st.integers(0, 2**32))


COMMON: dict[str, Any] = {"deadline": None, "database": None, "phases": [Phase.generate]}


@settings(max_examples=20, derandomize=True, suppress_health_check=[*HealthCheck], **COMMON)
@given(drawn=examples(slow=False))
def test_some_harmed_files_are_refused_or_do_not_matter(whole: Path, drawn: tuple[Case, str, str, str, int]) -> None:
    event(f"{drawn[0].name}: {check(whole, *drawn)}")


@pytest.mark.nightly
@settings(max_examples=300, suppress_health_check=[*HealthCheck], **COMMON)
@given(drawn=examples(slow=True))
def test_any_harmed_file_is_refused_or_does_not_matter(whole: Path, drawn: tuple[Case, str, str, str, int]) -> None:
    event(f"{drawn[0].name}: {check(whole, *drawn)}")
