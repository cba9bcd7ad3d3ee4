"""A run that is followed: what the server sends arrives byte for byte, or not at all."""

import base64
import io
import json
import os
import shutil
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from rich.console import Console
from rich.panel import Panel

from fedsim import simulate
from fedsim.app import cli
from fedsim.config.composition import compose, repeatable
from fedsim.core.errors import FedsimError, UserError
from fedsim.deployment.superlink.connection import SuperLink
from fedsim.deployment.superlink.events import LARGEST_FILE, MARK, PIECE, EventReporter, events_in
from fedsim.deployment.superlink.following import _play
from fedsim.deployment.superlink.receiving import check_receiving_dir
from fedsim.output.progress import Reporter
from fedsim.output.reporters import QuietReporter
from tests.conftest import SMALL

FINISHED = MARK + '{"event": "finished", "run_dir": "/srv/run", "left": []}'


class Heard(Reporter):
    """What a reporter is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def start(self, first_round: int, rounds: int) -> None:
        self.calls.append(("start", first_round, rounds))

    def cohort(self, round: int, clients: int) -> None:
        self.calls.append(("cohort", round, clients))

    def client_done(self) -> None:
        self.calls.append(("client_done",))

    def round_done(self, round: int, metrics: dict[str, Any]) -> None:
        self.calls.append(("round_done", round, metrics))

    def say(self, text: str) -> None:
        self.calls.append(("say", text))


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a real run, with a checkpoint, a hidden file and one of several pieces."""
    run_dir = tmp_path_factory.mktemp("server") / "run"
    simulate(*SMALL, "strategy=fedbn", "engine=inline", "checkpoint_every=1", "pictures=true", f"out_dir={run_dir}")
    assert (run_dir / "checkpoints").is_dir()
    (run_dir / "large.bin").write_bytes(os.urandom(3 * 1024 * 1024 + 17))
    (run_dir / "empty.bin").touch()
    (run_dir / ".clients.csv.new").write_text("what an earlier failure left")
    return run_dir


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def event(kind: str, **values: Any) -> str:
    return MARK + json.dumps({"event": kind, **values}) + "\n"


def file(name: str, data: bytes = b"data", size: int | None = None) -> list[str]:
    return [
        event("file", name=name, size=len(data) if size is None else size),
        event("piece", data=base64.b64encode(data).decode()),
    ]


def play(lines: list[str], run_dir: Path, reporter: Reporter | None = None) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    _play(events_in(lines), run_dir, reporter or Reporter(), "lab:8000")


def test_the_directory_of_a_real_run_arrives_byte_for_byte(sent: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    pauses: list[float] = []
    server = EventReporter(lambda text: lines.append(text + "\n"), pauses.append)
    server.finished(sent)
    play(lines, tmp_path / "run")
    expected = {
        name: data
        for name, data in contents(sent).items()
        if not name.startswith("checkpoints/") and name != ".clients.csv.new"
    }
    assert {"config.yaml", "clients.csv", "model.safetensors", "clients/0.safetensors", "plots/accuracy.png"} <= set(
        expected
    )
    assert contents(tmp_path / "run") == expected
    # Flower's log takes what it is given as fast as it comes, and loses what is not uploaded when the run ends.
    assert len(pauses) == sum(map(len, expected.values())) // 2**20
    assert max(map(len, lines)) < 2**17


def test_progress_arrives_in_order_with_the_lines_of_others_in_between(tmp_path: Path) -> None:
    heard = Heard()
    lines = ["Successfully started run 17\n"]
    server = EventReporter(lambda text: lines.extend([text + "\n", f"INFO : a line with {MARK}in it\n"]))
    server.start(1, 2)
    server.cohort(1, 2)
    server.client_done()
    server.round_done(1, {"client_accuracy_mean": 0.5, "train_loss": float("inf")})
    server.say("[bold] ä 🌼")
    server.warn("WARNING: [bold]")
    lines.append(FINISHED + "INFO: of another thread\n")
    play(lines, tmp_path, heard)
    assert heard.calls == [
        ("say", "run 17 on lab:8000"),
        ("start", 1, 2),
        ("cohort", 1, 2),
        ("client_done",),
        ("round_done", 1, {"client_accuracy_mean": 0.5, "train_loss": float("inf")}),
        ("say", "[bold] ä 🌼"),
        ("say", "WARNING: [bold]"),
    ]


def test_warnings_arrive_where_nothing_else_is_shown(tmp_path: Path) -> None:
    stream = io.StringIO()
    lines = ["Successfully started run 17\n"]
    server = EventReporter(lambda text: lines.append(text + "\n"))
    server.say("fedavg on digits")
    server.round_done(0, {"client_accuracy_mean": 0.5, "memory_mb": 100.0})
    server.warn("WARNING: client 3 failed")
    play([*lines, FINISHED], tmp_path, QuietReporter(Console(file=stream)))
    assert stream.getvalue() == "WARNING: client 3 failed\n"


def test_an_event_is_found_before_the_line_of_another_thread_but_not_inside_one() -> None:
    said = {"event": "say", "text": "a"}
    lines = [event("say", text="a").rstrip("\n") + "INFO: b\n", "INFO: " + event("say", text="c"), " " + FINISHED]
    assert list(events_in(lines)) == [said, "INFO: b", lines[1].rstrip("\n"), lines[2]]


def test_what_is_too_large_stays_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with (tmp_path / "server" / "model.safetensors").open("wb") as large:
        large.truncate(LARGEST_FILE + 1)
    lines: list[str] = []
    EventReporter(lambda text: lines.append(text + "\n")).finished(tmp_path / "server")
    heard = Heard()
    play(lines, tmp_path / "run", heard)
    assert not contents(tmp_path / "run")
    where = tmp_path / "server"
    told = f"model.safetensors is too large to come along, or was not there to be read: look for it in {where} on the"
    assert heard.calls == [("say", f"{told} server")]


@pytest.mark.parametrize("change", ["grows", "shrinks", "vanishes"])
def test_a_file_that_changes_while_it_is_sent_loses_no_run(change: str, tmp_path: Path) -> None:
    server = tmp_path / "server"
    server.mkdir()
    for name in ("a.log", "b.csv"):
        (server / name).write_bytes(b"1234" * PIECE)
    lines: list[str] = []

    def write(text: str) -> None:
        lines.append(text + "\n")
        if change == "grows" and len(lines) < 5:
            for name in ("a.log", "b.csv"):
                with (server / name).open("ab") as log:
                    log.write(b"more")
        elif change == "shrinks":
            (server / "a.log").write_bytes(b"")
        elif change == "vanishes":
            (server / "b.csv").unlink(missing_ok=True)

    EventReporter(write, lambda seconds: None).finished(server)
    heard = Heard()
    play(lines, tmp_path / "run", heard)
    arrived = contents(tmp_path / "run")
    assert arrived["a.log"] == b"1234" * PIECE
    assert ("b.csv" in arrived) == (change != "vanishes")
    assert [call[1].split()[0] for call in heard.calls] == (["b.csv"] if change == "vanishes" else [])


def test_a_run_without_a_last_word_ends_with_flowers_last_lines(tmp_path: Path) -> None:
    lines = [f"line {number}\n\n" for number in range(30)]
    with pytest.raises(FedsimError) as ended:
        play([*lines, *file("clients.csv"), "Error: the SuperLink is gone\n"], tmp_path)
    told = "; ".join([*(f"line {number}" for number in range(11, 30)), "Error: the SuperLink is gone"])
    assert str(ended.value) == f"the run on lab:8000 ended without a result: {told}"
    assert ended.value.exit_status == 1
    assert not list(tmp_path.iterdir())


def test_the_frames_around_flowers_errors_are_left_out(tmp_path: Path) -> None:
    stream = io.StringIO()
    sentence = "Connection to the SuperLink is unavailable. Please check the address of the SuperLink in the file."
    Console(file=stream, width=60).print(Panel(sentence, title="Error", title_align="left"))
    assert "─" in stream.getvalue()
    with pytest.raises(FedsimError) as ended:
        play(["Using SuperLink: lab\n", *stream.getvalue().splitlines(keepends=True), "Bye\n"], tmp_path)
    told = f"Using SuperLink: lab; Error: {sentence}; Bye"
    assert str(ended.value) == f"the run on lab:8000 ended without a result: {told}"


@pytest.mark.parametrize(("status", "kind"), [(1, FedsimError), (2, UserError)])
def test_what_the_server_says_of_a_failure_is_the_sentence(
    status: int, kind: type[FedsimError], tmp_path: Path
) -> None:
    lines: list[str] = []
    EventReporter(lambda text: lines.append(text + "\n")).failed("lr=0 is not possible: choose more.", status)
    with pytest.raises(FedsimError, match=r"^lr=0 is not possible: choose more\.$") as failed:
        play(lines, tmp_path)
    assert type(failed.value) is kind


def test_only_an_empty_directory_is_filled_from_elsewhere(tmp_path: Path) -> None:
    check_receiving_dir(tmp_path / "new")
    (tmp_path / "new" / ".hydra").mkdir()  # no name that a server may choose
    check_receiving_dir(tmp_path / "new")
    (tmp_path / "new" / "notes.txt").touch()
    with pytest.raises(UserError, match=r"out_dir=.*/new already holds notes.txt, and engine=superlink fills"):
        check_receiving_dir(tmp_path / "new")
    (tmp_path / "new" / "clients.csv").touch()
    with pytest.raises(UserError, match=r"out_dir=.*/new already holds clients.csv, which a run would take for its"):
        check_receiving_dir(tmp_path / "new")


def test_the_path_of_a_certificate_reaches_flower_whatever_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / 'a "b" \\ ä 🌼.crt'
    path.touch()
    link = SuperLink("lab:8000", str(path))
    assert tomllib.loads(link.toml()) == {
        "superlink": {"superlink": {"address": "lab:8000", "root-certificates": str(path)}}
    }


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Callable[[], dict[str, Any]]]:
    """Puts a command ``flwr`` in place that sends a directory; returns a look at what that was given."""

    def send(run_dir: Path) -> Callable[[], dict[str, Any]]:
        bin, told, log = tmp_path / "bin", tmp_path / "told.json", tmp_path / "log.txt"
        bin.mkdir()
        with log.open("w", encoding="utf-8") as file:
            print("🎊 Successfully started run 17", file=file)
            EventReporter(partial(print, file=file), lambda seconds: None).finished(run_dir)
        (bin / "flwr").write_text(
            f"#!{sys.executable}\n"
            "import json, os, sys\n"
            "from pathlib import Path\n"
            "config = Path(sys.argv[-1]).read_text(encoding='utf-8')\n"
            "told = {'words': sys.argv[1:], 'config': config, 'unbuffered': os.environ['PYTHONUNBUFFERED']}\n"
            f"Path({str(told)!r}).write_text(json.dumps(told))\n"
            f"print(Path({str(log)!r}).read_text(encoding='utf-8'), end='')\n"
        )
        (bin / "flwr").chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(bin / "python"))  # beside which Flower's command is looked for
        return lambda: dict(json.loads(told.read_text()))

    return send


def test_a_notebook_follows_a_run_too(
    stand_in: Callable[[Path], Callable[[], dict[str, Any]]],
    sent: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told_to_flower = stand_in(sent)
    connection = ["engine=superlink", "engine.address=lab:8000", "engine.insecure=true"]
    result = simulate(*connection, "strategy=fedbn", "rounds=2", "device=cpu", f"out_dir={tmp_path / 'run'}")
    assert result.run_dir == tmp_path / "run"
    assert len(result.clients) == 3 * 6
    assert (tmp_path / "run" / "clients.csv").read_bytes() == (sent / "clients.csv").read_bytes()
    told = told_to_flower()
    assert tomllib.loads(told["config"]) == {
        "overrides": "strategy=fedbn rounds=2 device=cpu",
        "followed": True,
    }
    assert told["unbuffered"] == "1"
    assert capsys.readouterr().out.startswith("run 17 on lab:8000\n")
    with pytest.raises(UserError, match="already holds a run"):
        simulate(*connection, f"out_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=r"^engine=superlink cannot be given with resume="):
        simulate(*connection, f"resume={tmp_path / 'run'}")


def test_a_strategy_that_cannot_be_is_refused_before_anything_is_sent(
    stand_in: Callable[[Path], object], sent: Path, tmp_path: Path
) -> None:
    stand_in(sent)
    connection = ["engine=superlink", "engine.address=a:1", "engine.insecure=true", f"out_dir={tmp_path / 'run'}"]
    with pytest.raises(UserError, match=r"^strategy\.clip=1 is not an option of fedavg: leave it out\.$"):
        simulate(*connection, "+strategy.clip=1")
    with pytest.raises(UserError, match=r"^strategy\.server=strategies\.Nothing cannot be imported"):
        simulate(*connection, "strategy.server=strategies.Nothing")
    assert not (tmp_path / "told.json").exists()
    assert not (tmp_path / "run").exists()


def test_what_is_no_run_is_said_so(stand_in: Callable[[Path], object], sent: Path, tmp_path: Path) -> None:
    shutil.copytree(sent, tmp_path / "server")
    (tmp_path / "server" / "summary.json").unlink()
    stand_in(tmp_path / "server")
    with pytest.raises(FedsimError, match=r"what the server sent is no run: .*summary.json"):
        simulate("engine=superlink", "engine.address=a:1", "engine.insecure=true", f"out_dir={tmp_path / 'run'}")


def test_without_flowers_command_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FedsimError, match=r"Flower's command flwr cannot be started \(No such file or directory\)"):
        simulate("engine=superlink", "engine.address=a:1", "engine.insecure=true", f"out_dir={tmp_path / 'run'}")


@pytest.mark.parametrize("flag", ["--config-name=other", "--config-path=elsewhere"])
def test_a_configuration_of_ones_own_is_not_sent_and_refused(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a file here says would be checked here and unknown there."""
    where = tmp_path / "elsewhere"
    where.mkdir()
    OmegaConf.save(repeatable(compose([])), where / "config.yaml")
    monkeypatch.chdir(tmp_path)
    if flag.startswith("--config-name"):
        monkeypatch.setattr(cli, "CONFIG_DIR", where)
        (where / "config.yaml").rename(where / "other.yaml")
    words = ["engine.name=superlink", "engine._target_=fedsim.deployment.superlink.SuperLink", "++engine.address=a:1"]
    monkeypatch.setattr(sys, "argv", ["run.py", flag, *words, "out_dir=new"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        f"error: {flag} is not possible with engine=superlink: write its settings"
    )
    assert not (tmp_path / "new").exists()
