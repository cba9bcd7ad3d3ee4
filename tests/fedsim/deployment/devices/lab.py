"""Flower's SuperLink and SuperNodes as processes of their own on 127.0.0.1, with TLS and authentication."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from fedsim.deployment.devices.authority import Authority

BIN = Path(sys.executable).parent
HOST = "127.0.0.1"
PATIENCE = 90.0
"""Seconds to wait for what takes a few: other processes may be busy on the same cores."""

REFUSED = 1
"""Exit status of a SuperNode that could not join."""
SHUT_OUT = {0, -signal.SIGINT}
"""Exit status of a SuperNode that is told to go: Flower interrupts it once from each thread that was told."""

Completed = subprocess.CompletedProcess[str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], bool], what: Callable[[], str], timeout: float = PATIENCE) -> None:
    """Polls ``condition``; says ``what`` if it does not come true."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"after {timeout:.0f} s: {what()}"
        time.sleep(0.1)


class Process:
    """A process whose output goes to a file."""

    def __init__(self, command: list[str], log: Path, home: Path, cwd: Path) -> None:
        self.command, self.log, self.home = command, log, home
        home.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd, env=environment(home)
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None as long as it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """Waits until the output has ``pattern``, which may still be so of a process that has ended."""
        found: list[re.Match[str]] = []

        def matches() -> bool:
            ended = self.exit_status is not None  # asked before its last words are read
            found.extend(re.finditer(pattern, self.output))
            assert found or not ended, f"ended with {self.exit_status} before {pattern!r}:\n{self.output}"
            return bool(found)

        wait_until(matches, lambda: f"no {pattern!r} in the output of {self.command}:\n{self.output}", timeout)
        return found[0]

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit status, once it has ended by itself."""
        wait_until(lambda: self.exit_status is not None, lambda: f"{self.command} runs:\n{self.output}", timeout)
        return int(self._process.returncode)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 30) -> int:
        """Sends a signal, by default what `kill` sends, and waits; what does not end is killed."""
        if self.exit_status is None:
            self._process.send_signal(number)
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return int(self._process.returncode)

    def kill(self) -> None:
        """Without a word to anybody, like a power cut."""
        self.stop(signal.SIGKILL)


class Lab:
    """A SuperLink, its operator and its devices; each process has a Flower home of its own below ``folder``.

    ``keys`` is what ``python -m fedsim.devices init`` makes; the SuperLink runs in ``server``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.server, self._logs, self._homes = folder / "server", folder / "logs", folder / "homes"
        for made in (self.server, self._logs, self._homes / "operator"):
            made.mkdir(parents=True)
        self.keys = Authority.create(folder / "keys", [HOST])
        self.processes: list[Process] = []
        self.connect("lab", f'root-certificates = "{self.keys.folder / "ca.crt"}"')

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def connect(self, name: str, security: str) -> None:
        """Adds a connection to the operator's configuration: ``insecure = true``, or the certificate."""
        with (self._homes / "operator" / "config.toml").open("a") as config:
            config.write(f'[superlink.{name}]\naddress = "{self.address}"\n{security}\n')

    def start(self, name: str, *command: str, cwd: Path | None = None) -> Process:
        """Starts one of Flower's commands as process ``name``."""
        log = self._logs / f"{len(self.processes)}_{name}.log"
        process = Process([str(BIN / command[0]), *command[1:]], log, self._homes / name, cwd or self.folder)
        self.processes.append(process)
        return process

    def start_superlink(self, *options: str, tls: bool = True) -> Process:
        """By default with TLS and authentication; returns once it answers."""
        folder = self.keys.folder
        security = ("--ssl-certfile", f"{folder / 'server.pem'}", "--ssl-keyfile", f"{folder / 'server.key'}")
        security += ("--ssl-ca-certfile", f"{folder / 'ca.crt'}", "--enable-supernode-auth")
        where = ("--host", HOST, "--port", str(self.port))
        process = self.start(
            "superlink", "flower-superlink", *where, *(security if tls else ("--insecure",)), *options, cwd=self.server
        )
        process.wait_for("Application startup complete|Uvicorn running")
        return process

    def start_supernode(
        self,
        name: str,
        node_config: str = "",
        *options: str,
        authority: Path | None = None,
        key: bool = True,
        tls: bool = True,
    ) -> Process:
        """The device ``name``, of which ``keys`` must have a folder; does not wait until it is admitted.

        ``authority`` is a certificate to trust instead of the folder's; a device without ``key`` makes one up.
        """
        folder = self.keys.folder / "devices" / name
        return self.start(
            name,
            "flower-supernode",
            *("--superlink", self.address, "--host", HOST, "--port", str(free_port())),
            *(("--root-certificates", str(authority or folder / "ca.crt")) if tls else ("--insecure",)),
            *(("--auth-supernode-private-key", str(folder / "key")) if key else ()),
            *(("--node-config", node_config) if node_config else ()),
            *options,
        )

    def admit(self, name: str, node_config: str = "", *options: str, timeout: float = 150) -> Process:
        """Starts a registered device until it is in, as a service manager does.

        A SuperLink refuses a node that it believes to be online: one that was killed, for up to a minute.
        """
        started: list[Process] = []

        def admitted() -> bool:
            process = self.start_supernode(name, node_config, *options)
            started.append(process)
            wait_until(
                lambda: process.exit_status is not None or "SuperNode ID:" in process.output,
                lambda: f"{name} is neither in nor refused:\n{process.output}",
            )
            if process.exit_status is not None:
                time.sleep(8)  # the others need the cores too
            return process.exit_status is None

        wait_until(admitted, lambda: f"{name} is refused:\n{started[-1].output}", timeout)
        return started[-1]

    def flwr(
        self, *arguments: str, timeout: float = 120, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """One of the operator's commands."""
        return subprocess.run(
            [str(BIN / "flwr"), *arguments],
            cwd=cwd or self.folder,
            env=environment(self._homes / "operator"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def register(self, name: str, connection: str = "lab") -> str:
        """Makes the keys of a device if there are none, and lets it in; the node's id."""
        if name not in [device.name for device in self.keys.devices]:
            self.keys.add(name)
        folder = self.keys.folder / "devices" / name
        done = self.flwr("supernode", "register", str(folder / "key.pub"), connection)
        registered = re.search(r"SuperNode (\d+) registered", done.stdout)
        assert registered, done.stdout + done.stderr
        return registered[1]

    def nodes(self) -> dict[str, str]:
        """The status of every node by its id: registered, online, offline or unregistered."""
        done = self.flwr("supernode", "list", "lab", "--verbose", "--format", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        return {node["node-id"]: node["status"] for node in json.loads(done.stdout)["nodes"]}

    def wait_for_status(self, node_id: str, status: str, timeout: float = PATIENCE) -> None:
        seen: list[dict[str, str]] = []

        def reached() -> bool:
            seen.append(self.nodes())
            return seen[-1].get(node_id) == status

        wait_until(reached, lambda: f"{node_id} is not {status}: {seen[-1]}", timeout)

    def close(self) -> None:
        """Ends every process that was started here, and what it started, each by its own id."""
        end_all(self.processes, self._homes)


def end_all(processes: Sequence[Process], homes: Path) -> None:
    """Ends processes, and then what they have started, whose Flower homes are below ``homes``."""
    for process in reversed(processes):
        process.stop(timeout=15)
    for pid in _with_home_below(homes):
        os.kill(pid, signal.SIGKILL)


def environment(home: Path) -> dict[str, str]:
    """With a Flower home of its own, and Flower's subprocesses to be found where Flower is."""
    return {**os.environ, "FLWR_HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def _with_home_below(homes: Path) -> Iterator[int]:
    """SuperExec and the apps end some time after who started them: found by their environment where there is /proc."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"FLWR_HOME={homes}{os.sep}".encode() in variables and int(process.name) != os.getpid():
            yield int(process.name)
